"""A sampler's step."""

from __future__ import annotations

import numpy as np

from reference import noise as noise_reference

from .call import Array, Call
from .noise import normal_error


def diffusion_step(call: Call) -> list[Array]:
    """The lines of the step, one after another: errors of what enters a line, then its own roundings.

    A clamp passes errors on with a slope of 0 or 1.
    """
    x, y0, y1, y2, rows, *h, noise, keys, mask, known, table, step = call.operands
    if table is not None and step is not None:
        rows, keys = table[step], None if keys is None else noise_reference.philox_fold_in(keys, step.astype(np.uint64))
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
