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


@np.errstate(all="ignore")
def instance_norm(
    x: Array, weight: Array | None = None, bias: Array | None = None, /, *, eps: float, activation: str | None = None
) -> Array:
    """act(normalised * weight + bias) over each sample's channel."""
    y = _normalise(x, tuple(range(2, x.ndim)), eps)[0]
    if weight is not None:
        y = y * _per_channel(weight, x.ndim)
    if bias is not None:
        y = y + _per_channel(bias, x.ndim)
    return apply_activation(y, activation)


@np.errstate(all="ignore")
def rms_norm(x: Array, weight: Array | None = None, /, *, axes: int, eps: float) -> Array:
    """x / sqrt(mean(x^2) + eps) * weight over the last `axes` extents."""
    y: Array = x / np.sqrt(_mean(x * x, tuple(range(x.ndim - axes, x.ndim))) + eps)
    return y if weight is None else y * weight


@np.errstate(all="ignore")
def rms_norm_grad(x: Array, gy: Array, weight: Array | None = None, /, *, axes: int, eps: float) -> tuple[Array, Array]:
    """gx, and gweight of the normalised extents, also without a weight."""
    last, others = tuple(range(x.ndim - axes, x.ndim)), tuple(range(x.ndim - axes))
    factor = 1 / np.sqrt(_mean(x * x, last) + eps)
    g, normalised = gy if weight is None else gy * weight, x * factor
    gx: Array = factor * (g - normalised * _mean(g * normalised, last))
    return gx, np.asarray(np.sum(gy * normalised, axis=others))


# ---- statistics over samples ------------------------------------------------------------------------------------


def _affine(
    x: Array, mean: Array, factor: Array, weight: Array | None, bias: Array | None, activation: str | None
) -> Array:
    y = (x - _per_channel(mean, x.ndim)) * _per_channel(factor, x.ndim)
    if weight is not None:
        y = y * _per_channel(weight, x.ndim)
    if bias is not None:
        y = y + _per_channel(bias, x.ndim)
    return apply_activation(y, activation)


@np.errstate(all="ignore")
def batch_norm(
    x: Array, running_mean: Array, running_var: Array, weight: Array | None = None, bias: Array | None = None, /, *,
    eps: float, activation: str | None = None,
) -> Array:  # fmt: skip
    """act((x - running_mean) / sqrt(running_var + eps) * weight + bias) per channel."""
    return _affine(x, running_mean, 1 / np.sqrt(running_var + eps), weight, bias, activation)


@np.errstate(all="ignore")
def batch_norm_training(
    x: Array, running_mean: Array | None = None, running_var: Array | None = None, weight: Array | None = None,
    bias: Array | None = None, /, *, momentum: float, eps: float, activation: str | None = None,
) -> tuple[Array, Array, Array, Array, Array]:  # fmt: skip
    """y; the running mean and variance, moved towards the batch's by momentum (the variance unbiased), or the batch's
    own where none run; the batch's mean and 1 / sqrt(biased variance + eps). Nothing moves for an empty batch."""
    others, channels = (0, *range(2, x.ndim)), x.shape[1]
    count = math.prod(x.shape) // max(channels, 1) if channels else 0
    if count == 0:
        zero = np.zeros(channels, x.dtype)
        old = [zero if r is None else r for r in (running_mean, running_var)]
        return x.copy(), old[0], old[1], zero, zero
    mean = np.sum(x, axis=others) / count
    centred = x - _per_channel(mean, x.ndim)
    squares = np.sum(centred * centred, axis=others)
    factor = 1 / np.sqrt(squares / count + eps)
    unbiased = squares / (count - 1)
    new_mean = mean if running_mean is None else (1 - momentum) * running_mean + momentum * mean
    new_var = unbiased if running_var is None else (1 - momentum) * running_var + momentum * unbiased
    return _affine(x, mean, factor, weight, bias, activation), new_mean, new_var, mean, factor


@np.errstate(all="ignore")
def batch_norm_grad(
    x: Array, gy: Array, mean: Array, rstd: Array, weight: Array | None = None, gmean: Array | None = None,
    grstd: Array | None = None, /, *, frozen: bool,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """gx, gweight, gbias of (x - mean) * rstd * weight + bias. Unless frozen, mean and rstd are x's own: every element
    moves the mean by 1 / count and rstd by -rstd^3 d / count, and gmean and grstd are what else depends on those."""
    others, rank = (0, *range(2, x.ndim)), x.ndim
    d = x - _per_channel(mean, rank)
    w = np.ones_like(rstd) if weight is None else weight
    sum_gy, sum_gy_d = np.sum(gy, axis=others), np.sum(gy * d, axis=others)
    gx = gy * _per_channel(rstd * w, rank)
    if not frozen:
        count = x.size // max(x.shape[1], 1)
        to_mean = (0 if gmean is None else gmean) - sum_gy * w * rstd
        to_rstd = (0 if grstd is None else grstd) + sum_gy_d * w
        gx = gx + _per_channel(np.asarray(to_mean / count), rank) - d * _per_channel(to_rstd * rstd**3 / count, rank)
    return gx, sum_gy_d * rstd, sum_gy
