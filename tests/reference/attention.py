"""References of the attention family: the whole score matrix of one head at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _flat(x: Array | None, batch: tuple[int, ...], *rest: int) -> Array | None:
    """x broadcast to (*batch, *rest), the batch as one extent."""
    return None if x is None else np.broadcast_to(x, (*batch, *rest)).reshape(int(np.prod(batch)), *rest)


@dataclass
class Problem:
    """Operands with one batch extent, and what follows from attributes and integers."""

    q: Array
    k: Array
    v: Array
    batch: tuple[int, ...]
    visible: Array  # bool [N H Sq Sk]
    added: Array  # [N H Sq Sk], or [] if nothing is added to the scores
    distance: Array  # key - position, int [N Sq Sk]
    real: Array  # bool [N Sq]: not a padded query
    scale: float
    softcap: float

    @property
    def group(self) -> int:
        return self.q.shape[1] // self.k.shape[1]

    def scores(self, n: int, h: int) -> tuple[Array, Array]:
        """Scores of one head [Sq Sk], masked keys included, and what their derivative by the scaled product is."""
        scores: Array = (self.q[n, h] @ self.k[n, h // self.group].T) * self.scale
        slope = np.ones_like(scores)
        if self.softcap:
            t = np.tanh(scores / self.softcap)
            scores, slope = self.softcap * t, 1 - t * t
        return (scores + self.added[n, h] if self.added.size else scores), slope

    def heads(self) -> Iterator[tuple[int, int, int]]:
        for n, h in np.ndindex(self.q.shape[:2]):
            yield n, h, h // self.group


def problem(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    bias: Array | None = None,
    slopes: Array | None = None,
    table: Array | None = None,
    offset: Array | None = None,
    key_lengths: Array | None = None,
    query_lengths: Array | None = None,
    *,
    causal: int = 0,
    scale: float = 1.0,
    window: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> Problem:
    """Which keys each query sees, where it stands, and what is added to its scores."""
    batch, (heads, queries), keys = q.shape[:-3], q.shape[-3:-1], k.shape[-2]
    count = int(np.prod(batch))
    q, k, v = (x.reshape(count, *x.shape[-3:]) for x in (q, k, v))
    key_ends = np.full(count, keys) if key_lengths is None else _flat(key_lengths, batch)
    query_ends = np.full(count, queries) if query_lengths is None else _flat(query_lengths, batch)
    assert key_ends is not None and query_ends is not None
    first = np.zeros(count, int)
    if offset is not None:
        first = np.broadcast_to(offset, batch).reshape(-1)
    elif causal == 2:
        first = key_ends - query_ends
    j = np.arange(keys)
    position = first[:, None] + np.arange(queries)
    distance = j - position[:, :, None]
    real = np.arange(queries) < query_ends[:, None]
    seen = real[:, :, None] & (j < key_ends[:, None, None])
    if causal:
        seen &= distance <= 0
    if window[0] >= 0:
        seen &= distance >= -window[0]
    if window[1] >= 0:
        seen &= distance <= window[1]
    visible = np.broadcast_to(seen[:, None], (count, heads, queries, keys))
    if mask is not None:
        visible = visible & _flat(mask, batch, heads, queries, keys)
    added = np.zeros((count, heads, queries, keys), q.dtype) if any(
        x is not None for x in (bias, slopes, table)) else np.zeros(0, q.dtype)  # fmt: skip
    if slopes is not None:
        wide = _flat(slopes, batch, heads)
        assert wide is not None
        added = added - wide[:, :, None, None] * np.abs(distance)[:, None].astype(q.dtype)
    if table is not None:
        radius = table.shape[1] // 2
        added = added + np.moveaxis(table[:, np.clip(distance, -radius, radius) + radius], 0, 1)
    if bias is not None:
        added = added + _flat(bias, batch, heads, queries, keys)
    return Problem(q, k, v, batch, visible, added, distance, real, scale, softcap)


def _masked_product(factors: Array, visible: Array, values: Array) -> Array:
    """result[i] = sum over the visible j of factors[i, j] * values[j]; factors is 0 where not visible.

    The zeros hide what is behind a mask only if it is finite; otherwise the hidden rows are left out of the sum.
    """
    if np.isfinite(values).all():
        return factors @ values
    result = np.zeros((factors.shape[0], values.shape[1]), values.dtype)
    for i, seen in enumerate(visible):
        result[i] = factors[i, seen] @ values[seen]
    return result


def _probabilities(p: Problem, n: int, h: int) -> tuple[Array, Array, Array, Array]:
    """exp(score - maximum), 0 where not seen; the maximum, the sum, and which rows have a score above -inf."""
    seen = p.visible[n, h]
    scores = np.where(seen, p.scores(n, h)[0], -np.inf)
    maximum = np.max(scores, axis=1, initial=-np.inf)
    alive = maximum != -np.inf
    factors = np.where(seen, np.exp(scores - np.where(alive, maximum, 0)[:, None]), 0)
    return factors, maximum, np.sum(factors, axis=1), alive


@np.errstate(all="ignore")
def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    bias: Array | None = None,
    sink: Array | None = None,
    slopes: Array | None = None,
    table: Array | None = None,
    offset: Array | None = None,
    key_lengths: Array | None = None,
    query_lengths: Array | None = None,
    /,
    *,
    return_lse: bool = True,
    **attributes: Any,
) -> Any:
    """softmax(scores) v over the visible keys, and the natural log of the softmax's denominator, sink included.

    Query head h reads key head h // (H / Hkv). A row whose scores are all -inf (no visible key, or a bias of -inf on
    each) gives 0 and lse = -inf, or its sink; a padded query -inf in any case.
    """
    p = problem(q, k, v, mask, bias, slopes, table, offset, key_lengths, query_lengths, **attributes)
    y = np.zeros((*p.q.shape[:3], p.v.shape[3]), q.dtype)
    lse = np.full(p.q.shape[:3], -np.inf, q.dtype)
    for n, h, kh in p.heads():
        factors, maximum, total, alive = _probabilities(p, n, h)
        sums = _masked_product(factors, p.visible[n, h], p.v[n, kh])
        empty = np.full(alive.shape, -np.inf)
        if sink is not None:
            top = np.maximum(np.where(alive, maximum, 0), sink[h])
            shrink = np.exp(maximum - top)
            total, sums, maximum = total * shrink + np.exp(sink[h] - top), sums * shrink[:, None], top
            empty = np.where(p.real[n], sink[h], -np.inf)
        y[n, h] = np.where(alive[:, None], sums / total[:, None], 0)
        lse[n, h] = np.where(alive, maximum + np.log(total), empty)
    y, lse = y.reshape(*p.batch, *y.shape[1:]), lse.reshape(*p.batch, *lse.shape[1:])
    return (y, lse) if return_lse else y


def _backward(
    p: Problem, y: Array, lse: Array, gy: Array, glse: Array | None
) -> Iterator[tuple[int, int, Array, Array, Array, Array]]:
    """Per head: n, h, which keys are seen, p = exp(score - lse), the scores' gradient before and after the soft cap.

    The first is p * (gy v^T - rowsum(gy * y) + glse).
    """
    y, gy = (x.reshape(len(p.q), *x.shape[-3:]) for x in (y, gy))
    lse = lse.reshape(len(p.q), *lse.shape[-2:])
    glse = None if glse is None else glse.reshape(lse.shape)
    for n, h, kh in p.heads():
        seen = p.visible[n, h] & (lse[n, h] != -np.inf)[:, None]
        scores, slope = p.scores(n, h)
        probabilities = np.where(seen, np.exp(scores - lse[n, h][:, None]), 0)
        delta = np.sum(gy[n, h] * y[n, h], axis=1)
        if glse is not None:
            delta = delta - glse[n, h]
        centred = gy[n, h] @ p.v[n, kh].T - delta[:, None]
        gscores = np.where(seen, probabilities * centred, 0)
        yield n, h, seen, probabilities, gscores, np.where(seen, gscores * slope, 0)


def _gradient_problem(operands: tuple[Any, ...], attributes: dict[str, Any]) -> tuple[Problem, Iterator[Any]]:
    q, k, v, y, lse, gy, mask, bias, glse, *rest = (*operands, *(None,) * (14 - len(operands)))
    p = problem(q, k, v, mask, bias, *rest, **attributes)
    return p, _backward(p, y, lse, gy, glse)


@np.errstate(all="ignore")
def attention_grad(*operands: Any, **attributes: Any) -> tuple[Array, Array, Array]:
    """Gradients of q, k and v; operands as the contract lists them."""
    p, heads = _gradient_problem(operands, attributes)
    gq, gk, gv = np.zeros_like(p.q), np.zeros_like(p.k), np.zeros_like(p.v)
    gy = operands[5].reshape(len(p.q), *operands[5].shape[-3:])
    for n, h, seen, probabilities, _, gproducts in heads:
        kh = h // p.group
        gq[n, h] = _masked_product(gproducts * p.scale, seen, p.k[n, kh])
        gk[n, kh] += _masked_product((gproducts * p.scale).T, seen.T, p.q[n, h])
        gv[n, kh] += _masked_product(probabilities.T, seen.T, gy[n, h])
    return tuple(g.reshape(*p.batch, *g.shape[1:]) for g in (gq, gk, gv))  # type: ignore[return-value]


@np.errstate(all="ignore")
def attention_bias_grad(*operands: Any, **attributes: Any) -> Array:
    """Gradient of the scores."""
    p, heads = _gradient_problem(operands, attributes)
    gbias = np.zeros(p.visible.shape, p.q.dtype)
    for n, h, _, _, gscores, _ in heads:
        gbias[n, h] = gscores
    return gbias.reshape(*p.batch, *gbias.shape[1:])


def attention_shared_bias_grad(*operands: Any, **attributes: Any) -> Array:
    """Gradient of the scores, summed over items."""
    gbias = attention_bias_grad(*operands, **attributes)
    return gbias.sum(tuple(range(gbias.ndim - 3)))  # type: ignore[no-any-return]


@np.errstate(all="ignore")
def attention_table_grad(*operands: Any, **attributes: Any) -> Array:
    """The gradient of the scores, summed over those that read the same entry of the table."""
    p, heads = _gradient_problem(operands, attributes)
    table = operands[10]
    gtable, radius = np.zeros_like(table), table.shape[1] // 2
    for n, h, _, _, gscores, _ in heads:
        np.add.at(gtable[h], np.clip(p.distance[n], -radius, radius) + radius, gscores)
    return gtable


@np.errstate(all="ignore")
def attention_slopes_grad(*operands: Any, **attributes: Any) -> Array:
    """-|key - position| times the gradient of the scores, summed over each item's head."""
    p, heads = _gradient_problem(operands, attributes)
    gslopes = np.zeros(p.q.shape[:2], p.q.dtype)
    for n, h, seen, _, gscores, _ in heads:
        gslopes[n, h] = -np.sum(np.where(seen, np.abs(p.distance[n]) * gscores, 0))
    return gslopes.reshape(*p.batch, -1) if p.q.shape[1] else gslopes.reshape(*p.batch, 0)


