"""Multi-scale deformable attention and its gradients: sums over sampled positions of several maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contract import Arg, Attr, Bound, Case, Contract, Operand, Out, Require
from ..errors import ContractError, ContractTypeError
from ..operator import Operator
from .deform import _AXIS, _STEP, _other_axis

__all__ = ["ms_deform_attention"]

_ATTENTION_SOURCE = "Zhu et al., Deformable DETR, arXiv 2010.04159, equation 3"
_MOST_LEVELS = 8  # max_levels of csrc/ops/deform.h
_SHAPES = Attr("spatial_shapes", "ints", doc="rows and columns of one level after another")
_LEVELS = {
    "levels": "len(spatial_shapes) // 2",
    "pixels": " + ".join(
        f"(spatial_shapes[{2 * i}] * spatial_shapes[{2 * i + 1}] if levels > {i} else 0)" for i in range(_MOST_LEVELS)
    ),
}
_LEVEL_REQUIRES = (
    Require(
        f"len(spatial_shapes) % 2 == 0 and levels <= {_MOST_LEVELS}",
        f"spatial_shapes is {{spatial_shapes}}; expected rows and columns of at most {_MOST_LEVELS} levels",
        {"spatial_shapes": (4, 5, 2)},
    ),
    Require(
        "len(spatial_shapes) == 0 or min(spatial_shapes) >= 0",
        "spatial_shapes is {spatial_shapes}; expected 0 or more",
        {"spatial_shapes": (4, -5, 2, 3)},
    ),
    Require(
        "L == levels",
        "sampling_locations has {L} levels; expected {levels}, as spatial_shapes has",
        {"spatial_shapes": (4, 5)},
    ),
)
_PIXELS = Require(
    "S == pixels",
    "value has {S} pixels; expected {pixels}, those of the levels {spatial_shapes}",
    {"spatial_shapes": (4, 5, 2, 4)},
)
_LOCATIONS = Arg(
    "sampling_locations", "B Q H L P 2", domain="unit", doc="x, then y, as parts of the level's width and height"
)
_WEIGHTS = Arg("attention_weights", "B Q H L P")
_TERMS = "min(256, L * P) + (L * P + 255) // 256 + 8"


def _attention_case(
    name: str, batch: int, queries: int, heads: int, channels: int, points: int, *shapes: tuple[int, int],
    bench: bool = False,
) -> tuple[Case, ...]:  # fmt: skip
    """One attention as a case of each operator: forward, gradients of value, points, weights alone; snap."""
    flat = tuple(extent for shape in shapes for extent in shape)
    extents = {"B": batch, "Q": queries, "H": heads, "L": len(shapes), "P": points}
    pixels = {"S": sum(h * w for h, w in shapes), "D": channels}
    attributes = {"spatial_shapes": flat}
    return (
        Case(name, {**extents, **pixels}, attributes, (), bench),
        Case(name, {**extents, "E": heads * channels}, attributes, (), bench),
        Case(name, {**extents, **pixels}, attributes, (), bench),
        Case(name, {**extents, **pixels}, attributes, (), bench),
        Case(name, extents, {**attributes, "axis": queries % 2, "step": points % 2}, (), bench),
    )


_ATTENTION_CASES = (
    _attention_case("two levels", 2, 3, 2, 8, 2, (4, 5), (2, 3)),
    _attention_case("odd channels", 1, 4, 3, 21, 3, (1, 1), (6, 3), (2, 2)),
    _attention_case("many points", 1, 2, 1, 33, 90, (5, 4), (3, 7), (1, 2)),
    _attention_case("many queries for few pixels", 1, 70, 2, 4, 3, (2, 2)),
    _attention_case("a level without pixels", 1, 3, 2, 16, 2, (0, 4), (3, 3)),
    _attention_case("no queries", 2, 0, 2, 8, 2, (4, 5)),
    _attention_case("no levels", 1, 2, 2, 4, 1),
    _attention_case("Deformable DETR encoder", 1, 13294, 8, 32, 4, (100, 100), (50, 50), (25, 25), (13, 13),
                    bench=True),
)  # fmt: skip


def _attention_cases_of(operator: int) -> tuple[Case, ...]:
    return tuple(cases[operator] for cases in _ATTENTION_CASES)


MS_DEFORM_ATTENTION = Contract(
    "ms_deform_attention", "Weighted sums of values at sampled positions of several levels of feature maps.",
    inputs=(Arg("value", "B S H D", doc="the pixels of one level after another"), _LOCATIONS, _WEIGHTS),
    attributes=(_SHAPES,), lets=_LEVELS, requires=(*_LEVEL_REQUIRES, _PIXELS),
    outputs=(Out("y", "B Q H*D"),),
    free=("B", "Q"), flops="10 * B * Q * H * L * P * D", bound=Bound("ms_attention", depth=_TERMS),
    vjp={
        "value": "ms_deform_attention_value_grad(gy, sampling_locations, attention_weights, "
                 "spatial_shapes=spatial_shapes)",
        "sampling_locations attention_weights":
            "ms_deform_attention_points_grad(value, sampling_locations, attention_weights, gy, "
            "spatial_shapes=spatial_shapes)",
    },
    cases=_attention_cases_of(0), source=_ATTENTION_SOURCE,
)  # fmt: skip

MS_DEFORM_ATTENTION_VALUE_GRAD = Contract(
    "ms_deform_attention_value_grad", "The gradient of ms_deform_attention with respect to value.",
    inputs=(Arg("gy", "B Q E", doc="E = heads * channels"), _LOCATIONS, _WEIGHTS),
    attributes=(_SHAPES,), lets={**_LEVELS, "D": "E // max(1, H)"},
    requires=(
        *_LEVEL_REQUIRES,
        Require("E == H * D", "gy has {E} columns; expected a multiple of H = {H}", {"E": 17}),
    ),
    outputs=(Out("gvalue", "B pixels H D"),),
    free=("B",), flops="8 * B * Q * H * L * P * D", bound=Bound("ms_value", depth="Q * P + 8"),
    vjp={
        "gy": "ms_deform_attention(ggvalue, sampling_locations, attention_weights, spatial_shapes=spatial_shapes)",
        "sampling_locations attention_weights":
            "ms_deform_attention_points_grad(ggvalue, sampling_locations, attention_weights, gy, "
            "spatial_shapes=spatial_shapes)",
    },
    cases=_attention_cases_of(1), source=_ATTENTION_SOURCE,
)  # fmt: skip

MS_DEFORM_ATTENTION_POINTS_GRAD = Contract(
    "ms_deform_attention_points_grad",
    "The gradients of ms_deform_attention with respect to sampling_locations and attention_weights.",
    inputs=(Arg("value", "B S H D"), _LOCATIONS, _WEIGHTS, Arg("gy", "B Q H*D")),
    attributes=(_SHAPES,), lets=_LEVELS, requires=(*_LEVEL_REQUIRES, _PIXELS),
    outputs=(Out("glocations", "B Q H L P 2"), Out("gweights", "B Q H L P")),
    free=("B", "Q"), flops="24 * B * Q * H * L * P * D", bound=Bound("ms_points", depth="D"),
    composition=lambda o: _level_differences(o), cases=_attention_cases_of(2), source=_ATTENTION_SOURCE,
)  # fmt: skip

MS_DEFORM_ATTENTION_WEIGHTS_GRAD = Contract(
    "ms_deform_attention_weights_grad", "The gradient of ms_deform_attention with respect to attention_weights.",
    inputs=(Arg("value", "B S H D"), _LOCATIONS, Arg("gy", "B Q H*D")),
    attributes=(_SHAPES,), lets=_LEVELS, requires=(*_LEVEL_REQUIRES, _PIXELS),
    outputs=(Out("gweights", "B Q H L P"),),
    free=("B", "Q"), flops="16 * B * Q * H * L * P * D", bound=Bound("ms_weights", depth="D"),
    vjp={
        "value": "ms_deform_attention_value_grad(gy, sampling_locations, ggweights, spatial_shapes=spatial_shapes)",
        "sampling_locations": "ms_deform_attention_points_grad(value, sampling_locations, ggweights, gy, "
                              "spatial_shapes=spatial_shapes)[0]",
        "gy": "ms_deform_attention(value, sampling_locations, ggweights, spatial_shapes=spatial_shapes)",
    },
    cases=_attention_cases_of(3), source=_ATTENTION_SOURCE,
)  # fmt: skip

MS_DEFORM_ATTENTION_SNAP = Contract(
    "ms_deform_attention_snap", "Locations moved, along one axis, to the pixel below them or the one above.",
    inputs=(_LOCATIONS,),
    attributes=(
        _SHAPES,
        Attr("axis", "int", 0, doc="0: x; 1: y"),
        Attr("step", "int", 0, doc="0: the pixel at or below the location; 1: the next one"),
    ),
    lets=_LEVELS, requires=(*_LEVEL_REQUIRES, _AXIS, _STEP),
    outputs=(Out("y", "B Q H L P 2"),),
    free=("B", "Q"), flops="4 * B * Q * H * L * P", bound=Bound("elementwise"),
    vjp={"sampling_locations": _other_axis("(B, Q, H, L, P, 2)", "(B * Q * H * L * P, 2)", "axis")},
    cases=_attention_cases_of(4), source=_ATTENTION_SOURCE,
)  # fmt: skip


def _level_differences(o: Any) -> Any:
    """As _differences, level by level: a unit of a location is a level's extent."""

    def reached(locations: Any) -> Any:
        return o.ms_deform_attention_weights_grad(o.value, locations, o.gy, spatial_shapes=o.spatial_shapes)

    slopes = []
    for axis in range(2):
        below, above = (
            reached(
                o.ms_deform_attention_snap(o.sampling_locations, spatial_shapes=o.spatial_shapes, axis=axis, step=step)
            )
            for step in range(2)
        )
        slope = o.mul(o.sub(above, below), o.attention_weights)
        extents = o.spatial_shapes[1 - axis :: 2]
        levels = [o.mul(o.slice_of(slope, 3, i, i + 1), float(extent)) for i, extent in enumerate(extents)]
        slopes.append(o.reshape(o.concat(levels, 3) if levels else slope, (o.B, o.Q, o.H, o.L, o.P, 1)))
    return o.concat(slopes, 5), reached(o.sampling_locations)


