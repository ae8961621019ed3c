"""Scores that fall, and overlaps of rotated boxes."""

from __future__ import annotations

import numpy as np

from .call import Array, Call


def soft_nms(call: Call) -> list[Array]:
    """Factors are at most 1, so that a score is off by what each factor is off, times its first value, for `depth`
    factors at most. 1 - IoU is off by 19 units; IoU^2 / sigma by 39 of itself, exp of it by 39 x exp(-x) < 15 and 2 of
    its own; the product has one more."""
    keep, decayed, _ = call.results
    scores = np.abs(np.append(np.asarray(call.operands[1]), 0.0))[keep]
    return [0 * keep, call.unit * call.depth * 20 * np.maximum(scores, np.abs(decayed)), np.zeros(())]


def box_iou_rotated(call: Call) -> list[Array]:
    """Corners: an angle has one rounding, sines 3 units and the two angles' products 4 more of a side, centres 4 of
    their distance, which is below the two radii: so corners are off by 12 units of what is around both. An area changes
    by that times a circumference, and by 64 units of b's area, what counts as nothing."""
    a, b = (np.abs(np.asarray(o)) for o in call.operands)
    turns = 1 + np.add.outer(a[:, 4], b[:, 4]) * abs(call.attributes["angle_scale"])
    reach = np.add.outer(a[:, 2] + a[:, 3], b[:, 2] + b[:, 3])
    off = call.unit * (12 + turns) * reach
    area = np.add.outer(0 * a[:, 2], b[:, 2] * b[:, 3])
    both = np.add.outer(a[:, 2] * a[:, 3], b[:, 2] * b[:, 3])
    error = off * 2 * reach + 80 * call.unit * area
    return [2 * error / (both / 2) + 8 * call.unit]
