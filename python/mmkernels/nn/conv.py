"""Convolution layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..autograd import Variable
from ..errors import ContractError
from ..ops.conv import conv2d
from .initial import parameter, uniform
from .module import Module, taped

__all__ = ["Conv2d"]


class Conv2d(Module):
    """Cross-correlation with learned filters; see mmkernels.conv2d for the arguments.

    ``weight`` (out_channels, in_channels / groups, kh, kw), ``bias`` (out_channels) or None; float32, drawn uniformly
    within 1 / sqrt(in_channels / groups * kh * kw). A call takes x (N, in_channels, H, W), and optionally a
    ``residual`` that is added before the activation. Raises ContractError if groups does not divide the channels.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> layer = nn.Conv2d(3, 8, 3, padding=1, activation="relu")
    >>> layer(np.ones((2, 3, 5, 5), np.float32)).shape
    (2, 8, 5, 5)
    """

    weight: Variable
    bias: Variable | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: Any = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        activation: str | None = None,
    ) -> None:
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ContractError(
                f"Conv2d: groups is {groups}; expected a divisor of {in_channels} and of {out_channels} channels"
            )
        kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
        self.stride, self.padding, self.dilation, self.groups = map(_frozen, (stride, padding, dilation, groups))
        self.activation = activation
        fan_in = in_channels // groups * kernel[0] * kernel[1]
        parameter(self, "weight", (out_channels, in_channels // groups, *kernel), uniform(fan_in))
        if bias:
            parameter(self, "bias", (out_channels,), uniform(fan_in))
        else:
            self.bias = None

    def forward(self, x: Any, residual: Any = None) -> Any:
        """x (N, in_channels, H, W), residual of the result's shape, to (N, out_channels, P, Q)."""
        weight, bias = taped(x, self.weight, self.bias)
        return conv2d(
            x, weight, bias, self.stride, self.padding, self.dilation, self.groups,
            activation=self.activation, residual=residual,
        )  # fmt: skip

    def describe(self) -> str:
        """The weight's shape and what differs from the plainest convolution."""
        plain = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "activation": None}
        rest = "".join(f", {k}={getattr(self, k)}" for k, v in plain.items() if getattr(self, k) != v)
        return super().describe() + rest


def _frozen(value: Any) -> Any:
    """Tuples let a call's plan be found without running Python."""
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value
