"""Convolution layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from ..autograd import Variable
from ..errors import ContractError
from ..ops.conv import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from .initial import parameter, uniform
from .module import Module, taped

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


class _Filters(Module):
    """Filters and bias of any number of dimensions; ``transposed`` tells which extents the weight has."""

    weight: Variable
    bias: Variable | None
    dims: ClassVar[int]
    transposed: ClassVar[bool] = False
    function: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        padding: Any,
        dilation: int | Sequence[int],
        groups: int,
        bias: bool,
        activation: str | None,
    ) -> None:
        name = type(self).__name__
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ContractError(
                f"{name}: groups is {groups}; expected a divisor of {in_channels} and of {out_channels} channels"
            )
        kernel = (kernel_size,) * self.dims if isinstance(kernel_size, int) else tuple(kernel_size)
        if len(kernel) != self.dims:
            raise ContractError(f"{name}: kernel_size is {kernel_size!r}; expected one integer, or {self.dims}")
        self.stride, self.padding, self.dilation, self.groups = map(_frozen, (stride, padding, dilation, groups))
        self.activation = activation
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        fan_in = second // groups * math.prod(kernel)
        parameter(self, "weight", (first, second // groups, *kernel), uniform(fan_in))
        if bias:
            parameter(self, "bias", (out_channels,), uniform(fan_in))
        else:
            self.bias = None

    def describe(self) -> str:
        """The weight's shape and what differs from the plainest convolution."""
        plain = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1, "activation": None}
        given = {k: getattr(self, k, plain[k]) for k in plain}
        return super().describe() + "".join(f", {k}={v}" for k, v in given.items() if v != plain[k])


class _Conv(_Filters):
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
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, activation
        )  # fmt: skip

    def forward(self, x: Any, residual: Any = None) -> Any:
        """x (N, in_channels, *S), residual of the result's shape, to (N, out_channels, *P)."""
        weight, bias = taped(x, self.weight, self.bias)
        return type(self).function(
            x, weight, bias, self.stride, self.padding, self.dilation, self.groups,
            activation=self.activation, residual=residual,
        )  # fmt: skip


class _ConvTranspose(_Filters):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: Any = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, activation
        )  # fmt: skip
        self.output_padding = _frozen(output_padding)

    def forward(self, x: Any) -> Any:
        """x (N, in_channels, *S) to (N, out_channels, *P)."""
        weight, bias = taped(x, self.weight, self.bias)
        return type(self).function(
            x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation,
            activation=self.activation,
        )  # fmt: skip


class Conv1d(_Conv):
    """Cross-correlation of sequences with learned filters; see conv1d for the arguments.

    ``weight`` (out_channels, in_channels / groups, k), ``bias`` (out_channels) or None; drawn as Conv2d's. A call
    takes x (N, in_channels, W), and optionally a ``residual`` that is added before the activation.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.Conv1d(3, 8, 4, stride=2)(np.ones((2, 3, 10), np.float32)).shape
    (2, 8, 4)
    """

    dims, function = 1, conv1d


class Conv2d(_Conv):
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

    dims, function = 2, conv2d


class Conv3d(_Conv):
    """Cross-correlation of volumes with learned filters; see conv3d for the arguments.

    ``weight`` (out_channels, in_channels / groups, kd, kh, kw), ``bias`` (out_channels) or None; drawn as Conv2d's. A
    call takes x (N, in_channels, D, H, W), and optionally a ``residual`` that is added before the activation.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.Conv3d(3, 8, (1, 3, 3), padding="same")(np.ones((2, 3, 4, 5, 5), np.float32)).shape
    (2, 8, 4, 5, 5)
    """

    dims, function = 3, conv3d


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution of sequences with learned filters; see conv_transpose1d for the arguments.

    ``weight`` (in_channels, out_channels / groups, k), ``bias`` (out_channels) or None; drawn as ConvTranspose2d's.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.ConvTranspose1d(3, 8, 4, stride=2, padding=1)(np.ones((2, 3, 10), np.float32)).shape
    (2, 8, 20)
    """

    dims, function = 1, conv_transpose1d


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution with learned filters; see conv_transpose2d for the arguments.

    ``weight`` (in_channels, out_channels / groups, kh, kw), ``bias`` (out_channels) or None; float32, drawn uniformly
    within 1 / sqrt(out_channels / groups * kh * kw), as PyTorch does. Raises ContractError if groups does not divide
    the channels.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.ConvTranspose2d(3, 8, 4, stride=2, padding=1)(np.ones((2, 3, 5, 5), np.float32)).shape
    (2, 8, 10, 10)
    """

    dims, function = 2, conv_transpose2d


class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution of volumes with learned filters; see conv_transpose3d for the arguments.

    ``weight`` (in_channels, out_channels / groups, kd, kh, kw), ``bias`` (out_channels) or None; drawn as
    ConvTranspose2d's.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.ConvTranspose3d(3, 8, 2, stride=2)(np.ones((1, 3, 2, 4, 4), np.float32)).shape
    (1, 8, 4, 8, 8)
    """

    dims, function = 3, conv_transpose3d


def _frozen(value: Any) -> Any:
    """Tuples let a call's plan be found without running Python."""
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value
