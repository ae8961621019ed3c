"""Attention and its gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from reference import attention as attention_reference

from .call import Array, Call, dot_depth, long_sum_depth


class _Scores:
    """Of a call: which keys are seen [N H Sq Sk], the scores, the sum of their absolute terms and of those of the
    product alone, and the soft cap's derivative; keys and values with their heads repeated. The batch is one extent."""

    def __init__(self, call: Call, operands: list[Array | None]) -> None:
        self.p = p = attention_reference.problem(*operands, **_plain(call))  # type: ignore[arg-type]
        self.q, group = p.q, max(1, p.group if p.k.shape[1] else 1)
        self.k, self.v = np.repeat(p.k, group, 1), np.repeat(p.v, group, 1)
        self.seen = p.visible
        self.products = abs(p.scale) * (np.abs(p.q) @ np.abs(self.k).swapaxes(2, 3))
        self.scores, self.slope = np.zeros_like(self.products), np.ones_like(self.products)
        for n, h, _ in p.heads():
            self.scores[n, h], self.slope[n, h] = p.scores(n, h)
        # a cap's slope is at most 1, so that it does not magnify what came before; what is added has terms of its own
        plain = dict(zip(("mask", "bias", "slopes", "table"), operands[3:7], strict=True))
        self.terms = self.products
        if plain["bias"] is not None or plain["table"] is not None or plain["slopes"] is not None:
            absolute = [None if x is None else x for x in operands]
            for i, sign in ((4, 1), (5, -1), (6, 1)):  # -slope |distance| is added
                absolute[i] = None if operands[i] is None else sign * np.abs(operands[i])
            other = attention_reference.problem(*absolute, **_plain(call))  # type: ignore[arg-type]
            self.terms = self.terms + other.added
        # roundings of a tanh and its factors; of a slope's product and its sum with the table
        self.more = 4 * bool(p.softcap) + 2 * (plain["slopes"] is not None)
        self.batch = p.batch

    def grouped(self, x: Array) -> Array:
        kept, group = self.p.k.shape[:2], max(1, self.p.group if self.p.k.shape[1] else 1)
        return x.reshape(*kept, group, *x.shape[2:]).sum(2)

    def shaped(self, x: Array) -> Array:
        return x.reshape(*self.batch, *x.shape[1:])


def _plain(call: Call) -> dict[str, object]:
    return {n: x for n, x in call.attributes.items() if n != "return_lse"}


def _forward(call: Call, depth: int, blocks: int, chain: float, storage: float, product_depth: float) -> list[Array]:
    """A score errs by its dot product, the rounded scale and what is added; p by that, the rounded difference from the
    maximum, and exp2; both sums of p by their chains and one step per block, each rescaled once more. The factors
    between blocks come from differences of maxima, which are no more than twice the largest score apart.
    """
    q, k, v, mask, bias, sink, *rest = call.operands
    s = _Scores(call, [q, k, v, mask, bias, *rest])
    u, keys = call.unit, s.k.shape[2]
    largest = np.max(np.where(s.seen, s.terms, 0), axis=3, initial=0)
    maximum = np.max(np.where(s.seen, s.scores, -np.inf), axis=3, initial=-np.inf, keepdims=True)
    safe = np.where(np.isfinite(maximum), maximum, 0)
    p = np.where(s.seen, np.exp(s.scores - safe), 0)
    total = p.sum(3, keepdims=True)
    if sink is not None:
        largest = np.maximum(largest, np.abs(sink)[:, None])
        total = total + np.exp(np.minimum(sink[:, None, None] - safe, 700))
    total = np.maximum(total, np.finfo(np.float64).tiny)
    weight = u * ((depth + 4 + 4 + s.more) * largest + 7 * (blocks + (1 if sink is None else 2)))
    flushed = s.seen @ np.abs(s.v) * (2.0**-126 + (_half_step(call) if storage else 0))  # exp2 gives 0 below
    limits = [
        (2 * weight + chain + product_depth + storage + (4 if sink is None else 5) * u)[..., None]
        * ((p / total) @ np.abs(s.v))
        + flushed
    ]
    if len(call.results) == 2:
        lse = call.results[-1].reshape(weight.shape)
        lse = np.where(np.isfinite(lse), lse, 0)
        limits.append(
            weight + chain + u * (4 * largest + 2 * np.abs(lse) + 4 * math.log(keys + (1 if sink is None else 2)) + 4)
        )
    return [s.shaped(x) for x in limits]


