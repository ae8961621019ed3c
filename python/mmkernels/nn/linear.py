"""The linear layer."""

from __future__ import annotations

from typing import Any

from ..autograd import Variable
from ..ops.matmul import linear
from .initial import parameter, uniform
from .module import Module, taped

__all__ = ["Linear"]


class Linear(Module):
    """x weight^T + bias over the last extent; see mmkernels.linear.

    ``weight`` (out_features, in_features) and ``bias`` (out_features) or None, float32, drawn uniformly within
    1 / sqrt(in_features).

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.Linear(4, 2)(np.ones((3, 4), np.float32)).shape
    (3, 2)
    """

    weight: Variable
    bias: Variable | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, activation: str | None = None
    ) -> None:
        self.activation = activation
        parameter(self, "weight", (out_features, in_features), uniform(in_features))
        if bias:
            parameter(self, "bias", (out_features,), uniform(in_features))
        else:
            self.bias = None

    def forward(self, x: Any) -> Any:
        """x (*, in_features) to (*, out_features)."""
        weight, bias = taped(x, self.weight, self.bias)
        return linear(x, weight, bias, activation=self.activation)
