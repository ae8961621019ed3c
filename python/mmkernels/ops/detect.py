"""Detection: which of many overlapping boxes to keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ..arrays import off_tape
from ..contract import FLOATS, Arg, Attr, Bound, Case, Contract, Operand, Out, Require, number
from ..errors import ContractTypeError
from ..operator import Operator

__all__ = ["batched_nms", "box_iou_rotated", "nms", "nms_rotated", "soft_nms"]

_INFINITY = float("inf")
_MOST = Attr("max_output", "int", doc="the most boxes that are kept")
_IOU = Attr("iou_threshold", "float", doc="boxes that overlap a better one by more than it are dropped")
_SCORE = Attr("score_threshold", "float", -_INFINITY, doc="boxes take part if their score is above it; -inf: all do")
_SCORE_REQUIRED = Require(
    "score_threshold == score_threshold", "score_threshold is NaN; expected a number", {"score_threshold": float("nan")}
)
_REQUIRES = (
    Require(
        "max_output >= 0 and N < 2147483648",
        "max_output is {max_output}, of {N} boxes; expected at least 0, of fewer than 2147483648",
        {"max_output": -1},
    ),
    Require(
        "0 <= iou_threshold and iou_threshold <= 1",
        "iou_threshold is {iou_threshold}; expected a number from 0 to 1",
        {"iou_threshold": 1.5},
    ),
    _SCORE_REQUIRED,
)
_KEPT = (
    Out("keep", "max_output", "int64", doc="indices by falling score; -1 behind the last"),
    Out("count", "", "int64", doc="how many are kept"),
)


def _kept(iou_threshold: float, max_output: int, **more: Any) -> dict[str, Any]:
    return {"iou_threshold": iou_threshold, "max_output": max_output, **more}


NMS = Contract(
    "nms", "Boxes by falling score, without those that a better one overlaps too much.",
    inputs=(
        Arg("boxes", "N 4", domain="boxes", doc="x1, y1, x2, y2"), Arg("scores", "N"),
        Arg("classes", "N", "I", optional=True, doc="boxes of different classes do not meet"),
    ),
    attributes=(_IOU, _MOST, _SCORE),
    requires=_REQUIRES,
    outputs=_KEPT,
    types={"T": FLOATS, "I": ("int32", "int64")},
    bound=Bound("exact"), flops="N * N * 13 / 2", derivatives=0,
    cases=(
        Case("few", {"N": 40}, _kept(0.1, 40)),
        Case("classes", {"N": 300}, _kept(0.05, 300), optional=("classes",)),
        Case("fewer than there are", {"N": 65}, _kept(0.3, 7)),
        Case("scores", {"N": 64}, _kept(0.2, 50, score_threshold=0.25)),
        Case("two chunks", {"N": 1100}, _kept(0.5, 1200)),
        Case("one box", {"N": 1}, _kept(0.0, 1)),
        Case("no boxes", {"N": 0}, _kept(0.5, 3)),
        Case("RPN", {"N": 6000}, _kept(0.7, 6000), bench=True),
        Case("heads", {"N": 5000}, _kept(0.5, 100, score_threshold=0.05), optional=("classes",), bench=True),
        Case("many", {"N": 100000}, _kept(0.7, 2000), bench=True),
    ),
    source="Girshick et al., arXiv 1311.2524; strict threshold and stable order as torchvision.ops.nms",
)  # fmt: skip


SOFT_NMS = Contract(
    "soft_nms", "Boxes by falling score, where a chosen one lowers the scores of those that it overlaps.",
    inputs=(
        Arg("boxes", "N 4", domain="boxes", doc="x1, y1, x2, y2"), Arg("scores", "N", domain="unit"),
    ),
    attributes=(
        Attr("method", "choice", "linear", choices=("linear", "gaussian")),
        Attr("iou_threshold", "float", 0.3, doc="linear: overlaps up to it lower nothing"),
        Attr("sigma", "float", 0.5, doc="gaussian: scores fall by exp(-IoU^2 / sigma)"),
        Attr("score_threshold", "float", 0.001, doc="boxes are chosen while the best score is above it"), _MOST,
    ),
    requires=(
        *_REQUIRES,
        Require(  # in float32, whose smallest quotients and largest ones are near
            "1e-37 <= sigma and sigma <= 1e37", "sigma is {sigma}; expected a number from 1e-37 to 1e37", {"sigma": 0.0}
        ),
    ),
    outputs=(
        _KEPT[0], Out("decayed", "max_output", doc="the scores as they were chosen; 0 behind the last"), _KEPT[1],
    ),
    bound=Bound("soft_nms", depth="N"), flops="N * N * 20", derivatives=0,
    cases=(
        Case("linear", {"N": 40}, {"iou_threshold": 0.1, "max_output": 40}),
        Case("gaussian", {"N": 70}, {"method": "gaussian", "sigma": 0.1, "score_threshold": 0.2, "max_output": 80}),
        Case("fewer than there are", {"N": 300}, {"max_output": 9}),
        Case("one box", {"N": 1}, {"max_output": 1}),
        Case("no boxes", {"N": 0}, {"max_output": 2}),
        Case("heads", {"N": 1000}, {"method": "gaussian", "max_output": 1000}, bench=True),
    ),
    source="Bodla et al., arXiv 1704.04503",
)  # fmt: skip

_ANGLE = Attr("angle_scale", "float", 1.0, doc="radians in an angle's unit; the angle turns x towards y")
_ANGLE_REQUIRED = Require(
    "abs(angle_scale) < 1e6", "angle_scale is {angle_scale}; expected a finite number", {"angle_scale": float("inf")}
)
_ROTATED = "centre x, centre y, width, height, angle"
_DEGREES = 0.017453292519943295
BOX_IOU_ROTATED = Contract(
    "box_iou_rotated", "Intersection over union of each rotated box of one list with each of another.",
    inputs=(
        Arg("boxes1", "N 5", domain="positive", doc=_ROTATED), Arg("boxes2", "M 5", domain="positive", doc=_ROTATED),
    ),
    attributes=(_ANGLE,), requires=(_ANGLE_REQUIRED,),
    outputs=(Out("y", "N M"),),
    free=("N", "M"), flops="N * M * 150", bound=Bound("box_iou_rotated"), derivatives=0,
    cases=(
        Case("radians", {"N": 19, "M": 37}),
        Case("degrees", {"N": 4, "M": 7}, {"angle_scale": -20 * _DEGREES}),
        Case("one and none", {"N": 1, "M": 0}),
        Case("many", {"N": 200, "M": 200}, bench=True),
    ),
    source="the intersection by Green's theorem, in csrc/core/box_rotated.h",
)  # fmt: skip
NMS_ROTATED = Contract(
    "nms_rotated", "Rotated boxes by falling score, without those that a better one overlaps too much.",
    inputs=(
        Arg("boxes", "N 5", domain="positive", doc=_ROTATED), Arg("scores", "N"),
        Arg("classes", "N", "I", optional=True, doc="boxes of different classes do not meet"),
    ),
    attributes=(_IOU, _MOST, _SCORE, _ANGLE),
    requires=(*_REQUIRES, _ANGLE_REQUIRED),
    outputs=_KEPT,
    types={"T": FLOATS, "I": ("int32", "int64")},
    bound=Bound("exact"), flops="N * N * 150 / 2", derivatives=0,
    cases=(
        Case("few", {"N": 40}, _kept(0.3, 40)),
        Case("classes", {"N": 150}, _kept(0.25, 100, angle_scale=-20 * _DEGREES), optional=("classes",)),
        Case("scores", {"N": 65}, _kept(0.5, 65, score_threshold=0.1)),
        Case("no boxes", {"N": 0}, _kept(0.5, 3)),
        Case("text", {"N": 1000}, _kept(0.5, 1000), bench=True),
    ),
)  # fmt: skip


def _every_box(raw: dict[str, Any], operands: Mapping[str, Operand]) -> dict[str, Any]:
    """As many results as boxes, unless the caller says how many."""
    if raw["max_output"] is None and operands["boxes"].shape:
        return {**raw, "max_output": operands["boxes"].shape[0]}
    return raw


_nms = Operator(NMS, _every_box)
_soft_nms, _nms_rotated = Operator(SOFT_NMS, _every_box), Operator(NMS_ROTATED, _every_box)
_box_iou_rotated = Operator(BOX_IOU_ROTATED)


def nms(
    boxes: Any,
    scores: Any,
    iou_threshold: float,
    *,
    max_output_size: int | None = None,
    score_threshold: float | None = None,
    out: Any = None,
) -> Any:
    """Non-maximum suppression: the int64 indices of the boxes that stay, by falling score.

    boxes (N, 4) are corners x1, y1, x2, y2, scores (N,), of the same float dtype. In order of falling score, a box
    stays unless its intersection over union with one that stays is above ``iou_threshold`` (strictly). Equal scores
    keep the order of their indices, NaN scores come last; a box with a NaN, infinite, inverted or empty side neither
    drops others nor is dropped. With ``score_threshold``, only boxes whose score is above it take part.

    With ``max_output_size`` the result is (keep, count): keep has that length, padded with -1, and nothing waits for
    the device, and ``out`` is a tuple of two arrays for them; without it the result is as long as there are boxes that
    stay. The same list on every machine, CPU and
    CUDA: IoU > t is taken as intersection > t * union in the boxes' type (float32 for 16-bit boxes).

    Raises ContractError if iou_threshold is outside [0, 1], max_output_size below 0 or extents disagree;
    ContractTypeError for other dtypes. It has no gradient. Stable.

    Source: Girshick et al., "Rich feature hierarchies for accurate object detection", arXiv 1311.2524.

    >>> import numpy as np, mmkernels as mmk
    >>> boxes = np.array([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    >>> mmk.nms(boxes, np.array([0.8, 0.9, 0.7]), 0.5)
    array([1, 2])
    """
    return _suppress("nms", boxes, scores, None, iou_threshold, max_output_size, score_threshold, out)


def batched_nms(
    boxes: Any,
    scores: Any,
    idxs: Any,
    iou_threshold: float,
    *,
    max_output_size: int | None = None,
    score_threshold: float | None = None,
    out: Any = None,
) -> Any:
    """Non-maximum suppression among the boxes of each class: as nms, with idxs (N,), int32 or int64.

    Boxes of different idxs never meet: indices are compared, coordinates are not shifted, so neither large nor
    negative ones do harm. All classes together are ordered by falling score.

    Raises as nms does. It has no gradient. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> boxes = np.array([[0.0, 0, 10, 10], [1, 1, 10, 10], [0, 0, 10, 9]])
    >>> mmk.batched_nms(boxes, np.array([0.8, 0.9, 0.7]), np.array([0, 1, 0]), 0.5, max_output_size=3)
    (array([ 1,  0, -1]), array(2))
    """
    return _suppress("batched_nms", boxes, scores, idxs, iou_threshold, max_output_size, score_threshold, out)


def soft_nms(
    boxes: Any,
    scores: Any,
    iou_threshold: float = 0.3,
    *,
    method: Literal["linear", "gaussian"] = "linear",
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    max_output_size: int | None = None,
    out: Any = None,
) -> Any:
    """Soft suppression: (indices, scores) of boxes by falling score, where each chosen one lowers the others' scores.

    boxes (N, 4) are corners x1, y1, x2, y2, scores (N,), of the same float dtype. The best box that is left (the first
    of equals) is chosen while its score is above ``score_threshold``; then the others' scores are multiplied by
    1 - IoU where IoU is above ``iou_threshold`` ("linear"), or by exp(-IoU^2 / sigma) ("gaussian"). The scores that are
    returned are those with which boxes were chosen. Scores that are NaN or -inf are never chosen.

    With ``max_output_size`` the result is (keep, scores, count): that length, padded with -1 and 0, and nothing waits
    for the device; ``out`` is a tuple of three arrays for them. The same bits on CPU and CUDA in float32.

    Raises ContractError if iou_threshold is outside [0, 1], sigma not above 0 (or outside 1e-37 to 1e37),
    max_output_size below 0 or extents disagree; ContractTypeError for other dtypes. It has no gradient. Stable.

    Source: Bodla et al., "Soft-NMS -- Improving Object Detection With One Line of Code", arXiv 1704.04503.

    >>> import numpy as np, mmkernels as mmk
    >>> boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 30, 30]])
    >>> mmk.soft_nms(boxes, np.array([0.75, 0.5, 0.375]))
    (array([0, 2, 1]), array([0.75 , 0.375, 0.25 ]))
    """
    _check_sliced("soft_nms", max_output_size, out)
    keep, decayed, count = _soft_nms.call(
        off_tape(boxes), off_tape(scores), method, iou_threshold, sigma, score_threshold, max_output_size, out
    )
    return (keep, decayed, count) if max_output_size is not None else (keep[: int(count)], decayed[: int(count)])


def box_iou_rotated(boxes1: Any, boxes2: Any, *, degrees: bool = False, clockwise: bool = True, out: Any = None) -> Any:
    """Intersection over union of each rotated box of one list with each of another: (N, 5) and (M, 5) to (N, M).

    A box is centre x, centre y, width, height, angle, in radians (or ``degrees``), clockwise as seen in a picture,
    whose y points down (or counter-clockwise). Two empty boxes, or numbers that are not finite, give NaN; overlaps of
    less than 4e-6 of the second box's area (float32) count as none. The same bits on CPU and CUDA in float32.

    Raises ContractError for other extents, ContractTypeError for other dtypes. It has no gradient. Provisional.

    >>> import numpy as np, mmkernels as mmk
    >>> upright, turned = np.array([[5.0, 5, 4, 2, 0]]), np.array([[5.0, 5, 4, 2, 90]])
    >>> mmk.box_iou_rotated(upright, turned, degrees=True).round(6)
    array([[0.333333]])
    """
    scale = _angle_scale("box_iou_rotated", degrees, clockwise)
    return _box_iou_rotated.call(off_tape(boxes1), off_tape(boxes2), scale, out)


def nms_rotated(
    boxes: Any,
    scores: Any,
    iou_threshold: float,
    *,
    idxs: Any = None,
    degrees: bool = False,
    clockwise: bool = True,
    max_output_size: int | None = None,
    score_threshold: float | None = None,
    out: Any = None,
) -> Any:
    """Non-maximum suppression among rotated boxes (N, 5), as box_iou_rotated takes them; else as nms.

    With ``idxs`` (N,), int32 or int64, boxes of different classes do not meet.

    Raises as nms does. It has no gradient. Provisional.

    >>> import numpy as np, mmkernels as mmk
    >>> boxes = np.array([[5.0, 5, 4, 2, 0], [5, 5, 4, 2, 0.1], [5, 5, 4, 2, 1.5]])
    >>> mmk.nms_rotated(boxes, np.array([0.8, 0.9, 0.7]), 0.5)
    array([1, 2])
    """
    _check_sliced("nms_rotated", max_output_size, out)
    least = -_INFINITY if score_threshold is None else score_threshold
    keep, count = _nms_rotated.call(
        off_tape(boxes), off_tape(scores), off_tape(idxs), iou_threshold, max_output_size, least,
        _angle_scale("nms_rotated", degrees, clockwise), out,
    )  # fmt: skip
    return (keep, count) if max_output_size is not None else keep[: int(count)]


def _angle_scale(name: str, degrees: bool, clockwise: bool) -> float:
    degrees = number("bool", degrees, f"{name}: degrees is {degrees!r}")
    clockwise = number("bool", clockwise, f"{name}: clockwise is {clockwise!r}")
    return (_DEGREES if degrees else 1.0) * (1.0 if clockwise else -1.0)


def _check_sliced(name: str, most: int | None, out: Any) -> None:
    if out is not None and most is None:
        raise ContractTypeError(
            f"{name}: out= was given; expected max_output_size too, as the length depends on values"
        )


def _suppress(
    name: str, boxes: Any, scores: Any, classes: Any, iou_threshold: float, most: int | None,
    score_threshold: float | None, out: Any,
) -> Any:  # fmt: skip
    _check_sliced(name, most, out)
    least = -_INFINITY if score_threshold is None else score_threshold
    keep, count = _nms.call(off_tape(boxes), off_tape(scores), off_tape(classes), iou_threshold, most, least, out)
    return (keep, count) if most is not None else keep[: int(count)]
