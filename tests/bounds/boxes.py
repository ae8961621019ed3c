"""Overlaps of boxes, and boxes as detectors write them. A difference of two coordinates has one rounding."""

from __future__ import annotations

import numpy as np

from reference.boxes import iou_gradient_terms

from .call import Array, Call


def box_iou(call: Call) -> list[Array]:
    """Sides 1, areas 3, the sum of two areas 4, of which the union is at least half: union 8 + 3 + 1 = 12, IoU
    with eps 18 units of itself. Hull and the union in it 21 units of 1, a squared distance over the squared diagonal
    11, angles 8 each, so v 25 units; its weight passes v's errors on with a slope of at most 1, and IoU's."""
    units = {"iou": 18 * np.abs(call.results[0]), "giou": 41.0, "diou": 31.0, "ciou": 78.0}
    return [call.unit * units[call.attributes["kind"]] + 0 * np.abs(call.results[0])]


def box_iou_grad(call: Call) -> list[Array]:
    """Each term is a product of IoU (18), a union or hull (13), a side and at most four roundings, twice over in GIoU;
    what cancels within a factor is in the term's size. Then at most four additions."""
    gy, boxes1, boxes2 = call.operands
    assert gy is not None and boxes1 is not None and boxes2 is not None
    both = iou_gradient_terms(gy, boxes1, boxes2, call.attributes["kind"], call.attributes["eps"])
    return [call.unit * 80 * np.sum([size for _, size in terms], 0) for terms in both]


def _centre(b: Array) -> tuple[Array, Array]:
    side = b[..., 2:] - b[..., :2]
    return np.abs(b[..., :2]) + np.abs(side), np.abs(side)


def box_encode(call: Call) -> list[Array]:
    """A centre has two roundings; a ratio that is 3 off has a logarithm that is 3 off, and two of its own."""
    boxes, anchors = call.operands
    assert boxes is not None and anchors is not None
    (centre, _), (origin, unit) = _centre(boxes), _centre(anchors)
    weights = np.abs(np.array(call.attributes["weights"]))
    size = np.concatenate([2 * (centre + origin) / unit, np.full_like(centre * origin, 3.0)], -1) * weights
    return [call.unit * (size + 5 * np.abs(call.results[0]))]


def box_decode(call: Call) -> list[Array]:
    """exp passes an argument's error on: relative to the result as large as it is absolute."""
    deltas, anchors = call.operands
    assert deltas is not None and anchors is not None
    origin, unit = _centre(anchors)
    plain = np.abs(deltas / np.array(call.attributes["weights"]))
    growth = deltas[..., 2:] / np.array(call.attributes["weights"])[2:]
    half = np.exp(np.minimum(growth, call.attributes["log_clip"])) * unit / 2
    size = 5 * plain[..., :2] * unit + 4 * origin + half * (plain[..., 2:] + 7)
    return [call.unit * np.concatenate([size, size], -1)]


def box_decode_grad(call: Call) -> list[Array]:
    gboxes, deltas, anchors = call.operands
    assert gboxes is not None and deltas is not None and anchors is not None
    plain = deltas / np.array(call.attributes["weights"])
    clipped = np.minimum(plain[..., 2:], call.attributes["log_clip"])
    ratio, growth = np.exp(clipped), np.abs(plain[..., 2:])
    of_centre = np.abs(gboxes[..., :2]) + np.abs(gboxes[..., 2:])
    of_side = of_centre / 2
    log_size = np.concatenate([5 + 0 * growth, growth + 10], -1)
    unit = 4 * of_centre * np.abs(plain[..., :2]) + of_side * ratio * (growth + 7) + 2 * of_centre
    return [call.unit * log_size * np.abs(call.results[0]), call.unit * np.concatenate([unit, unit], -1)]


def distance_decode(call: Call) -> list[Array]:
    """A centre has two roundings, the product two, the sum one."""
    distances, cells = call.operands
    assert distances is not None and cells is not None
    centre, side = _centre(cells)
    moved = np.abs(distances) * np.concatenate([side, side], -1)
    return [call.unit * (3 * np.concatenate([centre, centre], -1) + 3 * moved)]


def yolo_grid_decode(call: Call) -> list[Array]:
    """A centre has two roundings, half a side one, their sum and the picture's side one each, which has one itself."""
    (x,) = call.operands
    assert x is not None
    samples, rows, columns, _ = x.shape
    fives = np.abs(x[..., : 5 * call.attributes["B"]]).reshape(samples, rows, columns, call.attributes["B"], 5)
    cells = np.stack(np.broadcast_arrays(np.arange(columns)[None], np.arange(rows)[:, None]), -1)
    centre = (fives[..., :2] + cells[:, :, None]) / np.array([max(columns, 1), max(rows, 1)])
    size = 5 * centre + 4 * fives[..., 2:4] ** 2 / 2
    picture = np.array([call.attributes["width"], call.attributes["height"]] * 2)
    boxes = np.concatenate([size, size], -1).reshape(call.results[0].shape) * picture
    return [call.unit * boxes, call.unit * np.abs(call.results[1])]
