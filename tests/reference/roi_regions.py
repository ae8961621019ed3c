"""What the references of the RoI family share: regions as samples, windows and weights along an axis."""

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


def weighted_mean(x: Array, rows: Array, columns: Array) -> Array:
    """(..., H, W) by weights of rows and columns; what has no weight takes no part, whatever it is."""
    h, w = np.nonzero(rows)[0], np.nonzero(columns)[0]
    return np.einsum("h,...hw,w->...", rows[h], x[..., h, :][..., w], columns[w])


def deal(gx: Array, gradient: Array, rows: Array, columns: Array) -> None:
    h, w = np.nonzero(rows)[0], np.nonzero(columns)[0]
    if h.size and w.size:
        gx[..., h[:, None], w] += gradient[..., None, None] * rows[h][:, None] * columns[w]


def corners_around(y: Any, x: Any, height: int, width: int) -> list[tuple[int, int, Any]]:
    """The elements around a sample, with their weights, the upper left first."""
    return [(h, w, a * b) for h, a in interpolation(y, height) for w, b in interpolation(x, width)]
