"""References of position-sensitive regions: every bin has a plane of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .roi_regions import deal, image_of, positions, sample_weights, weighted_mean, window_weights, windows

Array = NDArray[Any]
Pair = tuple[int, int]


def _plane(c: int, p: int, q: int, bins: Pair) -> int:
    """Of a position-sensitive map: channel c's bin (p, q)."""
    return (c * bins[0] + p) * bins[1] + q


@np.errstate(all="ignore")
def _sensitive(x: Array, boxes: Array, output_size: Pair, weights: Any) -> Array:
    channels = x.shape[1] // (output_size[0] * output_size[1])
    y = np.zeros((len(boxes), channels, *output_size), x.dtype)
    for r, box in enumerate(boxes):
        n, (rows, columns) = image_of(box[0], len(x)), weights(box)
        for c, p, q in np.ndindex(*y.shape[1:]):
            if n >= 0:
                y[r, c, p, q] = weighted_mean(x[n, _plane(c, p, q, output_size)], rows[p], columns[q])
    return y


@np.errstate(all="ignore")
def _sensitive_grad(gy: Array, boxes: Array, images: int, height: int, width: int, weights: Any) -> Array:
    bins = gy.shape[2:]
    gx = np.zeros((images, gy.shape[1] * bins[0] * bins[1], height, width), gy.dtype)
    for r, box in enumerate(boxes):
        n, (rows, columns) = image_of(box[0], images), weights(box)
        for c, p, q in np.ndindex(*gy.shape[1:]):
            if n >= 0:
                deal(gx[n, _plane(c, p, q, bins)], gy[r, c, p, q], rows[p], columns[q])
    return gx


def _sampled(bins: Pair, height: int, width: int, scale: float, sampling: int) -> Any:
    def weights(box: Array) -> tuple[Array, Array]:
        _, x1, y1, x2, y2 = box
        return (
            sample_weights(positions(y1, y2, bins[0], scale, sampling, True), height),
            sample_weights(positions(x1, x2, bins[1], scale, sampling, True), width),
        )

    return weights


def _windowed(bins: Pair, height: int, width: int, scale: float) -> Any:
    """The map's last row and column are nobody's, as in torchvision's forward."""

    def weights(box: Array) -> tuple[Array, Array]:
        _, x1, y1, x2, y2 = box
        rows = windows(y1, y2, bins[0], max(height - 1, 0), scale, 0)
        columns = windows(x1, x2, bins[1], max(width - 1, 0), scale, 0)
        return window_weights(rows, height, box.dtype), window_weights(columns, width, box.dtype)

    return weights


def ps_roi_align(x: Array, boxes: Array, /, *, output_size: Pair, spatial_scale: float, sampling_ratio: int) -> Array:
    """roi_align, aligned, of a plane for every channel and bin."""
    return _sensitive(x, boxes, output_size, _sampled(output_size, *x.shape[2:], spatial_scale, sampling_ratio))


def ps_roi_align_grad(
    gy: Array,
    boxes: Array,
    /,
    *,
    images: int,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
) -> Array:
    """The transpose of ps_roi_align."""
    weights = _sampled(gy.shape[2:], height, width, spatial_scale, sampling_ratio)
    return _sensitive_grad(gy, boxes, images, height, width, weights)


def ps_roi_pool(x: Array, boxes: Array, /, *, output_size: Pair, spatial_scale: float) -> Array:
    """The mean of a window of a plane for every channel and bin."""
    return _sensitive(x, boxes, output_size, _windowed(output_size, *x.shape[2:], spatial_scale))


def ps_roi_pool_grad(
    gy: Array, boxes: Array, /, *, images: int, height: int, width: int, spatial_scale: float
) -> Array:
    """The transpose of ps_roi_pool."""
    return _sensitive_grad(gy, boxes, images, height, width, _windowed(gy.shape[2:], height, width, spatial_scale))
