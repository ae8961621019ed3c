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


def interpolate(x: Array, /, *, size: tuple[int, int], scale: tuple[float, float], mode: str) -> Array:
    """y[n, c, p, q] = x[n, c, nearest(p), nearest(q)]; scale is the source step of one output pixel."""
    height, width = x.shape[2:]
    rows, columns = _nearest(size[0], scale[0], height, mode), _nearest(size[1], scale[1], width, mode)
    return x[:, :, rows[:, None], columns]


@np.errstate(all="ignore")
def interpolate_grad(gy: Array, /, *, height: int, width: int, scale: tuple[float, float], mode: str) -> Array:
    """gx[n, c, h, w] = sum of gy over the output pixels that read (h, w), in row-major order."""
    rows = _nearest(gy.shape[2], scale[0], height, mode)
    columns = _nearest(gy.shape[3], scale[1], width, mode)
    gx = np.zeros((*gy.shape[:2], height, width), gy.dtype)
    for p, h in enumerate(rows):
        for q, w in enumerate(columns):
            gx[:, :, h, w] += gy[:, :, p, q]
    return gx
