"""References of maxima over regions: of elements, of samples, of samples' weighted elements."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .roi_regions import MOST_OF_ALL_KINDS, corners_around, image_of, interpolation, positions, windows

Array = NDArray[Any]
Pair = tuple[int, int]


@np.errstate(all="ignore")
def roi_pool(
    x: Array, boxes: Array, /, *, output_size: Pair, spatial_scale: float, return_indices: bool
) -> Array | tuple[Array, Array]:
    """The first maximum of each window, or the first NaN (as np.argmax has it), and its index; 0 and -1 of nothing."""
    images, channels, height, width = x.shape
    y = np.zeros((len(boxes), channels, *output_size), x.dtype)
    indices = np.full(y.shape, -1, np.int64)
    for r, (number, x1, y1, x2, y2) in enumerate(boxes):
        n = image_of(number, images)
        rows = windows(y1, y2, output_size[0], height, spatial_scale, 1)
        columns = windows(x1, x2, output_size[1], width, spatial_scale, 1)
        for (p, h), (q, w) in ((a, b) for a in enumerate(rows) for b in enumerate(columns)):
            if n < 0 or not h or not w:
                continue
            window = x[n, :, h.start : h.stop, w.start : w.stop].reshape(channels, -1)
            best = np.argmax(window, axis=1)
            y[r, :, p, q] = np.take_along_axis(window, best[:, None], 1)[:, 0]
            indices[r, :, p, q] = (h.start + best // len(w)) * width + w.start + best % len(w)
    return (y + 0, indices) if return_indices else y + 0


@np.errstate(all="ignore")
def roi_pool_grad(gy: Array, boxes: Array, indices: Array, /, *, images: int, height: int, width: int) -> Array:
    """Every bin's gradient is added to the element of its image that it names."""
    gx = np.zeros((images, gy.shape[1], height * width), gy.dtype)
    for r, c, p, q in np.ndindex(*gy.shape):
        n, at = image_of(boxes[r, 0], images), indices[r, c, p, q]
        if n >= 0 and 0 <= at < height * width:
            gx[n, c, at] += gy[r, c, p, q]
    return gx.reshape(images, gy.shape[1], height, width)


def roi_pool_gather(ggx: Array, boxes: Array, indices: Array, /) -> Array:
    """The elements that the bins name; 0 where there is none."""
    y = np.zeros(indices.shape, ggx.dtype)
    for r, c, p, q in np.ndindex(*y.shape):
        n, at = image_of(boxes[r, 0], len(ggx)), indices[r, c, p, q]
        if n >= 0 and 0 <= at < ggx[n, c].size:
            y[r, c, p, q] = ggx[n, c].flat[at]
    return y


def _grids(box: Array, bins: Pair, scale: float, sampling: int, aligned: bool) -> tuple[Array, Array]:
    """Samples' positions along y and x, each bin's by rising position."""
    _, x1, y1, x2, y2 = box
    rows = positions(y1, y2, bins[0], scale, sampling, aligned, MOST_OF_ALL_KINDS)
    columns = positions(x1, x2, bins[1], scale, sampling, aligned, MOST_OF_ALL_KINDS)
    rows = rows[:, ::-1] if y2 < y1 and aligned else rows
    columns = columns[:, ::-1] if x2 < x1 and aligned else columns
    return rows, columns


def four_corners(y: Any, x: Any, height: int, width: int) -> list[tuple[int, int, Any]]:
    """All four of them: what has no weight, and what is off the map, has the weight 0."""
    rows, columns = interpolation(y, height), interpolation(x, width)
    if not rows or not columns:
        return [(0, 0, 0)] * 4
    rows, columns = (list(found) + [(found[0][0], 0)] * (2 - len(found)) for found in (rows, columns))
    return [(h, w, a * b) for h, a in rows for w, b in columns]


@np.errstate(all="ignore")
def roi_align_max(
    x: Array,
    boxes: Array,
    /,
    *,
    output_size: Pair,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    corners: bool,
    return_indices: bool,
) -> Array | tuple[Array, Array]:
    """The first maximum, or the first NaN, of a bin's samples, or of their weighted elements."""
    images, channels, height, width = x.shape
    y = np.zeros((len(boxes), channels, *output_size), x.dtype)
    indices = np.full(y.shape, -1, np.int64)
    for r, box in enumerate(boxes):
        n = image_of(box[0], images) if height and width else -1  # an empty map has no samples
        rows, columns = _grids(box, output_size, spatial_scale, sampling_ratio, aligned)
        for p, q in np.ndindex(*output_size):
            values = []
            for at_y in rows[p] if n >= 0 else ():
                for at_x in columns[q]:
                    if corners:
                        for h, w, weight in four_corners(at_y, at_x, height, width):
                            values.append(weight * x[n, :, h, w] if weight else np.zeros(channels, x.dtype))
                        continue
                    total = np.zeros(channels, x.dtype)
                    for h, w, weight in corners_around(at_y, at_x, height, width):
                        total = total + weight * x[n, :, h, w]
                    values.append(total)
            if values:
                all_of_them = np.stack(values)
                best = np.argmax(all_of_them, axis=0)
                y[r, :, p, q] = np.take_along_axis(all_of_them, best[None], 0)[0]
                indices[r, :, p, q] = best
    return (y + 0, indices) if return_indices else y + 0


def _chosen(
    box: Array, index: int, p: int, q: int, grids: tuple[Array, Array], height: int, width: int, corners: bool
) -> list[tuple[int, int, Any]]:
    rows, columns = grids
    sample = index // 4 if corners and index >= 0 else index
    if not 0 <= sample < rows.shape[1] * columns.shape[1]:
        return []
    at_y, at_x = rows[p, sample // columns.shape[1]], columns[q, sample % columns.shape[1]]
    if corners:
        found = [four_corners(at_y, at_x, height, width)[index % 4]]
        return [f for f in found if f[2]]
    return corners_around(at_y, at_x, height, width)


@np.errstate(all="ignore")
def roi_align_max_grad(
    gy: Array,
    boxes: Array,
    indices: Array,
    /,
    *,
    images: int,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    corners: bool,
) -> Array:
    """Every bin's gradient goes to the elements around its sample, by their weights."""
    gx = np.zeros((images, gy.shape[1], height, width), gy.dtype)
    for r, box in enumerate(boxes):
        n = image_of(box[0], images)
        grids = _grids(box, gy.shape[2:], spatial_scale, sampling_ratio, aligned)
        for c, p, q in np.ndindex(*gy.shape[1:]):
            for h, w, weight in _chosen(box, int(indices[r, c, p, q]), p, q, grids, height, width, corners):
                if n >= 0:
                    gx[n, c, h, w] += weight * gy[r, c, p, q]
    return gx


@np.errstate(all="ignore")
def roi_align_max_gather(
    ggx: Array,
    boxes: Array,
    indices: Array,
    /,
    *,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    corners: bool,
) -> Array:
    """The samples of another map, or their weighted elements, at the indices."""
    images, _, height, width = ggx.shape
    y = np.zeros(indices.shape, ggx.dtype)
    for r, box in enumerate(boxes):
        n = image_of(box[0], images)
        grids = _grids(box, y.shape[2:], spatial_scale, sampling_ratio, aligned)
        for c, p, q in np.ndindex(*y.shape[1:]):
            for h, w, weight in _chosen(box, int(indices[r, c, p, q]), p, q, grids, height, width, corners):
                if n >= 0:
                    y[r, c, p, q] += weight * ggx[n, c, h, w]
    return y
