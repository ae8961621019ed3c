"""The boxes that detectors start from: tables made on the host, by + - * / and sqrt alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import from_numpy, library_of, shape_of
from .contract import FLOATS, number
from .errors import ContractError, ContractTypeError
from .windows import listed

__all__ = ["anchor_boxes", "grid_cells"]


def grid_cells(
    feature_size: Sequence[int],
    stride: int | Sequence[int],
    *,
    dtype: str = "float32",
    like: Any = None,
    out: Any = None,
) -> Any:
    """The cells (H W, 4) of a feature map of (H, W) elements, row by row, as corners in the picture.

    ``stride`` is the picture's (height, width) for an element, or one number for both. A NumPy array, one of the
    library that ``like`` is of, or ``out``. Stable.

    >>> import mmkernels as mmk
    >>> mmk.grid_cells((1, 2), 8).tolist()
    [[0.0, 0.0, 8.0, 8.0], [8.0, 0.0, 16.0, 8.0]]
    """
    (height, width), (down, right) = _extents("grid_cells", feature_size, stride)
    dtype = _dtype("grid_cells", dtype, like, out, height * width)
    y, x = (g.reshape(-1) for g in np.mgrid[:height, :width])
    cells = np.stack([x * right, y * down, (x + 1) * right, (y + 1) * down], 1).astype(dtype)
    return _given(cells, like, out)


def anchor_boxes(
    feature_size: Sequence[int],
    stride: int | Sequence[int],
    sizes: Sequence[float],
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    *,
    offset: float = 0.0,
    rounded: bool = True,
    dtype: str = "float32",
    like: Any = None,
    out: Any = None,
) -> Any:
    """Anchors (H W A, 4) of a feature map of (H, W) elements: A = len(aspect_ratios) len(sizes) boxes at each, as
    corners in the picture, elements row by row, ratios slower than sizes.

    An anchor of size s and ratio r = height / width is s / sqrt(r) wide and s sqrt(r) high; its corners about the
    centre are rounded to integers, unless ``rounded`` is False. Element (i, j)'s centre is ((j + offset) stride,
    (i + offset) stride): 0 as in torchvision's AnchorGenerator, 0.5 for the middle of what the element sees. ``like``
    and ``out`` are as in grid_cells.

    Raises ContractError for a negative extent, a size or ratio not above 0. Stable.

    Source: Ren et al., "Faster R-CNN", arXiv 1506.01497, section 3.1.1.

    >>> import mmkernels as mmk
    >>> mmk.anchor_boxes((1, 2), 16, (32,), (1.0,)).tolist()
    [[-16.0, -16.0, 16.0, 16.0], [0.0, -16.0, 32.0, 16.0]]
    """
    (height, width), (down, right) = _extents("anchor_boxes", feature_size, stride)
    counts = [len(plain) if isinstance(plain := listed(v), (list, tuple)) else 1 for v in (sizes, aspect_ratios)]
    dtype = _dtype("anchor_boxes", dtype, like, out, height * width * counts[0] * counts[1])
    offset = number("float", offset, f"anchor_boxes: offset is {offset!r}")
    rounded = number("bool", rounded, f"anchor_boxes: rounded is {rounded!r}")
    scale, ratio = (
        _positive(name, values, dtype) for name, values in (("sizes", sizes), ("aspect_ratios", aspect_ratios))
    )
    high = np.sqrt(ratio)
    sides = [(side[:, None] * scale).reshape(-1) for side in (1 / high, high)]
    around = np.stack([-sides[0], -sides[1], sides[0], sides[1]], 1) / 2
    around = np.rint(around) if rounded else around
    y, x = (g.reshape(-1) for g in np.mgrid[:height, :width])
    centres = np.stack([(x + offset) * right, (y + offset) * down] * 2, 1).astype(dtype)
    return _given((centres[:, None] + around).reshape(-1, 4), like, out)


def _given(table: NDArray[Any], like: Any, out: Any) -> Any:
    """A host table where its caller wants it."""
    if out is None:
        return from_numpy(table, like)
    out[...] = from_numpy(table, out)
    return out


def _dtype(name: str, dtype: Any, like: Any, out: Any, boxes: int) -> str:
    if not isinstance(dtype, str) or dtype not in FLOATS[:3]:
        raise ContractTypeError(f"{name}: dtype is {dtype!r}; expected one of {', '.join(FLOATS[:3])}")
    if like is not None and not library_of(like):
        raise ContractTypeError(f"{name}: like is a {type(like).__name__}; expected an array")
    if out is None:
        return dtype
    if not library_of(out):
        raise ContractTypeError(f"{name}: out is a {type(out).__name__}; expected an array")
    if library_of(out) == "tape":
        raise ContractTypeError(f"{name}: out is a Variable; expected an array")
    if shape_of(out) != (boxes, 4):
        raise ContractError(f"{name}: out.shape is {shape_of(out)}; expected {(boxes, 4)}")
    if str(out.dtype).removeprefix("torch.") != dtype:
        raise ContractTypeError(f"{name}: out.dtype is {out.dtype}; expected {dtype}")
    if library_of(out) == "numpy" and not out.flags.writeable:
        raise ContractError(f"{name}: out is read-only; expected a writeable array")
    return dtype


def _positive(name: str, values: Any, dtype: str) -> Any:
    where = f"anchor_boxes: {name} is {values!r}"
    plain = listed(values)
    row = [number("float", v, where) for v in (plain if isinstance(plain, (list, tuple)) else [plain])]
    if not all(0 < v < math.inf for v in row):
        raise ContractError(f"{where}; expected numbers above 0")
    return np.array(row, dtype)


def _extents(name: str, size: Sequence[int], stride: int | Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    size, stride = listed(size), listed(stride)
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise ContractTypeError(f"{name}: feature_size is {size!r}; expected (height, width)")
    height, width = (number("int", n, f"{name}: feature_size is {size!r}") for n in size)
    if min(height, width) < 0 or max(height, 1) * max(width, 1) >= 2**48:
        raise ContractError(f"{name}: feature_size is {size!r}; expected extents of at least 0, less than 2^48 cells")
    strides = stride if isinstance(stride, (tuple, list)) else (stride, stride)
    if len(strides) != 2:
        raise ContractTypeError(f"{name}: stride is {stride!r}; expected one number, or (height, width)")
    down, right = (number("int", n, f"{name}: stride is {stride!r}") for n in strides)
    if min(down, right) < 1 or max(down, right) >= 2**31:
        raise ContractError(f"{name}: stride is {stride!r}; expected numbers from 1 to 2147483647")
    return (height, width), (down, right)