def _flat_shapes(raw: dict[str, Any], operands: Mapping[str, Operand]) -> dict[str, Any]:
    """((rows, columns), ...) as rows, columns, rows, columns, ..."""
    shapes = raw["spatial_shapes"]
    if hasattr(shapes, "tolist"):
        shapes = shapes.tolist()
    if not isinstance(shapes, (tuple, list)):
        raise ContractTypeError(f"spatial_shapes is {shapes!r}; expected rows and columns of each level")
    flat: list[Any] = []
    for shape in shapes:
        if isinstance(shape, (tuple, list)):
            if len(shape) != 2:
                raise ContractError(f"spatial_shapes is {shapes!r}; expected two extents for each level")
            flat.extend(shape)
        else:
            flat.append(shape)
    return {**raw, "spatial_shapes": tuple(flat)}


_ms_deform_attention = Operator(MS_DEFORM_ATTENTION, _flat_shapes)
_value_grad = Operator(MS_DEFORM_ATTENTION_VALUE_GRAD, _flat_shapes)
_points_grad = Operator(MS_DEFORM_ATTENTION_POINTS_GRAD, _flat_shapes)
_weights_grad = Operator(MS_DEFORM_ATTENTION_WEIGHTS_GRAD, _flat_shapes)
_snap_locations = Operator(MS_DEFORM_ATTENTION_SNAP, _flat_shapes)


