"""References of rotated regions, sample by sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .roi_regions import MOST_OF_ALL_KINDS, corners_around, image_of

Array = NDArray[Any]
Pair = tuple[int, int]


def rotated_samples(
    box: Array, bins: Pair, scale: float, sampling: int, aligned: bool, clockwise: bool, degrees: bool
) -> list[list[tuple[Any, Any]]]:
    """(y, x) of the samples of each bin, bins and samples row by row."""
    t = type(box[1])
    nothing: list[list[tuple[Any, Any]]] = [[] for _ in range(bins[0] * bins[1])]
    offset = t(0.5 if aligned else 0)
    centre_x, centre_y = box[1] * t(scale) - offset, box[2] * t(scale) - offset
    width, height = box[3] * t(scale), box[4] * t(scale)
    angle = box[5] * t(np.pi / 180) if degrees else box[5]
    angle = -angle if clockwise else angle
    if not np.all(np.isfinite([centre_x, centre_y, width, height, angle])):
        return nothing
    if not aligned:
        width, height = max(width, t(1)), max(height, t(1))
    axes = []
    for size, count in ((height, bins[0]), (width, bins[1])):
        step = size / t(count)
        samples = sampling if sampling > 0 else int(min(max(np.ceil(step), 0), MOST_OF_ALL_KINDS))
        p, i = np.arange(count).astype(t)[:, None], np.arange(samples).astype(t)
        axes.append((-size / t(2) + p * step) + (i + t(0.5)) * step / t(samples))
    cosine, sine = np.cos(angle), np.sin(angle)
    for p, q in np.ndindex(*bins):
        for down in axes[0][p]:
            for across in axes[1][q]:
                turned = (down * cosine - across * sine) + centre_y, (down * sine + across * cosine) + centre_x
                nothing[p * bins[1] + q].append(turned)
    return nothing


@np.errstate(all="ignore")
def roi_align_rotated(
    x: Array,
    boxes: Array,
    /,
    *,
    output_size: Pair,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
    degrees: bool,
) -> Array:
    """The mean of each bin's samples."""
    images, channels, height, width = x.shape
    y = np.zeros((len(boxes), channels, *output_size), x.dtype)
    for r, box in enumerate(boxes):
        n = image_of(box[0], images)
        samples = rotated_samples(box, output_size, spatial_scale, sampling_ratio, aligned, clockwise, degrees)
        for p, q in np.ndindex(*output_size):
            places = samples[p * output_size[1] + q] if n >= 0 else []
            for at_y, at_x in places:
                for h, w, weight in corners_around(at_y, at_x, height, width):
                    y[r, :, p, q] += weight * x[n, :, h, w]
            y[r, :, p, q] /= max(len(places), 1)
    return y


@np.errstate(all="ignore")
def roi_align_rotated_grad(
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
    clockwise: bool,
    degrees: bool,
) -> Array:
    """The transpose of roi_align_rotated."""
    bins = gy.shape[2:]
    gx = np.zeros((images, gy.shape[1], height, width), gy.dtype)
    for r, box in enumerate(boxes):
        n = image_of(box[0], images)
        samples = rotated_samples(box, bins, spatial_scale, sampling_ratio, aligned, clockwise, degrees)
        for p, q in np.ndindex(*bins):
            places = samples[p * bins[1] + q] if n >= 0 else []
            for at_y, at_x in places:
                for h, w, weight in corners_around(at_y, at_x, height, width):
                    gx[n, :, h, w] += weight * (gy[r, :, p, q] / len(places))
    return gx
