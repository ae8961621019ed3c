"""References of the resampling family."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _nearest(size: int, scale: float, extent: int, mode: str) -> NDArray[np.int64]:
    """Source index of each output index: floor(index * scale) in float32, at most the last."""
    if mode != "nearest":
        raise ValueError(f"interpolate: mode is {mode!r}")
    product = np.arange(size).astype(np.float32) * np.float32(scale)
    indices: NDArray[np.int64] = np.minimum(np.floor(product).astype(np.int64), extent - 1)
    return indices


def _linear(size: int, scale: float, extent: int, align_corners: bool, dtype: Any) -> tuple[Array, Array]:
    """For each output index the source on its left, and the share of the one on its right, in this dtype."""
    number = np.dtype(dtype).type
    index = np.arange(size).astype(dtype)
    position = index * number(scale)
    if not align_corners:
        position = np.maximum((index + number(0.5)) * number(scale) - number(0.5), number(0))
    left = np.minimum(np.floor(position), max(extent - 1, 0)).astype(np.int64)
    share = np.clip(position - left.astype(dtype), number(0), number(1))
    return left, np.where(left < extent - 1, share, np.zeros_like(share))


@np.errstate(all="ignore")
def _along(x: Array, axis: int, left: Array, share: Array) -> Array:
    """x[left] * (1 - share) + x[left + 1] * share; a share of 0 takes no part."""
    first = np.take(x, left, axis)
    second = np.take(x, np.minimum(left + 1, max(x.shape[axis] - 1, 0)), axis)
    share = share.reshape(-1, *(1,) * (x.ndim - 1 - axis))
    return np.where(share == 0, first, first * (1 - share) + second * share)


def interpolate(
    x: Array, /, *, size: tuple[int, int], scale: tuple[float, float], mode: str, align_corners: bool = False
) -> Array:
    """scale is the source step of one output pixel. nearest: y[n, c, p, q] = x[n, c, nearest(p), nearest(q)]; bilinear:
    along the columns, then along the rows."""
    height, width = x.shape[2:]
    if mode == "bilinear":
        if 0 in (*x.shape, *size):
            return np.zeros((*x.shape[:2], *size), x.dtype)
        columns = _along(x, 3, *_linear(size[1], scale[1], width, align_corners, x.dtype))
        return _along(columns, 2, *_linear(size[0], scale[0], height, align_corners, x.dtype))
    rows, columns = _nearest(size[0], scale[0], height, mode), _nearest(size[1], scale[1], width, mode)
    return x[:, :, rows[:, None], columns]


@np.errstate(all="ignore")
def interpolate_grad(
    gy: Array, /, *, height: int, width: int, scale: tuple[float, float], mode: str, align_corners: bool = False
) -> Array:
    """gx[n, c, h, w] = sum of gy over the output pixels that read (h, w), in row-major order; bilinear: of gy times the
    pixels' shares."""
    if mode == "bilinear":
        gx = np.zeros((*gy.shape[:2], height, width), gy.dtype)
        rows = _linear(gy.shape[2], scale[0], height, align_corners, gy.dtype)
        columns = _linear(gy.shape[3], scale[1], width, align_corners, gy.dtype)
        for p, (h, mu) in enumerate(zip(*rows, strict=True)):
            for q, (w, share) in enumerate(zip(*columns, strict=True)):
                for to_h, a in ((h, 1 - mu), (h + 1, mu)):
                    for to_w, b in ((w, 1 - share), (w + 1, share)):
                        if a != 0 and b != 0:
                            gx[:, :, to_h, to_w] += gy[:, :, p, q] * (a * b)
        return gx
    rows = _nearest(gy.shape[2], scale[0], height, mode)
    columns = _nearest(gy.shape[3], scale[1], width, mode)
    gx = np.zeros((*gy.shape[:2], height, width), gy.dtype)
    for p, h in enumerate(rows):
        for q, w in enumerate(columns):
            gx[:, :, h, w] += gy[:, :, p, q]
    return gx
