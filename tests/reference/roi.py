"""References of the RoI family: regions become matrices of weights, one per axis, bin by bin and sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Pair = tuple[int, int]
MOST_SAMPLES = 2**24  # of a bin along an axis, where they are counted by its length
MOST_OF_ALL_KINDS = 256  # the same where every sample is visited: rotated regions and maxima


def image_of(number: Any, images: int) -> int:
    """The batch index, its fraction cut off; -1 if there is no such image."""
    return int(number) if -1 < number < images else -1


def positions(
    low: Any, high: Any, bins: int, scale: float, sampling: int, aligned: bool, most: int = MOST_SAMPLES
) -> Array:
    """Where a region's samples lie along an axis, (bins, samples), in the corners' dtype; none if it is empty."""
    t = type(low)
    start, end = low * t(scale) - t(0.5 if aligned else 0), high * t(scale) - t(0.5 if aligned else 0)
    size = end - start
    if not (np.isfinite(start) and np.isfinite(end) and np.isfinite(size)):
        return np.zeros((bins, 0), t)
    if not aligned:
        size = max(size, t(1))
    step = size / t(bins)
    count = sampling if sampling > 0 else int(min(max(np.ceil(step), 0), most))
    p, i = np.arange(bins).astype(t)[:, None], np.arange(count).astype(t)
    return (start + p * step) + (i + t(0.5)) * step / t(count)


def interpolation(position: Any, extent: int) -> list[tuple[int, Any]]:
    """The elements that a sample lies between, with their weights; none off the map. Beyond the first and the last
    element's centre the map is continued by a pixel."""
    if not (-1 <= position <= extent) or extent == 0:
        return []
    position = max(position, type(position)(0))
    before = int(np.floor(position))
    if before >= extent - 1:
        return [(extent - 1, type(position)(1))]
    beyond = position - before
    return [(before, 1 - beyond), (before + 1, beyond)] if beyond else [(before, 1 - beyond)]


def sample_weights(samples: Array, extent: int) -> Array:
    """(bins, extent): how much of each element is in the mean of a bin's samples."""
    weights = np.zeros((samples.shape[0], extent), samples.dtype)
    count = samples.shape[1]
    inside = (samples >= -1) & (samples <= extent)
    for p, i in np.argwhere(inside):
        for element, weight in interpolation(samples[p, i], extent):
            weights[p, element] += weight
    return weights / max(count, 1)


def rounded(v: Any) -> Any:
    """To the nearest whole number, halves away from zero."""
    whole = np.trunc(v)
    return whole + np.sign(v) * (abs(v - whole) >= 0.5)


def windows(low: Any, high: Any, bins: int, extent: int, scale: float, extra: int) -> list[range]:
    """The elements of each bin between rounded borders."""
    t = type(low)
    start, end = rounded(low * t(scale)), rounded(high * t(scale))
    size = end - start
    if not (np.isfinite(start) and np.isfinite(end) and np.isfinite(size)):
        return [range(0)] * bins
    step = max(size + t(extra), t(1)) / t(bins)
    borders = [(np.floor(t(p) * step) + start, np.ceil(t(p + 1) * step) + start) for p in range(bins)]
    return [range(int(np.clip(first, 0, extent)), int(np.clip(stop, 0, extent))) for first, stop in borders]


def window_weights(bins: Sequence[range], extent: int, dtype: Any) -> Array:
    weights = np.zeros((len(bins), extent), dtype)
    for p, elements in enumerate(bins):
        for i in elements:
            weights[p, i] = weights.dtype.type(1) / len(elements)
    return weights


def _mean(x: Array, rows: Array, columns: Array) -> Array:
    """(..., H, W) by weights of rows and columns; what has no weight takes no part, whatever it is."""
    h, w = np.nonzero(rows)[0], np.nonzero(columns)[0]
    return np.einsum("h,...hw,w->...", rows[h], x[..., h, :][..., w], columns[w])


def _deal(gx: Array, gradient: Array, rows: Array, columns: Array) -> None:
    h, w = np.nonzero(rows)[0], np.nonzero(columns)[0]
    if h.size and w.size:
        gx[..., h[:, None], w] += gradient[..., None, None] * rows[h][:, None] * columns[w]


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
                y[r, :, p, q] = _mean(x[n], rows[p], columns[q])
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
                _deal(gx[n], gy[r, :, p, q], rows[p], columns[q])
    return gx


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
                y[r, c, p, q] = _mean(x[n, _plane(c, p, q, output_size)], rows[p], columns[q])
    return y


@np.errstate(all="ignore")
def _sensitive_grad(gy: Array, boxes: Array, images: int, height: int, width: int, weights: Any) -> Array:
    bins = gy.shape[2:]
    gx = np.zeros((images, gy.shape[1] * bins[0] * bins[1], height, width), gy.dtype)
    for r, box in enumerate(boxes):
        n, (rows, columns) = image_of(box[0], images), weights(box)
        for c, p, q in np.ndindex(*gy.shape[1:]):
            if n >= 0:
                _deal(gx[n, _plane(c, p, q, bins)], gy[r, c, p, q], rows[p], columns[q])
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


def _corners(y: Any, x: Any, height: int, width: int) -> list[tuple[int, int, Any]]:
    """The elements around a sample, with their weights, the upper left first."""
    return [(h, w, a * b) for h, a in interpolation(y, height) for w, b in interpolation(x, width)]


def _weighted_corners(y: Any, x: Any, height: int, width: int) -> list[tuple[int, int, Any]]:
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
                        for h, w, weight in _weighted_corners(at_y, at_x, height, width):
                            values.append(weight * x[n, :, h, w] if weight else np.zeros(channels, x.dtype))
                        continue
                    total = np.zeros(channels, x.dtype)
                    for h, w, weight in _corners(at_y, at_x, height, width):
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
        found = [_weighted_corners(at_y, at_x, height, width)[index % 4]]
        return [f for f in found if f[2]]
    return _corners(at_y, at_x, height, width)


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
                for h, w, weight in _corners(at_y, at_x, height, width):
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
                for h, w, weight in _corners(at_y, at_x, height, width):
                    gx[n, :, h, w] += weight * (gy[r, :, p, q] / len(places))
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
