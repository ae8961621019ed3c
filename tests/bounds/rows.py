"""Softmax and its kin."""

from __future__ import annotations

import numpy as np

from .call import Array, Call, long_sum_depth


def _row(call: Call) -> tuple[Array, Array, Array]:
    """A row's shares, its distances from the maximum, and the relative error of its sum of exponentials, in units:
    each term's own (its distance is rounded, exp is good to 1 ulp), weighted by its share, and the long sum's."""
    x, dim = call.operands[0], call.attributes["dim"]
    assert x is not None
    distance = np.max(x, axis=dim, keepdims=True, initial=-np.inf) - x
    powers = np.exp(-distance)
    shares = powers / np.sum(powers, axis=dim, keepdims=True)
    error = np.sum(shares * (distance + 2), axis=dim, keepdims=True) + long_sum_depth(call.depth)
    return shares, distance, error


def softmax(call: Call) -> list[Array]:
    """The term's own error, the sum's, the reciprocal and the product."""
    shares, distance, error = _row(call)
    return [call.unit * shares * (distance + 2 + error + 2)]


def log_softmax(call: Call) -> list[Array]:
    """The distance, the logarithm of the sum (1 ulp, and the sum's relative error), and their difference."""
    _, distance, error = _row(call)
    (y,) = call.results
    log_sum = np.abs(-distance - y)
    return [call.unit * (distance + 2 * log_sum + error + np.abs(y))]


def softmax_grad(call: Call) -> list[Array]:
    """The long sum of products, the difference and the product."""
    y, gy, dim = call.operands[0], call.operands[1], call.attributes["dim"]
    assert y is not None and gy is not None
    terms, total = np.sum(np.abs(gy * y), axis=dim, keepdims=True), np.sum(gy * y, axis=dim, keepdims=True)
    difference = np.abs(gy - total)
    return [call.unit * np.abs(y) * ((long_sum_depth(call.depth) + 1) * terms + 2 * difference)]


def log_softmax_grad(call: Call) -> list[Array]:
    """The long sum, exp (1 ulp), the product and the difference."""
    y, gy, dim = call.operands[0], call.operands[1], call.attributes["dim"]
    assert y is not None and gy is not None
    terms, total = np.sum(np.abs(gy), axis=dim, keepdims=True), np.abs(np.sum(gy, axis=dim, keepdims=True))
    product = np.exp(y) * (long_sum_depth(call.depth) * terms + 3 * total)
    return [call.unit * (product + np.abs(call.results[0]))]
