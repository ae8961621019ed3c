"""The U-Net of diffusion models: what removes noise, told the time and the class.

ResNet blocks with group norm and SiLU and self-attention (Ho et al. 2020, appendix B); time and class enter through
adaptive group norm (Dhariwal and Nichol 2021, equation 3); a null class stands for "no class" in classifier-free
guidance (Ho and Salimans 2022, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import arrays
from ..autograd import Variable
from ..nn import Conv2d, Embedding, GroupNorm, Linear, Module, ModuleList, SelfAttention2d, Sequential, Upsample
from ..ops.activation import silu
from ..ops.embed import sinusoidal_features
from ..ops.pointwise import add

__all__ = ["UNet"]

_GROUPS = 8


class ResidualBlock(Module):
    """x + conv(silu(adaptive GN(conv(silu(GN(x)))))); the embedding sets scale and shift of the second norm."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int) -> None:
        self.norm1 = GroupNorm(_GROUPS, in_channels, activation="silu")
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1)
        self.modulation = Linear(embedding, 2 * out_channels)
        self.norm2 = GroupNorm(_GROUPS, out_channels, activation="silu")
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Any, embedding: Any) -> Any:
        """x (N, in_channels, H, W), embedding (N, E) to (N, out_channels, H, W)."""
        modulation = self.modulation(embedding)
        half = arrays.shape_of(modulation)[1] // 2
        scale, shift = (arrays.slice_of(modulation, 1, i * half, (i + 1) * half) for i in range(2))
        h = self.norm2(self.conv1(self.norm1(x)), scale, shift)
        return self.conv2(h, residual=x if self.skip is None else self.skip(x))


class UNet(Module):
    """Noisy images, timesteps and classes to predictions of the images' shape.

    One level per entry of ``multipliers``, each of half the resolution of the one before, with ``blocks`` residual
    blocks on the way down and as many on the way up, which also see what the way down left behind; ``attention`` says
    which levels have self-attention. The last convolutions start at zero, so an untrained network predicts 0.

    The call takes x (N, in_channels, H, W) with H and W divisible by 2^(levels - 1), t (N,) and labels (N,), integers
    up to ``num_classes``, which is the null class (``null_class``).

    >>> import numpy as np
    >>> from mmkernels.models import UNet
    >>> model = UNet(seed=0)
    >>> model(np.ones((2, 1, 8, 8), np.float32), np.array([3, 999]), np.array([7, model.null_class])).shape
    (2, 1, 8, 8)
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        attention: Sequence[bool] = (False, True),
        num_heads: int = 4,
        num_classes: int = 10,
        *,
        seed: int = 0,
    ) -> None:
        self.channels, self.null_class = channels, num_classes
        width = 4 * channels
        self.time = Sequential(Linear(channels, width, activation="silu"), Linear(width, width))
        self.classes = Embedding(num_classes + 1, width)
        self.entry = Conv2d(in_channels, channels, 3, padding=1)

        def attend(level: int, size: int) -> list[Module]:
            return [SelfAttention2d(size, num_heads, _GROUPS)] if attention[level] else []

        sizes = [channels * m for m in multipliers]
        size, left = channels, []
        self.down = ModuleList()
        for level, wanted in enumerate(sizes):
            if level > 0:
                self.down.append(ModuleList([Conv2d(size, size, 3, stride=2, padding=1)]))
            for _ in range(blocks):
                self.down.append(ModuleList([ResidualBlock(size, wanted, width), *attend(level, wanted)]))
                size = wanted
                left.append(size)

        self.middle = ModuleList([ResidualBlock(size, size, width)])

        self.up = ModuleList()
        for level, wanted in reversed(list(enumerate(sizes))):
            for _ in range(blocks):
                self.up.append(ModuleList([ResidualBlock(size + left.pop(), wanted, width), *attend(level, wanted)]))
                size = wanted
            if level > 0:
                self.up.append(ModuleList([Upsample(2), Conv2d(size, sizes[level - 1], 3, padding=1)]))
                size = sizes[level - 1]

        self.norm = GroupNorm(_GROUPS, size, activation="silu")
        self.exit = Conv2d(size, in_channels, 3, padding=1)
        self.initialize(seed)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                _zero(module.conv2)
            elif isinstance(module, SelfAttention2d):
                _zero(module.projection)
        _zero(self.exit)

    def forward(self, x: Any, t: Any, labels: Any) -> Any:
        """x (N, C, H, W), t (N,) timesteps, labels (N,) integers, to (N, C, H, W)."""
        features = sinusoidal_features(np.asarray(t, np.float32), self.channels)
        labels = np.asarray(labels, np.int64)
        if isinstance(x, Variable):  # every input of a module on the tape, or none
            features, labels = Variable(features), Variable(labels)
        embedding = silu(add(self.time(features), self.classes(labels)))

        h = self.entry(x)
        left = []
        for step in self.down:
            h = _apply(step, h, embedding)
            if _is_block(step):
                left.append(h)
        h = _apply(self.middle, h, embedding)
        for step in self.up:
            h = _apply(step, arrays.concat([h, left.pop()], 1) if _is_block(step) else h, embedding)
        return self.exit(self.norm(h))


def _apply(modules: Any, h: Any, embedding: Any) -> Any:
    for module in modules:
        h = module(h, embedding) if isinstance(module, ResidualBlock) else module(h)
    return h


def _is_block(step: Any) -> bool:
    return isinstance(step[0], ResidualBlock)


def _zero(layer: Conv2d) -> None:
    layer.weight.data[...] = 0
    if layer.bias is not None:
        layer.bias.data[...] = 0
