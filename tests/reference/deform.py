"""References of the deform family: every sample by the definition, corner by corner."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .activation import apply_activation

Array = NDArray[Any]
Pair = tuple[int, int]
Padding = tuple[int, int, int, int]


# ---- bilinear samples -----------------------------------------------------------------------------------------------


def hat(distance: Array) -> Array:
    """The bilinear kernel of one axis: 1 - |distance|, at least 0; NaN stays."""
    return np.where(np.abs(distance) < 1, 1 - np.abs(distance), np.where(np.isnan(distance), np.nan, 0))


def corners(at: Array, extent: int) -> list[Array]:
    """The element at or below each position and the one above, as integers; positions that are far off or NaN are
    brought to a place outside."""
    low = np.floor(np.clip(np.nan_to_num(at, nan=-9, posinf=extent + 9, neginf=-9), -9, extent + 9)).astype(np.int64)
    return [low, low + 1]


def is_inside(y: Array, x: Array, height: int, width: int) -> Array:
    return (y > -1) & (y < height) & (x > -1) & (x < width)


def element(plane: Array, h: Array, w: Array) -> Array:
    """plane[..., h, w], zero where there is no such element; h and w have plane's leading extents, or 1s."""
    height, width = plane.shape[-2:]
    exists = (h >= 0) & (h < height) & (w >= 0) & (w < width)
    leading = plane.shape[:-2]
    index = np.where(exists, h * width + w, 0)
    index = np.broadcast_to(index, leading + index.shape[len(leading) :])
    if index.size == 0 or height * width == 0:
        return np.zeros(index.shape, plane.dtype)
    flat = plane.reshape(*leading, height * width)
    found = np.take_along_axis(flat, index.reshape(*leading, -1), -1).reshape(index.shape)
    return np.where(exists, found, np.zeros((), plane.dtype))


def sample(plane: Array, y: Array, x: Array) -> Array:
    """The bilinear value of each plane [..., H, W] at positions [..., *] of the same leading extents (or 1s)."""
    height, width = plane.shape[-2:]
    total, inside = np.zeros((), plane.dtype), is_inside(y, x, height, width)
    for h in corners(y, height):
        for w in corners(x, width):
            total = total + np.where(inside, hat(y - h) * hat(x - w) * element(plane, h, w), 0)
    return np.where(np.isnan(y) | np.isnan(x), np.array(np.nan, plane.dtype), total)


def slopes(plane: Array, y: Array, x: Array) -> tuple[Array, Array]:
    """What a sample gains along y and along x: zero outside, that of the cell above at whole numbers."""
    height, width = plane.shape[-2:]
    inside = is_inside(y, x, height, width)
    results = []
    for along_y in (True, False):
        total = np.zeros((), plane.dtype)
        for a, h in enumerate(corners(y, height)):
            for b, w in enumerate(corners(x, width)):
                sign = (1 if a else -1) if along_y else (1 if b else -1)
                across = hat(x - w) if along_y else hat(y - h)
                total = total + np.where(inside, sign * across * element(plane, h, w), 0)
        results.append(np.where(np.isnan(y) | np.isnan(x), np.array(np.nan, plane.dtype), total))
    return results[0], results[1]


# ---- deformable convolution -----------------------------------------------------------------------------------------


