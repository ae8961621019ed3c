"""Self-attention between the positions of a feature map."""

from __future__ import annotations

from typing import Any

from .. import arrays
from ..errors import ContractError
from ..ops.attention import attention
from .conv import Conv2d
from .module import Module
from .norm import GroupNorm

__all__ = ["SelfAttention2d"]


class SelfAttention2d(Module):
    """x + projection(attention(normalised x)): every position looks at every other one (Ho et al. 2020, appendix B).

    Group norm, then 1x1 convolutions to queries, keys and values of ``num_heads`` heads (Vaswani et al. 2017,
    section 3.2.2), and one back. Raises ContractError if num_heads does not divide the channels.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.SelfAttention2d(8, num_heads=2, num_groups=4)(np.ones((1, 8, 3, 3), np.float32)).shape
    (1, 8, 3, 3)
    """

    def __init__(self, channels: int, num_heads: int = 1, num_groups: int = 8) -> None:
        if num_heads < 1 or channels % num_heads:
            raise ContractError(f"SelfAttention2d: num_heads is {num_heads}; expected a divisor of {channels} channels")
        self.num_heads = num_heads
        self.norm = GroupNorm(num_groups, channels)
        self.qkv = Conv2d(channels, 3 * channels, 1)
        self.projection = Conv2d(channels, channels, 1)

    def forward(self, x: Any) -> Any:
        """x (N, C, H, W) to the same shape."""
        batch, channels, height, width = arrays.shape_of(x)
        heads = self.num_heads
        mixed = arrays.reshape(self.qkv(self.norm(x)), (batch, 3 * heads, channels // heads, height * width))
        # (batch, 3 heads, positions, features): the operator takes any strides
        mixed = arrays.permute(mixed, (0, 1, 3, 2))
        q, k, v = (arrays.slice_of(mixed, 1, i * heads, (i + 1) * heads) for i in range(3))
        found = arrays.permute(attention(q, k, v), (0, 1, 3, 2))
        return self.projection(arrays.reshape(found, (batch, channels, height, width)), residual=x)