@np.errstate(all="ignore")
def attention_sink_grad(y: Array, lse: Array, gy: Array, sink: Array, glse: Array | None = None, /) -> Array:
    """-sum(exp(sink - lse) (gy y - glse)) over the rows whose lse is above -inf."""
    delta = np.sum(gy * y, axis=-1)
    if glse is not None:
        delta = delta - glse
    rows = np.where(lse == -np.inf, 0, -np.exp(sink[:, None] - lse) * delta)
    return rows.sum(axis=(*range(rows.ndim - 2), -1))


# ---- additive -------------------------------------------------------------------------------------------------------


def _additive(
    q: Array, k: Array, weight: Array, mask: Array | None
) -> tuple[tuple[int, ...], Array, Array, Array, Array, Array]:
    """The batch's extents; q, k with one; tanh [N Tq Tk A], scores and what is seen [N Tq Tk]."""
    batch = q.shape[:-2]
    count = int(np.prod(batch))
    q, k = (x.reshape(count, *x.shape[-2:]) for x in (q, k))
    t = np.tanh(q[:, :, None] + k[:, None])
    scores = t @ weight
    seen = np.ones(scores.shape, bool) if mask is None else _flat(mask, batch, *scores.shape[1:])
    assert seen is not None
    return batch, q, k, t, scores, seen


