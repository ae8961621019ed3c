"""References of the boxes family."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


# ---- overlaps of pairs ----------------------------------------------------------------------------------------------


def _largest(x: Array, y: Array) -> Array:
    """The greater one; y where either is NaN."""
    return np.where(y < x, x, y)


def _smallest(x: Array, y: Array) -> Array:
    return np.where(y > x, x, y)


class _Pair:
    """Sides, intersection, union and hull of two boxes; index 0 is x, 1 is y."""

    def __init__(self, a: Array, b: Array, eps: float) -> None:
        self.low_a, self.low_b, self.high_a, self.high_b = a[..., :2], b[..., :2], a[..., 2:], b[..., 2:]
        self.raw_a, self.raw_b = self.high_a - self.low_a, self.high_b - self.low_b
        self.side_a, self.side_b = _floor(self.raw_a), _floor(self.raw_b)
        self.raw_common = _smallest(self.high_a, self.high_b) - _largest(self.low_a, self.low_b)
        self.raw_hull = _largest(self.high_a, self.high_b) - _smallest(self.low_a, self.low_b)
        self.common, self.hull = _floor(self.raw_common), _floor(self.raw_hull)
        self.intersection = self.common.prod(-1)
        self.union = (self.side_a.prod(-1) + self.side_b.prod(-1)) - self.intersection
        self.iou = self.intersection / (self.union + eps)
        self.hull_area = self.hull.prod(-1)
        self.offset = ((self.low_a - self.low_b) + (self.high_a - self.high_b)) / 2
        self.distance, self.diagonal = (self.offset**2).sum(-1), (self.hull**2).sum(-1)
        # arctan2 of sides that are both 0 is 0
        self.turn = np.arctan2(*np.moveaxis(self.side_a, -1, 0)) - np.arctan2(*np.moveaxis(self.side_b, -1, 0))
        self.aspect = 4 / np.pi**2 * self.turn**2
        self.rest = ((1 - self.iou) + self.aspect) + eps
        self.weight = np.where(self.aspect == 0, 0, self.aspect / self.rest)


def _floor(x: Array) -> Array:
    """Numbers below 0 become 0; NaN stays."""
    return np.where(x < 0, 0, x)


def box_angle(width: Array, height: Array, /) -> Array:
    return np.arctan2(width, height)  # type: ignore[no-any-return]


@np.errstate(all="ignore")
def box_iou(boxes1: Array, boxes2: Array, /, *, kind: str, eps: float) -> Array:
    """Rezatofighi et al., arXiv 1902.09630, algorithm 1; Zheng et al., arXiv 1911.08287, equations 7 and 10 to 12."""
    p = _Pair(boxes1, boxes2, eps)
    y = p.iou
    if kind == "giou":
        y = y - (p.hull_area - p.union) / (p.hull_area + eps)
    if kind in ("diou", "ciou"):
        y = y - p.distance / (p.diagonal + eps)
    if kind == "ciou":
        y = y - p.weight * p.aspect
    return y


def _share(a: Array, b: Array) -> Array:
    """How much of max(a, b) is a."""
    return np.where(a > b, 1.0, np.where(a == b, 0.5, 0.0))


@np.errstate(all="ignore")
def iou_gradient_terms(
    gy: Array, boxes1: Array, boxes2: Array, kind: str, eps: float
) -> tuple[list[tuple[Array, Array]], list[tuple[Array, Array]]]:
    """What the chain rule adds up, for each operand: (term, size of what its rounding errors are relative to)."""
    p = _Pair(boxes1, boxes2, eps)
    g, other = gy[..., None], np.array([1, 0])
    union = (p.union + eps)[..., None]
    iou, of_iou, blur = p.iou[..., None], g, np.ones_like(g)
    if kind == "ciou":
        of_iou = g * (1 - p.weight[..., None] ** 2)
        blur = 1 + 2 / p.rest[..., None]
    inside, area = of_iou * (1 + iou) / union, -(of_iou * iou / union)
    inside_size, area_size = np.abs(g * blur * (1 + iou) / union), np.abs(g * blur * iou / union)
    hull, hull_size = np.zeros_like(p.hull), np.zeros_like(p.hull)
    if kind == "giou":
        size = p.hull_area[..., None] + eps
        inside, inside_size = inside - g / size, inside_size + np.abs(g / size)
        area, area_size = area + g / size, area_size + np.abs(g / size)
        hull = -(g / size * (union / size)) * p.hull[..., other]
        hull_size = np.abs(hull)
    if kind in ("diou", "ciou"):
        diagonal = p.diagonal[..., None] + eps
        hull = g / diagonal * (p.distance[..., None] / diagonal) * (2 * p.hull)
        hull_size = np.abs(g / diagonal * 2 * p.hull)
    terms: tuple[list[tuple[Array, Array]], list[tuple[Array, Array]]] = ([], [])

    def add(of: int, low: Array, low_size: Array, high: Array, high_size: Array) -> None:
        terms[of].append((np.concatenate([low, high], -1), np.abs(np.concatenate([low_size, high_size], -1))))

    for of in (0, 1):
        low_share, high_share = _share(p.low_a, p.low_b), _share(p.high_b, p.high_a)
        out_low, out_high = _share(p.low_b, p.low_a), _share(p.high_a, p.high_b)
        # in the intersection the greater low end and the smaller high end count, in the hull the others
        shares = [low_share, high_share, out_low, out_high]
        low_share, high_share, out_low, out_high = shares if of == 0 else [1 - s for s in shares]
        common = np.where(p.raw_common >= 0, inside * p.common[..., other], 0)
        common_size = inside_size * p.common[..., other]
        add(of, -common * low_share, common_size, common * high_share, common_size)
        side, raw = (p.side_a, p.raw_a) if of == 0 else (p.side_b, p.raw_b)
        of_side, size = area * side[..., other], area_size * side[..., other]
        if kind == "ciou":
            square = (side**2).sum(-1, keepdims=True)
            slope = np.where(square == 0, 0, side[..., other] / square) * np.array([1, -1])
            weight = p.weight[..., None]
            turned = -(g * (weight * (2 - weight))) * (8 / np.pi**2 * p.turn[..., None])
            of_side = of_side + (turned if of == 0 else -turned) * slope
            size = size + np.abs(g * slope) * (1 + np.abs(p.turn) / p.rest)[..., None]
        of_side = np.where(raw >= 0, of_side, 0)
        add(of, -of_side, size, of_side, size)
        around = np.where(p.raw_hull >= 0, hull, 0)
        add(of, -around * out_low, hull_size, around * out_high, hull_size)
        if kind in ("diou", "ciou"):
            moved = -(g / diagonal * p.offset) * (1 if of == 0 else -1)
            size = np.abs(g / diagonal) * p.hull
            add(of, moved, size, moved, size)
    return terms


@np.errstate(all="ignore")
def box_iou_grad(gy: Array, boxes1: Array, boxes2: Array, /, *, kind: str, eps: float) -> tuple[Array, Array]:
    """gy times the derivatives of box_iou, by the chain rule; where two ends are equal each has half."""
    first, second = (np.sum([t for t, _ in terms], 0) for terms in iou_gradient_terms(gy, boxes1, boxes2, kind, eps))
    return first, second


# ---- boxes one by one -----------------------------------------------------------------------------------------------

_CORNERS = {  # (u, v) of an axis to its two ends
    "xyxy": np.array([[1, 0], [0, 1]]),
    "xywh": np.array([[1, 0], [1, 1]]),
    "cxcywh": np.array([[1, -0.5], [1, 0.5]]),
}


@np.errstate(all="ignore")
def box_convert(x: Array, /, *, source: str, target: str, transposed: bool) -> Array:
    """By way of the corners, as a matrix per axis; factors of 0 take no part."""
    matrix = np.linalg.inv(_CORNERS[target]) @ _CORNERS[source]
    if transposed:
        matrix = matrix.T
    y = np.zeros_like(x)
    for axis in (0, 1):
        for i, row in enumerate(matrix):
            parts = [x.dtype.type(m) * x[..., axis + 2 * j] for j, m in enumerate(row) if m]
            y[..., axis + 2 * i] = sum(parts[1:], parts[0])
    return y


def clip_boxes(x: Array, /, *, height: float, width: float) -> Array:
    return np.clip(x, 0, np.array([width, height, width, height], x.dtype))


def clip_boxes_grad(gy: Array, x: Array, /, *, height: float, width: float) -> Array:
    return np.where((x >= 0) & (x <= np.array([width, height, width, height], x.dtype)), gy, 0)


@np.errstate(all="ignore")
def box_area(x: Array, /) -> Array:
    return (x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1])


def _centre(b: Array) -> tuple[Array, Array]:
    side = b[..., 2:] - b[..., :2]
    return b[..., :2] + side / 2, side


@np.errstate(all="ignore")
def box_encode(boxes: Array, anchors: Array, /, *, weights: tuple[float, ...]) -> Array:
    """Girshick et al., arXiv 1311.2524, equations 6 to 9."""
    (centre, side), (origin, unit) = _centre(boxes), _centre(anchors)
    return np.concatenate([(centre - origin) / unit, np.log(side / unit)], -1) * np.array(weights, boxes.dtype)


@np.errstate(all="ignore")
def box_decode(deltas: Array, anchors: Array, /, *, weights: tuple[float, ...], log_clip: float) -> Array:
    """Girshick et al., arXiv 1311.2524, equations 1 to 4, to corners."""
    origin, unit = _centre(anchors)
    plain = deltas / np.array(weights, deltas.dtype)
    centre, side = plain[..., :2] * unit + origin, np.exp(np.minimum(plain[..., 2:], log_clip)) * unit
    return np.concatenate([centre - side / 2, centre + side / 2], -1)


@np.errstate(all="ignore")
def box_decode_grad(
    gboxes: Array, deltas: Array, anchors: Array, /, *, weights: tuple[float, ...], log_clip: float
) -> tuple[Array, Array]:
    """The chain rule; a logarithm above the clip has no gradient."""
    scale = np.array(weights, deltas.dtype)
    unit = _centre(anchors)[1]
    plain = deltas / scale
    ratio = np.exp(np.minimum(plain[..., 2:], log_clip))
    of_centre, of_side = gboxes[..., :2] + gboxes[..., 2:], (gboxes[..., 2:] - gboxes[..., :2]) / 2
    of_log = np.where(plain[..., 2:] > log_clip, 0, of_side * (ratio * unit))
    gdeltas = np.concatenate([of_centre * unit, of_log], -1) / scale
    of_unit = of_centre * plain[..., :2] + of_side * ratio
    return gdeltas, np.concatenate([of_centre / 2 - of_unit, of_centre / 2 + of_unit], -1)


@np.errstate(all="ignore")
def distance_decode(distances: Array, cells: Array, /) -> Array:
    """Tian et al., arXiv 1904.01355, equation 1, solved for the box."""
    centre, side = _centre(cells)
    return np.concatenate([centre - distances[..., :2] * side, centre + distances[..., 2:] * side], -1)


@np.errstate(all="ignore")
def distance_decode_grad(gboxes: Array, cells: Array, /) -> Array:
    side = _centre(cells)[1]
    return np.concatenate([-gboxes[..., :2] * side, gboxes[..., 2:] * side], -1)


@np.errstate(all="ignore")
def yolo_grid_decode(x: Array, /, *, B: int, height: float, width: float) -> tuple[Array, Array]:
    """Redmon et al., arXiv 1506.02640, section 2: x and y in the cell, roots of the sides in the picture."""
    samples, rows, columns, depth = x.shape
    fives, classes = x[..., : 5 * B].reshape(samples, rows, columns, B, 5), x[..., None, 5 * B :]
    boxes = np.empty((samples, rows, columns, B, 4), x.dtype)
    for r, q in np.ndindex(rows, columns):
        centre = (fives[:, r, q, :, :2] + np.array([q, r], x.dtype)) / np.array([columns, rows], x.dtype)
        half = fives[:, r, q, :, 2:4] ** 2 / 2
        boxes[:, r, q] = np.concatenate([centre - half, centre + half], -1) * np.array([width, height] * 2, x.dtype)
    scores = fives[..., 4:] * classes
    total = rows * columns * B
    return boxes.reshape(samples, total, 4), scores.reshape(samples, total, depth - 5 * B)
