"""Normalisation and its gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .call import Array, Call, long_sum_depth


def row_sum_depth(rows: int) -> int:
    """Additions on the longest path of a sum over samples or rows: 64 in a chunk, the tree of chunks."""
    return min(64, rows) + math.ceil(math.log2(max(1, rows / 64))) + 1


@dataclass
class _Rows:
    """What normalisation knows of its rows (group_norm's groups), [rows, elements]; errors are in units."""

    x: Array
    depth: int  # of a sum over a row
    samples: int  # that a gradient of a weight adds
    part_depth: int  # of what it adds
    centred: Array
    factor: Array
    centred_error: Array
    factor_error: Array  # relative


def _rows(call: Call) -> _Rows:
    """The mean's error moves every difference alike, so it enters the variance squared only."""
    x = call.operands[0]
    assert x is not None
    grouped = "num_groups" in call.attributes
    size, count = math.prod(x.shape[2:]), max(call.depth, 1)
    rows = x.reshape(x.size // count, count)
    depth = long_sum_depth(size) + x.shape[1] // call.attributes["num_groups"] if grouped else long_sum_depth(count)
    mean = np.sum(rows, axis=1, keepdims=True) / count
    centred = rows - mean
    mean_error = (depth + 1) * np.sum(np.abs(rows), axis=1, keepdims=True) / count
    centred_error = mean_error + np.abs(centred)
    variance = np.sum(centred**2, axis=1, keepdims=True) / count
    inside = variance + call.attributes["eps"]
    # each square: twice its difference's rounding, and its own; the sum, the division; adding eps, which is rounded
    inside_error = (depth + 4) * variance + call.unit * mean_error**2 + 2 * inside
    return _Rows(
        rows, depth, x.shape[0] if grouped else len(rows), long_sum_depth(size) if grouped else 0,
        centred, 1 / np.sqrt(inside), centred_error, inside_error / inside / 2 + 2,
    )  # fmt: skip


def norm(call: Call) -> list[Array]:
    """The difference's error, the factor's, and a rounding for each operation that follows."""
    x, weight, *_ = call.operands
    assert x is not None
    r = _rows(call)
    grouped = "num_groups" in call.attributes
    trailing = (1,) * (x.ndim - 2)
    w: Any = 1.0 if weight is None else np.abs(weight.reshape(-1, *trailing) if grouped else weight)
    error = ((r.centred_error + np.abs(r.centred) * (r.factor_error + 1)) * r.factor).reshape(x.shape) * w
    plain = {k: v for k, v in call.attributes.items() if k != "activation"}
    y = call.reference(*call.operands[:3], **plain)
    error = error + np.abs(y)
    if grouped:
        scale, shift = call.operands[3:]
        if scale is not None:
            gain = np.abs(1 + scale.reshape(*scale.shape, *trailing))
            error = gain * (error + 2 * np.abs(y))
        if scale is not None or shift is not None:
            y = call.reference(*call.operands, **plain)
            error = error + np.abs(y)
        if call.attributes["activation"] is not None:  # slope at most 1.13; good to 6 ulp of the operand or the result
            error = 1.13 * error + 12 * (np.abs(y) + np.abs(call.results[0]))
    return [call.unit * error]


def norm_grad(call: Call) -> list[Array]:
    """First-order errors of rstd * (g - mean(g) - n * mean(g * n)), n the normalised values, and of the sums."""
    x, gy, weight = call.operands
    assert x is not None and gy is not None
    r = _rows(call)
    grouped, count = "num_groups" in call.attributes, max(call.depth, 1)
    g = gy
    if weight is not None:
        g = gy * (weight.reshape(-1, *(1,) * (x.ndim - 2)) if grouped else weight)
    g = np.abs(g.reshape(r.x.shape))
    n = np.abs(r.centred * r.factor)
    n_error = r.factor * r.centred_error + n * (r.factor_error + 1)

    def mean(v: Array) -> Array:
        return np.asarray(np.sum(v, axis=1, keepdims=True) / count)

    mean_error, part_error = (r.depth + 3) * mean(g), (r.depth + 6) * mean(g * n) + mean(g * n_error)
    terms = g + mean(g) + n * mean(g * n)
    gx = r.factor * ((4 + r.factor_error) * terms + mean_error + n * part_error + n_error * mean(g * n))
    depth = row_sum_depth(r.samples) + r.part_depth + 3
    others = (0, *range(2, x.ndim)) if grouped else tuple(range(x.ndim - call.attributes["axes"]))
    gweight = np.sum(np.abs(gy) * (n_error + depth * n).reshape(x.shape), axis=others)
    gbias = depth * np.sum(np.abs(gy), axis=others)
    return [call.unit * e for e in (gx.reshape(x.shape), gweight, gbias)]


def instance_norm(call: Call) -> list[Array]:
    """group_norm with a group for each channel."""
    x, weight, bias = call.operands
    assert x is not None
    attributes = {**call.attributes, "num_groups": x.shape[1]}

    def reference(*operands: Array | None, num_groups: int, **rest: Any) -> Any:
        return call.reference(*operands[:3], **rest)

    return norm(replace(call, operands=[x, weight, bias, None, None], attributes=attributes, reference=reference))


def _squared(call: Call) -> tuple[Array, int, Array, Array]:
    """rms_norm's rows, the depth of a sum over one, 1 / sqrt(mean square + eps), and that factor's relative error: a
    rounding for the square, the sum, the division; the sum with eps, which is rounded; the root and the quotient."""
    x, count = call.operands[0], max(call.depth, 1)
    assert x is not None
    rows, depth = x.reshape(x.size // count, count), long_sum_depth(count)
    square = np.sum(rows**2, axis=1, keepdims=True) / count
    inside = square + call.attributes["eps"]
    return rows, depth, 1 / np.sqrt(inside), ((depth + 2) * square + 2 * inside) / inside / 2 + 2


def rms_norm(call: Call) -> list[Array]:
    """The factor's error, its product with the weight, and that with x."""
    x, weight = call.operands
    assert x is not None
    rows, _, factor, factor_error = _squared(call)
    y = np.abs(rows * factor) * (factor_error + 2)
    return [call.unit * y.reshape(x.shape) * (1 if weight is None else np.abs(weight))]


def rms_norm_grad(call: Call) -> list[Array]:
    """First-order errors of rstd * (g - n * mean(g * n)), n the normalised values, and of the sum over rows."""
    x, gy, weight = call.operands
    assert x is not None and gy is not None
    rows, depth, factor, factor_error = _squared(call)
    g = np.abs(gy if weight is None else gy * weight).reshape(rows.shape)
    n = np.abs(rows * factor)
    n_error = n * (factor_error + 1)
    part = np.sum(g * n, axis=1, keepdims=True) / rows.shape[1]
    part_error = (depth + 6) * part + np.sum(g * n_error, axis=1, keepdims=True) / rows.shape[1]
    gx = factor * ((4 + factor_error) * (g + n * part) + n * part_error + n_error * part)
    others = tuple(range(x.ndim - call.attributes["axes"]))
    gweight = np.sum(np.abs(gy) * (n_error + (row_sum_depth(len(rows)) + 3) * n).reshape(x.shape), axis=others)
    return [call.unit * gx.reshape(x.shape), call.unit * gweight]
