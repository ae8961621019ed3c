"""Regions of interest on the maps of a pyramid: RoI align of each on the map of its level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..contract import Arg, Attr, Bound, Case, Contract, Out, Require
from ..errors import ContractError
from ..operator import Operator
from . import roi_terms as terms
from .roi import _roi_align
from .roi_boxes import level_sides, pyramid, regions

__all__ = ["multi_scale_roi_align"]

_LEVELS = 5
_SCALES = Attr("spatial_scales", "floats", doc="of each map")
_SIDES = Attr("sides", "floats", doc="sqrt(area) of a box from which it belongs to the second, the third, ... map")
_LEVELS_REQUIRED = (
    Require("min(output_size) >= 1", "output_size is {output_size}; expected numbers of at least 1",
            {"output_size": (2, 0)}),
    Require("levels == 2 + has_x2 + has_x3 + has_x4 and has_x2 >= has_x3 and has_x3 >= has_x4",
            "spatial_scales is {spatial_scales}; expected one number for each map", {"spatial_scales": (1.0,)}),
)  # fmt: skip
_SCALES_POSITIVE = (
    Require("0 < min(spatial_scales) and max(spatial_scales) < 1e30",
            "spatial_scales is {spatial_scales}; expected numbers above 0", {"spatial_scales": (0.5, -1.0)}),
    Require("len(sides) == levels - 1", "sides is {sides}; expected a number for each map but the first",
            {"sides": (1.0, 2.0)}),
)  # fmt: skip
_SHAPES_GIVEN = Require(
    "2 <= levels and levels <= 5 and len(heights) == levels and len(widths) == levels",
    "heights is {heights}, widths is {widths}; expected one number for each of spatial_scales = {spatial_scales}, "
    "of which there are 2 to 5",
    {"heights": (4,)},
)
_Levels = tuple[str, dict[str, int], tuple[tuple[int, int], ...], tuple[int, int], dict[str, Any]]
_LEVEL_CASES: tuple[_Levels, ...] = (
    ("two levels", {"N": 2, "C": 19, "R": 9}, ((13, 17), (6, 9)), (3, 2),
     {"spatial_scales": (0.5, 0.25), "sides": (22.0,), "sampling_ratio": 2, "aligned": True}),
    ("three levels", {"N": 1, "C": 16, "R": 12}, ((24, 20), (12, 10), (6, 5)), (2, 2),
     {"spatial_scales": (1.0, 0.5, 0.25), "sides": (8.0, 14.0)}),
    ("five levels", {"N": 2, "C": 3, "R": 20}, ((16, 24), (8, 12), (4, 6), (2, 3), (1, 2)), (7, 7),
     {"spatial_scales": (0.25, 0.125, 0.0625, 0.03125, 0.015625), "sides": (20.0, 30.0, 45.0, 60.0),
      "sampling_ratio": 1}),
    ("no boxes", {"N": 2, "C": 3, "R": 0}, ((4, 4), (2, 2)), (2, 2), {"spatial_scales": (1.0, 0.5), "sides": (5.0,)}),
    ("an empty level", {"N": 1, "C": 2, "R": 6}, ((7, 5), (0, 3)), (2, 1),
     {"spatial_scales": (1.0, 0.5), "sides": (4.0,), "aligned": True}),
)  # fmt: skip
_PYRAMID: _Levels = (
    "FPN", {"N": 1, "C": 256, "R": 1000}, ((200, 272), (100, 136), (50, 68), (25, 34)), (7, 7),
    {"spatial_scales": (0.25, 0.125, 0.0625, 0.03125), "sides": (112.0, 224.0, 448.0), "sampling_ratio": 2},
)  # fmt: skip


def _levels_forward(case: _Levels, bench: bool = False) -> Case:
    name, extents, planes, bins, attributes = case
    shapes = {f"{axis}{k}": plane[i] for k, plane in enumerate(planes) for i, axis in enumerate("HW")}
    optional = tuple(f"x{k}" for k in range(2, len(planes)))
    return Case(name, {**extents, **shapes}, {"output_size": bins, **attributes}, optional, bench)


def _levels_backward(case: _Levels, bench: bool = False) -> Case:
    name, extents, planes, (p, q), attributes = case
    shapes = {"images": extents["N"], "heights": tuple(h for h, _ in planes), "widths": tuple(w for _, w in planes)}
    rest = {"C": extents["C"], "R": extents["R"], "P": p, "Q": q}
    return Case(name, rest, {**shapes, **attributes}, bench=bench)


_LEVEL = "spatial_scales=spatial_scales, sides=sides, sampling_ratio=sampling_ratio, aligned=aligned"
_GIVEN = ", ".join(f"*([{{0}}{k}] if levels > {k} else [])" for k in range(_LEVELS))
_DEPTH = "8 * sampling_ratio if sampling_ratio > 0 else 2 * ({0})"
MULTI_SCALE_ROI_ALIGN = Contract(
    "multi_scale_roi_align", "RoI align of each region on the map of its level.",
    inputs=(
        Arg("x0", "N C H0 W0"), Arg("x1", "N C H1 W1"),
        *(Arg(f"x{k}", f"N C H{k} W{k}", optional=True) for k in range(2, _LEVELS)),
        terms.region_boxes("N", "H0", "W0", "spatial_scales[0]"),
    ),
    attributes=(terms.SIZE, _SCALES, _SIDES, terms.RATIO, terms.ALIGNED),
    lets={"P": "output_size[0]", "Q": "output_size[1]", "levels": "len(spatial_scales)"},
    requires=(*_LEVELS_REQUIRED, *_SCALES_POSITIVE, terms.RATIO_BOUNDED),
    outputs=(Out("y", "R C P Q"),),
    free=("C", "R"), layout="x0", flops=f"R * C * P * Q * 8 * {terms.SAMPLES}",
    bound=Bound("region_means", depth=f"({_DEPTH.format('H0 + W0 + H1 + W1')}) + 8"),
    vjp={
        "x0 x1 x2 x3 x4": f"(*multi_scale_roi_align_grad(gy, boxes, images=N, heights=({_GIVEN.format('H')},), "
        f"widths=({_GIVEN.format('W')},), {_LEVEL}), None, None, None)[:5]",
        "boxes": "None",
    },
    cases=(*map(_levels_forward, _LEVEL_CASES), _levels_forward(_PYRAMID, bench=True)),
    source="Lin et al., arXiv 1612.03144, 4.2, eq. 1; rules as in torchvision.ops.MultiScaleRoIAlign",
)  # fmt: skip
MULTI_SCALE_ROI_ALIGN_GRAD = Contract(
    "multi_scale_roi_align_grad", "The gradients of bins, dealt out to the map of their region's level.",
    inputs=(Arg("gy", "R C P Q"), terms.region_boxes("images", "heights[0]", "widths[0]", "spatial_scales[0]")),
    attributes=(
        terms.IMAGES, Attr("heights", "ints"), Attr("widths", "ints"), _SCALES, _SIDES, terms.RATIO, terms.ALIGNED,
    ),
    lets={"levels": "len(spatial_scales)"},
    requires=(
        _SHAPES_GIVEN, *_SCALES_POSITIVE, terms.RATIO_BOUNDED,
        Require("min(images, min(heights), min(widths)) >= 0",
                "images is {images}, heights is {heights}, widths is {widths}; expected at least 0", {"images": -1}),
    ),
    outputs=tuple(
        Out(f"gx{k}", f"images C heights[{k}] widths[{k}]", when=f"levels > {k}") for k in range(_LEVELS)
    ),
    free=("C",), layout="gy", flops=f"R * C * P * Q * 8 * {terms.SAMPLES}",
    bound=Bound("region_shares", depth=f"R * P * (Q + 1) + ({_DEPTH.format('heights[0] + widths[0]')}) + 8"),
    vjp={
        "gy": f"multi_scale_roi_align(*([{_GIVEN.format('ggx')}] + [None] * 5)[:5], boxes, output_size=(P, Q), "
        f"{_LEVEL})",
        "boxes": "None",
    },
    cases=(*map(_levels_backward, _LEVEL_CASES), _levels_backward(_PYRAMID, bench=True)),
)  # fmt: skip

_multi_scale_roi_align = Operator(MULTI_SCALE_ROI_ALIGN, terms.plain_sizes)
Operator(MULTI_SCALE_ROI_ALIGN_GRAD)


def multi_scale_roi_align(
    xs: Sequence[Any],
    boxes: Any,
    output_size: int | Sequence[int],
    spatial_scales: Sequence[float],
    sampling_ratio: int = 2,
    *,
    canonical_scale: float = 224,
    canonical_level: int = 4,
    aligned: bool = False,
    out: Any = None,
) -> Any:
    """roi_align of each region on the map of its level: 1 to 5 maps (N, C, H, W) and boxes (R, 5) to (R, C, P, Q).

    Maps are ordered from fine to coarse; ``spatial_scales`` are powers of two, each half of the one before. A box of
    area a belongs to level floor(canonical_level + log2(sqrt(a) / canonical_scale) + 1e-6), or the nearest that there
    is; the map of scale 2^-k is level k. One operator writes each region once, and its gradient reaches every map. The
    rest is as in roi_align.

    Raises ContractError for other scales or numbers of maps, and as roi_align does. Provisional.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", arXiv 1612.03144, equation 1; the rules are
    those of torchvision.ops.MultiScaleRoIAlign.

    >>> import numpy as np
    >>> from mmkernels.ops.roi_levels import multi_scale_roi_align
    >>> maps = [np.full((1, 1, 64 >> k, 64 >> k), float(k)) for k in range(2)]
    >>> boxes = np.array([[0.0, 0.0, 0.0, 60.0, 60.0], [0.0, 0.0, 0.0, 250.0, 250.0]])
    >>> multi_scale_roi_align(maps, boxes, 1, [1 / 8, 1 / 16]).ravel()
    array([0., 1.])
    """
    name = "multi_scale_roi_align"
    maps, scales = pyramid(name, xs, spatial_scales)
    if not 1 <= len(maps) <= _LEVELS or len(scales) != len(maps):
        raise ContractError(f"{name}: {len(maps)} maps and {len(scales)} scales; expected 1 to {_LEVELS} of each")
    found = regions(name, maps[0], boxes)
    sides = level_sides(name, scales, canonical_scale, canonical_level)
    if len(maps) == 1:
        return _roi_align.call(maps[0], found, output_size, scales[0], sampling_ratio, aligned, out)
    maps += [None] * (_LEVELS - len(maps))
    return _multi_scale_roi_align.call(*maps, found, output_size, scales, sides, sampling_ratio, aligned, out)