def positions(offset: Array, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> tuple[Array, Array]:
    """Rows and columns that the taps read: [N, offset group, tap, P, Q]."""
    R, S = kernel
    N, channels, P, Q = offset.shape
    moved = offset.reshape(N, channels // (2 * R * S), R, S, 2, P, Q)
    y = (np.arange(P) * stride[0] - padding[0])[:, None] + (np.arange(R) * dilation[0])[:, None, None, None]
    x = (np.arange(Q) * stride[1] - padding[2]) + (np.arange(S) * dilation[1])[:, None, None]
    shape = (N, channels // (2 * R * S), R * S, P, Q)
    return (
        (y.astype(offset.dtype) + moved[:, :, :, :, 0]).reshape(shape),
        (x.astype(offset.dtype) + moved[:, :, :, :, 1]).reshape(shape),
    )


def sampled(x: Array, y_at: Array, x_at: Array, mask: Array | None) -> Array:
    """mask * sample: [N, C, tap, P, Q]."""
    N, C, H, W = x.shape
    sets = y_at.shape[1]
    planes = x.reshape(N, sets, C // sets, H, W)
    found = sample(planes, y_at[:, :, None], x_at[:, :, None])
    if mask is not None:
        found = found * mask.reshape(N, sets, 1, *y_at.shape[2:])
    return found.reshape(N, C, *y_at.shape[2:])


def pulled_back(gy: Array, weight: Array, groups: int) -> Array:
    """The gradient of every sample before the mask: sum over k of gy and weight: [N, C, tap, P, Q]."""
    N, K, P, Q = gy.shape
    _, D, R, S = weight.shape
    matrices = weight.reshape(groups, K // groups, D * R * S)
    z = np.swapaxes(matrices, 1, 2) @ gy.reshape(N, groups, K // groups, P * Q)
    return z.reshape(N, groups * D, R * S, P, Q)


@np.errstate(all="ignore")
def deform_conv2d(
    x: Array, offset: Array, weight: Array, bias: Array | None = None, mask: Array | None = None, /, *,
    stride: Pair, padding: Padding, dilation: Pair, activation: str | None = None,
) -> Array:  # fmt: skip
    """Equation 1 of arXiv 1811.11168: act(bias + sum over taps of weight * x(position + offset) * mask)."""
    K, D, R, S = weight.shape
    N, C = x.shape[:2]
    groups = C // D
    columns = sampled(x, *positions(offset, (R, S), stride, padding, dilation), mask)
    P, Q = columns.shape[3:]
    y = weight.reshape(groups, K // groups, D * R * S) @ columns.reshape(N, groups, D * R * S, P * Q)
    y = y.reshape(N, K, P, Q)
    if bias is not None:
        y = y + bias[:, None, None]
    return apply_activation(y, activation)


@np.errstate(all="ignore")
def deform_conv2d_input_grad(
    gy: Array, offset: Array, weight: Array, mask: Array | None = None, /, *,
    height: int, width: int, groups: int, stride: Pair, padding: Padding, dilation: Pair, hats: bool = True,
) -> Array:  # fmt: skip
    """Scatter of gy * weight * mask to the corners of every sample that is inside, by its bilinear weights (all 1
    without ``hats``)."""
    R, S = weight.shape[2:]
    y_at, x_at = positions(offset, (R, S), stride, padding, dilation)
    N, sets = y_at.shape[:2]
    z = pulled_back(gy, weight, groups)
    z = z.reshape(N, sets, z.shape[1] // sets, *z.shape[2:])
    channels = z.shape[2]
    gx = np.zeros((N, sets, channels, height, width), gy.dtype)
    inside = is_inside(y_at, x_at, height, width)
    for h in corners(y_at, height):
        for w in corners(x_at, width):
            weights = (hat(y_at - h) * hat(x_at - w) if hats else np.ones_like(y_at)) * (
                1 if mask is None else mask.reshape(y_at.shape)
            )
            exists = inside & (h >= 0) & (h < height) & (w >= 0) & (w < width)
            for at in np.argwhere(exists):
                n, g, *rest = at
                t = tuple(at)
                gx[n, g, :, h[t], w[t]] += weights[t] * z[(n, g, slice(None), *rest)]
    return gx.reshape(N, sets * channels, height, width)


@np.errstate(all="ignore")
def deform_conv2d_offset_grad(
    x: Array, offset: Array, weight: Array, gy: Array, mask: Array | None = None, /, *,
    stride: Pair, padding: Padding, dilation: Pair,
) -> Any:  # fmt: skip
    """Every sample's slope along y and x, and the sample itself for the mask, times what reaches it."""
    _, D, R, S = weight.shape
    N, C, H, W = x.shape
    y_at, x_at = positions(offset, (R, S), stride, padding, dilation)
    sets, taps = y_at.shape[1:3]
    z = pulled_back(gy, weight, C // D).reshape(N, sets, C // sets, *y_at.shape[2:])
    planes = x.reshape(N, sets, C // sets, H, W)
    along = slopes(planes, y_at[:, :, None], x_at[:, :, None])
    moved = np.stack([np.sum(z * slope, axis=2) for slope in along], axis=3)  # N, set, tap, 2, P, Q
    if mask is not None:
        moved = moved * mask.reshape(N, sets, taps, 1, *y_at.shape[3:])
    goffset = moved.reshape(offset.shape)
    if mask is None:
        return goffset
    return goffset, np.sum(z * sample(planes, y_at[:, :, None], x_at[:, :, None]), axis=2).reshape(mask.shape)


@np.errstate(all="ignore")
def deform_conv2d_weight_grad(
    x: Array, offset: Array, gy: Array, mask: Array | None = None, /, *,
    kernel: Pair, groups: int, stride: Pair, padding: Padding, dilation: Pair,
) -> Array:  # fmt: skip
    N, C = x.shape[:2]
    K, P, Q = gy.shape[1:]
    columns = sampled(x, *positions(offset, kernel, stride, padding, dilation), mask)
    columns = columns.reshape(N, groups, C // groups * kernel[0] * kernel[1], P * Q)
    gweight = np.sum(gy.reshape(N, groups, K // groups, P * Q) @ np.swapaxes(columns, 2, 3), axis=0)
    return gweight.reshape(K, C // groups, *kernel).astype(x.dtype)


@np.errstate(all="ignore")
def deform_conv2d_mask_grad(
    x: Array, offset: Array, weight: Array, gy: Array, /, *, stride: Pair, padding: Padding, dilation: Pair
) -> Array:
    _, D, R, S = weight.shape
    N, C, H, W = x.shape
    y_at, x_at = positions(offset, (R, S), stride, padding, dilation)
    sets, taps, P, Q = y_at.shape[1:]
    z = pulled_back(gy, weight, C // D).reshape(N, sets, C // sets, taps, P, Q)
    found = sample(x.reshape(N, sets, C // sets, H, W), y_at[:, :, None], x_at[:, :, None])
    return np.sum(z * found, axis=2).reshape(N, sets * taps, P, Q)


@np.errstate(all="ignore")
def deform_conv2d_snap(
    offset: Array, /, *, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, axis: int, step: int
) -> Array:
    """Offsets for which the position along the axis is the whole number at or below it, or the next one."""
    still = positions(np.zeros_like(offset), kernel, stride, padding, dilation)[axis]
    moved = positions(offset, kernel, stride, padding, dilation)[axis]
    N, sets, taps, P, Q = still.shape
    y = offset.reshape(N, sets, taps, 2, P, Q).copy()
    y[:, :, :, axis] = np.floor(moved) + step - still
    return y.reshape(offset.shape)


# ---- multi-scale deformable attention -------------------------------------------------------------------------------


def level_places(locations: Array, spatial_shapes: Any) -> list[tuple[int, int, int, Array, Array]]:
    """Of every level: first pixel, rows, columns, and the positions [B, H, Q, P] in units of its pixels."""
    flat = np.asarray(spatial_shapes, np.int64).reshape(-1, 2)
    result, start = [], 0
    for level, (rows, columns) in enumerate(flat.tolist()):
        at = np.moveaxis(locations[:, :, :, level], 2, 1)
        half = np.array(0.5, locations.dtype)
        result.append((start, rows, columns, at[..., 1] * rows - half, at[..., 0] * columns - half))
        start += rows * columns
    return result


def level_map(value: Array, start: int, rows: int, columns: int) -> Array:
    """A level as [B, H, D, rows, columns]."""
    part = value[:, start : start + rows * columns]
    return np.moveaxis(part, 1, 3).reshape(value.shape[0], *value.shape[2:], rows, columns)


@np.errstate(all="ignore")
def ms_deform_attention(value: Array, locations: Array, weights: Array, /, *, spatial_shapes: Any) -> Array:
    """Equation 3 of arXiv 2010.04159: sum over levels and points of weight * value(position)."""
    B, _, H, D = value.shape
    Q = locations.shape[1]
    y = np.zeros((B, H, D, Q), value.dtype)
    for level, (start, rows, columns, at_y, at_x) in enumerate(level_places(locations, spatial_shapes)):
        found = sample(level_map(value, start, rows, columns), at_y[:, :, None], at_x[:, :, None])
        y = y + np.sum(found * np.moveaxis(weights[:, :, :, level], 2, 1)[:, :, None], axis=-1)
    return np.moveaxis(y, 3, 1).reshape(B, Q, H * D)


@np.errstate(all="ignore")
def ms_deform_attention_value_grad(
    gy: Array, locations: Array, weights: Array, /, *, spatial_shapes: Any, hats: bool = True
) -> Array:
    B, Q, H = locations.shape[:3]
    places = level_places(locations, spatial_shapes)
    D = gy.shape[2] // max(H, 1)
    gvalue = np.zeros((B, sum(rows * columns for _, rows, columns, *_ in places), H, D), gy.dtype)
    g = gy.reshape(B, Q, H, D)
    for level, (start, rows, columns, at_y, at_x) in enumerate(places):
        inside = is_inside(at_y, at_x, rows, columns)
        for h in corners(at_y, rows):
            for w in corners(at_x, columns):
                share = (hat(at_y - h) * hat(at_x - w) if hats else np.ones_like(at_y)) * np.moveaxis(
                    weights[:, :, :, level], 2, 1
                )
                for b, head, q, p in np.argwhere(inside & (h >= 0) & (h < rows) & (w >= 0) & (w < columns)):
                    pixel = start + h[b, head, q, p] * columns + w[b, head, q, p]
                    gvalue[b, pixel, head] += share[b, head, q, p] * g[b, q, head]
    return gvalue


@np.errstate(all="ignore")
def ms_deform_attention_points_grad(
    value: Array, locations: Array, weights: Array, gy: Array, /, *, spatial_shapes: Any
) -> tuple[Array, Array]:
    B, _, H, D = value.shape
    Q = locations.shape[1]
    g = np.moveaxis(gy.reshape(B, Q, H, D), 1, 3)[..., None]  # B, H, D, Q, 1
    glocations, gweights = np.zeros(locations.shape, value.dtype), np.zeros(weights.shape, value.dtype)
    for level, (start, rows, columns, at_y, at_x) in enumerate(level_places(locations, spatial_shapes)):
        plane = level_map(value, start, rows, columns)
        along = slopes(plane, at_y[:, :, None], at_x[:, :, None])
        for axis, (slope, extent) in enumerate(zip(along[::-1], (columns, rows), strict=True)):
            reached = np.moveaxis(np.sum(g * slope, axis=2), 1, 2)
            glocations[:, :, :, level, :, axis] = weights[:, :, :, level] * reached * extent
        found = sample(plane, at_y[:, :, None], at_x[:, :, None])
        gweights[:, :, :, level] = np.moveaxis(np.sum(g * found, axis=2), 1, 2)
    return glocations, gweights


@np.errstate(all="ignore")
def ms_deform_attention_weights_grad(value: Array, locations: Array, gy: Array, /, *, spatial_shapes: Any) -> Array:
    ones = np.ones(locations.shape[:-1], value.dtype)
    return ms_deform_attention_points_grad(value, locations, ones, gy, spatial_shapes=spatial_shapes)[1]


@np.errstate(all="ignore")
def ms_deform_attention_snap(locations: Array, /, *, spatial_shapes: Any, axis: int, step: int) -> Array:
    """Locations whose pixel along the axis is the one at or below, or the next; 0 at levels without any."""
    y = locations.copy()
    for level, (rows, columns) in enumerate(np.asarray(spatial_shapes, np.int64).reshape(-1, 2).tolist()):
        extent = columns if axis == 0 else rows
        at = locations[:, :, :, level, :, axis]
        half = np.array(0.5, locations.dtype)
        y[:, :, :, level, :, axis] = (np.floor(at * extent - half) + (step + half)) / extent if extent else 0
    return y
