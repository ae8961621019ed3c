"""References of the matrix product family."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .activation import apply_activation
from .tf32 import factors

Array = NDArray[Any]


@np.errstate(all="ignore")
def matmul(
    a: Array, b: Array, bias: Array | None = None, /, *, activation: str | None = None, algorithm: str | None = None
) -> Array:
    """act(a[*S M K] b[*S K N] + bias[N]); the batch extents broadcast."""
    a, b = factors(algorithm, a, b)
    y = np.asarray(a @ b)
    return apply_activation(y if bias is None else y + bias, activation)


@np.errstate(all="ignore")
def linear(
    x: Array, weight: Array, bias: Array | None = None, /, *, activation: str | None = None,
    algorithm: str | None = None,
) -> Array:  # fmt: skip
    """act(x[*S I] weight[O I]^T + bias[O])."""
    x, weight = factors(algorithm, x, weight)
    y = np.asarray(x @ weight.T)
    return apply_activation(y if bias is None else y + bias, activation)
