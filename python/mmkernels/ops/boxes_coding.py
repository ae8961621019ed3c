"""Boxes as detectors write them: offsets from anchors, distances from cells, the numbers of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arrays import library_of
from ..contract import Arg, Attr, Bound, Case, Contract, Out, Require
from ..errors import ContractTypeError
from ..operator import Operator
from ..windows import listed
from .boxes import _SIZE, _SIZE_REQUIRED, _boxes, _row_cases

__all__ = ["box_decode", "box_encode", "distance_decode", "yolo_grid_decode"]

_WEIGHTS = Attr("weights", "floats", (1.0, 1.0, 1.0, 1.0), length=4, doc="factors of the four numbers")
_LOG_CLIP = Attr("log_clip", "float", 4.135166556742356, doc="the largest logarithm of a ratio; log(1000 / 16)")
_WEIGHTS_REQUIRED = Require(
    "0 not in weights and "
    + " and ".join(f"abs(weights[{i}]) < 1e30" for i in range(4)),  # as NaN is in no order, max() could miss it
    "weights is {weights}; expected finite numbers other than 0",
    {"weights": (1.0, 0.0, 1.0, 1.0)},
)
_LOG_CLIP_REQUIRED = Require(
    "log_clip == log_clip", "log_clip is {log_clip}; expected a number", {"log_clip": float("nan")}
)
BOX_ENCODE = Contract(
    "box_encode", "Boxes as offsets from anchors, as detectors learn them.",
    inputs=(_boxes("boxes", broadcast=True), _boxes("anchors", broadcast=True)),
    attributes=(_WEIGHTS,), requires=(_WEIGHTS_REQUIRED,),
    outputs=(Out("deltas", "*S 4"),),
    free=("S",), flops="prod(S) * 50", bound=Bound("box_encode"), derivatives=0,
    cases=_row_cases(200000, {"weights": (10.0, 10.0, 5.0, 5.0)}, {}),
    source="Girshick et al., arXiv 1311.2524, equations 6 to 9",
)  # fmt: skip
_DECODE = "weights=weights, log_clip=log_clip"


def _decode_grad_unfused(o: Any) -> Any:
    """The chain rule in other operators; a ratio of sides is the decoded box's over the anchor's."""

    def column(x: Any, i: int) -> Any:
        return o.slice_of(x, len(x.shape) - 1, i, i + 1)

    decoded = o.box_decode(o.deltas, o.anchors, weights=o.weights, log_clip=o.log_clip)
    gdeltas, ganchors = [None] * 4, [None] * 4
    for axis in (0, 1):
        low, high, weight, growth_weight = axis, axis + 2, o.weights[axis], o.weights[axis + 2]
        anchor, side = (o.sub(column(x, high), column(x, low)) for x in (o.anchors, decoded))
        of_centre = o.add(column(o.gboxes, low), column(o.gboxes, high))
        of_side = o.mul(o.sub(column(o.gboxes, high), column(o.gboxes, low)), 0.5)
        growth = o.div(column(o.deltas, high), growth_weight)
        ratio = growth.data if library_of(growth) == "tape" else growth  # conditions have no gradient
        of_log = o.where(o.greater(ratio, o.log_clip), 0.0, o.mul(of_side, side))
        gdeltas[low], gdeltas[high] = o.div(o.mul(of_centre, anchor), weight), o.div(of_log, growth_weight)
        shift = o.div(column(o.deltas, low), weight)
        of_anchor, half = o.add(o.mul(of_centre, shift), o.mul(of_side, o.div(side, anchor))), o.mul(of_centre, 0.5)
        ganchors[low], ganchors[high] = o.sub(half, of_anchor), o.add(half, of_anchor)
    return o.concat(gdeltas, len(o.S)), o.concat(ganchors, len(o.S))


BOX_DECODE = Contract(
    "box_decode", "Boxes from their offsets from anchors.",
    inputs=(Arg("deltas", "*S 4", broadcast=("S",)), _boxes("anchors", broadcast=True)),
    attributes=(_WEIGHTS, _LOG_CLIP), requires=(_WEIGHTS_REQUIRED, _LOG_CLIP_REQUIRED),
    outputs=(Out("boxes", "*S 4"),),
    free=("S",), flops="prod(S) * 50", bound=Bound("box_decode"),
    vjp={"deltas anchors": f"box_decode_grad(gboxes, deltas, anchors, {_DECODE})"},
    cases=(
        *_row_cases(200000, {"weights": (10.0, 10.0, 5.0, 5.0)}, {"log_clip": 0.5}),
        Case("shared anchors", {"S": (3, 6), "anchors": (6, 4)}),
    ),
    source="Girshick et al., arXiv 1311.2524, equations 1 to 4; the clip as in torchvision's BoxCoder",
)  # fmt: skip
BOX_DECODE_GRAD = Contract(
    "box_decode_grad", "The gradients of offsets and anchors.",
    inputs=(
        Arg("gboxes", "*S 4"), Arg("deltas", "*S 4", broadcast=("S",)), _boxes("anchors", broadcast=True),
    ),
    attributes=(_WEIGHTS, _LOG_CLIP), requires=(_WEIGHTS_REQUIRED, _LOG_CLIP_REQUIRED),
    outputs=(Out("gdeltas", "*S 4"), Out("ganchors", "*S 4")),
    free=("S",), flops="prod(S) * 60", bound=Bound("box_decode_grad"),
    composition=_decode_grad_unfused,
    cases=(
        *_row_cases(200000, {"weights": (10.0, 10.0, 5.0, 5.0)}, {"log_clip": 0.5}),
        Case("shared anchors", {"S": (3, 6), "anchors": (6, 4)}),
    ),
)  # fmt: skip


DISTANCE_DECODE = Contract(
    "distance_decode", "Boxes from the distances of their sides from the centres of cells.",
    inputs=(Arg("distances", "*S 4", doc="left, up, right, down"), _boxes("cells", broadcast=True)),
    outputs=(Out("boxes", "*S 4"),),
    free=("S",), flops="prod(S) * 16", bound=Bound("distance_decode"),
    vjp={"distances": "distance_decode_grad(gboxes, cells)"},
    cases=(*_row_cases(200000, {}), Case("shared cells", {"S": (3, 6), "cells": (6, 4)})),
    source="Tian et al., arXiv 1904.01355",
)  # fmt: skip
DISTANCE_DECODE_GRAD = Contract(
    "distance_decode_grad", "The gradient of the distances.",
    inputs=(Arg("gboxes", "*S 4"), _boxes("cells", broadcast=True)),
    outputs=(Out("gdistances", "*S 4"),),
    free=("S",), flops="prod(S) * 8", bound=Bound("elementwise"),
    vjp={"gboxes": "distance_decode_grad(ggdistances, cells)"},  # a factor for each number: its own transpose
    cases=(*_row_cases(200000, {}), Case("shared cells", {"S": (3, 6), "cells": (6, 4)})),
)  # fmt: skip
YOLO_GRID_DECODE = Contract(
    "yolo_grid_decode", "Boxes and class scores from the numbers of a grid's cells.",
    inputs=(Arg("x", "N R Q D", domain="unit", doc="B times (x, y, two roots of sides, confidence), then classes"),),
    attributes=(Attr("B", "int", doc="boxes of a cell"), *_SIZE),
    lets={"C": "D - 5 * B"},
    requires=(
        Require("B >= 1 and 5 * B <= D", "B is {B}; expected 1 or more, 5 numbers each of D = {D}", {"B": 0}),
        _SIZE_REQUIRED,
    ),
    outputs=(Out("boxes", "N R*Q*B 4", doc="x1, y1, x2, y2"), Out("scores", "N R*Q*B C")),
    free=("N",), flops="N * R * Q * B * (16 + C)", bound=Bound("yolo_grid_decode"), derivatives=0,
    cases=(
        Case("two boxes", {"N": 2, "R": 3, "Q": 5, "D": 17}, {"B": 2, "height": 448.0, "width": 300.0}),
        Case("no classes", {"N": 1, "R": 2, "Q": 2, "D": 5}, {"B": 1, "height": 1.0, "width": 1.0}),
        Case("no samples", {"N": 0, "R": 2, "Q": 2, "D": 11}, {"B": 2, "height": 1.0, "width": 1.0}),
        Case("no cells", {"N": 1, "R": 0, "Q": 2, "D": 7}, {"B": 1, "height": 1.0, "width": 1.0}),
        Case("VOC", {"N": 64, "R": 7, "Q": 7, "D": 30}, {"B": 2, "height": 448.0, "width": 448.0}, bench=True),
    ),
    source="Redmon et al., arXiv 1506.02640, section 2",
)  # fmt: skip

_box_encode, _box_decode, _box_decode_grad = map(Operator, (BOX_ENCODE, BOX_DECODE, BOX_DECODE_GRAD))
_distance_decode, _distance_decode_grad, _yolo_grid_decode = map(
    Operator, (DISTANCE_DECODE, DISTANCE_DECODE_GRAD, YOLO_GRID_DECODE)
)


def _plain_weights(name: str, weights: Any) -> tuple[Any, ...]:
    weights = listed(weights)
    if not isinstance(weights, Sequence) or len(weights) != 4:
        raise ContractTypeError(f"{name}: weights is {weights!r}; expected four numbers")
    return tuple(weights)


def box_encode(boxes: Any, anchors: Any, *, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0), out: Any = None) -> Any:
    """Corners (..., 4) as offsets from anchors (..., 4), which broadcast: what a detector is trained to give.

    (wx (centre - anchor's centre) / anchor's side, ww log(side / anchor's side)) for x and y; ``weights`` are wx, wy,
    ww, wh (10, 10, 5, 5 in Faster R-CNN's second stage).

    Raises ContractError for other extents or a weight of 0, ContractTypeError for other dtypes. It has no gradient:
    targets need none. Stable.

    Source: Girshick et al., arXiv 1311.2524, equations 6 to 9.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.box_encode(np.array([2.0, 2.0, 6.0, 6.0]), np.array([0.0, 0.0, 4.0, 4.0]))
    array([0.5, 0.5, 0. , 0. ])
    """
    return _box_encode.call(boxes, anchors, _plain_weights("box_encode", weights), out)


def box_decode(
    deltas: Any,
    anchors: Any,
    *,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    log_clip: float = 4.135166556742356,
    out: Any = None,
) -> Any:
    """The corners (..., 4) that offsets (..., 4) from anchors (..., 4) stand for: the inverse of box_encode.

    Logarithms of ratios are taken as at most ``log_clip``, log(1000 / 16). Offsets and anchors broadcast.

    Raises ContractError for other extents or a weight of 0, ContractTypeError for other dtypes. Gradients of
    any order, by offsets and anchors. Stable.

    Source: Girshick et al., arXiv 1311.2524, equations 1 to 4.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.box_decode(np.array([0.5, 0.5, 0.0, 0.0]), np.array([0.0, 0.0, 4.0, 4.0]))
    array([2., 2., 6., 6.])
    """
    return _box_decode.call(deltas, anchors, _plain_weights("box_decode", weights), log_clip, out)


def distance_decode(distances: Any, cells: Any, *, out: Any = None) -> Any:
    """The corners (..., 4) of boxes whose sides lie at distances (left, up, right, down; ..., 4), counted in a cell's
    sides, from the centres of cells (..., 4): an anchor-free head. ``grid_cells`` makes cells, which broadcast.

    Raises ContractError for other extents, ContractTypeError for other dtypes. Gradients of any order,
    by the distances. Stable.

    Source: Tian et al., "FCOS", arXiv 1904.01355.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.distance_decode(np.array([[1.0, 0.5, 1.0, 0.5]]), mmk.grid_cells((1, 1), 8, dtype="float64"))
    array([[-4.,  0., 12.,  8.]])
    """
    return _distance_decode.call(distances, cells, out)


def yolo_grid_decode(
    x: Any, num_boxes: int, size: Sequence[float] = (1.0, 1.0), *, out: tuple[Any, Any] | None = None
) -> tuple[Any, Any]:
    """Boxes and class scores from a grid's cells: x (N, R, Q, 5 num_boxes + C) to (N, R Q num_boxes, 4) and (..., C).

    A cell holds num_boxes times (x, y, sqrt(w), sqrt(h), confidence), then C class probabilities: x and y between the
    cell's borders, w and h in the picture. Boxes are corners in a picture of ``size`` (height, width); scores are
    confidence times probability. ``out`` is a tuple of two arrays.

    Raises ContractError for other extents, ContractTypeError for other dtypes. It has no gradient. Provisional.

    Source: Redmon et al., "You Only Look Once", arXiv 1506.02640, section 2.

    >>> import numpy as np, mmkernels as mmk
    >>> boxes, scores = mmk.yolo_grid_decode(np.array([[[[0.5, 0.5, 0.5, 1.0, 0.5, 0.25, 1.0]]]]), 1, (8, 8))
    >>> boxes.tolist(), scores.tolist()
    ([[[3.0, 0.0, 5.0, 8.0]]], [[[0.125, 0.5]]])
    """
    if not isinstance(size, Sequence) or len(size) != 2:
        raise ContractTypeError(f"yolo_grid_decode: size is {size!r}; expected (height, width)")
    boxes, scores = _yolo_grid_decode.call(x, num_boxes, size[0], size[1], out)
    return boxes, scores
