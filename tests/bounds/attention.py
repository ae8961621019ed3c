"""Attention and its gradients."""

from __future__ import annotations

import math

import numpy as np

from reference import attention as attention_reference

from .call import Array, Call, dot_depth


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


def _half_step(call: Call) -> float:
    """Half the storage type's smallest number: what rounding p or ds to it costs, however small they are."""
    return {2.0**-11: 2.0**-25, 2.0**-8: 2.0**-134}[call.storage]


def _tensor_sum(count: int) -> int:
    """Units of 2^-24 that a sum of so many products on tensor cores may err by: they add 16 at a time, cut off what is
    below 2^-24 of the largest addend, then cut the result to 2^-23, which is less than 2^-23 for each addition."""
    return 2 * 16 * math.ceil(count / 16)


def tensor_attention(call: Call) -> list[Array]:
    """`attention` on tensor cores: sums as long as the operands, tiles of 32 keys at least; p is rounded to the storage
    type before its product with v, while the denominator sums it unrounded."""
    q, k, v, mask, bias = call.operands
    assert q is not None and k is not None and v is not None
    u, keys, group = call.unit, k.shape[2], max(1, q.shape[1] // max(1, k.shape[1]))
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    seen, scores, terms = _attention_weights(q, k, bias, mask, call.attributes["causal"], call.attributes["scale"], u)
    tiles = math.ceil(keys / 32)
    largest = np.max(np.where(seen, terms, 0), axis=3, initial=0)
    weight = u * ((_tensor_sum(q.shape[3]) + 4 + 4) * largest + 7 * (tiles + 1))
    denominator, products = u * (min(keys, 64) + 2 * tiles + 2), u * (_tensor_sum(keys) + tiles) + call.storage
    maximum = np.max(np.where(seen, scores, -np.inf), axis=3, initial=-np.inf, keepdims=True)
    p = np.where(seen, np.exp(scores - np.where(np.isfinite(maximum), maximum, 0)), 0)
    total = np.maximum(p.sum(3, keepdims=True), np.finfo(np.float64).tiny)
    flushed = seen @ np.abs(v) * (2.0**-126 + _half_step(call))
    limits = [(2 * weight + denominator + products + 4 * u)[..., None] * ((p / total) @ np.abs(v)) + flushed]
    if len(call.results) == 2:
        lse = np.where(np.isfinite(call.results[-1]), call.results[-1], 0)
        limits.append(weight + denominator + u * (4 * largest + 2 * np.abs(lse) + 4 * math.log(keys + 1) + 4))
    return limits


def tensor_attention_grad(call: Call) -> list[Array]:
    """`attention_grad` on tensor cores: p and ds are rounded to the storage type before their products."""
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
    p_error = u * ((_tensor_sum(q.shape[3]) + 4) * terms + 2 * np.abs(logarithm) + np.abs(scores - logarithm) + 7)
    inner = _tensor_sum(v.shape[3]) + dot_depth(v.shape[3]) + 4
    centred = np.abs(gy) @ np.abs(wide_v).swapaxes(2, 3) + np.sum(np.abs(gy * y), 3, keepdims=True)
    if glse is not None:
        centred = centred + np.abs(glse)[..., None]
    ds_error = p * centred * (p_error + u * inner)
    if len(call.results) == 1:
        return [ds_error]
    step = _half_step(call) * seen
    rounded = ds_error + call.storage * p * centred + step
    by_keys, by_queries = u * (_tensor_sum(keys) + 3), u * (group * _tensor_sum(queries) + 3)

    def grouped(x: Array) -> Array:
        return x.reshape(*k.shape[:2], group, *x.shape[2:]).sum(2)

    p_rounded = p * (p_error + call.storage + by_queries) + step
    return [
        scale * ((rounded + by_keys * p * centred) @ np.abs(wide_k)),
        scale * grouped((rounded + by_queries * p * centred).swapaxes(2, 3) @ np.abs(q)),
        grouped(p_rounded.swapaxes(2, 3) @ np.abs(gy)),
    ]