@np.errstate(all="ignore")
def additive_attention(
    q: Array, k: Array, v: Array, weight: Array, mask: Array | None = None, /, *, return_lse: bool = True
) -> Any:
    """softmax(sum(weight tanh(q + k))) v, and the logarithm of its denominator."""
    batch, q, _, _, scores, seen = _additive(q, k, weight, mask)
    v = v.reshape(q.shape[0], *v.shape[-2:])
    scores = np.where(seen, scores, -np.inf)
    maximum = np.max(scores, axis=2, initial=-np.inf)
    alive = maximum != -np.inf
    factors = np.where(seen, np.exp(scores - np.where(alive, maximum, 0)[..., None]), 0)
    total = factors.sum(2)
    y = np.stack([_masked_product(f, s, values) for f, s, values in zip(factors, seen, v, strict=True)]) if len(
        v) else np.zeros((0, q.shape[1], v.shape[2]), q.dtype)  # fmt: skip
    y = np.where(alive[..., None], y / total[..., None], 0)
    lse = np.where(alive, maximum + np.log(total), -np.inf)
    y, lse = y.reshape(*batch, *y.shape[1:]), lse.reshape(*batch, q.shape[1])
    return (y, lse) if return_lse else y


@np.errstate(all="ignore")
def additive_attention_grad(
    q: Array,
    k: Array,
    v: Array,
    weight: Array,
    y: Array,
    lse: Array,
    gy: Array,
    mask: Array | None = None,
    glse: Array | None = None,
    /,
) -> tuple[Array, Array, Array, Array]:
    """Gradients of q, k, v and weight."""
    batch, q, k, t, scores, seen = _additive(q, k, weight, mask)
    v, y, gy = (x.reshape(q.shape[0], *x.shape[-2:]) for x in (v, y, gy))
    lse = lse.reshape(q.shape[:2])
    seen = seen & (lse != -np.inf)[..., None]
    p = np.where(seen, np.exp(scores - lse[..., None]), 0)
    delta = np.sum(gy * y, 2) - (0 if glse is None else glse.reshape(lse.shape))
    ds = np.where(seen, p * (gy @ v.swapaxes(1, 2) - delta[..., None]), 0)
    inner = np.where(seen[..., None], ds[..., None] * (1 - t * t), 0)
    gq, gk = weight * inner.sum(2), weight * inner.sum(1)
    gv = np.zeros_like(v)
    for n in range(len(v)):
        gv[n] = _masked_product(p[n].T, seen[n].T, gy[n])
    gweight = np.where(seen[..., None], ds[..., None] * t, 0).sum((0, 1, 2))
    gq, gk, gv = (g.reshape(*batch, *g.shape[1:]) for g in (gq, gk, gv))
    return gq, gk, gv, gweight


