"""References of the normalisation family: two passes, biased variance, eps inside the square root."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .activation import apply_activation

Array = NDArray[Any]


def _mean(x: Array, axes: tuple[int, ...]) -> Array:
    """Mean over `axes`, kept as extents of 1."""
    mean: Array = np.sum(x, axis=axes, keepdims=True) / math.prod(x.shape[axis] for axis in axes)
    return mean


def _normalise(x: Array, axes: tuple[int, ...], eps: float) -> tuple[Array, Array]:
    """(x - mean) / sqrt(variance + eps) over `axes`, and the factor 1 / sqrt(variance + eps)."""
    centred = x - _mean(x, axes)
    factor = 1 / np.sqrt(_mean(centred * centred, axes) + eps)
    return centred * factor, factor


def _normalise_grad(normalised: Array, factor: Array, g: Array, axes: tuple[int, ...]) -> Array:
    """Gradient of the input from g, that of the normalised values: g without its mean and its part along them."""
    gx: Array = factor * (g - _mean(g, axes) - normalised * _mean(g * normalised, axes))
    return gx


def _grouped(x: Array, num_groups: int) -> Array:
    """[N C *S] as [N groups (C / groups) * prod(S)]."""
    samples, channels, *extents = x.shape
    return x.reshape(samples, num_groups, channels // num_groups * math.prod(extents))


def _per_channel(values: Array, rank: int) -> Array:
    """[C] or [N C], shaped to broadcast along [N C *S] of `rank` axes."""
    return values.reshape(*values.shape, *(1,) * (rank - 2))


@np.errstate(all="ignore")
def group_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    scale: Array | None = None,
    shift: Array | None = None,
    /,
    *,
    num_groups: int,
    eps: float,
    activation: str | None = None,
) -> Array:
    """act((1 + scale) * (normalised * weight + bias) + shift); weight and bias per channel, scale and shift [N C]."""
    y = _normalise(_grouped(x, num_groups), (2,), eps)[0].reshape(x.shape)
    if weight is not None:
        y = y * _per_channel(weight, x.ndim)
    if bias is not None:
        y = y + _per_channel(bias, x.ndim)
    if scale is not None:
        y = y * (1 + _per_channel(scale, x.ndim))
    if shift is not None:
        y = y + _per_channel(shift, x.ndim)
    return apply_activation(y, activation)


@np.errstate(all="ignore")
def group_norm_grad(
    x: Array, gy: Array, weight: Array | None = None, /, *, num_groups: int, eps: float
) -> tuple[Array, Array, Array]:
    """gx[N C *S], gweight[C], gbias[C] of normalised * weight + bias; all three also without a weight."""
    normalised, factor = _normalise(_grouped(x, num_groups), (2,), eps)
    g = gy if weight is None else gy * _per_channel(weight, x.ndim)
    gx = _normalise_grad(normalised, factor, _grouped(g, num_groups), (2,)).reshape(x.shape)
    others = (0, *range(2, x.ndim))
    return gx, np.sum(gy * normalised.reshape(x.shape), axis=others), np.sum(gy, axis=others)


@np.errstate(all="ignore")
def layer_norm(x: Array, weight: Array | None = None, bias: Array | None = None, /, *, axes: int, eps: float) -> Array:
    """normalised * weight + bias over the last `axes` extents."""
    y = _normalise(x, tuple(range(x.ndim - axes, x.ndim)), eps)[0]
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    return y


@np.errstate(all="ignore")
def layer_norm_grad(
    x: Array, gy: Array, weight: Array | None = None, /, *, axes: int, eps: float
) -> tuple[Array, Array, Array]:
    """gx, and gweight and gbias of the normalised extents; all three also without a weight."""
    last = tuple(range(x.ndim - axes, x.ndim))
    normalised, factor = _normalise(x, last, eps)
    gx = _normalise_grad(normalised, factor, gy if weight is None else gy * weight, last)
    others = tuple(range(x.ndim - axes))
    return gx, np.asarray(np.sum(gy * normalised, axis=others)), np.asarray(np.sum(gy, axis=others))
