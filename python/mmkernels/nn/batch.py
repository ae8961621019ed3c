"""Batch normalisation, whose running statistics are buffers, and instance normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import Variable
from ..errors import ContractError
from ..ops.norm import instance_norm
from ..ops.norm_batch import batch_norm
from .initial import constant, parameter
from .module import Module, taped

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"]


class _ChannelNorm(Module):
    """What both have: a weight and a bias for each channel, and the ranks that they take."""

    ranks: tuple[int, ...] = ()
    weight: Variable | None
    bias: Variable | None

    def __init__(self, num_features: int, eps: float, affine: bool, activation: str | None) -> None:
        self.num_features, self.eps, self.activation = num_features, eps, activation
        self.weight = self.bias = None
        if affine:
            parameter(self, "weight", (num_features,), constant(1.0))
            parameter(self, "bias", (num_features,), constant(0.0))

    def check(self, x: Any) -> None:
        """Raises ContractError for another number of extents."""
        if len(x.shape) not in self.ranks:
            expected = " or ".join(map(str, self.ranks))
            raise ContractError(f"{type(self).__name__}: x has {len(x.shape)} extents; expected {expected}")

    def describe(self) -> str:
        """The number of channels."""
        return str(self.num_features)


class BatchNorm2d(_ChannelNorm):
    """Batch normalisation of x (N, num_features, H, W) (Ioffe and Szegedy 2015); see mmkernels.batch_norm.

    In training a call normalises by the batch and moves the buffers ``running_mean`` and ``running_var`` by
    ``momentum`` (None: towards the mean of all batches so far), which inference uses; without
    ``track_running_stats`` every call normalises by its batch. ``activation`` is fused.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> layer = nn.BatchNorm2d(1, momentum=0.5)
    >>> x = np.array([1, 3], np.float32).reshape(2, 1, 1, 1)
    >>> layer(x).round(3).ravel().tolist(), layer.running_mean.tolist(), layer.running_var.tolist()
    ([-1.0, 1.0], [1.0], [1.5])
    >>> [round(v, 3) for v in layer.eval()(x).ravel().tolist()]
    [0.0, 1.633]
    """

    ranks: tuple[int, ...] = (4,)
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, *, activation: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(num_features, eps, affine, activation)
        self.momentum, self.track_running_stats = momentum, track_running_stats
        if track_running_stats:
            self.register_buffer("running_mean", np.zeros(num_features, np.float32))
            self.register_buffer("running_var", np.ones(num_features, np.float32))
            self.register_buffer("num_batches_tracked", np.zeros((), np.int64))
        else:
            self.running_mean = self.running_var = None

    def forward(self, x: Any) -> Any:
        """x to the same shape."""
        self.check(x)
        weight, bias = taped(x, self.weight, self.bias)
        mean, var = self.running_mean, self.running_var
        if not self.training and self.track_running_stats:
            return batch_norm(x, mean, var, weight, bias, False, 0.0, self.eps, activation=self.activation)
        if not self.track_running_stats:
            return batch_norm(x, None, None, weight, bias, True, 0.0, self.eps, activation=self.activation)[0]
        self.num_batches_tracked += 1
        momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        y, mean, var = batch_norm(x, mean, var, weight, bias, True, momentum, self.eps, activation=self.activation)
        self.running_mean, self.running_var = (s.data if isinstance(s, Variable) else s for s in (mean, var))
        return y


class BatchNorm1d(BatchNorm2d):
    """BatchNorm2d of x (N, num_features) or (N, num_features, L).

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.BatchNorm1d(2).eval()(np.zeros((3, 2), np.float32)).shape
    (3, 2)
    """

    ranks: tuple[int, ...] = (2, 3)


class BatchNorm3d(BatchNorm2d):
    """BatchNorm2d of x (N, num_features, D, H, W).

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.BatchNorm3d(2).eval()(np.zeros((1, 2, 3, 3, 3), np.float32)).shape
    (1, 2, 3, 3, 3)
    """

    ranks: tuple[int, ...] = (5,)


class InstanceNorm2d(_ChannelNorm):
    """Instance normalisation of x (N, num_features, H, W) (Ulyanov et al. 2016); see mmkernels.instance_norm.

    There are no running statistics, as is PyTorch's default. ``activation`` is fused.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.InstanceNorm2d(3)(np.zeros((1, 3, 4, 4), np.float32)).shape
    (1, 3, 4, 4)
    """

    ranks: tuple[int, ...] = (4,)

    def __init__(
        self, num_features: int, eps: float = 1e-5, affine: bool = False, *, activation: str | None = None
    ) -> None:
        super().__init__(num_features, eps, affine, activation)

    def forward(self, x: Any) -> Any:
        """x to the same shape."""
        self.check(x)
        weight, bias = taped(x, self.weight, self.bias)
        return instance_norm(x, weight=weight, bias=bias, eps=self.eps, activation=self.activation)


class InstanceNorm1d(InstanceNorm2d):
    """InstanceNorm2d of x (N, num_features, L).

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.InstanceNorm1d(3)(np.zeros((1, 3, 4), np.float32)).shape
    (1, 3, 4)
    """

    ranks: tuple[int, ...] = (3,)


class InstanceNorm3d(InstanceNorm2d):
    """InstanceNorm2d of x (N, num_features, D, H, W).

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.InstanceNorm3d(3)(np.zeros((1, 3, 2, 2, 2), np.float32)).shape
    (1, 3, 2, 2, 2)
    """

    ranks: tuple[int, ...] = (5,)