@np.errstate(all="ignore")
def additive_attention_weights(q: Array, k: Array, weight: Array, lse: Array, mask: Array | None = None, /) -> Array:
    """exp(score - lse), 0 where not seen."""
    batch, q, _, _, scores, seen = _additive(q, k, weight, mask)
    seen = seen & (lse.reshape(q.shape[:2]) != -np.inf)[..., None]
    p = np.where(seen, np.exp(scores - lse.reshape(q.shape[:2])[..., None]), 0)
    return p.reshape(*batch, *p.shape[1:])


# ---- packed ---------------------------------------------------------------------------------------------------------


def sequences(
    query_starts: Array, key_starts: Array, queries: int, keys: int, max_queries: int, max_keys: int
) -> Iterator[tuple[slice, slice]]:
    """The rows of each sequence; starts never fall, and what is longer than the most is cut off."""
    ends = [np.minimum(np.maximum.accumulate(x), n) for x, n in ((query_starts, queries), (key_starts, keys))]
    for i in range(len(query_starts) - 1):
        rows = []
        for x, most in zip(ends, (max_queries, max_keys), strict=True):
            end = int(x[i + 1]) if most < 0 else min(int(x[i + 1]), int(x[i]) + most)
            rows.append(slice(int(x[i]), end))
        yield rows[0], rows[1]


