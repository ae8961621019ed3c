"""Normalisation by statistics of the batch: segments of planes, and the sums over them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .call import Array, Call, long_sum_depth
from .norm import row_sum_depth

SEGMENT = 512


def _planes(x: Array) -> Array:
    return x.reshape(x.shape[0], x.shape[1], math.prod(x.shape[2:]))


def _per_channel(values: Any, rank: int) -> Array:
    return np.asarray(values).reshape(-1, *(1,) * (rank - 2))


def _depths(x: Array) -> tuple[int, int]:
    """Of a segment's long sum, and of a channel's sum over segments."""
    size = math.prod(x.shape[2:])
    return long_sum_depth(min(SEGMENT, size)), row_sum_depth(x.shape[0] * math.ceil(size / SEGMENT))


def _affine(call: Call, x: Array, centred: Array, factor: Array, weight: Array | None, bias: Array | None) -> Array:
    """From the errors (in units) of the difference and the relative one of the factor: their product, the weight's, the
    last rounding, and an activation, whose slope is at most 1.13 and which is good to 6 ulp of operand or result."""
    w = 1.0 if weight is None else np.abs(_per_channel(weight, x.ndim))
    error = centred * w
    y = factor * w + (0.0 if bias is None else np.abs(_per_channel(bias, x.ndim)))
    error = error + np.abs(y)
    if call.attributes["activation"] is not None:
        error = 1.13 * error + 12 * (np.abs(y) + np.abs(call.results[0]))
    return np.asarray(error)


def batch_norm(call: Call) -> list[Array]:
    """The difference; the factor: eps and its sum with the variance, halved by the root, root, quotient, weight."""
    x, mean, variance, weight, bias = call.operands
    assert x is not None and mean is not None and variance is not None
    factor = _per_channel(1 / np.sqrt(variance + call.attributes["eps"]), x.ndim)
    y = np.abs(x - _per_channel(mean, x.ndim)) * factor
    return [call.unit * _affine(call, x, 5 * y, y, weight, bias)]


def batch_norm_training(call: Call) -> list[Array]:
    """A segment's mean errs by its sum and a division, e; its squares are about that mean, which costs length * e^2;
    the squares between err by 2 length |segment's mean - mean| e, while the channel's mean enters squared only."""
    x, old_mean, old_var, weight, bias = call.operands
    assert x is not None
    u, count = call.unit, max(call.depth, 1)
    if x.size == 0:
        return [np.zeros(y.shape) for y in call.results]
    planes, (inner, outer) = _planes(x), _depths(x)
    mean = planes.sum((0, 2)) / count
    mean_error = (inner + outer + 1) * np.abs(planes).sum((0, 2)) / count
    centred = planes - mean[:, None]
    squares, moved = (centred**2).sum((0, 2)), np.zeros_like(mean)
    for begin in range(0, planes.shape[2], SEGMENT):
        part = planes[:, :, begin : begin + SEGMENT]
        length = part.shape[2]
        e = (inner + 1) * np.abs(part).sum(2) / length
        moved += (2 * length * np.abs(part.sum(2) / length - mean) * e + u * length * (e + mean_error) ** 2).sum(0)
    # each square: twice its difference's rounding and its own; between: division, twice the difference, two products
    squares_error = (inner + outer + 6) * squares + moved
    variance = squares / count
    inside = variance + call.attributes["eps"]
    factor, factor_error = 1 / np.sqrt(inside), (squares_error / count + variance + 2 * inside) / inside / 2 + 2
    rank = x.ndim
    d = np.abs(x - _per_channel(mean, rank))
    wide_factor = _per_channel(factor, rank)
    y_error = (_per_channel(mean_error, rank) + d * _per_channel(factor_error + 2, rank)) * wide_factor
    momentum = abs(call.attributes["momentum"])

    def followed(old: Array | None, batch: Array, error: Array) -> Array:
        """1 - momentum errs by a unit of 1, then two products and a sum."""
        if old is None:
            return error
        moved = np.abs((1 - momentum) * old) + momentum * np.abs(batch)
        return np.asarray(2 * np.abs(old) + momentum * (error + 2 * np.abs(batch)) + 2 * moved)

    unbiased = squares / max(count - 1, 1)
    return [
        u * e
        for e in (
            _affine(call, x, y_error, d * wide_factor, weight, bias),
            followed(old_mean, mean, mean_error),
            followed(old_var, unbiased, squares_error / max(count - 1, 1) + unbiased),
            mean_error,
            factor * factor_error,
        )
    ]


def batch_norm_grad(call: Call) -> list[Array]:
    """Two sums over the channel, their few products and quotients, and the two products of each element."""
    x, gy, mean, rstd, weight, gmean, grstd = call.operands
    assert x is not None and gy is not None and mean is not None and rstd is not None
    rank, count, depth = x.ndim, max(call.depth, 1), sum(_depths(x))
    d = np.abs(x - _per_channel(mean, rank))
    others = (0, *range(2, rank))
    sum_gy, sum_gy_d = np.abs(gy).sum(others), np.abs(gy * d).sum(others)
    factor = np.abs(rstd if weight is None else rstd * weight)
    plain = np.abs(gy) * _per_channel(factor, rank)
    gx = 3 * plain + np.abs(call.results[0])
    if not call.attributes["frozen"]:
        to_mean = (depth + 5) * sum_gy * factor + (0 if gmean is None else 3 * np.abs(gmean))
        w = 1.0 if weight is None else np.abs(weight)
        to_rstd = (depth + 9) * sum_gy_d * w + (0 if grstd is None else 7 * np.abs(grstd))
        gx = gx + _per_channel(to_mean / count, rank) + d * _per_channel(to_rstd * np.abs(rstd) ** 3 / count, rank)
    return [call.unit * e for e in (gx, (depth + 3) * sum_gy_d * np.abs(rstd), depth * sum_gy)]
