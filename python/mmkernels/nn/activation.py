"""Activations as layers, and dropout."""

from __future__ import annotations

from typing import Any, Literal

from ..errors import ContractError
from ..ops.activation import dropout, gelu, leaky_relu, relu, sigmoid, silu, tanh
from .initial import key_of
from .module import Module

__all__ = ["GELU", "Dropout", "LeakyReLU", "ReLU", "SiLU", "Sigmoid", "Tanh"]


class ReLU(Module):
    """max(x, 0).

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.ReLU()(np.array([-1, 2], np.float32)).tolist()
    [0.0, 2.0]
    """

    def forward(self, x: Any) -> Any:
        """Element by element."""
        return relu(x)


class LeakyReLU(Module):
    """x where positive, else negative_slope * x."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: Any) -> Any:
        """Element by element."""
        return leaky_relu(x, self.negative_slope)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Any) -> Any:
        """Element by element."""
        return sigmoid(x)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, x: Any) -> Any:
        """Element by element."""
        return tanh(x)


class SiLU(Module):
    """x * sigmoid(x) (Hendrycks and Gimpel 2016; Elfwing et al. 2018)."""

    def forward(self, x: Any) -> Any:
        """Element by element."""
        return silu(x)


class GELU(Module):
    """x * Phi(x), exact by erf or by the tanh approximation (Hendrycks and Gimpel 2016)."""

    def __init__(self, approximate: Literal["none", "tanh"] = "none") -> None:
        self.approximate: Literal["none", "tanh"] = approximate

    def forward(self, x: Any) -> Any:
        """Element by element."""
        return gelu(x, self.approximate)


class Dropout(Module):
    """In training, zeroes elements with probability p and scales the others by 1 / (1 - p) (Srivastava et al. 2014).

    The k-th call in training draws from Philox with the key of (seed, k); ``calls`` counts them and may be set to
    resume a run with the same bits.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> layer = nn.Dropout(0.5, seed=1)
    >>> sorted(set(layer(np.ones((1, 100), np.float32)).flat)) == [0.0, 2.0]
    True
    >>> layer.eval()(np.ones(2, np.float32)).tolist()
    [1.0, 1.0]
    """

    def __init__(self, p: float = 0.5, *, seed: int = 0) -> None:
        if not 0.0 <= p < 1.0:
            raise ContractError(f"Dropout: p is {p}; expected 0 <= p < 1")
        self.p, self.seed, self.calls = p, seed, 0

    def forward(self, x: Any) -> Any:
        """x (N, *S) to the same shape."""
        if not self.training or self.p == 0.0:
            return x
        self.calls += 1
        return dropout(x, self.p, seed=key_of(self.seed, "dropout", self.calls - 1))