def of_sequence(x: Array | None, rows: slice) -> Any:
    """Rows of [T H ...] as [1 H T ...]."""
    return None if x is None else np.moveaxis(x[rows], 1, 0)[None]


@np.errstate(all="ignore")
def attention_packed(
    q: Array,
    k: Array,
    v: Array,
    query_starts: Array,
    key_starts: Array,
    sink: Array | None = None,
    slopes: Array | None = None,
    /,
    *,
    max_queries: int = -1,
    max_keys: int = -1,
    return_lse: bool = True,
    **attributes: Any,
) -> Any:
    """attention of each sequence."""
    y, lse = np.zeros((*q.shape[:2], v.shape[2]), q.dtype), np.full((q.shape[1], len(q)), -np.inf, q.dtype)
    for rows, others in sequences(query_starts, key_starts, len(q), len(k), max_queries, max_keys):
        own, logarithm = attention(
            of_sequence(q, rows), of_sequence(k, others), of_sequence(v, others), None, None, sink, slopes, **attributes
        )
        y[rows], lse[:, rows] = np.moveaxis(own[0], 0, 1), logarithm[0]
    return (y, lse) if return_lse else y


@np.errstate(all="ignore")
def attention_packed_grad(
    q: Array,
    k: Array,
    v: Array,
    y: Array,
    lse: Array,
    gy: Array,
    query_starts: Array,
    key_starts: Array,
    glse: Array | None = None,
    slopes: Array | None = None,
    /,
    *,
    max_queries: int = -1,
    max_keys: int = -1,
    **attributes: Any,
) -> tuple[Array, Array, Array]:
    """attention_grad of each sequence."""
    gq, gk, gv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for rows, others in sequences(query_starts, key_starts, len(q), len(k), max_queries, max_keys):
        found = attention_grad(
            of_sequence(q, rows), of_sequence(k, others), of_sequence(v, others), of_sequence(y, rows),
            lse[None, :, rows], of_sequence(gy, rows), None, None, None if glse is None else glse[None, :, rows],
            slopes, **attributes,
        )  # fmt: skip
        gq[rows], gk[others], gv[others] = (np.moveaxis(g[0], 0, 1) for g in found)
    return gq, gk, gv


@np.errstate(all="ignore")
def attention_packed_slopes_grad(
    q: Array,
    k: Array,
    v: Array,
    y: Array,
    lse: Array,
    gy: Array,
    query_starts: Array,
    key_starts: Array,
    glse: Array | None,
    slopes: Array,
    /,
    *,
    max_queries: int = -1,
    max_keys: int = -1,
    **attributes: Any,
) -> Array:
    """The sum of attention_slopes_grad of each sequence."""
    gslopes = np.zeros_like(slopes)
    for rows, others in sequences(query_starts, key_starts, len(q), len(k), max_queries, max_keys):
        gslopes = gslopes + attention_slopes_grad(
            of_sequence(q, rows), of_sequence(k, others), of_sequence(v, others), of_sequence(y, rows),
            lse[None, :, rows], of_sequence(gy, rows), None, None, None if glse is None else glse[None, :, rows],
            slopes, **attributes,
        )[0]  # fmt: skip
    return gslopes
