"""References of the diffusion family."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .noise import philox_fold_in, philox_normal

Array = NDArray[Any]


def _per_sample(values: Array, rank: int) -> Array:
    """[N] or [1], shaped to broadcast along [N *S] of `rank` axes."""
    return values.reshape(-1, *(1,) * (rank - 1))


@np.errstate(all="ignore")
def add_noise(x: Array, noise: Array, alpha: Array, sigma: Array, /) -> Array:
    """alpha * x + sigma * noise; alpha and sigma are [N] or [1]."""
    return np.asarray(_per_sample(alpha, x.ndim) * x + _per_sample(sigma, x.ndim) * noise)


@np.errstate(all="ignore")
def diffusion_step(
    x: Array,
    y0: Array,
    y1: Array | None,
    y2: Array | None,
    coefficients: Array | None,
    h1: Array | None = None,
    h2: Array | None = None,
    h3: Array | None = None,
    h4: Array | None = None,
    noise: Array | None = None,
    keys: Array | None = None,
    mask: Array | None = None,
    known: Array | None = None,
    table: Array | None = None,
    step: Array | None = None,
    /,
    *,
    return_history: bool = False,
) -> Array | tuple[Array, Array]:
    """One sampler step from a row of 20 coefficients (or one row a sample); the term of an absent operand is left out.

    y = y0 + g1 (y1 - y0) + g2 (y2 - y1); x0 = clamp(p x + q y, lo, hi);
    x' = A x + B x0 + E y + C1 h1 + .. + C4 h4 + s z; with a mask m: m (ka known + kb z) + (1 - m) x'.
    With a table the row of sample n is table[step[n]], and noise is drawn under fold_in(key, step).
    The history, on request, is ha x + hb x0 + hc y. Noise drawn from keys is float64, not the operator's exact bits.
    """
    if table is not None and step is not None:
        coefficients = table[step]
        keys = None if keys is None else philox_fold_in(keys, step.astype(np.uint64))
    assert coefficients is not None
    columns = [_per_sample(column, x.ndim) for column in np.atleast_2d(coefficients).T]
    g1, g2, p, q, low, high, a, b, e, c1, c2, c3, c4, s, ka, kb, ha, hb, hc, _ = columns
    y = y0
    if y1 is not None:
        y = y + g1 * (y1 - y0)
        if y2 is not None:
            y = y + g2 * (y2 - y1)
    x0 = np.clip(p * x + q * y, low, high)  # NaN stays NaN
    x_next = a * x + b * x0 + e * y
    for coefficient, h in ((c1, h1), (c2, h2), (c3, h3), (c4, h4)):
        if h is not None:
            x_next = x_next + coefficient * h
    z = noise
    if z is None and keys is not None:
        z = philox_normal(keys, extents=x.shape[1:], offset=0).astype(x.dtype)
    if z is not None:
        x_next = x_next + s * z
    if mask is not None and known is not None:
        m = np.asarray(mask, x.dtype)
        kept = ka * known if z is None else ka * known + kb * z
        x_next = m * kept + (1 - m) * x_next
    return (x_next, ha * x + hb * x0 + hc * y) if return_history else x_next
