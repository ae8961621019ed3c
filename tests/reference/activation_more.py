"""References of the activations that no other operator fuses."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_FAR = 1e4  # beyond it, what tends to a limit is there in every dtype


def hardtanh(x: Array, /, *, min_val: float, max_val: float) -> Array:
    """min(max(x, min_val), max_val)."""
    return np.asarray(np.minimum(np.maximum(x, min_val), max_val)).astype(x.dtype)


def hardtanh_grad(x: Array, gy: Array, /, *, min_val: float, max_val: float) -> Array:
    """gy but at and beyond both ends."""
    return np.where((x <= min_val) | (x >= max_val), np.zeros_like(gy), gy)


def relu6(x: Array, /) -> Array:
    """min(max(x, 0), 6)."""
    return hardtanh(x, min_val=0, max_val=6)


def relu6_grad(x: Array, gy: Array, /) -> Array:
    """gy but at and beyond 0 and 6."""
    return hardtanh_grad(x, gy, min_val=0, max_val=6)


@np.errstate(all="ignore")
def hardsigmoid(x: Array, /) -> Array:
    """min(max(x + 3, 0), 6) / 6."""
    return relu6(np.asarray(x + 3)) / 6


@np.errstate(all="ignore")
def hardsigmoid_grad(x: Array, gy: Array, /) -> Array:
    """gy / 6 within (-3, 3)."""
    return hardtanh_grad(x, gy / 6, min_val=-3, max_val=3)


@np.errstate(all="ignore")
def hardswish(x: Array, /) -> Array:
    """x * hardsigmoid(x)."""
    return np.asarray(np.maximum(x, -_FAR) * hardsigmoid(x))


@np.errstate(all="ignore")
def hardswish_grad(x: Array, gy: Array, /) -> Array:
    """0 to -3, 1 from 3 on, x / 3 + 1/2 between."""
    return np.where(x <= -3, np.zeros_like(gy), np.where(x >= 3, gy, gy * (x / 3 + 0.5)))


@np.errstate(all="ignore")
def softplus(x: Array, /, *, beta: float = 1.0, threshold: float = math.inf) -> Array:
    """log(1 + exp(beta x)) / beta, or x where beta x > threshold."""
    u = beta * x
    return np.where(u > threshold, x, np.logaddexp(u, 0) / beta).astype(x.dtype)


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


@np.errstate(all="ignore")
def softplus_grad(x: Array, gy: Array, /, *, beta: float, threshold: float) -> Array:
    """gy * sigmoid(beta x), or gy."""
    return np.where(beta * x > threshold, gy, gy * _sigmoid(beta * x))


@np.errstate(all="ignore")
def mish(x: Array, /) -> Array:
    """x * tanh(softplus(x))."""
    x = np.maximum(x, -_FAR)
    return np.asarray(x * np.tanh(softplus(x)))


@np.errstate(all="ignore")
def mish_grad(x: Array, gy: Array, /) -> Array:
    """gy * (t + x * sigmoid(x) * (1 - t^2)), t = tanh(softplus(x))."""
    x = np.clip(x, -_FAR, _FAR)
    t = np.tanh(softplus(x))
    return np.asarray(gy * (t + x * _sigmoid(x) * (1 - t) * (1 + t)))


@np.errstate(all="ignore")
def quick_gelu(x: Array, /) -> Array:
    """x * sigmoid(1.702 x)."""
    x = np.maximum(x, -_FAR)
    return np.asarray(x * _sigmoid(1.702 * x))


@np.errstate(all="ignore")
def quick_gelu_grad(x: Array, gy: Array, /) -> Array:
    """gy * (s + 1.702 x s (1 - s)), s = sigmoid(1.702 x)."""
    u = 1.702 * np.clip(x, -_FAR, _FAR)
    return np.asarray(gy * _sigmoid(u) * (1 + u * _sigmoid(-u)))


@np.errstate(all="ignore")
def elu(x: Array, /, *, alpha: float, scale: float, input_scale: float) -> Array:
    """scale * (x > 0 ? x : alpha * (exp(input_scale x) - 1))."""
    return np.where(x > 0, x * scale, alpha * scale * np.expm1(input_scale * np.minimum(x, 0)))


@np.errstate(all="ignore")
def elu_grad(x: Array, gy: Array, /, *, alpha: float, scale: float, input_scale: float) -> Array:
    """gy * scale * (x > 0 ? 1 : alpha * input_scale * exp(input_scale x))."""
    return np.where(x > 0, gy * scale, gy * (alpha * scale * input_scale * np.exp(input_scale * x)))


# ---- channels -----------------------------------------------------------------------------------------------------


@np.errstate(all="ignore")
def prelu(x: Array, weight: Array, /) -> Array:
    """x > 0 ? x : x * weight; one weight for each channel, or for all."""
    return np.where(x > 0, x, x * weight.reshape(-1, *(1,) * (x.ndim - 2)))


@np.errstate(all="ignore")
def prelu_grad(x: Array, gy: Array, weight: Array, /) -> tuple[Array, Array]:
    """gx, and for each channel the sum of x * gy where x is not positive."""
    slope = weight.reshape(-1, *(1,) * (x.ndim - 2))
    products = np.where(x > 0, np.zeros_like(x), x * gy)
    return np.where(x > 0, gy, gy * slope), np.sum(products, axis=(0, *range(2, x.ndim)))


def _windows(x: Array, before: int, after: int) -> Array:
    """The sum over channels c - before .. c + after; those that do not exist are 0."""
    y = np.zeros_like(x)
    channels = x.shape[1]
    for c in range(channels):
        for j in range(max(0, c - before), min(channels, c + after + 1)):
            y[:, c] += x[:, j]
    return y


def _response_base(x: Array, size: int, alpha: float, k: float) -> Array:
    return np.asarray(k + alpha * _windows(x * x, size // 2, (size - 1) // 2) / size)


@np.errstate(all="ignore")
def local_response_norm(x: Array, /, *, size: int, alpha: float, beta: float, k: float) -> Array:
    """x / (k + alpha * mean square of the window)^beta."""
    return np.asarray(x / _response_base(x, size, alpha, k) ** beta)


@np.errstate(all="ignore")
def local_response_norm_grad(x: Array, gy: Array, /, *, size: int, alpha: float, beta: float, k: float) -> Array:
    """An element is in its own numerator, and in the divisor of each channel in whose window it is."""
    base = _response_base(x, size, alpha, k)
    power = base**beta
    return np.asarray(
        gy / power - x * (2 * alpha * beta / size) * _windows(gy * x / power / base, (size - 1) // 2, size // 2)
    )
