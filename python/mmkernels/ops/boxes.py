"""Boxes: how much they overlap, and their forms, areas and places in a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from ..arrays import library_of, off_tape, reshape, shape_of
from ..contract import Arg, Attr, Bound, Case, Contract, Out, Require
from ..errors import ContractError, ContractTypeError
from ..operator import Operator

__all__ = ["box_area", "box_convert", "box_iou", "clip_boxes", "paired_box_iou"]

_KINDS, _FORMATS = ("iou", "giou", "diou", "ciou"), ("xyxy", "xywh", "cxcywh")
_KIND = Attr("kind", "choice", "iou", choices=_KINDS)
_EPS = Attr("eps", "float", 0.0, doc="added to every denominator")
_EPS_REQUIRED = Require("0 <= eps and eps < 1e30", "eps is {eps}; expected a finite number, at least 0", {"eps": -1.0})
_CORNERS = "x1, y1, x2, y2"


def _boxes(name: str, doc: str = _CORNERS, broadcast: bool = False) -> Arg:
    return Arg(name, "*S 4", domain="boxes", broadcast=("S",) if broadcast else (), doc=doc)


_PAIR_CASES: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("pairs", {"S": (7, 37), "boxes1": (7, 1, 4), "boxes2": (1, 37, 4)}, {}),
    ("row by row", {"S": (19,)}, {"kind": "giou", "eps": 1e-7}),
    ("lines of lines", {"S": (2, 3, 5), "boxes1": (2, 1, 5, 4), "boxes2": (3, 1, 4)}, {"kind": "diou"}),
    ("shapes", {"S": (6, 35), "boxes1": (6, 1, 4), "boxes2": (1, 35, 4)}, {"kind": "ciou", "eps": 1e-7}),
    ("one pair", {"S": ()}, {"kind": "ciou"}),
    ("no boxes", {"S": (3, 0), "boxes1": (3, 1, 4), "boxes2": (1, 0, 4)}, {"kind": "giou"}),
    ("one of no size", {"S": (0,)}, {}),
)
BOX_IOU = Contract(
    "box_iou", "Intersection over union of two boxes, or a kind of it that tells how far apart they are.",
    inputs=(_boxes("boxes1", broadcast=True), _boxes("boxes2", broadcast=True)),
    attributes=(_KIND, _EPS), requires=(_EPS_REQUIRED,),
    outputs=(Out("y", "*S"),),
    free=("S",), flops="prod(S) * 17", bound=Bound("box_iou"),
    vjp={"boxes1 boxes2": "box_iou_grad(gy, boxes1, boxes2, kind=kind, eps=eps)"},
    cases=(
        *(Case(name, e, a) for name, e, a in _PAIR_CASES),
        Case("proposals", {"S": (1000, 1000), "boxes1": (1000, 1, 4), "boxes2": (1, 1000, 4)}, bench=True),
        Case("loss", {"S": (100000,)}, {"kind": "ciou", "eps": 1e-7}, bench=True),
    ),
    source="Rezatofighi et al., arXiv 1902.09630; Zheng et al., arXiv 1911.08287",
)  # fmt: skip


class _Pair:
    """Two boxes' columns (*S 1) in other operators, as csrc/core/box_iou.h has them on lanes: [axis] of each."""

    def __init__(self, o: Any, ones: Any) -> None:
        self.o, self.ones = o, ones
        self.low, self.high = (
            [[o.slice_of(b, len(b.shape) - 1, at + i, at + i + 1) for i in (0, 1)] for b in (o.boxes1, o.boxes2)]
            for at in (0, 2)
        )
        (low_a, low_b), (high_a, high_b) = self.low, self.high
        self.raw = [
            [o.sub(h, low) for h, low in zip(*ends, strict=True)] for ends in zip(self.high, self.low, strict=True)
        ]
        self.side = [list(map(self.held, sides)) for sides in self.raw]
        pairs = list(zip(low_a, low_b, high_a, high_b, strict=True))
        self.raw_common = [o.sub(self.larger(hb, ha, False), self.larger(la, lb)) for la, lb, ha, hb in pairs]
        self.raw_hull = [o.sub(self.larger(hb, ha), self.larger(la, lb, False)) for la, lb, ha, hb in pairs]
        self.common, self.hull = list(map(self.held, self.raw_common)), list(map(self.held, self.raw_hull))
        self.offset = [o.mul(o.add(o.sub(la, lb), o.sub(ha, hb)), 0.5) for la, lb, ha, hb in pairs]

    def greater(self, x: Any, y: Any) -> Any:
        return self.o.greater(off_tape(x), off_tape(y))  # conditions have no gradient

    def larger(self, x: Any, y: Any, larger: bool = True) -> Any:
        return self.o.where(self.greater(x, y), *((x, y) if larger else (y, x)))

    def held(self, x: Any) -> Any:
        return self.not_negative(x, x)

    def not_negative(self, raw: Any, x: Any) -> Any:
        return self.o.where(self.greater(0.0, raw), 0.0, x)

    def share(self, x: Any, y: Any) -> Any:
        """1 where x is greater, 0 where y is, else a half."""
        o = self.o
        return o.where(self.greater(x, y), self.ones, o.where(self.greater(y, x), 0.0, o.mul(self.ones, 0.5)))

    def squares(self, x: Sequence[Any]) -> Any:
        return self.o.add(*(self.o.mul(e, e) for e in x))

    def angle(self, sides: Sequence[Any]) -> tuple[Any, Any, Any]:
        """Of a box's sides (of one without any: of the unit square, whose derivatives are left out), and its own."""
        o = self.o
        some = self.greater(self.squares(sides), 0.0)
        width, height = (o.where(some, e, self.ones) for e in sides)
        square = self.squares((width, height))
        slopes = [o.where(some, o.div(e, square), 0.0) for e in (height, o.mul(width, -1.0))]
        angle = o.where(some, o.box_angle(width, height), 0.0)
        return angle, *slopes


