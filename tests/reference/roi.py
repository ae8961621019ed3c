"""References of the RoI family: regions become matrices of weights, one per axis, bin by bin and sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .roi_chosen import *  # noqa: F403
from .roi_regions import *  # noqa: F403
from .roi_regions import deal, image_of, positions, sample_weights, weighted_mean
from .roi_rotated import *  # noqa: F403
from .roi_sensitive import *  # noqa: F403

Array = NDArray[Any]
Pair = tuple[int, int]


@np.errstate(all="ignore")
def roi_align(
    x: Array, boxes: Array, /, *, output_size: Pair, spatial_scale: float, sampling_ratio: int, aligned: bool
) -> Array:
    """The mean of each bin's samples."""
    images, channels, height, width = x.shape
    y = np.zeros((len(boxes), channels, *output_size), x.dtype)
    for r, (number, x1, y1, x2, y2) in enumerate(boxes):
        n = image_of(number, images)
        rows = sample_weights(positions(y1, y2, output_size[0], spatial_scale, sampling_ratio, aligned), height)
        columns = sample_weights(positions(x1, x2, output_size[1], spatial_scale, sampling_ratio, aligned), width)
        for p, q in np.ndindex(*output_size):
            if n >= 0:
                y[r, :, p, q] = weighted_mean(x[n], rows[p], columns[q])
    return y


@np.errstate(all="ignore")
def roi_align_grad(
    gy: Array,
    boxes: Array,
    /,
    *,
    images: int,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Array:
    """The transpose of roi_align."""
    output_size = gy.shape[2:]
    gx = np.zeros((images, gy.shape[1], height, width), gy.dtype)
    for r, (number, x1, y1, x2, y2) in enumerate(boxes):
        n = image_of(number, images)
        rows = sample_weights(positions(y1, y2, output_size[0], spatial_scale, sampling_ratio, aligned), height)
        columns = sample_weights(positions(x1, x2, output_size[1], spatial_scale, sampling_ratio, aligned), width)
        for p, q in np.ndindex(*output_size):
            if n >= 0:
                deal(gx[n], gy[r, :, p, q], rows[p], columns[q])
    return gx


def levels_of(boxes: Array, sides: Sequence[float]) -> Array:
    """The level of each box; one whose side is no number is of the first."""
    with np.errstate(all="ignore"):
        lengths = np.sqrt((boxes[:, 3] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 2]))
        return np.sum([lengths >= boxes.dtype.type(s) for s in sides], axis=0, dtype=np.int64)  # type: ignore[no-any-return]


def multi_scale_roi_align(
    x0: Array,
    x1: Array,
    x2: Array | None,
    x3: Array | None,
    x4: Array | None,
    boxes: Array,
    /,
    *,
    output_size: Pair,
    spatial_scales: Sequence[float],
    sides: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> Array:
    """roi_align of each box on its level's map."""
    maps = [x for x in (x0, x1, x2, x3, x4) if x is not None]
    y = np.zeros((len(boxes), x0.shape[1], *output_size), x0.dtype)
    for r, level in enumerate(levels_of(boxes, sides)):
        y[r : r + 1] = roi_align(
            maps[level], boxes[r : r + 1], output_size=output_size, spatial_scale=spatial_scales[level],
            sampling_ratio=sampling_ratio, aligned=aligned,
        )  # fmt: skip
    return y


def multi_scale_roi_align_grad(
    gy: Array,
    boxes: Array,
    /,
    *,
    images: int,
    heights: Sequence[int],
    widths: Sequence[int],
    spatial_scales: Sequence[float],
    sides: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Array, ...]:
    """The transpose of multi_scale_roi_align: a gradient for every map."""
    levels = levels_of(boxes, sides)
    return tuple(
        roi_align_grad(
            gy[levels == k], boxes[levels == k], images=images, height=height, width=width,
            spatial_scale=spatial_scales[k], sampling_ratio=sampling_ratio, aligned=aligned,
        )
        for k, (height, width) in enumerate(zip(heights, widths, strict=True))
    )  # fmt: skip
