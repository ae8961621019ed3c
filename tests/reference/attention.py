"""References of the attention family: the whole score matrix of one head at a time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _visible(shape: tuple[int, int, int, int], mask: Array | None, causal: int) -> Array:
    """Which keys a query sees, bool[B H Sq Sk]. Causal 1 aligns the triangle top-left, 2 bottom-right."""
    queries, keys = shape[2:]
    visible = np.ones(shape, bool) if mask is None else np.broadcast_to(mask, shape)
    if causal:
        last = np.arange(queries) + (keys - queries if causal == 2 else 0)
        visible = visible & (np.arange(keys) <= last[:, None])
    return visible


def _scores(q: Array, k: Array, bias: Array | None, scale: float) -> Array:
    """Scores of one head [Sq Sk], masked keys included."""
    scores: Array = (q @ k.T) * scale
    return scores if bias is None else scores + bias


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


@np.errstate(all="ignore")
def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    bias: Array | None = None,
    /,
    *,
    causal: int,
    scale: float,
    return_lse: bool = True,
) -> Any:
    """softmax(scale * q k^T + bias) v over the visible keys, and the natural log of the softmax's denominator.

    Query head h reads key head h // (H / Hkv). A row whose scores are all -inf (no visible key, or a bias of -inf on
    each) gives 0 and lse = -inf.
    """
    batch, heads, queries, _ = q.shape
    key_heads, keys = k.shape[1:3]
    shape = (batch, heads, queries, keys)
    visible = _visible(shape, mask, causal)
    biases = None if bias is None else np.broadcast_to(bias, shape)
    y = np.zeros((batch, heads, queries, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, queries), -np.inf, q.dtype)
    for b, h in np.ndindex(batch, heads):
        key_head = h // (heads // key_heads)
        seen = visible[b, h]
        scores = _scores(q[b, h], k[b, key_head], None if biases is None else biases[b, h], scale)
        scores = np.where(seen, scores, -np.inf)
        maximum = np.max(scores, axis=1, initial=-np.inf)
        alive = maximum != -np.inf
        factors = np.where(seen, np.exp(scores - np.where(alive, maximum, 0)[:, None]), 0)
        total = np.sum(factors, axis=1)
        y[b, h] = np.where(alive[:, None], _masked_product(factors, seen, v[b, key_head]) / total[:, None], 0)
        lse[b, h] = np.where(alive, maximum + np.log(total), -np.inf)
    return (y, lse) if return_lse else y


def _backward(
    q: Array,
    k: Array,
    v: Array,
    y: Array,
    lse: Array,
    gy: Array,
    mask: Array | None,
    bias: Array | None,
    glse: Array | None,
    causal: int,
    scale: float,
) -> Iterator[tuple[int, int, Array, Array, Array]]:
    """Per head: b, h, which keys are seen, p = exp(score - lse), and the scores' gradient.

    That is p * (gy v^T - rowsum(gy * y) + glse).
    """
    batch, heads, queries, _ = q.shape
    key_heads, keys = k.shape[1:3]
    shape = (batch, heads, queries, keys)
    visible = _visible(shape, mask, causal) & (lse != -np.inf)[..., None]
    biases = None if bias is None else np.broadcast_to(bias, shape)
    for b, h in np.ndindex(batch, heads):
        key_head = h // (heads // key_heads)
        seen = visible[b, h]
        scores = _scores(q[b, h], k[b, key_head], None if biases is None else biases[b, h], scale)
        probabilities = np.where(seen, np.exp(scores - lse[b, h][:, None]), 0)
        delta = np.sum(gy[b, h] * y[b, h], axis=1)
        if glse is not None:
            delta = delta - glse[b, h]
        centred = gy[b, h] @ v[b, key_head].T - delta[:, None]
        yield b, h, seen, probabilities, np.where(seen, probabilities * centred, 0)


@np.errstate(all="ignore")
def attention_grad(
    q: Array,
    k: Array,
    v: Array,
    y: Array,
    lse: Array,
    gy: Array,
    mask: Array | None = None,
    bias: Array | None = None,
    glse: Array | None = None,
    /,
    *,
    causal: int,
    scale: float,
) -> tuple[Array, Array, Array]:
    """Gradients of q, k and v."""
    group = q.shape[1] // k.shape[1]
    gq, gk, gv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for b, h, seen, probabilities, gscores in _backward(q, k, v, y, lse, gy, mask, bias, glse, causal, scale):
        gq[b, h] = _masked_product(gscores * scale, seen, k[b, h // group])
        gk[b, h // group] += _masked_product((gscores * scale).T, seen.T, q[b, h])
        gv[b, h // group] += _masked_product(probabilities.T, seen.T, gy[b, h])
    return gq, gk, gv


@np.errstate(all="ignore")
def attention_bias_grad(
    q: Array,
    k: Array,
    v: Array,
    y: Array,
    lse: Array,
    gy: Array,
    mask: Array | None = None,
    bias: Array | None = None,
    glse: Array | None = None,
    /,
    *,
    causal: int,
    scale: float,
) -> Array:
    """Gradient of the scores."""
    gbias = np.zeros((*q.shape[:3], k.shape[2]), q.dtype)
    for b, h, _, _, gscores in _backward(q, k, v, y, lse, gy, mask, bias, glse, causal, scale):
        gbias[b, h] = gscores
    return gbias
