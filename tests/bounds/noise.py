"""Normals by Box and Muller in the library's arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from reference import noise as noise_reference

from .call import Array, Call


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