def attention(call: Call) -> list[Array]:
    """Chains of 128 keys, and a step per block."""
    q, k = call.operands[:2]
    assert q is not None and k is not None
    blocks = math.ceil(k.shape[-2] / 128)
    chain = call.unit * (min(k.shape[-2], 128) + blocks)
    return _forward(call, dot_depth(call.depth), blocks, chain, 0.0, chain)


def _scores_gradient(call: Call, depth: int, inner: int) -> tuple[_Scores, Array, Array, Array, Array, Array, Array]:
    """p and its relative error; the scores' gradient and its error; the same under a soft cap. p = exp(score - lse)
    errs by the rounded difference too; ds = p (dp - delta) by two dot products; 1 - tanh^2 by tanh's argument."""
    q, k, v, y, lse, gy, mask, bias, glse, *rest = call.operands
    s = _Scores(call, [q, k, v, mask, bias, *rest])
    u, shape = call.unit, s.q.shape
    assert y is not None and lse is not None and gy is not None
    y, gy, lse = y.reshape(*shape[:3], y.shape[-1]), gy.reshape(*shape[:3], y.shape[-1]), lse.reshape(shape[:3])
    seen = s.seen = s.seen & np.isfinite(lse)[..., None]
    logarithm = np.where(np.isfinite(lse), lse, 0)[..., None]
    p = np.where(seen, np.exp(s.scores - logarithm), 0) + 2.0**-126
    p_error = u * ((depth + 4 + s.more) * s.terms + 2 * np.abs(logarithm) + np.abs(s.scores - logarithm) + 7)
    centred = np.abs(gy) @ np.abs(s.v).swapaxes(2, 3) + np.sum(np.abs(gy * y), 3, keepdims=True)
    if glse is not None:
        centred = centred + np.abs(glse).reshape(shape[:3])[..., None]
    ds, ds_error = p * centred, p * centred * (p_error + u * inner)
    slope_error = 0.0
    if s.p.softcap:
        slope_error = u * (2 * (depth + 4) * s.products / s.p.softcap + 8)
    return s, p, p_error, ds, ds_error, ds * s.slope + ds * slope_error, ds_error * s.slope + ds * slope_error


def attention_grad(call: Call) -> list[Array]:
    """Chains of 128 keys or 48 queries and a step per block, panel and head of the group."""
    v, gy = call.operands[2], call.operands[5]
    assert v is not None and gy is not None
    s, p, p_error, _, ds_error, dp, dp_error = _scores_gradient(call, dot_depth(call.depth), dot_depth(v.shape[-1]) + 4)
    if len(call.results) == 1:
        return [s.shaped(ds_error)]
    u, keys, queries, group = call.unit, s.k.shape[2], s.q.shape[2], max(1, s.p.group if s.p.k.shape[1] else 1)
    by_keys = u * (min(keys, 128) + math.ceil(keys / 128) + 3)
    by_queries = u * (min(queries, 48) + group * math.ceil(queries / 48) + 3)
    scale, wide_gy = abs(s.p.scale), np.abs(gy).reshape(*s.q.shape[:3], gy.shape[-1])
    return [
        s.shaped(scale * ((dp_error + by_keys * dp) @ np.abs(s.k))),
        s.shaped(scale * s.grouped((dp_error + by_queries * dp).swapaxes(2, 3) @ np.abs(s.q))),
        s.shaped(s.grouped((p * (p_error + by_queries)).swapaxes(2, 3) @ wide_gy)),
    ]


def attention_shared_bias_grad(call: Call) -> list[Array]:
    """The items' errors, and their sum in runs of 32."""
    v = call.operands[2]
    assert v is not None
    s, _, _, ds, ds_error, _, _ = _scores_gradient(call, dot_depth(call.depth), dot_depth(v.shape[-1]) + 4)
    count = s.seen.shape[0]
    return [np.where(s.seen, ds_error + call.unit * (min(count, 32) + math.ceil(count / 32)) * ds, 0).sum(0)]