def _iou_grad_unfused(o: Any) -> Any:
    """csrc/core/box_iou.h's box_overlap_grad in other operators."""
    g = o.reshape(o.gy, (*o.S, 1))
    ones = o.add(o.zeros_like(g), 1.0)
    p = _Pair(o, ones)
    inside = o.mul(*p.common)
    union = o.sub(o.add(o.mul(*p.side[0]), o.mul(*p.side[1])), inside)
    united = o.add(union, o.eps)
    iou, of_iou, of_hull, of_offset = o.div(inside, united), g, [None, None], [None, None]
    turned: list[list[Any]] = [[None, None], [None, None]]
    if o.kind == "ciou":
        angles = [p.angle(sides) for sides in p.side]
        turn = o.sub(angles[0][0], angles[1][0])
        v = o.mul(o.mul(turn, turn), 4 / math.pi**2)
        apart = p.greater(v, 0.0)
        rest = o.where(apart, o.add(o.add(o.sub(1.0, iou), v), o.eps), ones)
        weight = o.where(apart, o.div(v, rest), 0.0)
        of_iou = o.mul(g, o.sub(1.0, o.mul(weight, weight)))
        of_turn = o.mul(o.mul(o.mul(g, o.mul(weight, o.sub(2.0, weight))), turn), -8 / math.pi**2)
        turned = [[o.mul(o.mul(of_turn, slope), sign) for slope in slopes[1:]]
                  for slopes, sign in zip(angles, (1.0, -1.0), strict=True)]  # fmt: skip
    of_common, of_area = o.div(o.mul(of_iou, o.add(iou, 1.0)), united), o.div(o.mul(of_iou, iou), o.mul(united, -1.0))
    if o.kind == "giou":
        hull = o.add(o.mul(*p.hull), o.eps)
        of_union = o.div(g, hull)
        of_common, of_area = o.sub(of_common, of_union), o.add(of_area, of_union)
        of_hull = [o.mul(o.mul(of_union, o.div(united, hull)), o.mul(e, -1.0)) for e in p.hull[::-1]]
    if o.kind in ("diou", "ciou"):
        diagonal = o.add(p.squares(p.hull), o.eps)
        each = o.div(g, diagonal)
        apart_by = o.mul(each, o.div(p.squares(p.offset), diagonal))
        of_hull = [o.mul(apart_by, o.mul(e, 2.0)) for e in p.hull]
        of_offset = [o.mul(o.mul(each, e), -1.0) for e in p.offset]
    found: list[list[Any]] = [[None] * 4, [None] * 4]
    for axis in (0, 1):
        common = p.not_negative(p.raw_common[axis], o.mul(of_common, p.common[1 - axis]))
        hull = None if of_hull[axis] is None else p.not_negative(p.raw_hull[axis], of_hull[axis])
        for k in (0, 1):
            low, high, other_low, other_high = (x[axis] for x in (p.low[k], p.high[k], p.low[1 - k], p.high[1 - k]))
            of_side = o.mul(of_area, p.side[k][1 - axis])
            if turned[k][axis] is not None:
                of_side = o.add(of_side, turned[k][axis])
            of_side = p.not_negative(p.raw[k][axis], of_side)
            of_low = o.mul(o.add(o.mul(common, p.share(low, other_low)), of_side), -1.0)
            of_high = o.add(o.mul(common, p.share(other_high, high)), of_side)
            if hull is not None:
                of_low = o.sub(of_low, o.mul(hull, p.share(other_low, low)))
                of_high = o.add(of_high, o.mul(hull, p.share(high, other_high)))
            if of_offset[axis] is not None:
                shift = of_offset[axis] if k == 0 else o.mul(of_offset[axis], -1.0)
                of_low, of_high = o.add(of_low, shift), o.add(of_high, shift)
            found[k][axis], found[k][axis + 2] = of_low, of_high
    return tuple(o.concat(columns, len(o.S)) for columns in found)


