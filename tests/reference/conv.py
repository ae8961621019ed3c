"""References of the convolution family, in any number of dimensions: one matrix product per filter tap."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .activation import apply_activation
from .tf32 import factors

Array = NDArray[Any]
Tap = tuple[int, ...]


def _sides(padding: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) of each dimension."""
    return list(zip(padding[::2], padding[1::2], strict=True))


def _taps(
    kernel: Sequence[int], results: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Iterator[tuple[Tap, tuple[Any, ...]]]:
    """Each tap of the kernel, and the elements of the bordered input that it reads for all results."""
    for tap in itertools.product(*map(range, kernel)):
        starts = [t * d for t, d in zip(tap, dilation, strict=True)]
        yield tap, (..., *(slice(a, a + n * s, s) for a, n, s in zip(starts, results, stride, strict=True)))


def _grouped_and_padded(x: Array, padding: Sequence[int], groups: int) -> Array:
    """[N C *S] as [N groups C/groups *S with its border]; the border is +0, so that 0 * inf gives its NaN."""
    padded = np.pad(x, ((0, 0), (0, 0), *_sides(padding)))
    return padded.reshape(x.shape[0], groups, x.shape[1] // groups, *padded.shape[2:])


def _finished(y: Array, bias: Array | None, residual: Array | None, activation: str | None) -> Array:
    if bias is not None:
        y = y + bias.reshape(-1, *(1,) * (y.ndim - 2))
    return apply_activation(y if residual is None else y + residual, activation)


@np.errstate(all="ignore")
def _conv(
    x: Array, weight: Array, bias: Array | None = None, residual: Array | None = None, /, *, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], groups: int, activation: str | None = None,
    algorithm: str | None = None,
) -> Array:  # fmt: skip
    """act(correlation + bias[k] + residual); the correlation is the sum over channels c and taps r of

    x[n, c, p * stride - before + r * dilation] * weight[k, c, r].
    """
    x, weight = factors(algorithm, x, weight)
    samples, filters, kernel = x.shape[0], weight.shape[0], weight.shape[2:]
    source = _grouped_and_padded(x, padding, groups)
    results = [
        (n - d * (r - 1) - 1) // s + 1 for n, r, s, d in zip(source.shape[3:], kernel, stride, dilation, strict=True)
    ]
    matrices = weight.reshape(groups, filters // groups, *weight.shape[1:])
    y = np.zeros((samples, groups, filters // groups, math.prod(results)), x.dtype)
    for tap, read in _taps(kernel, results, stride, dilation):
        y += matrices[(..., *tap)] @ source[read].reshape(samples, groups, source.shape[2], math.prod(results))
    return _finished(y.reshape(samples, filters, *results), bias, residual, activation)


def _scattered(
    x: Array, weight: Array, extents: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int,
) -> Array:  # fmt: skip
    """Adds x[n, k, p] weight[k, c, r] to element p * stride + r * dilation of the result's channel c, which has a
    border that is cut off."""
    samples, filters, results = x.shape[0], x.shape[1], x.shape[2:]
    channels, kernel = weight.shape[1], weight.shape[2:]
    matrices = weight.reshape(groups, filters // groups, channels, *kernel)
    grouped = x.reshape(samples, groups, filters // groups, math.prod(results))
    # with room for every tap, also those that the border cuts off
    room = [
        max(n + a + b, (p - 1) * s + d * (r - 1) + 1)
        for n, (a, b), p, s, d, r in zip(extents, _sides(padding), results, stride, dilation, kernel, strict=True)
    ]
    whole = np.zeros((samples, groups, channels, *room), x.dtype)
    for tap, read in _taps(kernel, results, stride, dilation):
        part = np.swapaxes(matrices[(..., *tap)], -1, -2) @ grouped
        whole[read] += part.reshape(samples, groups, channels, *results)
    inside = tuple(slice(a, a + n) for n, (a, _) in zip(extents, _sides(padding), strict=True))
    return whole.reshape(samples, groups * channels, *room)[(slice(None), slice(None), *inside)].copy()


@np.errstate(all="ignore")
def _transposed(
    x: Array, weight: Array, bias: Array | None = None, /, *, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int, output_padding: Sequence[int], activation: str | None = None,
    algorithm: str | None = None,
) -> Array:  # fmt: skip
    """Every element of x adds its multiple of the filters; ``output_padding`` are more results at the end."""
    x, weight = factors(algorithm, x, weight)
    extents = [
        (n - 1) * s - a - b + d * (r - 1) + more + 1
        for n, r, s, (a, b), d, more in zip(
            x.shape[2:], weight.shape[2:], stride, _sides(padding), dilation, output_padding, strict=True
        )
    ]
    return _finished(_scattered(x, weight, extents, stride, padding, dilation, groups), bias, None, activation)


@np.errstate(all="ignore")
def _input_grad(
    gy: Array, weight: Array, /, *, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
    groups: int, algorithm: str | None = None, **sizes: int,
) -> Array:  # fmt: skip
    """Scatter of gy to the input elements that the taps read; ``sizes`` are the input's depth, height, width."""
    gy, weight = factors(algorithm, gy, weight)
    extents = [sizes[name] for name in ("depth", "height", "width") if name in sizes]
    return _scattered(gy, weight, extents, stride, padding, dilation, groups)


@np.errstate(all="ignore")
def _weight_grad(
    x: Array, gy: Array, /, *, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int, algorithm: str | None = None,
) -> Array:  # fmt: skip
    """gweight[k, c, r] = sum over samples and results of gy[n, k, p] and the input element that the tap read."""
    x, gy = factors(algorithm, x, gy)
    samples, channels = x.shape[:2]
    filters, results = gy.shape[1], gy.shape[2:]
    source = _grouped_and_padded(x, padding, groups)
    grouped = gy.reshape(samples, groups, filters // groups, math.prod(results))
    gweight = np.zeros((groups, filters // groups, channels // groups, *kernel), x.dtype)
    for tap, read in _taps(kernel, results, stride, dilation):
        matrix = source[read].reshape(samples, groups, channels // groups, math.prod(results))
        gweight[(..., *tap)] = np.sum(grouped @ np.swapaxes(matrix, -1, -2), axis=0)
    return gweight.reshape(filters, channels // groups, *kernel)


conv1d = conv2d = conv3d = _conv
conv_transpose1d = conv_transpose2d = conv_transpose3d = _transposed
conv1d_input_grad = conv2d_input_grad = conv3d_input_grad = _input_grad
conv1d_weight_grad = conv2d_weight_grad = conv3d_weight_grad = _weight_grad
