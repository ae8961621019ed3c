"""References of the matrix product family."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .activation import apply_activation

Array = NDArray[Any]


@np.errstate(all="ignore")
def matmul(a: Array, b: Array, bias: Array | None = None, /, *, activation: str | None = None) -> Array:
    """act(a[*S M K] b[*S K N] + bias[N]); the batch extents broadcast."""
    y = np.asarray(a @ b)
    return apply_activation(y if bias is None else y + bias, activation)


@np.errstate(all="ignore")
def linear(x: Array, weight: Array, bias: Array | None = None, /, *, activation: str | None = None) -> Array:
    """act(x[*S I] weight[O I]^T + bias[O])."""
    y = np.asarray(x @ weight.T)
    return apply_activation(y if bias is None else y + bias, activation)