BOX_ANGLE = Contract(
    "box_angle", "arctan(width / height), for sides of 0 or more; 0 for an empty box.",
    inputs=(Arg("width", "*S", domain="positive"), Arg("height", "*S", domain="positive")),
    outputs=(Out("y", "*S"),),
    free=("S",), flops="prod(S) * 30", bound=Bound("elementwise", ulp=8),
    vjp={
        "width": "mul(gy, div(height, add(mul(width, width), mul(height, height))))",
        "height": "mul(mul(gy, -1.0), div(width, add(mul(width, width), mul(height, height))))",
    },
    cases=(Case("few", {"S": (5, 11)}), Case("one", {"S": ()}), Case("none", {"S": (0, 2)})),
)  # fmt: skip
BOX_IOU_GRAD = Contract(
    "box_iou_grad", "The gradients of both boxes of each pair.",
    inputs=(Arg("gy", "*S"), _boxes("boxes1", broadcast=True), _boxes("boxes2", broadcast=True)),
    attributes=(_KIND, _EPS), requires=(_EPS_REQUIRED,),
    outputs=(Out("g1", "*S 4"), Out("g2", "*S 4")),
    free=("S",), flops="prod(S) * 60", bound=Bound("box_iou_grad"),
    composition=_iou_grad_unfused,
    cases=(
        *(Case(name, e, a) for name, e, a in _PAIR_CASES),
        Case("loss", {"S": (100000,)}, {"kind": "ciou", "eps": 1e-7}, bench=True),
    ),
)  # fmt: skip

_SIZE = (Attr("height", "float", doc="of the picture"), Attr("width", "float", doc="of the picture"))
_SIZE_REQUIRED = Require(
    "height >= 0 and width >= 0",
    "the picture is {height} by {width}; expected sides of at least 0",
    {"height": -1.0},
)
_ROW_CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("few", {"S": (5,)}),
    ("ragged", {"S": (3, 11)}),
    ("one box", {"S": ()}),
    ("no boxes", {"S": (0, 2)}),
)