def attention_table_grad(call: Call) -> list[Array]:
    """Chains of 48 queries, a step per panel of a segment, block of keys, lane of a clamped end, and segment."""
    v, table = call.operands[2], call.operands[10]
    assert v is not None and table is not None
    s, _, _, ds, ds_error, _, _ = _scores_gradient(call, dot_depth(call.depth), dot_depth(v.shape[-1]) + 4)
    count, heads, queries, keys = s.seen.shape
    depth = 48 + 16 * (2 + math.ceil((keys + 48) / 128)) + 128 + count * math.ceil(queries / 768)
    limit, radius = np.zeros(table.shape), table.shape[1] // 2
    terms = np.where(s.seen, ds_error + call.unit * depth * ds, 0)
    for n, h in np.ndindex(count, heads):
        np.add.at(limit[h], np.clip(s.p.distance[n], -radius, radius) + radius, terms[n, h])
    return [limit]


def attention_slopes_grad(call: Call, sums: int = 0) -> list[Array]:
    """As attention_table_grad, but that every diagonal goes to one of 128 lanes; `sums` are added to an item's."""
    v = call.operands[2]
    assert v is not None
    s, _, _, ds, ds_error, _, _ = _scores_gradient(call, dot_depth(call.depth), dot_depth(v.shape[-1]) + 4)
    _, _, queries, keys = s.seen.shape
    depth = 48 + 16 * (2 + math.ceil((keys + 48) / 128)) + 128 + math.ceil(queries / 768) + sums
    terms = np.where(s.seen, ds_error + call.unit * depth * ds, 0) * np.abs(s.p.distance)[:, None]
    return [s.shaped(terms.sum((2, 3)))]