def ms_deform_attention(
    value: Any,
    spatial_shapes: Any,
    sampling_locations: Any,
    attention_weights: Any,
    *,
    out: Any = None,
) -> Any:
    """Multi-scale deformable attention: every query sums values at a few positions of every level.

    ``value`` is (B, S, H, D), the pixels of all levels behind each other, for H heads of D channels;
    ``spatial_shapes`` the (rows, columns) of each of L levels, at most 8, S their products' sum: a tuple, or an array
    of integers that is brought to the host; ``sampling_locations`` (B, Q, H, L, P, 2) the positions of P points, x
    before y, 0 and 1 being the level's outer edges; ``attention_weights`` (B, Q, H, L, P) their weights, as they are
    (no softmax is taken). All float32, float64, float16 or bfloat16. The result is (B, Q, H * D). A position (X, Y)
    reads row Y * rows - 1/2, column X * columns - 1/2 by bilinear interpolation in a map that zeros surround
    (grid_sample with align_corners=False), 0 outside, NaN at NaN.

    Gradients of any order with respect to value, sampling_locations and attention_weights, on CUDA too without
    floating-point atomics: the same bits every time.

    Raises ContractError if shapes do not agree, ContractTypeError for other dtypes.

    Source: Zhu et al., Deformable DETR, arXiv 2010.04159, equation 3. Provisional.

    >>> import numpy as np
    >>> from mmkernels.ops.deform_attention import ms_deform_attention
    >>> value = np.array([1.0, 2.0, 3.0, 4.0, 10.0]).reshape(1, 5, 1, 1)  # levels of 2 x 2 and 1 x 1
    >>> middle = np.full((1, 1, 1, 2, 1, 2), 0.5)
    >>> ms_deform_attention(value, ((2, 2), (1, 1)), middle, np.ones((1, 1, 1, 2, 1)))
    array([[[12.5]]])
    """
    shapes = spatial_shapes.tolist() if hasattr(spatial_shapes, "tolist") else spatial_shapes
    if isinstance(shapes, (tuple, list)):  # hashable: a plan is found by it
        shapes = tuple(tuple(shape) if isinstance(shape, list) else shape for shape in shapes)
    return _ms_deform_attention.call(value, sampling_locations, attention_weights, shapes, out)
