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
from reference import noise as noise_reference

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


def terms(call: Call) -> list[Array]:
    """A sum in whose every term at most `depth` roundings take part."""
    return [call.depth * call.unit * m for m in call.magnitude()]


def normal_error(keys: Array, extents: Sequence[int], offset: int) -> Array:
    """Largest error of philox_normal, always float32, from the exact Box-Muller transform of the words.

    u as a float has two roundings, which move -2 ln(u) by 4 units at most. With ln(u) = e ln(2) + ln(m) and |ln(m)| at
    most |ln(u)|, its evaluation costs 8 units of R^2: one for the constant, one for the sum, at most 5 for 2 ln(m) =
    s p(s^2) (two in s, half of s^2 in p, one in p's last step, one in the product, the fit), one to spare. A root
    passes D on as D / R or sqrt(D), whichever is less, and rounds. The angle within its octant, below pi / 4, has three
    roundings; sine and cosine pass it on with a slope of 1 and add one rounding and their fit: 4 units. The last
    product rounds.
    """
    unit = 2.0**-24
    count = math.prod(extents)
    z = noise_reference.philox_normal(keys, extents=(count + count % 2,), offset=offset)
    radius = np.repeat(np.hypot(z[:, 0::2], z[:, 1::2]), 2, axis=1)[:, :count].reshape(len(z), *extents)
    square = (4 + 8 * radius**2) * unit
    root = np.minimum(np.sqrt(square), square / np.maximum(radius, 1e-30)) + unit * radius
    return np.asarray(root + 5 * unit * radius)


def normal(call: Call) -> list[Array]:
    keys = call.operands[0]
    assert keys is not None
    return [normal_error(keys, call.attributes["extents"], call.attributes["offset"])]


def diffusion_step(call: Call) -> list[Array]:
    """The lines of the step, one after another: errors of what enters a line, then its own roundings.

    A clamp passes errors on with a slope of 0 or 1.
    """
    x, y0, y1, y2, rows, *h, noise, keys, mask, known = call.operands
    assert x is not None and y0 is not None and rows is not None
    u, absolute = call.unit, np.abs
    columns = [c.reshape(-1, *(1,) * (x.ndim - 1)) for c in np.atleast_2d(rows).T]
    g1, g2, p, q, low, high, a, b, e, *c, s, ka, kb, ha, hb, hc, _ = columns
    y, size = y0, absolute(y0)
    if y1 is not None:
        y, size = y + g1 * (y1 - y0), size + absolute(g1) * (absolute(y1) + absolute(y0))
        if y2 is not None:
            y, size = y + g2 * (y2 - y1), size + absolute(g2) * (absolute(y2) + absolute(y1))
    y_error = 0 * size if y1 is None else 3 * u * size  # a difference and at most two sums
    x0 = np.clip(p * x + q * y, low, high)
    x0_error = absolute(q) * y_error + 2 * u * (absolute(p * x) + absolute(q * y))
    z, z_error = noise, 0 * x
    if keys is not None:
        z = noise_reference.philox_normal(keys, extents=x.shape[1:], offset=0)
        z_error = normal_error(keys, x.shape[1:], 0)
    parts = [a * x, b * x0, e * y, *(k * t for k, t in zip(c, h, strict=True) if t is not None)]
    x_next_error = absolute(b) * x0_error + absolute(e) * y_error
    if z is not None:
        parts.append(s * z)
        x_next_error = x_next_error + absolute(s) * z_error
    # A term's product and the sums that follow: as many roundings as terms, at most.
    x_next_error = x_next_error + len(parts) * u * np.sum([absolute(t) for t in parts], axis=0)
    if mask is not None and known is not None:
        x_next = np.sum(parts, axis=0)
        kept = ka * known if z is None else ka * known + kb * z
        kept_error = 2 * u * (absolute(ka * known) + (0 if z is None else absolute(kb * z))) + absolute(kb) * z_error
        share = absolute(1 - mask)
        x_next_error = absolute(mask) * (kept_error + 2 * u * absolute(kept)) + share * (
            x_next_error + 3 * u * absolute(x_next)
        )
    if not call.attributes["return_history"]:
        return [x_next_error]
    history = 3 * u * (absolute(ha * x) + absolute(hb * x0) + absolute(hc * y))
    return [x_next_error, history + absolute(hb) * x0_error + absolute(hc) * y_error]


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


def row_sum_depth(rows: int) -> int:
    """Additions on the longest path of a sum over samples or rows: 64 in a chunk, the tree of chunks."""
    return min(64, rows) + math.ceil(math.log2(max(1, rows / 64))) + 1


