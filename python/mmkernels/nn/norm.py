"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..autograd import Variable
from ..errors import ContractError
from ..ops.norm import group_norm, layer_norm, rms_norm
from .initial import constant, parameter
from .module import Module, taped

__all__ = ["GroupNorm", "LayerNorm", "RMSNorm"]


class GroupNorm(Module):
    """Group normalisation (Wu and He 2018), plain or adaptive; see mmkernels.group_norm.

    ``weight`` and ``bias`` (num_channels), or None without ``affine``. A call takes x (N, num_channels, *S) and
    optionally ``scale`` and ``shift`` (N, num_channels): (1 + scale) * GN(x) + shift.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.GroupNorm(2, 4)(np.ones((1, 4, 3, 3), np.float32)).shape
    (1, 4, 3, 3)
    """

    weight: Variable | None
    bias: Variable | None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        activation: str | None = None,
    ) -> None:
        if num_groups < 1 or num_channels % num_groups:
            raise ContractError(f"GroupNorm: num_groups is {num_groups}; expected a divisor of {num_channels} channels")
        self.num_groups, self.eps, self.activation = num_groups, eps, activation
        self.weight = self.bias = None
        if affine:
            parameter(self, "weight", (num_channels,), constant(1.0))
            parameter(self, "bias", (num_channels,), constant(0.0))

    def forward(self, x: Any, scale: Any = None, shift: Any = None) -> Any:
        """x (N, num_channels, *S) to the same shape."""
        weight, bias = taped(x, self.weight, self.bias)
        return group_norm(
            x, self.num_groups, weight, bias, self.eps, scale=scale, shift=shift, activation=self.activation
        )


class LayerNorm(Module):
    """Layer normalisation (Ba et al. 2016) over the trailing extents ``normalized_shape``; see mmkernels.layer_norm.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.LayerNorm(4)(np.ones((2, 4), np.float32)).tolist()
    [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """

    weight: Variable | None
    bias: Variable | None

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True
    ) -> None:
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps = shape, eps
        self.weight = self.bias = None
        if elementwise_affine:
            parameter(self, "weight", shape, constant(1.0))
            parameter(self, "bias", shape, constant(0.0))

    def forward(self, x: Any) -> Any:
        """x (*, *normalized_shape) to the same shape."""
        weight, bias = taped(x, self.weight, self.bias)
        return layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class RMSNorm(Module):
    """Root-mean-square normalisation (Zhang and Sennrich 2019) over the trailing extents; see mmkernels.rms_norm.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.RMSNorm(2)(np.full((1, 2), 3, np.float32)).round(3).tolist()
    [[1.0, 1.0]]
    """

    weight: Variable | None

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float | None = None, elementwise_affine: bool = True
    ) -> None:
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps = shape, eps
        self.weight = None
        if elementwise_affine:
            parameter(self, "weight", shape, constant(1.0))

    def forward(self, x: Any) -> Any:
        """x (*, *normalized_shape) to the same shape."""
        (weight,) = taped(x, self.weight)
        return rms_norm(x, self.normalized_shape, weight, self.eps)
