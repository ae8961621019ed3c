"""References of the pooling family."""

import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .pool_volumes import *  # noqa: F403
from .pool_volumes import maxima, means, regular_windows

Array = NDArray[Any]
Pair = tuple[int, int]


def _output_extent(extent: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Windows along one axis. With ceil_mode a last, partial window counts only if it starts before the far border."""
    span = extent + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return span // stride + 1
    count = -(-span // stride) + 1
    return count - 1 if (count - 1) * stride >= extent + padding else count


@np.errstate(all="ignore")
def max_pool2d(
    x: Array,
    /,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
    return_indices: bool,
    padding_end: tuple[int, ...] = (),
) -> Array | tuple[Array, Array]:
    """Maximum of each window, and its int64 index h * W + w inside the plane.

    The first maximum in scan order wins, the first NaN wins over everything, and padding takes no part: a window of
    -inf alone gives its first element. A dilated window that touches no element at all gives -inf and index -1.
    """
    if padding_end:
        axes = regular_windows(x.shape[2:], kernel, stride, padding, dilation, ceil_mode, padding_end)
        return maxima(x, axes, return_indices)  # type: ignore[no-any-return]
    samples, channels, height, width = x.shape
    rows = _output_extent(height, kernel[0], stride[0], padding[0], dilation[0], ceil_mode)
    columns = _output_extent(width, kernel[1], stride[1], padding[1], dilation[1], ceil_mode)
    best = np.full((samples, channels, rows, columns), -np.inf, x.dtype)
    indices = np.full(best.shape, -1, np.int64)
    for r, s in itertools.product(range(kernel[0]), range(kernel[1])):
        h = np.arange(rows) * stride[0] - padding[0] + r * dilation[0]
        w = np.arange(columns) * stride[1] - padding[1] + s * dilation[1]
        visible_rows, visible_columns = (h >= 0) & (h < height), (w >= 0) & (w < width)
        window = np.ix_(range(samples), range(channels), visible_rows, visible_columns)
        h, w = h[visible_rows], w[visible_columns]
        value, so_far, chosen = x[:, :, h][:, :, :, w], best[window], indices[window]
        better = (chosen < 0) | (value > so_far) | (np.isnan(value) & ~np.isnan(so_far))
        best[window] = np.where(better, value, so_far)
        indices[window] = np.where(better, h[:, None] * width + w, chosen)
    y = best + 0  # -0 becomes +0
    return (y, indices) if return_indices else y


@np.errstate(all="ignore")
def max_pool2d_grad(gy: Array, indices: Array, /, *, height: int, width: int) -> Array:
    """gx[n, c, i] = sum of gy over the windows that chose i, in (p, q) order; an index off the plane adds nothing."""
    gx = np.zeros((*gy.shape[:2], height * width), gy.dtype)
    for n, c in np.ndindex(*gy.shape[:2]):
        chosen = indices[n, c].ravel()
        inside = (chosen >= 0) & (chosen < height * width)
        np.add.at(gx[n, c], chosen[inside], gy[n, c].ravel()[inside])
    return gx.reshape(*gy.shape[:2], height, width)


def max_pool2d_gather(ggx: Array, indices: Array, /) -> Array:
    """result[n, c, p, q] = ggx[n, c] at the flat index indices[n, c, p, q]; an index outside the plane gives 0."""
    samples, channels, height, width = ggx.shape
    result = np.zeros(indices.shape, ggx.dtype)
    for n, c in np.ndindex(samples, channels):
        inside = (indices[n, c] >= 0) & (indices[n, c] < height * width)
        result[n, c][inside] = ggx[n, c].ravel()[indices[n, c][inside]]
    return result


class _Window(NamedTuple):
    """One window of an average pooling: its position in the output, what it sees of the input, what it divides by."""

    output: Pair
    rows: slice
    columns: slice
    divisor: int


def _average_windows(
    height: int,
    width: int,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int,
) -> tuple[Pair, list[_Window]]:
    """Output extents and windows. Padding may count in the divisor, the overhang of ceil_mode never does."""
    axes = []
    for extent, k, s, pad in zip((height, width), kernel, stride, padding, strict=True):
        axis = []
        for position in range(_output_extent(extent, k, s, pad, 1, ceil_mode)):
            start = position * s - pad
            end = min(start + k, extent + pad)
            visible = slice(max(start, 0), max(min(end, extent), 0))
            seen = max(visible.stop - visible.start, 0)
            axis.append((visible, end - start if count_include_pad else seen))
        axes.append(axis)
    windows = [
        _Window((p, q), rows, columns, divisor_override or row_count * column_count)
        for p, (rows, row_count) in enumerate(axes[0])
        for q, (columns, column_count) in enumerate(axes[1])
    ]
    return (len(axes[0]), len(axes[1])), windows


@np.errstate(all="ignore")
def avg_pool2d(
    x: Array,
    /,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int,
    dilation: Pair = (1, 1),
    padding_end: tuple[int, ...] = (),
) -> Array:
    """Sum of what each window sees, divided by divisor_override, or if 0 by the size with or without the padding."""
    if padding_end or dilation != (1, 1):
        axes = regular_windows(
            x.shape[2:], kernel, stride, padding, dilation, ceil_mode, padding_end, count_include_pad
        )
        return means(x, axes, divisor_override)
    height, width = x.shape[2:]
    extents, windows = _average_windows(
        height, width, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override
    )
    y = np.zeros((*x.shape[:2], *extents), x.dtype)
    for (p, q), rows, columns, divisor in windows:
        if divisor:
            y[:, :, p, q] = np.sum(x[:, :, rows, columns], axis=(2, 3)) / divisor
    return y


@np.errstate(all="ignore")
def avg_pool2d_grad(
    gy: Array,
    /,
    *,
    height: int,
    width: int,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int,
) -> Array:
    """gx[n, c, h, w] = sum over the windows that see (h, w) of gy / divisor."""
    _, windows = _average_windows(
        height, width, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override
    )
    gx = np.zeros((*gy.shape[:2], height, width), gy.dtype)
    for (p, q), rows, columns, divisor in windows:
        if divisor:
            gx[:, :, rows, columns] += (gy[:, :, p, q] / divisor)[:, :, None, None]
    return gx