@dataclass
class _Rows:
    """What normalisation knows of its rows (group_norm's groups), [rows, elements]; errors are in units."""

    x: Array
    depth: int  # of a sum over a row
    samples: int  # that a gradient of a weight adds
    part_depth: int  # of what it adds
    centred: Array
    factor: Array
    centred_error: Array
    factor_error: Array  # relative


def _rows(call: Call) -> _Rows:
    """The mean's error moves every difference alike, so it enters the variance squared only."""
    x = call.operands[0]
    assert x is not None
    grouped = "num_groups" in call.attributes
    size, count = math.prod(x.shape[2:]), max(call.depth, 1)
    rows = x.reshape(x.size // count, count)
    depth = long_sum_depth(size) + x.shape[1] // call.attributes["num_groups"] if grouped else long_sum_depth(count)
    mean = np.sum(rows, axis=1, keepdims=True) / count
    centred = rows - mean
    mean_error = (depth + 1) * np.sum(np.abs(rows), axis=1, keepdims=True) / count
    centred_error = mean_error + np.abs(centred)
    variance = np.sum(centred**2, axis=1, keepdims=True) / count
    inside = variance + call.attributes["eps"]
    # each square: twice its difference's rounding, and its own; the sum, the division; adding eps, which is rounded
    inside_error = (depth + 4) * variance + call.unit * mean_error**2 + 2 * inside
    return _Rows(
        rows, depth, x.shape[0] if grouped else len(rows), long_sum_depth(size) if grouped else 0,
        centred, 1 / np.sqrt(inside), centred_error, inside_error / inside / 2 + 2,
    )  # fmt: skip


def norm(call: Call) -> list[Array]:
    """The difference's error, the factor's, and a rounding for each operation that follows."""
    x, weight, *_ = call.operands
    assert x is not None
    r = _rows(call)
    grouped = "num_groups" in call.attributes
    trailing = (1,) * (x.ndim - 2)
    w: Any = 1.0 if weight is None else np.abs(weight.reshape(-1, *trailing) if grouped else weight)
    error = ((r.centred_error + np.abs(r.centred) * (r.factor_error + 1)) * r.factor).reshape(x.shape) * w
    plain = {k: v for k, v in call.attributes.items() if k != "activation"}
    y = call.reference(*call.operands[:3], **plain)
    error = error + np.abs(y)
    if grouped:
        scale, shift = call.operands[3:]
        if scale is not None:
            gain = np.abs(1 + scale.reshape(*scale.shape, *trailing))
            error = gain * (error + 2 * np.abs(y))
        if scale is not None or shift is not None:
            y = call.reference(*call.operands, **plain)
            error = error + np.abs(y)
        if call.attributes["activation"] is not None:  # slope at most 1.13; good to 6 ulp of the operand or the result
            error = 1.13 * error + 12 * (np.abs(y) + np.abs(call.results[0]))
    return [call.unit * error]


def norm_grad(call: Call) -> list[Array]:
    """First-order errors of rstd * (g - mean(g) - n * mean(g * n)), n the normalised values, and of the sums."""
    x, gy, weight = call.operands
    assert x is not None and gy is not None
    r = _rows(call)
    grouped, count = "num_groups" in call.attributes, max(call.depth, 1)
    g = gy
    if weight is not None:
        g = gy * (weight.reshape(-1, *(1,) * (x.ndim - 2)) if grouped else weight)
    g = np.abs(g.reshape(r.x.shape))
    n = np.abs(r.centred * r.factor)
    n_error = r.factor * r.centred_error + n * (r.factor_error + 1)

    def mean(v: Array) -> Array:
        return np.asarray(np.sum(v, axis=1, keepdims=True) / count)

    mean_error, part_error = (r.depth + 3) * mean(g), (r.depth + 6) * mean(g * n) + mean(g * n_error)
    terms = g + mean(g) + n * mean(g * n)
    gx = r.factor * ((4 + r.factor_error) * terms + mean_error + n * part_error + n_error * mean(g * n))
    depth = row_sum_depth(r.samples) + r.part_depth + 3
    others = (0, *range(2, x.ndim)) if grouped else tuple(range(x.ndim - call.attributes["axes"]))
    gweight = np.sum(np.abs(gy) * (n_error + depth * n).reshape(x.shape), axis=others)
    gbias = depth * np.sum(np.abs(gy), axis=others)
    return [call.unit * e for e in (gx.reshape(x.shape), gweight, gbias)]


def chain(call: Call) -> list[Array]:
    """Terms added one after another: depth of them at most."""
    scale, rounding = call.depth * call.unit, 2 * call.ulp * call.unit
    return [scale * np.abs(m) + rounding * np.abs(y) for m, y in zip(call.magnitude(), call.results, strict=True)]


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
