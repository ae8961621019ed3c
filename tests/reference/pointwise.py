"""References of the pointwise family, with NumPy's broadcasting; dims = () reduces nothing."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@np.errstate(all="ignore")
def add(a: Array, b: Array, /) -> Array:
    """a + b."""
    return np.asarray(a + b)


@np.errstate(all="ignore")
def sub(a: Array, b: Array, /) -> Array:
    """a - b."""
    return np.asarray(a - b)


@np.errstate(all="ignore")
def mul(a: Array, b: Array, /) -> Array:
    """a * b."""
    return np.asarray(a * b)


@np.errstate(all="ignore")
def div(a: Array, b: Array, /) -> Array:
    """a / b; x / 0 is an infinity, 0 / 0 is NaN."""
    return np.asarray(a / b)


def greater(a: Array, b: Array, /) -> Array:
    """a > b."""
    return np.asarray(a > b)


def where(condition: Array, a: Array, b: Array, /) -> Array:
    """condition ? a : b."""
    return np.where(condition, a, b)


@np.errstate(all="ignore")
def sum(x: Array, /, *, dims: tuple[int, ...], keepdim: bool) -> Array:
    """Sum over dims, in the dtype of x."""
    return np.asarray(np.sum(x, axis=dims, dtype=x.dtype, keepdims=keepdim))


@np.errstate(all="ignore")
def mean(x: Array, /, *, dims: tuple[int, ...], keepdim: bool) -> Array:
    """Sum over dims divided by the number of elements; NaN if that is 0."""
    return np.asarray(sum(x, dims=dims, keepdim=keepdim) / np.asarray(math.prod(x.shape[d] for d in dims), x.dtype))
