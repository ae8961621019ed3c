"""Interpolation: exact where pixels are copied."""

from __future__ import annotations

import numpy as np

from .call import Array, Call
from .sums import chain


def _positions(count: int, step: float, align_corners: bool) -> Array:
    """Where outputs lie, and so what their positions may err by: the step's rounding, two products' and sums'; a half
    is exact. In units, not more than three of the position and a half."""
    return np.asarray((np.arange(count) + (0 if align_corners else 0.5)) * step + 0.5)


def _spread(x: Array) -> Array:
    """The largest absolute value among a pixel and its neighbours, two pixels around."""
    wide = np.pad(np.abs(x), [(0, 0), (0, 0), (2, 2), (2, 2)])
    h, w = x.shape[2:]
    return np.asarray(np.max([wide[:, :, i : i + h, j : j + w] for i in range(5) for j in range(5)], axis=0))


def interpolate(call: Call) -> list[Array]:
    """Between pixels: two lines, each of a share's rounding, a product and a sum, are five roundings of the largest
    neighbour; a position that is off by e moves the value by e times their largest difference, along either axis: what
    is between pixels has no step where it passes from one to the next."""
    if call.attributes["mode"] == "nearest":
        return [np.zeros(y.shape) for y in call.results]
    x, a = call.operands[0], call.attributes
    assert x is not None
    if 0 in call.results[0].shape:
        return [np.zeros(y.shape) for y in call.results]
    p, q = (_positions(n, s, a["align_corners"]) for n, s in zip(a["size"], a["scale"], strict=True))
    rows, columns = (
        np.minimum(np.maximum(v - 1 + bool(a["align_corners"]) * 0.5, 0).astype(int), n - 1)
        for v, n in zip((p, q), x.shape[2:], strict=True)
    )
    near = _spread(x)[:, :, rows[:, None], columns]
    return [call.unit * near * (6 + 2 * 3 * (p[:, None] + q))]


def interpolate_grad(call: Call) -> list[Array]:
    """nearest: a chain. Between pixels: a chain of `depth` fused steps along the columns, then along the rows, and the
    shares, each off by its position's error and a rounding: absolute, of outputs that the pixel or a neighbour has."""
    if call.attributes["mode"] == "nearest":
        return chain(call)
    gy, a = call.operands[0], call.attributes
    assert gy is not None
    (magnitude,) = call.magnitude()
    if magnitude.size == 0 or gy.size == 0:
        return [np.zeros(magnitude.shape)]
    p, q = (_positions(n, s, a["align_corners"]) for n, s in zip(gy.shape[2:], a["scale"], strict=True))
    error = 3 * (p[:, None] + q) + 4
    # what an output's shares may be off by goes to the pixels around its own
    rows, columns = (
        np.minimum(np.maximum(np.rint(v - 0.5), 0).astype(int), n - 1)
        for v, n in zip((p, q), (a["height"], a["width"]), strict=True)
    )
    moved = np.zeros(magnitude.shape)
    np.add.at(moved, (slice(None), slice(None), rows[:, None], columns), np.abs(gy) * error)
    wide = np.pad(moved, [(0, 0), (0, 0), (2, 2), (2, 2)])
    h, w = magnitude.shape[2:]
    around = np.sum([wide[:, :, i : i + h, j : j + w] for i in range(5) for j in range(5)], axis=0)
    return [call.unit * (call.depth * magnitude + around)]
