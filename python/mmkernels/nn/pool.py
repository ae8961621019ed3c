"""Pooling layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ops.pool import avg_pool2d, max_pool2d
from .module import Module

__all__ = ["AvgPool2d", "MaxPool2d"]

Size = int | Sequence[int]


class MaxPool2d(Module):
    """The maximum of each window; see mmkernels.max_pool2d.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.MaxPool2d(2)(np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)).tolist()
    [[[[5.0, 7.0], [13.0, 15.0]]]]
    """

    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
        ceil_mode: bool = False,
    ) -> None:  # fmt: skip
        self.arguments = (kernel_size, stride, padding, dilation, ceil_mode)

    def forward(self, x: Any) -> Any:
        """x (N, C, H, W) to (N, C, P, Q)."""
        return max_pool2d(x, *self.arguments)

    def describe(self) -> str:
        """The window."""
        return f"kernel_size={self.arguments[0]}"


class AvgPool2d(Module):
    """The mean of each window; see mmkernels.avg_pool2d.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.AvgPool2d(2)(np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)).tolist()
    [[[[2.5, 4.5], [10.5, 12.5]]]]
    """

    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:  # fmt: skip
        self.arguments = (kernel_size, stride, padding, ceil_mode, count_include_pad)

    def forward(self, x: Any) -> Any:
        """x (N, C, H, W) to (N, C, P, Q)."""
        return avg_pool2d(x, *self.arguments)

    def describe(self) -> str:
        """The window."""
        return f"kernel_size={self.arguments[0]}"
