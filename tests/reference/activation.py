"""References of the activation family, and the activation that other operators fuse."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .activation_more import (  # noqa: F401  (rooms of this family)
    elu,
    elu_grad,
    hardsigmoid,
    hardsigmoid_grad,
    hardswish,
    hardswish_grad,
    hardtanh,
    hardtanh_grad,
    local_response_norm,
    local_response_norm_grad,
    mish,
    mish_grad,
    prelu,
    prelu_grad,
    quick_gelu,
    quick_gelu_grad,
    relu6,
    relu6_grad,
    softplus,
    softplus_grad,
)  # fmt: skip
from .noise import philox_uniform

Array = NDArray[Any]

# The error function is computed in float64 whatever the operand: 1 ulp of float64 is far below float32's rounding.
_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


# silu and gelu are at -inf what they tend to, and so are their slopes at both infinities: the formulas' -inf * 0 is no
# value of theirs. Beyond this number they are at their limits in every dtype.
_FAR = 1e4


def relu(x: Array, /) -> Array:
    """x > 0 ? x : +0; NaN stays NaN."""
    return np.where((x > 0) | np.isnan(x), x, np.zeros_like(x))


def relu_grad(x: Array, gy: Array, /) -> Array:
    """gy where relu returned x (NaN included), else +0."""
    return np.where((x > 0) | np.isnan(x), gy, np.zeros_like(gy))


@np.errstate(all="ignore")
def leaky_relu(x: Array, /, *, negative_slope: float) -> Array:
    """x > 0 ? x : negative_slope * x."""
    return np.where(x > 0, x, x * negative_slope)


@np.errstate(all="ignore")
def leaky_relu_grad(x: Array, gy: Array, /, *, negative_slope: float) -> Array:
    """x > 0 ? gy : negative_slope * gy."""
    return np.where(x > 0, gy, gy * negative_slope)


@np.errstate(all="ignore")
def sigmoid(x: Array, /) -> Array:
    """1 / (1 + exp(-x)), through exp(-|x|), which cannot overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


@np.errstate(all="ignore")
def sigmoid_grad(y: Array, gy: Array, /) -> Array:
    """gy * y * (1 - y)."""
    return np.asarray(gy * y * (1 - y))


def tanh(x: Array, /) -> Array:
    """Hyperbolic tangent."""
    return np.asarray(np.tanh(x))


@np.errstate(all="ignore")
def tanh_grad(y: Array, gy: Array, /) -> Array:
    """gy * (1 - y^2), as a product, which keeps the digits near |y| = 1."""
    return np.asarray(gy * (1 - y) * (1 + y))


@np.errstate(all="ignore")
def silu(x: Array, /) -> Array:
    """x * sigmoid(x)."""
    x = np.maximum(x, -_FAR)
    return np.asarray(x * sigmoid(x))


@np.errstate(all="ignore")
def silu_grad(x: Array, gy: Array, /) -> Array:
    """gy * sigmoid(x) * (1 + x * sigmoid(-x))."""
    x = np.clip(x, -_FAR, _FAR)
    return np.asarray(gy * sigmoid(x) * (1 + x * sigmoid(-x)))


def _gelu_argument(x: Array) -> tuple[Array, Array]:
    """Twice sqrt(2 / pi) * (x + 0.044715 x^3), and its derivative; (1 + tanh(u)) / 2 is sigmoid(2 u)."""
    factor = 2 * math.sqrt(2 / math.pi)
    return factor * (x + 0.044715 * x * x * x), factor * (1 + 3 * 0.044715 * x * x)


def _normal_distribution(x: Array) -> Array:
    """Cumulative normal distribution; erfc keeps the digits of the lower tail."""
    return np.asarray(_erfc(-x / math.sqrt(2)) / 2).astype(x.dtype)


