"""References of the detection family."""

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _exceeds(best: Array, others: Array, threshold: Any) -> NDArray[np.bool_]:
    """Whether the IoU of one box with each of the others is above a threshold; never where a side is not a number or
    an area not finite."""

    def area(b: Array) -> Array:
        return np.maximum(b[..., 2] - b[..., 0], 0) * np.maximum(b[..., 3] - b[..., 1], 0)

    low, high = np.maximum(best[:2], others[:, :2]), np.minimum(best[2:], others[:, 2:])
    sides = np.maximum(high - low, 0)
    intersection = sides[:, 0] * sides[:, 1]
    union = (area(best) + area(others)) - intersection
    return intersection > threshold * union


@np.errstate(all="ignore")
def nms(
    boxes: Array,
    scores: Array,
    classes: Array | None = None,
    /,
    *,
    iou_threshold: float,
    max_output: int,
    score_threshold: float,
) -> tuple[Array, Array]:
    """Box by box in order of falling score (equal scores by index, NaN last): kept unless it has been struck out, and
    then it strikes out those of its class that it overlaps by more than the threshold."""
    number = boxes.dtype.type
    struck = np.zeros(len(scores), bool)
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        takes_part = scores[i] > number(score_threshold) or score_threshold == -np.inf
        if struck[i] or not takes_part or len(kept) >= max_output:
            continue
        kept.append(int(i))
        rivals = _exceeds(boxes[i], boxes, number(iou_threshold))
        struck |= rivals if classes is None else rivals & (classes == classes[i])
    keep = np.full(max_output, -1, np.int64)
    keep[: len(kept)] = kept
    return keep, np.array(len(kept), np.int64)


@np.errstate(all="ignore")
def soft_nms(
    boxes: Array,
    scores: Array,
    /,
    *,
    method: str,
    iou_threshold: float,
    sigma: float,
    score_threshold: float,
    max_output: int,
) -> tuple[Array, Array, Array]:
    """Bodla et al., arXiv 1704.04503, figure 3, with the scores where they are: the best of those that are left, while
    it is above the threshold, lowers the others."""
    current, chosen = scores.copy(), np.zeros(len(scores), bool)
    keep, decayed = np.full(max_output, -1, np.int64), np.zeros(max_output, scores.dtype)
    count = 0
    while count < max_output:
        left = np.where(chosen | np.isnan(current), -np.inf, current)
        if not len(left) or not left.max() > scores.dtype.type(score_threshold) or left.max() == -np.inf:
            break
        best = int(left.argmax())
        keep[count], decayed[count], chosen[best] = best, current[best], True
        count += 1
        low, high = np.maximum(boxes[best, :2], boxes[:, :2]), np.minimum(boxes[best, 2:], boxes[:, 2:])
        intersection = np.maximum(high - low, 0).prod(-1)
        areas = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(-1)
        iou = intersection / ((areas[best] + areas) - intersection)
        iou = np.where(iou > 0, iou, 0)
        if method == "gaussian":
            current = current * np.exp(-(iou * iou) / scores.dtype.type(sigma))
        else:
            current = np.where(iou > scores.dtype.type(iou_threshold), current * (1 - iou), current)
    return keep, decayed, np.array(count, np.int64)


# ---- rotated boxes --------------------------------------------------------------------------------------------------


def _corners(box: Array, scale: float) -> Array:
    x, y, width, height, angle = box
    cosine, sine = np.cos(angle * scale), np.sin(angle * scale)
    across = np.array([cosine, sine]) * max(width, 0) / 2
    along = np.array([-sine, cosine]) * max(height, 0) / 2
    around = np.array([-across - along, across - along, across + along, along - across])
    return around + np.array([x, y])


def _clipped_area(polygon: list[Array], clip: Array) -> Any:
    """The area of a convex polygon inside another, by cutting it along one side of the other after another
    (Sutherland and Hodgman, CACM 17, 1974)."""
    for start, end in zip(clip, np.roll(clip, -1, axis=0), strict=True):
        along = end - start
        sides = [along[0] * (p - start)[1] - along[1] * (p - start)[0] for p in polygon]
        cut: list[Array] = []
        for i, (p, side) in enumerate(zip(polygon, sides, strict=True)):
            q, other = polygon[i - 1], sides[i - 1]
            if (side >= 0) != (other >= 0):
                cut.append(q + (p - q) * (other / (other - side)))
            if side >= 0:
                cut.append(p)
        polygon = cut
        if not polygon:
            return 0.0
    around = [p - polygon[0] for p in polygon]
    return abs(sum(p[0] * q[1] - p[1] * q[0] for p, q in itertools.pairwise(around))) / 2


def _rotated_iou(a: Array, b: Array, scale: float) -> Any:
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return np.nan
    first, second = max(a[2], 0) * max(a[3], 0), max(b[2], 0) * max(b[3], 0)
    origin = np.array([b[0], b[1], 0, 0, 0], b.dtype)
    near, at_zero = a - origin, b - origin
    apart = np.hypot(near[0], near[1]) >= (np.hypot(a[2], a[3]) + np.hypot(b[2], b[3])) / 2
    nothing = apart or first == 0 or second == 0
    common = 0.0 if nothing else _clipped_area(list(_corners(near, scale)), _corners(at_zero, scale))
    return a.dtype.type(common) / (first + second - common)


@np.errstate(all="ignore")
def box_iou_rotated(boxes1: Array, boxes2: Array, /, *, angle_scale: float) -> Array:
    """Of polygons, whose corners follow from the definition; NaN for boxes that are not finite, or both empty."""
    y = np.empty((len(boxes1), len(boxes2)), boxes1.dtype)
    for i, j in np.ndindex(*y.shape):
        y[i, j] = _rotated_iou(boxes1[i], boxes2[j], angle_scale)
    return y


@np.errstate(all="ignore")
def nms_rotated(
    boxes: Array,
    scores: Array,
    classes: Array | None = None,
    /,
    *,
    iou_threshold: float,
    max_output: int,
    score_threshold: float,
    angle_scale: float,
) -> tuple[Array, Array]:
    """As nms; boxes are compared with those kept before them."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        takes_part = scores[i] > score_threshold or score_threshold == -np.inf
        if not takes_part or len(kept) >= max_output:
            continue
        rivals = [k for k in kept if classes is None or classes[k] == classes[i]]
        if not any(_rotated_iou(boxes[k], boxes[i], angle_scale) > iou_threshold for k in rivals):
            kept.append(int(i))
    keep = np.full(max_output, -1, np.int64)
    keep[: len(kept)] = kept
    return keep, np.array(len(kept), np.int64)
