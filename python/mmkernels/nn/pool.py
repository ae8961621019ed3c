"""Pooling layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ops.pool import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, lp_pool2d, max_pool2d, max_unpool2d
from .module import Module

__all__ = ["AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "AvgPool2d", "LPPool2d", "MaxPool2d", "MaxUnpool2d"]

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


class AdaptiveAvgPool2d(Module):
    """The mean of each of a given number of windows; see mmkernels.ops.pool.adaptive_avg_pool2d.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.AdaptiveAvgPool2d(1)(np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)).tolist()
    [[[[7.5]]]]
    """

    def __init__(self, output_size: int | Sequence[int | None]) -> None:
        self.output_size = output_size

    def forward(self, x: Any) -> Any:
        """x (N, C, H, W) to (N, C, P, Q)."""
        return adaptive_avg_pool2d(x, self.output_size)

    def describe(self) -> str:
        """The number of windows."""
        return f"output_size={self.output_size}"


class AdaptiveMaxPool2d(Module):
    """The maximum of each of a given number of windows; see mmkernels.ops.pool.adaptive_max_pool2d.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.AdaptiveMaxPool2d((1, 2))(np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)).tolist()
    [[[[13.0, 15.0]]]]
    """

    def __init__(self, output_size: int | Sequence[int | None]) -> None:
        self.output_size = output_size

    def forward(self, x: Any) -> Any:
        """x (N, C, H, W) to (N, C, P, Q)."""
        return adaptive_max_pool2d(x, self.output_size)

    def describe(self) -> str:
        """The number of windows."""
        return f"output_size={self.output_size}"


class LPPool2d(Module):
    """The p-norm of each window; see mmkernels.ops.pool.lp_pool2d.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.LPPool2d(2, 2)(np.array([[[[3, -4], [0, 12]]]], np.float32)).tolist()
    [[[[13.0]]]]
    """

    def __init__(
        self, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
    ) -> None:
        self.arguments = (norm_type, kernel_size, stride, ceil_mode)

    def forward(self, x: Any) -> Any:
        """x (N, C, H, W) to (N, C, P, Q)."""
        return lp_pool2d(x, *self.arguments)

    def describe(self) -> str:
        """The norm and the window."""
        return f"norm_type={self.arguments[0]}, kernel_size={self.arguments[1]}"


class MaxUnpool2d(Module):
    """Values back to where a maximum pooling found them; see mmkernels.ops.pool.max_unpool2d.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.MaxUnpool2d(2)(np.array([[[[7.0]]]]), np.array([[[[2]]]])).tolist()
    [[[[0.0, 0.0], [7.0, 0.0]]]]
    """

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        self.arguments = (kernel_size, stride, padding)

    def forward(self, x: Any, indices: Any, output_size: Sequence[int] | None = None) -> Any:
        """x and indices (N, C, P, Q) to (N, C, H, W)."""
        return max_unpool2d(x, indices, *self.arguments, output_size)

    def describe(self) -> str:
        """The window."""
        return f"kernel_size={self.arguments[0]}"
