"""References of the convolution family: one matrix product per filter tap."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .activation import apply_activation

Array = NDArray[Any]
Pair = tuple[int, int]
Padding = tuple[int, int, int, int]


def _output_extent(extent: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Positions of a window of `kernel` dilated taps in `extent` elements and `padding` more (both sides together)."""
    return (extent + padding - dilation * (kernel - 1) - 1) // stride + 1


def _tap(start: int, count: int, stride: int) -> slice:
    """Elements start, start + stride, ...: `count` of them, also when count is 0."""
    return slice(start, start + count * stride, stride)


def _grouped_and_padded(x: Array, padding: Padding, groups: int) -> Array:
    """[N C H W] as [N groups C/groups H+top+bottom W+left+right]; the border is +0, so that 0 * inf gives its NaN."""
    top, bottom, left, right = padding
    samples, channels, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    return padded.reshape(samples, groups, channels // groups, height + top + bottom, width + left + right)


@np.errstate(all="ignore")
def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    residual: Array | None = None,
    /,
    *,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    activation: str | None = None,
) -> Array:
    """act(correlation + bias[k] + residual); the correlation is the sum over c, r, s of

    x[n, c, p * stride - top + r * dilation, q * stride - left + s * dilation] * weight[k, c, r, s].
    """
    samples, _, height, width = x.shape
    filters, group_channels, kernel_height, kernel_width = weight.shape
    rows = _output_extent(height, kernel_height, stride[0], padding[0] + padding[1], dilation[0])
    columns = _output_extent(width, kernel_width, stride[1], padding[2] + padding[3], dilation[1])
    source = _grouped_and_padded(x, padding, groups)
    matrices = weight.reshape(groups, filters // groups, group_channels, kernel_height, kernel_width)
    y = np.zeros((samples, groups, filters // groups, rows * columns), x.dtype)
    for r in range(kernel_height):
        for s in range(kernel_width):
            tap = source[..., _tap(r * dilation[0], rows, stride[0]), _tap(s * dilation[1], columns, stride[1])]
            y += matrices[..., r, s] @ tap.reshape(samples, groups, group_channels, rows * columns)
    y = y.reshape(samples, filters, rows, columns)
    if bias is not None:
        y = y + bias[:, None, None]
    if residual is not None:
        y = y + residual
    return apply_activation(y, activation)


@np.errstate(all="ignore")
def conv2d_input_grad(
    gy: Array,
    weight: Array,
    /,
    *,
    height: int,
    width: int,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Array:
    """Scatter of gy[n, k, p, q] weight[k, c, r, s] to the input element that the tap read; the border is cut off."""
    samples, filters, rows, columns = gy.shape
    _, group_channels, kernel_height, kernel_width = weight.shape
    top, bottom, left, right = padding
    matrices = weight.reshape(groups, filters // groups, group_channels, kernel_height, kernel_width)
    grouped = gy.reshape(samples, groups, filters // groups, rows * columns)
    padded_extents = (height + top + bottom, width + left + right)
    padded = np.zeros((samples, groups, group_channels, *padded_extents), gy.dtype)
    for r in range(kernel_height):
        for s in range(kernel_width):
            part = np.swapaxes(matrices[..., r, s], -1, -2) @ grouped
            target = padded[..., _tap(r * dilation[0], rows, stride[0]), _tap(s * dilation[1], columns, stride[1])]
            target += part.reshape(samples, groups, group_channels, rows, columns)
    gx = padded.reshape(samples, groups * group_channels, *padded_extents)
    return gx[:, :, top : top + height, left : left + width].copy()


@np.errstate(all="ignore")
def conv2d_weight_grad(
    x: Array, gy: Array, /, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> Array:
    """gweight[k, c, r, s] = sum over n, p, q of gy[n, k, p, q] and the input element that the tap read."""
    samples, channels, _, _ = x.shape
    _, filters, rows, columns = gy.shape
    source = _grouped_and_padded(x, padding, groups)
    grouped = gy.reshape(samples, groups, filters // groups, rows * columns)
    gweight = np.zeros((groups, filters // groups, channels // groups, *kernel), x.dtype)
    for r in range(kernel[0]):
        for s in range(kernel[1]):
            tap = source[..., _tap(r * dilation[0], rows, stride[0]), _tap(s * dilation[1], columns, stride[1])]
            matrix = tap.reshape(samples, groups, channels // groups, rows * columns)
            gweight[..., r, s] = np.sum(grouped @ np.swapaxes(matrix, -1, -2), axis=0)
    return gweight.reshape(filters, channels // groups, *kernel)
