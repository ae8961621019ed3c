"""Modules made of modules, and layers that only move data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from .. import arrays
from ..ops.resample import interpolate
from .module import Module

__all__ = ["Flatten", "ModuleList", "Sequential", "Upsample"]


class _Numbered(Module):
    """Modules named "0", "1", ..."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> None:
        """Adds a module at the end."""
        setattr(self, str(len(self)), module)

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self.children())

    def __getitem__(self, index: int) -> Module:
        return list(self)[index]


class Sequential(_Numbered):
    """Modules called one after another.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).initialize(seed=1)
    >>> model(np.ones((3, 4), np.float32)).shape, [name for name, _ in model.named_parameters()]
    ((3, 2), ['0.weight', '0.bias', '2.weight', '2.bias'])
    """

    def __init__(self, *modules: Module) -> None:
        super().__init__(modules)

    def forward(self, x: Any) -> Any:
        """The last module of the last but one of ... of x."""
        for module in self:
            x = module(x)
        return x


class ModuleList(_Numbered):
    """A list of modules whose parameters count; it is not called itself.

    >>> from mmkernels import nn
    >>> len(nn.ModuleList([nn.ReLU(), nn.Tanh()]))
    2
    """


class Flatten(Module):
    """(N, *S) to (N, prod(S)).

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.Flatten()(np.ones((2, 3, 4), np.float32)).shape
    (2, 12)
    """

    def forward(self, x: Any) -> Any:
        """x (N, *S) to (N, prod(S))."""
        shape = arrays.shape_of(x)
        return arrays.reshape(x, (shape[0], math.prod(shape[1:])))


class Upsample(Module):
    """Planes at scale_factor times their height and width; see mmkernels.interpolate.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.Upsample(2)(np.ones((1, 1, 2, 2), np.float32)).shape
    (1, 1, 4, 4)
    """

    def __init__(
        self,
        scale_factor: float = 2,
        mode: Literal["nearest", "bilinear"] = "nearest",
        align_corners: bool | None = None,
    ) -> None:
        self.scale_factor, self.align_corners = scale_factor, align_corners
        self.mode: Literal["nearest", "bilinear"] = mode

    def forward(self, x: Any) -> Any:
        """x (N, C, H, W) to (N, C, H * scale_factor, W * scale_factor)."""
        if isinstance(self.scale_factor, int):
            height, width = arrays.shape_of(x)[2:]
            size = (height * self.scale_factor, width * self.scale_factor)
            return interpolate(x, size, mode=self.mode, align_corners=self.align_corners)
        return interpolate(x, None, self.scale_factor, self.mode, self.align_corners)
