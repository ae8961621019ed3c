"""Activations that know their channel."""

from __future__ import annotations

import math

import numpy as np

from reference import activation_more as reference

from .call import Array, Call, long_sum_depth
from .norm import row_sum_depth


def prelu_grad(call: Call) -> list[Array]:
    """A product for each element; the sum over a channel's segments of 512, of rounded products."""
    x, gy, _ = call.operands
    assert x is not None and gy is not None
    size = math.prod(x.shape[2:])
    depth = long_sum_depth(min(512, size)) + row_sum_depth(x.shape[0] * math.ceil(size / 512)) + 1
    terms = np.sum(np.where(x > 0, 0, np.abs(x * gy)), axis=(0, *range(2, x.ndim)))
    return [call.unit * np.abs(call.results[0]), call.unit * depth * terms]


def _power_error(call: Call) -> tuple[Array, Array, Array]:
    """The base, its power, and the relative error of the power, in units: the base errs by a square, its sum over the
    window, the quotient, alpha, k and the last rounding, which is less than size + 5 units where alpha and k are not
    negative; the power passes beta of that on. Roots: a rounding each, the first of which the second halves, and the
    product. exp(beta log(b)): the logarithm's 2 units, beta, the product, all of |beta log b|, and exp's 2."""
    x, a = call.operands[0], call.attributes
    assert x is not None
    base = reference._response_base(x, a["size"], a["alpha"], a["k"])
    error = abs(a["beta"]) * (a["size"] + 5)
    if a["beta"] in (0.5, 0.75, 1.0):
        return base, base ** a["beta"], np.full(x.shape, error + 3.5)
    return base, base ** a["beta"], error + 4 * np.abs(a["beta"] * np.log(base)) + 3


def local_response_norm(call: Call) -> list[Array]:
    """The power's error and the quotient's."""
    _, _, error = _power_error(call)
    return [call.unit * np.abs(call.results[0]) * (error + 1)]


def local_response_norm_grad(call: Call) -> list[Array]:
    """A window's term: a product, two quotients, the errors of power and base; its sum; factor and products."""
    x, gy = call.operands
    assert x is not None and gy is not None
    a = call.attributes
    base, power, error = _power_error(call)
    size = a["size"]
    terms = np.abs(gy * x / power / base)
    spread = reference._windows(terms * (error + size + 5 + 3), (size - 1) // 2, size // 2)
    sums = reference._windows(terms, (size - 1) // 2, size // 2)
    factor = np.abs(x) * abs(2 * a["alpha"] * a["beta"] / size)
    direct = np.abs(gy / power)
    return [call.unit * (direct * (error + 1) + factor * (spread + (size + 4) * sums) + np.abs(call.results[0]))]