def attention_sink_grad(call: Call) -> list[Array]:
    """exp of a rounded difference, a chunked dot product, and a long sum."""
    y, lse, gy, sink, glse = call.operands
    assert y is not None and lse is not None and gy is not None and sink is not None
    delta = np.sum(np.abs(gy * y), -1) + (0 if glse is None else np.abs(glse))
    apart = np.where(np.isfinite(lse), sink[:, None] - lse, 0)
    rows = np.where(np.isfinite(lse), np.exp(np.minimum(apart, 700)) * delta, 0)
    count = max(1, lse.size // max(1, lse.shape[-2]))
    roundings = np.abs(apart) + 3 + dot_depth(y.shape[-1]) + 1 + long_sum_depth(count)
    return [call.unit * (rows * roundings).sum((*range(lse.ndim - 2), -1))]


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
    q, k = call.operands[:2]
    assert q is not None and k is not None
    u, keys = call.unit, k.shape[-2]
    tiles = math.ceil(keys / 32)
    chain = u * (min(keys, 64) + 2 * tiles + 2)
    return _forward(call, _tensor_sum(q.shape[-1]), tiles, chain, call.storage, u * (_tensor_sum(keys) + tiles))


def tensor_attention_grad(call: Call) -> list[Array]:
    """`attention_grad` on tensor cores: p and ds are rounded to the storage type before their products."""
    q, v, gy = call.operands[0], call.operands[2], call.operands[5]
    assert q is not None and v is not None and gy is not None
    inner = _tensor_sum(v.shape[-1]) + dot_depth(v.shape[-1]) + 4
    s, p, p_error, _, ds_error, dp, dp_error = _scores_gradient(call, _tensor_sum(q.shape[-1]), inner)
    if len(call.results) == 1:
        return [s.shaped(ds_error)]
    u, keys, queries, group = call.unit, s.k.shape[2], s.q.shape[2], max(1, s.p.group if s.p.k.shape[1] else 1)
    step = _half_step(call) * s.seen
    rounded = dp_error + call.storage * dp + step
    by_keys, by_queries = u * (_tensor_sum(keys) + 3), u * (group * _tensor_sum(queries) + 3)
    scale, wide_gy = abs(s.p.scale), np.abs(gy).reshape(*s.q.shape[:3], gy.shape[-1])
    p_rounded = p * (p_error + call.storage + by_queries) + step
    return [
        s.shaped(scale * ((rounded + by_keys * dp) @ np.abs(s.k))),
        s.shaped(scale * s.grouped((rounded + by_queries * dp).swapaxes(2, 3) @ np.abs(s.q))),
        s.shaped(s.grouped(p_rounded.swapaxes(2, 3) @ wide_gy)),
    ]


def _packed(call: Call, kind: Callable[[Call], list[Array]]) -> list[Array]:
    """The limits of each sequence, by the padded form's bound."""
    reference, options = attention_reference, dict(call.attributes)
    most = options.pop("max_queries"), options.pop("max_keys")
    q, k, v, *rest = call.operands
    assert q is not None and k is not None and v is not None
    backward = len(call.results) == 3
    y, lse, gy, *rest = rest if backward else (None, None, None, *rest)
    query_starts, key_starts, a, slopes = rest
    assert query_starts is not None and key_starts is not None
    forward = (np.zeros((*q.shape[:2], v.shape[2])), np.zeros((len(q), q.shape[1], 1)))
    shapes = (q, k, v) if backward else forward[: len(call.results)]
    limits = [np.zeros(x.shape) for x in shapes]
    for rows, others in reference.sequences(query_starts, key_starts, len(q), len(k), *most):
        of = reference.of_sequence
        given = [of(q, rows), of(k, others), of(v, others)]
        if backward:
            assert lse is not None
            glse = None if a is None else a[None, :, rows]
            given += [of(y, rows), lse[None, :, rows], of(gy, rows), None, None, glse, slopes, None, None, None, None]
            results: list[Array] = [*given[:3]]
        else:
            given += [None, None, a, slopes, None, None, None, None]
            results = [of(call.results[0], rows), *(x[None, :, rows] for x in call.results[1:])]
        part = replace(call, operands=given, attributes=options, results=results)
        places = (rows, others, others) if backward else (rows, rows)[: len(results)]
        for limit, own, at in zip(limits, kind(part), places, strict=True):
            limit[at] = np.moveaxis(own[0], 0, 1) if own.ndim == 4 else np.moveaxis(own, 1, 2)[0][..., None]
    return limits if backward else [limits[0], *(x[..., 0].T for x in limits[1:])]


def attention_packed(call: Call) -> list[Array]:
    return _packed(call, attention)


def attention_packed_grad(call: Call) -> list[Array]:
    return _packed(call, attention_grad)


def attention_packed_slopes_grad(call: Call) -> list[Array]:
    """The sequences' limits, and a step for each segment of a sequence."""
    reference, options = attention_reference, dict(call.attributes)
    most = options.pop("max_queries"), options.pop("max_keys")
    q, k, v, y, lse, gy, query_starts, key_starts, glse, slopes = call.operands
    assert q is not None and k is not None and lse is not None
    assert query_starts is not None and key_starts is not None and slopes is not None
    limit, of = np.zeros(slopes.shape), reference.of_sequence
    sums = len(query_starts) * math.ceil(len(q) / 768)
    for rows, others in reference.sequences(query_starts, key_starts, len(q), len(k), *most):
        own = None if glse is None else glse[None, :, rows]
        given = [of(q, rows), of(k, others), of(v, others), of(y, rows), lse[None, :, rows], of(gy, rows)]
        given += [None, None, own, slopes, None, None, None, None]
        limit += attention_slopes_grad(replace(call, operands=given, attributes=options), sums)[0][0]
    return [limit]


def tensor_attention_packed(call: Call) -> list[Array]:
    return _packed(call, tensor_attention)


def tensor_attention_packed_grad(call: Call) -> list[Array]:
    return _packed(call, tensor_attention_grad)


def _lanes(count: int) -> int:
    """Roundings of a sum of so many products in sixteen lanes."""
    return math.ceil(count / 16) + 5


class _Additive:
    """tanh, scores, the sum of their absolute terms, and how far a score may be off: a rounded sum and its tanh (whose
    slope is at most 1, in 2 units more), the lanes, the factor of base 2."""

    def __init__(self, call: Call, weight: Array, mask: Array | None) -> None:
        q, k = call.operands[:2]
        assert q is not None and k is not None
        self.batch, self.q, self.k, self.t, self.scores, self.seen = attention_reference._additive(q, k, weight, mask)
        u = call.unit
        self.tanh_error = u * (np.abs(self.q[:, :, None] + self.k[:, None]) * (1 - self.t**2) + 2 * np.abs(self.t))
        self.terms = np.abs(self.t) @ np.abs(weight)
        self.error = self.tanh_error @ np.abs(weight) + u * (_lanes(weight.size) + 1) * self.terms

    def shaped(self, x: Array) -> Array:
        return x.reshape(*self.batch, *x.shape[1:])


def additive_attention(call: Call) -> list[Array]:
    """As `attention`: chains of 128 keys and a step per block."""
    _, _, v, weight, mask = call.operands
    assert v is not None and weight is not None
    s, u = _Additive(call, weight, mask), call.unit
    keys, v = s.k.shape[1], np.abs(v.reshape(s.q.shape[0], *v.shape[-2:]))
    blocks = math.ceil(keys / 128)
    largest = np.max(np.where(s.seen, s.terms, 0), axis=2, initial=0)
    weight_error = np.max(np.where(s.seen, s.error, 0), axis=2, initial=0) + u * (8 * largest + 7 * (blocks + 1))
    chain = u * (min(keys, 128) + blocks)
    maximum = np.max(np.where(s.seen, s.scores, -np.inf), axis=2, initial=-np.inf, keepdims=True)
    p = np.where(s.seen, np.exp(s.scores - np.where(np.isfinite(maximum), maximum, 0)), 0)
    total = np.maximum(p.sum(2, keepdims=True), np.finfo(np.float64).tiny)
    relative = (2 * weight_error + 2 * chain + 4 * u)[..., None]
    limits = [s.shaped(relative * ((p / total) @ v) + s.seen @ v * 2.0**-126)]
    if len(call.results) == 2:
        lse = np.where(np.isfinite(call.results[1]), call.results[1], 0).reshape(largest.shape)
        limits.append(s.shaped(weight_error + chain + u * (4 * largest + 2 * np.abs(lse) + 4 * math.log(keys + 1) + 4)))
    return limits


def _additive_probabilities(s: _Additive, lse: Array, u: float) -> tuple[Array, Array]:
    """p = exp(score - lse) and its relative error."""
    lse = lse.reshape(s.q.shape[:2])[..., None]
    s.seen = s.seen & np.isfinite(lse)
    lse = np.where(np.isfinite(lse), lse, 0)
    p = np.where(s.seen, np.exp(s.scores - lse), 0) + 2.0**-126
    return p, s.error + u * (s.terms + 2 * np.abs(lse) + np.abs(s.scores - lse) + 7)


def additive_attention_weights(call: Call) -> list[Array]:
    """exp of a rounded difference."""
    _, _, weight, lse, mask = call.operands
    assert weight is not None and lse is not None
    s = _Additive(call, weight, mask)
    p, p_error = _additive_probabilities(s, lse, call.unit)
    return [s.shaped(np.where(s.seen, p * p_error, 0))]


def additive_attention_grad(call: Call) -> list[Array]:
    """ds = p (dp - delta) by two sums in lanes; chains of 128 and a step per block, of gweight over an item's keys and
    128 queries, and a step per such sum."""
    _, _, v, weight, y, lse, gy, mask, glse = call.operands
    assert v is not None and weight is not None and y is not None and lse is not None and gy is not None
    s, u = _Additive(call, weight, mask), call.unit
    count, queries, keys = s.scores.shape
    v, y, gy = (x.reshape(count, *x.shape[-2:]) for x in (v, y, gy))
    p, p_error = _additive_probabilities(s, lse, u)
    centred = np.abs(gy) @ np.abs(v).swapaxes(1, 2) + np.sum(np.abs(gy * y), 2, keepdims=True)
    if glse is not None:
        centred = centred + np.abs(glse).reshape(count, queries, 1)
    ds = np.where(s.seen, p * centred, 0)
    ds_error = np.where(s.seen, ds * (p_error + u * (_lanes(v.shape[2]) + 3)), 0)
    slope_error = 2 * np.abs(s.t) * s.tanh_error + u
    by_keys = u * (min(keys, 128) + math.ceil(keys / 128) + 2)
    by_queries = u * (min(queries, 128) + math.ceil(queries / 128) + 2)
    by_rows = u * (keys + min(queries, 128) + count * math.ceil(queries / 128) + 2)
    inner, inner_error = ds[..., None] * (1 - s.t**2), ds_error[..., None] * (1 - s.t**2) + ds[..., None] * slope_error
    outer = (ds_error[..., None] + by_rows * ds[..., None]) * np.abs(s.t) + ds[..., None] * s.tanh_error
    return [
        s.shaped(np.abs(weight) * (inner_error + by_keys * inner).sum(2)),
        s.shaped(np.abs(weight) * (inner_error + by_queries * inner).sum(1)),
        s.shaped(np.where(s.seen, p * (p_error + by_queries), 0).swapaxes(1, 2) @ np.abs(gy)),
        outer.sum((0, 1, 2)),
    ]
