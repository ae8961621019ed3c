"""Regions of interest that are rotated: the mean of each bin's samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..contract import Arg, Attr, Bound, Contract, Out
from ..operator import Operator
from . import roi_terms as terms
from .roi_boxes import regions

__all__ = ["roi_align_rotated"]


def _rotated_boxes(images: str, height: str, width: str) -> Arg:
    return Arg(
        "boxes", "R 6", "wide T", values=("0", images), column=0,
        columns=(
            ("0", images), ("-1 / spatial_scale", f"({width} + 1) / spatial_scale"),
            ("-1 / spatial_scale", f"({height} + 1) / spatial_scale"),
            ("0.1 / spatial_scale", f"({width} + 2) / spatial_scale"),
            ("0.1 / spatial_scale", f"({height} + 2) / spatial_scale"), ("-4", "4"),
        ),
        doc="batch index (its fraction is cut off), centre x, centre y, width, height, angle",
    )  # fmt: skip


_TURN = (
    Attr("clockwise", "bool", False, doc="the angle turns the other way"),
    Attr("degrees", "bool", False, doc="the angle is in degrees, not in radians"),
)
_ROTATED_CASES: tuple[terms.AlignCase, ...] = (
    ("two samples", {"N": 2, "C": 19, "R": 5}, (13, 17), (3, 2),
     {"spatial_scale": 0.5, "sampling_ratio": 2, "aligned": True}),
    ("counted samples", {"N": 1, "C": 3, "R": 7}, (20, 9), (2, 3), {"spatial_scale": 0.25, "clockwise": True}),
    ("degrees", {"N": 3, "C": 16, "R": 6}, (12, 15), (7, 7), {"sampling_ratio": 1, "degrees": True}),
    ("no boxes", {"N": 2, "C": 3, "R": 0}, (4, 4), (2, 2), {}),
    ("no plane", {"N": 1, "C": 2, "R": 3}, (0, 5), (2, 1), {"aligned": True}),
)  # fmt: skip
_RRPN: terms.AlignCase = (
    "rotated", {"N": 1, "C": 256, "R": 300}, (64, 64), (7, 7),
    {"spatial_scale": 0.125, "sampling_ratio": 2, "aligned": True},
)  # fmt: skip
_ROTATED = f"{terms.ALIGN}, clockwise=clockwise, degrees=degrees"
ROI_ALIGN_ROTATED = Contract(
    "roi_align_rotated", "The mean of the samples of each bin of each rotated region.",
    inputs=(Arg("x", "N C H W"), _rotated_boxes("N", "H", "W")),
    attributes=(terms.SIZE, terms.SCALE, terms.RATIO, terms.ALIGNED, *_TURN),
    lets={"P": "output_size[0]", "Q": "output_size[1]"},
    requires=(*terms.FORWARD, terms.SCALE_POSITIVE, terms.RATIO_BOUNDED),
    outputs=(Out("y", "R C P Q"),),
    free=("C", "R"), layout="x", flops=f"R * C * P * Q * 8 * {terms.SAMPLES}",
    bound=Bound("rotated_means", depth=f"4 * ({terms.SAMPLES} if sampling_ratio > 0 else H * W) + 8"),
    vjp={"x": f"roi_align_rotated_grad(gy, boxes, images=N, height=H, width=W, {_ROTATED})", "boxes": "None"},
    cases=(*map(terms.forward_case, _ROTATED_CASES), terms.forward_case(_RRPN, bench=True)),
    source="Ma et al., arXiv 1703.01086; rules as in mmcv.ops.RoIAlignRotated and detectron2's ROIAlignRotated",
)  # fmt: skip
ROI_ALIGN_ROTATED_GRAD = Contract(
    "roi_align_rotated_grad", "The gradients of bins, dealt out to the elements that their samples lie between.",
    inputs=(Arg("gy", "R C P Q"), _rotated_boxes("images", "height", "width")),
    attributes=(terms.IMAGES, terms.HEIGHT, terms.WIDTH, terms.SCALE, terms.RATIO, terms.ALIGNED, *_TURN),
    requires=(*terms.BACKWARD, terms.SCALE_POSITIVE, terms.RATIO_BOUNDED),
    outputs=(Out("gx", "images C height width"),),
    free=("C",), layout="gy", flops=f"R * C * P * Q * 8 * {terms.SAMPLES}",
    bound=Bound("rotated_shares", depth=f"R * P * Q * 4 * {terms.SAMPLES} + 8"),
    vjp={"gy": f"roi_align_rotated(ggx, boxes, output_size=(P, Q), {_ROTATED})", "boxes": "None"},
    cases=(*map(terms.backward_case, _ROTATED_CASES), terms.backward_case(_RRPN, bench=True)),
)  # fmt: skip

_roi_align_rotated = Operator(ROI_ALIGN_ROTATED, terms.plain_sizes)
Operator(ROI_ALIGN_ROTATED_GRAD)


def roi_align_rotated(
    x: Any,
    boxes: Any,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = True,
    clockwise: bool = False,
    *,
    degrees: bool = False,
    out: Any = None,
) -> Any:
    """roi_align of rotated regions: (N, C, H, W) and boxes (R, 6) to (R, C, P, Q).

    A box is its image's number, its centre's x and y, its width and height, and the angle by which it is turned about
    its centre: in radians (``degrees``: in degrees), from x towards -y (``clockwise``: towards y) as the map is drawn
    with y downwards. mmcv's RoIAlignRotated is this with its own arguments; detectron2's ROIAlignRotated is
    ``degrees=True`` and ``aligned=True``. ``boxes`` may also be a sequence of (L, 5), one array per image. A bin whose
    samples are counted by its length has at most 256 along each axis. The rest is as in roi_align. Gradients of any
    order with respect to x. Provisional.

    Source: Ma et al., "Arbitrary-Oriented Scene Text Detection via Rotation Proposals", arXiv 1703.01086.

    >>> import numpy as np
    >>> from mmkernels.ops.roi_rotated import roi_align_rotated
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> roi_align_rotated(x, np.array([[0.0, 2.0, 2.0, 4.0, 4.0, 90.0]]), 2, degrees=True)[0, 0].round(6)
    array([[10.5,  2.5],
           [12.5,  4.5]])
    """
    found = regions("roi_align_rotated", x, boxes, 6)
    return _roi_align_rotated.call(
        x, found, output_size, spatial_scale, sampling_ratio, aligned, clockwise, degrees, out
    )
