"""Sums over sampled positions, as torch's grid_sample gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mmkernels.ops import deform, deform_attention

from .draws import Config, Random, maybe, normal, pair, size

F = torch.nn.functional


def deform_conv2d(random: Random) -> Config:
    """torch has no such operator: columns by grid_sample, tap by tap, and matrix products. Offsets are kept away from
    whole numbers, where slopes jump."""
    groups, sets = size(random, 1, 2), size(random, 1, 2)
    c, k = groups * sets * size(random, 1, 3), groups * size(random, 1, 5)
    kernel, dilation, stride, padding = pair(random, 1, 3), pair(random, 1, 2), pair(random, 1, 2), pair(random, 0, 2)
    h, w = (size(random, max(1, d * (r - 1) + 1 - 2 * p), 9) for r, d, p in zip(kernel, dilation, padding, strict=True))
    n, taps = size(random, 1, 2), kernel[0] * kernel[1]
    rows, columns = (
        (e + 2 * p - d * (r - 1) - 1) // s + 1
        for e, p, d, r, s in zip((h, w), padding, dilation, kernel, stride, strict=True)
    )
    x, weight = normal(random, n, c, h, w), normal(random, k, c // groups, *kernel)
    shape = (n, sets * taps * 2, rows, columns)
    offset = (random.integers(-3, 3, shape) + random.uniform(0.1, 0.9, shape)).astype(np.float32)
    mask = maybe(random, random.random((n, sets * taps, rows, columns)).astype(np.float32))
    a = {"stride": stride, "padding": padding, "dilation": dilation}

    def theirs(x: Any, offset: Any, weight: Any, bias: Any, mask: Any) -> Any:
        moved = offset.reshape(n * sets, taps, 2, rows, columns)
        planes = x.reshape(n * sets, c // sets, h, w)
        found = []
        for t in range(taps):
            y = torch.arange(rows)[:, None] * stride[0] - padding[0] + t // kernel[1] * dilation[0] + moved[:, t, 0]
            z = torch.arange(columns) * stride[1] - padding[1] + t % kernel[1] * dilation[1] + moved[:, t, 1]
            grid = torch.stack([(2 * z + 1) / w - 1, (2 * y + 1) / h - 1], -1)
            sampled = F.grid_sample(planes, grid.to(x.dtype), align_corners=False)
            if mask is not None:
                sampled = sampled * mask.reshape(n * sets, taps, 1, rows, columns)[:, t]
            found.append(sampled)
        taken = torch.stack(found, 2).reshape(n, groups, c // groups * taps, rows * columns)
        y = (weight.reshape(groups, k // groups, -1) @ taken).reshape(n, k, rows, columns)
        return y if bias is None else y + bias[:, None, None]

    def ours(x: Any, offset: Any, weight: Any, bias: Any, mask: Any) -> Any:
        return deform.deform_conv2d(x, offset, weight, bias, **a, mask=mask)

    return ([x, offset, weight, maybe(random, normal(random, k)), mask], ours, theirs, "deform_conv2d",
            {**a, "padding": (padding[0], padding[0], padding[1], padding[1])})  # fmt: skip


def ms_deform_attention(random: Random) -> Config:
    """The formula of the paper's repository: grid_sample for every level."""
    b, q, heads, d, points = (size(random, 1, m) for m in (2, 6, 3, 20, 4))
    shapes = [pair(random, 1, 6) for _ in range(size(random, 1, 4))]
    value = normal(random, b, sum(h * w for h, w in shapes), heads, d)
    locations = np.empty((b, q, heads, len(shapes), points, 2), np.float32)
    for level, (h, w) in enumerate(shapes):  # away from the middles of pixels, where slopes jump
        for axis, extent in enumerate((w, h)):
            at = random.integers(-2, extent + 2, (*locations.shape[:3], points))
            locations[:, :, :, level, :, axis] = (at + random.uniform(0.6, 1.4, at.shape)) / extent
    weights = random.random(locations.shape[:-1]).astype(np.float32)

    def theirs(value: Any, locations: Any, weights: Any) -> Any:
        found = []
        for level, part in enumerate(value.split([h * w for h, w in shapes], 1)):
            plane = part.flatten(2).transpose(1, 2).reshape(b * heads, d, *shapes[level])
            grid = (2 * locations - 1)[:, :, :, level].transpose(1, 2).flatten(0, 1)
            found.append(F.grid_sample(plane, grid, align_corners=False))
        shares = weights.transpose(1, 2).reshape(b * heads, 1, q, len(shapes) * points)
        y = (torch.stack(found, -2).flatten(-2) * shares).sum(-1)
        return y.view(b, heads * d, q).transpose(1, 2)

    def ours(value: Any, locations: Any, weights: Any) -> Any:
        return deform_attention.ms_deform_attention(value, shapes, locations, weights)

    return ([value, locations, weights], ours, theirs, "ms_deform_attention",
            {"spatial_shapes": tuple(e for shape in shapes for e in shape)})  # fmt: skip


JUDGED: dict[str, Callable[[Random], Config]] = {
    "deform_conv2d": deform_conv2d, "ms_deform_attention": ms_deform_attention,
}  # fmt: skip