def _row_cases(many: int, *attributes: dict[str, Any]) -> tuple[Case, ...]:
    """The small cases, with the attributes in turn, and one of `many` boxes to measure."""
    small = (Case(name, extents, attributes[i % len(attributes)]) for i, (name, extents) in enumerate(_ROW_CASES))
    return (*small, Case("many", {"S": (many,)}, attributes[0], bench=True))


BOX_CONVERT = Contract(
    "box_convert", "Corners, a corner and sides, or centre and sides into each other.",
    inputs=(_boxes("x", "in the source's form"),),
    attributes=(
        Attr("source", "choice", choices=_FORMATS), Attr("target", "choice", choices=_FORMATS),
        Attr("transposed", "bool", False, doc="the transposed map, which gradients need"),
    ),
    outputs=(Out("y", "*S 4"),),
    free=("S",), flops="prod(S) * 8", bound=Bound("elementwise"),
    vjp={"x": "box_convert(gy, source=source, target=target, transposed=not transposed)"},
    cases=(
        *_row_cases(
            200000, {"source": "cxcywh", "target": "xyxy"}, {"source": "xyxy", "target": "xywh", "transposed": True}
        ),
        *(
            Case(f"{a} to {b}", {"S": (3,)}, {"source": a, "target": b})
            for a in _FORMATS for b in _FORMATS if (a, b) != ("cxcywh", "xyxy")
        ),
    ),
)  # fmt: skip
CLIP_BOXES = Contract(
    "clip_boxes", "Boxes cut off at the borders of a picture.",
    inputs=(_boxes("x"),), attributes=_SIZE, requires=(_SIZE_REQUIRED,),
    outputs=(Out("y", "*S 4"),),
    free=("S",), bound=Bound("exact"), vjp={"x": "clip_boxes_grad(gy, x, height=height, width=width)"},
    cases=_row_cases(200000, {"height": 300.0, "width": 500.0}),
)  # fmt: skip
CLIP_BOXES_GRAD = Contract(
    "clip_boxes_grad", "The gradient where nothing was cut off.",
    inputs=(Arg("gy", "*S 4"), _boxes("x")), attributes=_SIZE, requires=(_SIZE_REQUIRED,),
    outputs=(Out("gx", "*S 4"),),
    free=("S",), bound=Bound("exact"),
    vjp={"gy": "clip_boxes_grad(ggx, x, height=height, width=width)", "x": "None"},
    cases=_row_cases(200000, {"height": 300.0, "width": 500.0}),
)  # fmt: skip
BOX_AREA = Contract(
    "box_area", "Width times height.",
    inputs=(_boxes("x"),),
    outputs=(Out("y", "*S"),),
    free=("S",), flops="prod(S) * 3", bound=Bound("elementwise", ulp=1.5),
    composition=lambda o: o.reshape(
        o.mul(
            o.sub(o.slice_of(o.x, len(o.S), 2, 3), o.slice_of(o.x, len(o.S), 0, 1)),
            o.sub(o.slice_of(o.x, len(o.S), 3, 4), o.slice_of(o.x, len(o.S), 1, 2)),
        ),
        o.S,
    ),
    cases=_row_cases(200000, {}),
)  # fmt: skip

_box_angle, _box_iou, _box_iou_grad, _box_convert, _clip_boxes, _clip_boxes_grad, _box_area = map(
    Operator, (BOX_ANGLE, BOX_IOU, BOX_IOU_GRAD, BOX_CONVERT, CLIP_BOXES, CLIP_BOXES_GRAD, BOX_AREA)
)

Kind = Literal["iou", "giou", "diou", "ciou"]
Form = Literal["xyxy", "xywh", "cxcywh"]


