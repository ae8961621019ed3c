"""Boxes as callers have them: joined over images, in the type that coordinates are computed in; levels of a pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import arrays
from ..contract import FLOATS, WIDE, number
from ..errors import ContractError, ContractTypeError
from ..windows import listed

__all__ = ["level_sides", "pyramid", "regions"]


def _dtype_name(x: Any) -> str:
    return str(x.dtype).removeprefix("torch.")


def _in_type_of(x: Any, boxes: Any) -> Any:
    """Boxes of 16 bits as float32 beside a map of 16 bits: coordinates are computed in float32."""
    if not (hasattr(x, "dtype") and hasattr(boxes, "dtype")) or {_dtype_name(x), _dtype_name(boxes)} - set(WIDE):
        return boxes
    return boxes.float() if arrays.library_of(boxes) == "torch" else boxes.astype(np.float32)


def regions(name: str, x: Any, boxes: Any, numbers: int = 5) -> Any:
    """Boxes (R, numbers) with their batch index; arrays (L, numbers - 1), one per image, are joined to one.

    >>> regions("roi_align", np.zeros((2, 1, 4, 4)), [np.array([[0.0, 0.0, 2.0, 2.0]]), np.zeros((0, 4))])
    array([[0., 0., 0., 2., 2.]])
    """
    if not isinstance(boxes, (list, tuple)):
        return _in_type_of(x, boxes)
    if not arrays.library_of(x) or not hasattr(x, "dtype"):
        raise ContractTypeError(f"{name}: x is a {type(x).__name__}; expected an array")
    parts = []
    for i, part in enumerate(boxes):
        if not arrays.library_of(part) or len(part.shape) != 2 or part.shape[1] != numbers - 1:
            found = tuple(part.shape) if arrays.library_of(part) else f"a {type(part).__name__}"
            raise ContractError(f"{name}: boxes[{i}] is {found}; expected an array of (L, {numbers - 1})")
        if _dtype_name(part) not in FLOATS:
            raise ContractTypeError(f"{name}: boxes[{i}].dtype is {_dtype_name(part)}; expected {_dtype_name(x)}")
        wide = _in_type_of(x, part)
        index = arrays.reshape(arrays.scalar_like(float(i), wide.dtype, wide), (1, 1))
        parts.append(arrays.concat([arrays.broadcast_to(index, (wide.shape[0], 1)), wide], 1))
    if parts:
        return arrays.concat(parts, 0)
    dtype = _dtype_name(x)
    return arrays.from_numpy(np.zeros((0, numbers), WIDE.get(dtype, dtype)), x)


def pyramid(name: str, xs: Any, spatial_scales: Any) -> tuple[list[Any], tuple[float, ...]]:
    """The maps and their scales, each as numbers of their own."""
    spatial_scales = listed(spatial_scales)
    for text, value in (("xs", xs), ("spatial_scales", spatial_scales)):
        if not isinstance(value, (tuple, list)):
            raise ContractTypeError(f"{name}: {text} is a {type(value).__name__}; expected one for each level")
    return list(xs), tuple(number("float", s, f"{name}: spatial_scales is {spatial_scales!r}") for s in spatial_scales)


def level_sides(
    name: str, spatial_scales: Sequence[float], canonical_scale: float, canonical_level: float
) -> tuple[float, ...]:
    """The sides, sqrt(area), from which boxes belong to the second, the third, ... level of a pyramid.

    Level k = floor(canonical_level + log2(side / canonical_scale) + 1e-6) holds the sides from
    canonical_scale 2^(k - canonical_level - 1e-6) on; the first level is -log2(spatial_scales[0]).

    >>> [round(s) for s in level_sides("multi_scale_roi_align", (1 / 4, 1 / 8, 1 / 16, 1 / 32), 224, 4)]
    [112, 224, 448]
    """
    canonical_level = number("float", canonical_level, f"{name}: canonical_level is {canonical_level!r}")
    canonical_scale = number("float", canonical_scale, f"{name}: canonical_scale is {canonical_scale!r}")
    if not 0 < canonical_scale < 1e30:
        raise ContractError(f"{name}: canonical_scale is {canonical_scale}; expected a number above 0")
    if not abs(canonical_level) < 100 or canonical_level != math.floor(canonical_level):
        raise ContractError(f"{name}: canonical_level is {canonical_level}; expected a whole number below 100")
    levels: list[int] = []
    for scale in spatial_scales:
        fraction, exponent = math.frexp(scale)
        if fraction != 0.5 or (levels and 1 - exponent != levels[-1] + 1):
            raise ContractError(
                f"{name}: spatial_scales is {tuple(spatial_scales)}; "
                "expected powers of two, each half of the one before"
            )
        levels.append(1 - exponent)
    slack = float.fromhex("0x1.ffffe8bde9c24p-1")  # 2^-1e-6
    sides = []
    for level in levels[1:]:
        sides.append(math.ldexp(canonical_scale, level - int(canonical_level)) * slack)
    return tuple(sides)
