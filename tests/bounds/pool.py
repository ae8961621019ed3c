"""Norms of windows and drawn elements."""

from __future__ import annotations

import numpy as np

from .call import Array, Call


def _largest_log(x: Array) -> float:
    """The largest |log| of the finite, non-zero magnitudes, at least 1."""
    magnitude = np.abs(np.asarray(x, np.float64))
    usable = magnitude[(magnitude > 0) & np.isfinite(magnitude)]
    return float(np.max(np.abs(np.log(usable)), initial=1.0))


def _power(exponent: float, log: float) -> float:
    """Relative error, in units, of exp(exponent * log(x)): the logarithm is good to 0.88 ulp (1.76 units), the product
    is rounded, both scaled by the exponent's size; exp is good to 1 ulp (2 units)."""
    return abs(exponent) * log * 2.76 + 2


def lp_norm(call: Call) -> list[Array]:
    """p = 1: a chain. p = 2: each square is rounded, the root halves what came before. p infinite: exact. Else each
    term is a power, and so is the root of their sum."""
    p = call.attributes["norm_type"]
    (y,) = call.results
    if p == np.inf:
        return [np.zeros_like(y)]
    if p == 1:
        return [call.depth * call.unit * np.abs(y)]
    if p == 2:
        return [call.unit * ((call.depth + 1) / 2 + 1) * np.abs(y)]
    x = call.operands[0]
    assert x is not None
    terms = _power(p, _largest_log(x)) + call.depth
    return [call.unit * (terms / p + 1 + _power(1 / p, p * _largest_log(y))) * np.abs(y)]


def lp_norm_grad(call: Call) -> list[Array]:
    """A chain of at most `depth` terms, each a quotient's power times gy."""
    p = call.attributes["norm_type"]
    _, x, y = call.operands
    assert x is not None and y is not None
    each = 1.0 if p == 1 else 2.0
    if p not in (1, 2):  # the quotient's own rounding is scaled by the power
        each = 1 + abs(p - 1) + _power(p - 1, _largest_log(x) + _largest_log(y))
    return [(call.depth + each) * call.unit * np.abs(m) for m in call.magnitude()]


def drawn(call: Call) -> list[Array]:
    """A drawn element is one of the window's; the expectation is the quotient of two chains of positive terms."""
    (y, *_) = call.results
    if call.attributes["training"]:
        return [np.zeros(np.shape(r)) for r in call.results]
    return [(2 * call.depth + 2) * call.unit * np.abs(y)]
