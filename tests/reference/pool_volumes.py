"""References of pooling with windows of one, two or three axes: per axis a list of (positions inside, what the window
counts for)."""

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .noise import philox_uniform

Array = NDArray[Any]
Ints = tuple[int, ...]
Axis = list[tuple[list[int], int]]


def regular_windows(
    extents: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool, padding_end: Ints,
    count_include_pad: bool = False,
) -> list[Axis]:  # fmt: skip
    """Window i has the taps i * stride - padding + t * dilation; those inside the padded extent may count."""
    axes = []
    for n, k, s, before, after, d in zip(
        extents, kernel, stride, padding, padding_end or padding, dilation, strict=True
    ):
        span = n + before + after - d * (k - 1) - 1
        count = (-(-span // s) if ceil_mode else span // s) + 1
        if ceil_mode and (count - 1) * s >= n + before:
            count -= 1
        axis: Axis = []
        for i in range(count):
            taps = [i * s - before + t * d for t in range(k)]
            inside = [t for t in taps if 0 <= t < n]
            axis.append((inside, sum(t < n + after for t in taps) if count_include_pad else len(inside)))
        axes.append(axis)
    return axes


def adaptive_windows(extents: Ints, output_size: Ints) -> list[Axis]:
    """Window i covers [floor(i * n / outputs), ceil((i + 1) * n / outputs))."""
    axes = []
    for n, outputs in zip(extents, output_size, strict=True):
        spans = [range(i * n // outputs, -(-(i + 1) * n // outputs)) for i in range(outputs)]
        axes.append([(list(span), len(span)) for span in spans])
    return axes


def each_window(axes: list[Axis]) -> Any:
    """(where the result is, positions along each axis, product of the counts) of every window, in order."""
    for at in itertools.product(*(range(len(axis)) for axis in axes)):
        chosen = [axis[i] for axis, i in zip(axes, at, strict=True)]
        yield at, [positions for positions, _ in chosen], math.prod(count for _, count in chosen)


def _elements(x: Array, positions: list[list[int]]) -> Array:
    """The window's elements in scan order: (N, C, elements)."""
    inside = x[np.ix_(range(x.shape[0]), range(x.shape[1]), *positions)]
    return inside.reshape(*x.shape[:2], math.prod(map(len, positions)))


def empty(x: Array, axes: list[Axis], dtype: Any = None, value: Any = 0) -> Array:
    return np.full((*x.shape[:2], *map(len, axes)), value, dtype or x.dtype)


@np.errstate(all="ignore")
def maxima(x: Array, axes: list[Axis], return_indices: bool) -> Any:
    y, indices = empty(x, axes, value=-np.inf), empty(x, axes, np.int64, -1)
    for at, positions, _ in each_window(axes):
        elements = _elements(x, positions)
        if not elements.shape[2]:
            continue
        first = np.argmax(elements, axis=2)  # the first maximum, or the first NaN
        y[(..., *at)] = np.take_along_axis(elements, first[..., None], 2)[..., 0] + 0
        numbers = np.array([np.ravel_multi_index(p, x.shape[2:]) for p in itertools.product(*positions)])
        indices[(..., *at)] = numbers[first]
    return (y, indices) if return_indices else y


@np.errstate(all="ignore")
def means(x: Array, axes: list[Axis], divisor_override: int = 0) -> Array:
    y = empty(x, axes)
    for at, positions, count in each_window(axes):
        divisor = divisor_override or count
        if divisor:
            y[(..., *at)] = np.sum(_elements(x, positions), axis=2) / divisor
    return y


@np.errstate(all="ignore")
def _mean_gradient(gy: Array, size: Ints, axes: list[Axis], divisor_override: int = 0) -> Array:
    gx = np.zeros((*gy.shape[:2], *size), gy.dtype)
    for at, positions, count in each_window(axes):
        divisor = divisor_override or count
        if divisor:
            gx[np.ix_(range(gx.shape[0]), range(gx.shape[1]), *positions)] += (gy[(..., *at)] / divisor).reshape(
                *gy.shape[:2], *(1 for _ in size)
            )
    return gx


def max_pool1d(x: Array, /, *, return_indices: bool, **geometry: Any) -> Any:
    """Maximum of each window, the first of equals or the first NaN, and its number inside the plane."""
    return maxima(x, regular_windows(x.shape[2:], **geometry), return_indices)


max_pool3d = max_pool1d


def avg_pool1d(x: Array, /, *, count_include_pad: bool, divisor_override: int, **geometry: Any) -> Array:
    """Sum of what each window sees, divided by divisor_override, or if 0 by the taps with or without the padding."""
    axes = regular_windows(x.shape[2:], count_include_pad=count_include_pad, **geometry)
    return means(x, axes, divisor_override)


avg_pool3d = avg_pool1d


def avg_pool_grad(
    gy: Array, /, *, size: Ints, count_include_pad: bool, divisor_override: int, **geometry: Any
) -> Array:
    """gx[i] = sum over the windows that see i of gy / divisor."""
    axes = regular_windows(size, count_include_pad=count_include_pad, **geometry)
    return _mean_gradient(gy, size, axes, divisor_override)


@np.errstate(all="ignore")
def adaptive_avg_pool1d(x: Array, /, *, output_size: Ints) -> Array:
    """The mean of each adaptive window: chains of 256 elements, added up in order, then divided."""
    axes = adaptive_windows(x.shape[2:], output_size)
    y = empty(x, axes)
    for at, positions, count in each_window(axes):
        elements = _elements(x, positions)
        chunks = [np.cumsum(elements[..., i : i + 256], axis=2)[..., -1] for i in range(0, count, 256)]
        y[(..., *at)] = (np.cumsum(np.stack(chunks, -1), axis=2)[..., -1] + 0) / x.dtype.type(count)
    return y


adaptive_avg_pool3d = adaptive_avg_pool2d = adaptive_avg_pool1d


def adaptive_avg_pool_grad(gy: Array, /, *, size: Ints) -> Array:
    """gx[i] = sum over the adaptive windows that see i of gy / elements."""
    return _mean_gradient(gy, size, adaptive_windows(size, gy.shape[2:]))


def adaptive_max_pool1d(x: Array, /, *, output_size: Ints, return_indices: bool) -> Any:
    """The maximum of each adaptive window, and its number inside the plane."""
    return maxima(x, adaptive_windows(x.shape[2:], output_size), return_indices)


adaptive_max_pool3d = adaptive_max_pool2d = adaptive_max_pool1d


@np.errstate(all="ignore")
def lp_pool1d(x: Array, /, *, norm_type: float, **geometry: Any) -> Array:
    """(sum of |x|^p)^(1/p) of each window; p infinite is the maximum of |x|."""
    axes = regular_windows(x.shape[2:], **geometry)
    y = empty(x, axes)
    for at, positions, _ in each_window(axes):
        elements = np.abs(_elements(x, positions))
        if norm_type == np.inf:
            y[(..., *at)] = np.max(elements, axis=2, initial=0)
        else:
            y[(..., *at)] = np.sum(elements**norm_type, axis=2) ** x.dtype.type(1 / norm_type)
    return y


lp_pool3d = lp_pool2d = lp_pool1d


@np.errstate(all="ignore")
def lp_pool_grad(gy: Array, x: Array, y: Array, /, *, norm_type: float, **geometry: Any) -> Array:
    """gx = sum over the windows of gy sign(x) (|x| / y)^(p - 1); an element or a norm of 0 adds nothing."""
    gx = np.zeros_like(x)
    axes = regular_windows(x.shape[2:], **geometry)
    for at, positions, _ in each_window(axes):
        where = np.ix_(range(x.shape[0]), range(x.shape[1]), *positions)
        inside = x[where]
        one = (..., *at, *(None for _ in positions))
        norm, gradient = np.broadcast_to(y[one], inside.shape), gy[one]
        slope = np.sign(inside)
        if norm_type != 1:
            slope = slope * (np.abs(inside) / norm) ** (norm_type - 1)
            slope = np.where((norm == 0) | (inside == 0), 0, slope)
            gradient = np.where((norm == 0) | ((inside == 0) & (norm_type != 2)), 0, gradient)
        gx[where] += gradient * slope
    return gx


@np.errstate(all="ignore")
def stochastic_pool1d(x: Array, keys: Array, /, *, training: bool, return_indices: bool, **geometry: Any) -> Any:
    """The first positive element at which the running sum reaches u times the sum; or sum of x^2 / sum of x."""
    axes = regular_windows(x.shape[2:], **geometry)
    y, indices = empty(x, axes), empty(x, axes, np.int64, -1)
    u = 1 - philox_uniform(keys, extents=y.shape[1:], offset=0)
    for at, positions, _ in each_window(axes):
        elements = _elements(x, positions)
        if not elements.shape[2]:
            continue
        weights = np.where(elements < 0, 0, elements)
        running = np.cumsum(weights, axis=2)
        if not training:
            squares = np.cumsum(weights * weights, axis=2)[..., -1]
            y[(..., *at)] = np.where(running[..., -1] == 0, 0, squares / running[..., -1])
            continue
        threshold = u[(..., *at)].astype(x.dtype)[..., None] * running[..., -1:]
        candidates = ((weights > 0) & (running >= threshold)) | np.isnan(elements)
        first = np.argmax(candidates, axis=2)[..., None]
        found = candidates.any(axis=2)
        y[(..., *at)] = np.where(found, np.take_along_axis(elements, first, 2)[..., 0], 0)
        numbers = np.array([np.ravel_multi_index(p, x.shape[2:]) for p in itertools.product(*positions)])
        indices[(..., *at)] = np.where(found, numbers[first[..., 0]], -1)
    return (y, indices) if return_indices else y


stochastic_pool3d = stochastic_pool2d = stochastic_pool1d


def max_unpool1d(x: Array, indices: Array, /, *, output_size: Ints) -> Array:
    """y[n, c, indices[n, c, w]] = x[n, c, w], one window after another: the last one stays."""
    y = np.zeros((*x.shape[:2], math.prod(output_size)), x.dtype)
    for n, c in np.ndindex(*x.shape[:2]):
        for value, index in zip(x[n, c].ravel(), indices[n, c].ravel(), strict=True):
            if 0 <= index < y.shape[2]:
                y[n, c, index] = value
    return y.reshape(*x.shape[:2], *output_size)


max_unpool3d = max_unpool2d = max_unpool1d


def max_unpool_grad(gy: Array, indices: Array, /) -> Array:
    """gy at each window's element, if no later window chose the same."""
    gx = np.zeros(indices.shape, gy.dtype)
    for n, c in np.ndindex(*gy.shape[:2]):
        last = {int(index): number for number, index in enumerate(indices[n, c].ravel())}
        for index, number in last.items():
            if 0 <= index < gy[n, c].size:
                gx[n, c].reshape(-1)[number] = gy[n, c].ravel()[index]
    return gx