@np.errstate(all="ignore")
def gelu(x: Array, /, *, approximate: str) -> Array:
    """x * Phi(x), or x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2 (Hendrycks and Gimpel, arXiv 1606.08415)."""
    x = np.maximum(x, -_FAR)
    if approximate == "none":
        return np.asarray(x * _normal_distribution(x))
    if approximate == "tanh":
        return np.asarray(x * sigmoid(_gelu_argument(x)[0]))
    raise ValueError(f"gelu: approximate is {approximate!r}")


@np.errstate(all="ignore")
def gelu_grad(x: Array, gy: Array, /, *, approximate: str) -> Array:
    """gy * (F(x) + x * F'(x)), F being the factor of x in gelu."""
    x = np.clip(x, -_FAR, _FAR)
    if approximate == "none":
        density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        return np.asarray(gy * (_normal_distribution(x) + x * density))
    if approximate == "tanh":
        argument, derivative = _gelu_argument(x)
        factor, complement = sigmoid(argument), sigmoid(-argument)
        return np.asarray(gy * (factor + x * factor * complement * derivative))
    raise ValueError(f"gelu_grad: approximate is {approximate!r}")


@np.errstate(all="ignore")
def exp(x: Array, /) -> Array:
    """Exponential function."""
    return np.asarray(np.exp(x))


@np.errstate(all="ignore")
def log(x: Array, /) -> Array:
    """Natural logarithm: -inf at 0, NaN below."""
    return np.asarray(np.log(x))


@np.errstate(all="ignore")
def sqrt(x: Array, /) -> Array:
    """Square root: NaN below 0."""
    return np.asarray(np.sqrt(x))


def erf(x: Array, /) -> Array:
    """Error function."""
    return np.asarray(_erf(x)).astype(x.dtype)


@np.errstate(all="ignore")
def softmax(x: Array, /, *, dim: int) -> Array:
    """exp(x - max) / sum(exp(x - max)) along dim."""
    powers = np.exp(x - np.max(x, axis=dim, keepdims=True, initial=-np.inf))
    return np.asarray(powers / np.sum(powers, axis=dim, keepdims=True))


@np.errstate(all="ignore")
def softmax_grad(y: Array, gy: Array, /, *, dim: int) -> Array:
    """y * (gy - sum(gy * y)) along dim."""
    return np.asarray(y * (gy - np.sum(gy * y, axis=dim, keepdims=True)))


@np.errstate(all="ignore")
def log_softmax(x: Array, /, *, dim: int) -> Array:
    """x - max - log(sum(exp(x - max))) along dim."""
    centred = x - np.max(x, axis=dim, keepdims=True, initial=-np.inf)
    return np.asarray(centred - np.log(np.sum(np.exp(centred), axis=dim, keepdims=True)))


@np.errstate(all="ignore")
def log_softmax_grad(y: Array, gy: Array, /, *, dim: int) -> Array:
    """gy - exp(y) * sum(gy) along dim."""
    return np.asarray(gy - np.exp(y) * np.sum(gy, axis=dim, keepdims=True))


@np.errstate(all="ignore")
def dropout(x: Array, keys: Array, /, *, p: float) -> Array:
    """x / (1 - p) where the element's uniform value is at least float32(p), else +0 (also where x is not finite)."""
    kept = philox_uniform(keys, extents=x.shape[1:], offset=0) >= np.float32(p)
    return np.where(kept, np.divide(x, 1 - p), np.zeros_like(x))


def apply_activation(x: Array, activation: str | None) -> Array:
    """The activation fused by another operator: its name, or None."""
    match activation:
        case None:
            return x
        case "relu":
            return relu(x)
        case "leaky_relu":
            return leaky_relu(x, negative_slope=0.01)
        case "sigmoid":
            return sigmoid(x)
        case "tanh":
            return tanh(x)
        case "silu":
            return silu(x)
        case "gelu":
            return gelu(x, approximate="none")
    raise ValueError(f"activation is {activation!r}")
