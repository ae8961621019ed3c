"""How far a result may be from the exact one: a function per algorithm, named by Bound.kind in the contracts.

Each derives a bound per element from the operands, by the usual first-order analysis: u is the unit roundoff, a sum of
depth d has an error of at most d * u * (sum of the absolute terms). Products of u are dropped and covered by the 1.01
in `allowed`. Nothing here is fitted to what the kernels happen to give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass
class Call:
    """One call as a bound sees it: exact operands and results in float64 or wider, and the reference to ask again."""

    operands: Sequence[Array | None]
    attributes: Mapping[str, Any]
    names: Mapping[str, Any]
    reference: Callable[..., Any]
    results: Sequence[Array]
    unit: float
    depth: int
    ulp: float

    def magnitude(self, **changed: Any) -> list[Array]:
        """The reference on absolute operands: the sum of the absolute terms, where the result is a sum of products."""
        absolute = [o if o is None or o.dtype.kind not in "f" else np.abs(o) for o in self.operands]
        return as_tuple(self.reference(*absolute, **{**self.attributes, **changed}))


def as_tuple(result: Any) -> list[Array]:
    return list(result) if isinstance(result, tuple) else [result]


def long_sum_depth(count: int) -> int:
    """Additions on the longest path of the long sum: 8 in a chunk, the tree, 4 for the lanes."""
    return 8 + (math.ceil(math.log2(max(1, count / 128))) + 1) + 4


def dot_depth(count: int) -> int:
    """Roundings on the longest path of a chunked dot product: a chunk's chain, the chunks, bias and residual."""
    return min(256, count) + math.ceil(count / 256) + 2


def exact(call: Call) -> list[Array]:
    return [np.zeros(np.shape(y)) for y in call.results]


def elementwise(call: Call) -> list[Array]:
    return [2 * call.ulp * call.unit * np.abs(y) for y in call.results]


def sum(call: Call) -> list[Array]:
    depth = long_sum_depth(call.depth) * call.unit
    return [
        depth * m + 2 * call.ulp * call.unit * np.abs(y) for m, y in zip(call.magnitude(), call.results, strict=True)
    ]


def dot(call: Call) -> list[Array]:
    """Chunked products; a fused activation passes errors on with a slope of at most 1.13 (GELU's)."""
    fused = call.attributes.get("activation") is not None
    terms = call.magnitude(activation=None) if fused else call.magnitude()
    scale = (1.13 if fused else 1.0) * dot_depth(call.depth) * call.unit
    return [scale * m + 2 * call.ulp * call.unit * np.abs(y) for m, y in zip(terms, call.results, strict=True)]


def cancelling(call: Call) -> list[Array]:
    """A function of each element whose factors' errors do not shrink where they cancel: relative to its value at the
    absolute operands, where nothing cancels."""
    return [2 * call.ulp * call.unit * m for m in call.magnitude()]


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


def allowed(kind: str, call: Call, tiny: float) -> list[Array]:
    """The bound of this kind; `tiny` is the smallest subnormal of the results' dtype, which roundings may cost."""
    with np.errstate(all="ignore"):
        return [1.01 * b + 2 * tiny for b in globals()[kind](call)]