def box_iou(boxes1: Any, boxes2: Any, *, kind: Kind = "iou", eps: float = 0.0, out: Any = None) -> Any:
    """Intersection over union of each box of one list with each of another: (N, 4) and (M, 4) to (N, M).

    Boxes are corners x1, y1, x2, y2 of one float dtype. ``kind`` "giou" subtracts the share of the smallest box around
    both that is in neither, "diou" the squared distance of the centres over that box's squared diagonal, "ciou" a
    measure of how the sides' ratios differ as well. ``eps`` is added to every denominator; without it two empty boxes
    give NaN. A side below 0 counts as 0.

    Raises ContractError for other extents or an eps that is negative or infinite, ContractTypeError for other dtypes.
    Gradients of any order; where two ends are equal each has half, and CIoU's weight is differentiated too. Stable.

    Source: Rezatofighi et al., "Generalized Intersection over Union", arXiv 1902.09630; Zheng et al., "Distance-IoU
    Loss", arXiv 1911.08287.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.box_iou(np.array([[0.0, 0, 2, 2]]), np.array([[0.0, 0, 2, 1], [2, 2, 3, 3]]))
    array([[0.5, 0. ]])
    """
    if library_of(boxes1) and library_of(boxes2):
        first, second = shape_of(boxes1), shape_of(boxes2)
        for name, shape in (("boxes1", first), ("boxes2", second)):
            if len(shape) != 2:
                raise ContractError(f"box_iou: {name} has {len(shape)} extents {shape}; expected 2: N 4")
        boxes1, boxes2 = reshape(boxes1, (first[0], 1, first[1])), reshape(boxes2, (1, *second))
    return _box_iou.call(boxes1, boxes2, kind, eps, out)


def paired_box_iou(boxes1: Any, boxes2: Any, *, kind: Kind = "iou", eps: float = 1e-7, out: Any = None) -> Any:
    """Intersection over union of boxes that belong together: (*S, 4) and (*S, 4) to S, which broadcast.

    What losses are made of: 1 - paired_box_iou(prediction, truth, kind="giou") is the GIoU loss of each box. See
    box_iou for kinds, errors, gradients and sources. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.paired_box_iou(np.array([[0.0, 0, 2, 2]]), np.array([[0.0, 0, 2, 1]]), eps=0.0)
    array([0.5])
    """
    return _box_iou.call(boxes1, boxes2, kind, eps, out)


def box_convert(boxes: Any, in_fmt: Form, out_fmt: Form, *, out: Any = None) -> Any:
    """Boxes (..., 4) in another form: "xyxy" corners, "xywh" the low corner and sides, "cxcywh" centre and sides.

    Raises ContractError for another form or last extent, ContractTypeError for other dtypes. Gradients of any order.
    Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.box_convert(np.array([5.0, 5.0, 4.0, 2.0]), "cxcywh", "xyxy")
    array([3., 4., 7., 6.])
    """
    return _box_convert.call(boxes, in_fmt, out_fmt, False, out)


def clip_boxes(boxes: Any, size: Sequence[float], *, out: Any = None) -> Any:
    """Corners (..., 4) moved into a picture of ``size`` (height, width): x to [0, width], y to [0, height]; NaN stays.

    Raises ContractError for another last extent or a negative side, ContractTypeError for other dtypes. Gradients of
    any order, 0 where a corner was moved. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.clip_boxes(np.array([-1.0, 2.0, 5.0, 9.0]), (8, 4))
    array([0., 2., 4., 8.])
    """
    if not isinstance(size, Sequence) or len(size) != 2:
        raise ContractTypeError(f"clip_boxes: size is {size!r}; expected (height, width)")
    return _clip_boxes.call(boxes, size[0], size[1], out)


def box_area(boxes: Any, *, out: Any = None) -> Any:
    """(x2 - x1) (y2 - y1) of corners (..., 4); negative if one side is.

    Raises ContractError for another last extent, ContractTypeError for other dtypes. Gradients of any order. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.box_area(np.array([[1.0, 1.0, 3.0, 4.0]]))
    array([6.])
    """
    return _box_area.call(boxes, out)
