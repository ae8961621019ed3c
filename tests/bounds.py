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

from reference import attention as attention_reference

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


def _attention_weights(
    q: Array, k: Array, bias: Array | None, mask: Array | None, causal: int, scale: float, unit: float
) -> tuple[Array, Array, Array]:
    """Which keys are seen [B H Sq Sk], the scores, and the sum of their absolute terms; key heads are repeated."""
    shape = (*q.shape[:3], k.shape[2])
    seen = attention_reference._visible(shape, mask, causal)
    terms = abs(scale) * (np.abs(q) @ np.abs(k).swapaxes(2, 3))
    scores = scale * (q @ k.swapaxes(2, 3))
    return seen, scores + (0 if bias is None else bias), terms + (0 if bias is None else np.abs(bias))


def attention(call: Call) -> list[Array]:
    """A score errs by its dot product, the rounded scale and the bias; p by that, the rounded difference from the
    maximum, and exp2; both sums of p by their chains of 128 and one step per block, each rescaled once more. The
    factors between blocks come from differences of maxima, which are no more than twice the largest score apart.
    """
    q, k, v, mask, bias = call.operands
    assert q is not None and k is not None and v is not None
    u, keys, group = call.unit, k.shape[2], max(1, q.shape[1] // max(1, k.shape[1]))
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    seen, scores, terms = _attention_weights(q, k, bias, mask, call.attributes["causal"], call.attributes["scale"], u)
    blocks = math.ceil(keys / 128)
    largest = np.max(np.where(seen, terms, 0), axis=3, initial=0)
    weight = u * ((dot_depth(call.depth) + 4 + 4) * largest + 7 * (blocks + 1))
    chain = u * (min(keys, 128) + blocks)
    lse = np.where(np.isfinite(call.results[-1]), call.results[-1], 0) if len(call.results) == 2 else None
    maximum = np.max(np.where(seen, scores, -np.inf), axis=3, initial=-np.inf, keepdims=True)
    p = np.where(seen, np.exp(scores - np.where(np.isfinite(maximum), maximum, 0)), 0)
    total = np.maximum(p.sum(3, keepdims=True), np.finfo(np.float64).tiny)
    flushed = np.abs(v).sum(2, keepdims=True) * 2.0**-126  # exp2 gives 0 below
    limits = [(2 * weight + 2 * chain + 4 * u)[..., None] * ((p / total) @ np.abs(v)) + flushed]
    if lse is not None:
        limits.append(weight + chain + u * (4 * largest + 2 * np.abs(lse) + 4 * math.log(keys + 1) + 4))
    return limits


def attention_grad(call: Call) -> list[Array]:
    """As above for the scores; p = exp(score - lse) errs by the rounded difference too; ds = p (dp - delta) by two dot
    products; then come chains of 128 keys or 48 queries and a step per block, panel and head of the group.
    """
    q, k, v, y, lse, gy, mask, bias, glse = call.operands
    assert q is not None and k is not None and v is not None and y is not None and lse is not None and gy is not None
    u, keys, queries, group = call.unit, k.shape[2], q.shape[2], max(1, q.shape[1] // max(1, k.shape[1]))
    wide_k, wide_v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    scale = abs(call.attributes["scale"])
    seen, scores, terms = _attention_weights(
        q, wide_k, bias, mask, call.attributes["causal"], call.attributes["scale"], u
    )
    seen = seen & np.isfinite(lse)[..., None]
    logarithm = np.where(np.isfinite(lse), lse, 0)[..., None]
    p = np.where(seen, np.exp(scores - logarithm), 0) + 2.0**-126
    p_error = u * ((dot_depth(call.depth) + 4) * terms + 2 * np.abs(logarithm) + np.abs(scores - logarithm) + 7)
    inner = dot_depth(v.shape[3]) + 4
    centred = np.abs(gy) @ np.abs(wide_v).swapaxes(2, 3) + np.sum(np.abs(gy * y), 3, keepdims=True)
    if glse is not None:
        centred = centred + np.abs(glse)[..., None]
    ds, ds_error = p * centred, p * centred * (p_error + u * inner)
    if len(call.results) == 1:
        return [ds_error]
    by_keys = u * (min(keys, 128) + math.ceil(keys / 128) + 3)
    by_queries = u * (min(queries, 48) + group * math.ceil(queries / 48) + 3)

    def grouped(x: Array) -> Array:
        return x.reshape(*k.shape[:2], group, *x.shape[2:]).sum(2)

    return [
        scale * ((ds_error + by_keys * ds) @ np.abs(wide_k)),
        scale * grouped((ds_error + by_queries * ds).swapaxes(2, 3) @ np.abs(q)),
        grouped((p * (p_error + by_queries)).swapaxes(2, 3) @ np.abs(gy)),
    ]


def allowed(kind: str, call: Call, tiny: float) -> list[Array]:
    """The bound of this kind; `tiny` is the smallest subnormal of the results' dtype, which roundings may cost."""
    with np.errstate(all="ignore"):
        return [1.01 * b + 2 * tiny for b in globals()[kind](call)]
