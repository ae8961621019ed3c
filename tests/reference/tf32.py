"""TF32: 8 exponent bits, 10 fraction bits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@np.errstate(all="ignore")
def rounded(x: Array) -> Array:
    """Values of float32 to the nearest that TF32 has, ties away from zero; what is too large becomes infinite."""
    _, exponent = np.frexp(x)  # |x| = f * 2**exponent with f in [1/2, 1)
    step = np.maximum(exponent.astype(np.int64), -125) - 11  # 11 significant bits; subnormals all have the same step
    scaled = np.ldexp(np.abs(x.astype(np.float64)), -step)
    y = np.copysign(np.ldexp(np.floor(scaled + 0.5), step), x.astype(np.float64))
    y = np.where(np.isfinite(x), np.where(np.abs(y) >= 2.0**128, np.copysign(np.inf, y), y), x)
    return np.asarray(y, x.dtype)


def factors(algorithm: str | None, *operands: Array) -> tuple[Array, ...]:
    """The operands of products as the algorithm takes them."""
    return tuple(map(rounded, operands)) if algorithm == "tf32" else operands
