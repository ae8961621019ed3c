"""Regions of interest: the maximum of each bin, of its elements or its samples, and which it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..contract import Arg, Attr, Bound, Case, Contract, Out, Require
from ..operator import Operator
from . import roi_terms as terms
from .roi_boxes import regions

__all__ = ["roi_pool"]

_RETURN_INDICES = Attr("return_indices", "bool", False)
_PLANE_BOUNDED = Require(
    "H * W < 2147483648", "x is {H} x {W}; expected less than 2147483648 elements", {"H": 65536, "W": 32768, "C": 0}
)
_POOL_CASES: tuple[terms.AlignCase, ...] = (
    ("3x3", {"N": 2, "C": 19, "R": 5}, (13, 17), (3, 3), {"spatial_scale": 0.5}),
    ("7x7, indices", {"N": 1, "C": 3, "R": 7}, (20, 9), (7, 7), {"spatial_scale": 0.25, "return_indices": True}),
    ("one bin", {"N": 3, "C": 33, "R": 4}, (12, 31), (1, 1), {"return_indices": True}),
    ("sixteen channels", {"N": 2, "C": 16, "R": 40}, (9, 21), (2, 2), {}),
    ("no boxes", {"N": 2, "C": 3, "R": 0}, (4, 4), (2, 2), {}),
    ("no plane", {"N": 1, "C": 2, "R": 3}, (0, 5), (2, 1), {"return_indices": True}),
)  # fmt: skip
_VGG: terms.AlignCase = ("VGG-16", {"N": 1, "C": 512, "R": 300}, (38, 50), (7, 7), {"spatial_scale": 0.0625})
_POOL = "output_size=output_size, spatial_scale=spatial_scale"
ROI_POOL = Contract(
    "roi_pool", "The first maximum, or the first NaN, of each bin of each region; on request, where it was.",
    inputs=(Arg("x", "N C H W"), terms.region_boxes("N", "H", "W")),
    attributes=(terms.SIZE, terms.SCALE, _RETURN_INDICES),
    lets={"P": "output_size[0]", "Q": "output_size[1]"},
    requires=(terms.FORWARD[0], _PLANE_BOUNDED, terms.SCALE_POSITIVE),
    outputs=(
        Out("y", "R C P Q"),
        Out("indices", "R C P Q", "int64", when="return_indices", doc="h * W + w inside the plane; -1: no element"),
    ),
    free=("C", "R"), layout="x", flops="R * C * P * Q * 4", bound=Bound("exact"),
    vjp={"x": "roi_pool_grad(gy, boxes, indices, images=N, height=H, width=W)", "boxes": "None"},
    composition=f"roi_pool(x, boxes, {_POOL}, return_indices=True)[0]", composed_when="not return_indices",
    cases=(
        *map(terms.forward_case, _POOL_CASES), terms.forward_case(_VGG, bench=True),
        terms.forward_case(("VGG-16, indices", *_VGG[1:4], {**_VGG[4], "return_indices": True}), bench=True),
    ),
    source="Girshick, arXiv 1504.08083, 2.1; rules as in torchvision.ops.roi_pool",
)  # fmt: skip

_CHOSEN_CASES: tuple[terms.AlignCase, ...] = (
    ("odd", {"N": 2, "C": 3, "R": 5}, (9, 14), (3, 2), {}),
    ("many bins for few elements", {"N": 1, "C": 2, "R": 9}, (2, 3), (5, 7), {}),
    ("no boxes", {"N": 2, "C": 3, "R": 0}, (3, 3), (2, 2), {}),
    ("no plane", {"N": 1, "C": 2, "R": 3}, (0, 5), (2, 1), {}),
)
_INDICES = Arg("indices", "R C P Q", "int64", values=("-1", "height * width"), doc="as roi_pool returns them")
ROI_POOL_GRAD = Contract(
    "roi_pool_grad", "Each bin's gradient, added to the element that it chose.",
    inputs=(Arg("gy", "R C P Q"), terms.region_boxes("images", "height", "width", "1"), _INDICES),
    attributes=(terms.IMAGES, terms.HEIGHT, terms.WIDTH),
    requires=terms.BACKWARD,
    outputs=(Out("gx", "images C height width"),),
    free=("C",), layout="gy", flops="R * C * P * Q", bound=Bound("chain", depth="R * P * Q"),
    vjp={"gy": "roi_pool_gather(ggx, boxes, indices)", "boxes": "None", "indices": "None"},
    cases=(*map(terms.backward_case, _CHOSEN_CASES), terms.backward_case((*_VGG[:4], {}), bench=True)),
)  # fmt: skip
ROI_POOL_GATHER = Contract(
    "roi_pool_gather", "The elements that the bins chose.",
    inputs=(
        Arg("ggx", "N C H W"), terms.region_boxes("N", "H", "W", "1"),
        Arg("indices", "R C P Q", "int64", values=("-1", "H * W"), doc="as roi_pool returns them"),
    ),
    outputs=(Out("y", "R C P Q"),),
    free=("C", "R"), layout="ggx", bound=Bound("exact"),
    vjp={
        "ggx": "roi_pool_grad(gy, boxes, indices, images=N, height=H, width=W)", "boxes": "None", "indices": "None",
    },
    cases=tuple(
        Case(name, {**e, "H": h, "W": w, "P": p, "Q": q}) for name, e, (h, w), (p, q), _ in _CHOSEN_CASES
    ),
)  # fmt: skip

_CORNERS = Attr("corners", "bool", False, doc="each of a sample's four weighted elements counts for itself")
_MAX_CASES: tuple[terms.AlignCase, ...] = (
    ("two samples", {"N": 2, "C": 19, "R": 5}, (13, 17), (3, 2),
     {"spatial_scale": 0.5, "sampling_ratio": 2, "aligned": True}),
    ("counted samples", {"N": 1, "C": 3, "R": 7}, (20, 9), (2, 3), {"spatial_scale": 0.25}),
    ("corners", {"N": 2, "C": 5, "R": 6}, (12, 15), (3, 2), {"sampling_ratio": 3, "corners": True}),
    ("one bin of corners", {"N": 1, "C": 16, "R": 4}, (6, 7), (1, 1), {"aligned": True, "corners": True}),
    ("no boxes", {"N": 2, "C": 3, "R": 0}, (4, 4), (2, 2), {}),
    ("no plane", {"N": 1, "C": 2, "R": 3}, (0, 5), (2, 1), {}),
)  # fmt: skip
_ALL_INDICES = "(sampling_ratio * sampling_ratio if sampling_ratio > 0 else 65536) * (4 if corners else 1)"
_ALIGN_MAX = f"{terms.ALIGN}, corners=corners"
_SAMPLE_INDICES = Arg("indices", "R C P Q", "int64", values=("-1", _ALL_INDICES), doc="as roi_align_max returns them")
ROI_ALIGN_MAX = Contract(
    "roi_align_max", "The first maximum, or the first NaN, among the samples of each bin; on request, which it was.",
    inputs=(Arg("x", "N C H W"), terms.region_boxes("N", "H", "W")),
    attributes=(terms.SIZE, terms.SCALE, terms.RATIO, terms.ALIGNED, _CORNERS, _RETURN_INDICES),
    lets={"P": "output_size[0]", "Q": "output_size[1]"},
    requires=(*terms.FORWARD, terms.SCALE_POSITIVE, terms.RATIO_BOUNDED),
    outputs=(
        Out("y", "R C P Q"),
        Out("indices", "R C P Q", "int64", when="return_indices",
            doc="of the sample in its bin, row by row from the map's start, with corners 4 times that and its; "
            "-1: none"),
    ),
    free=("C", "R"), layout="x", flops=f"R * C * P * Q * 8 * {terms.SAMPLES}",
    bound=Bound("region_means", depth="16"),
    vjp={
        "x": f"roi_align_max_grad(gy, boxes, indices, images=N, height=H, width=W, {_ALIGN_MAX})", "boxes": "None",
    },
    composition=f"roi_align_max(x, boxes, output_size=output_size, {_ALIGN_MAX}, return_indices=True)[0]",
    composed_when="not return_indices",
    cases=tuple(
        terms.forward_case((*case[:4], {**case[4], "return_indices": i % 2 == 1})) for i, case in enumerate(_MAX_CASES)
    ),
    source="mmcv.ops.roi_align and OpenVINO's ROIAlign (samples); ONNX RoiAlign (corners)",
)  # fmt: skip
ROI_ALIGN_MAX_GRAD = Contract(
    "roi_align_max_grad", "Each bin's gradient, dealt out to the elements around the sample that it chose.",
    inputs=(Arg("gy", "R C P Q"), terms.region_boxes("images", "height", "width"), _SAMPLE_INDICES),
    attributes=(terms.IMAGES, terms.HEIGHT, terms.WIDTH, terms.SCALE, terms.RATIO, terms.ALIGNED, _CORNERS),
    requires=(*terms.BACKWARD, terms.SCALE_POSITIVE, terms.RATIO_BOUNDED),
    outputs=(Out("gx", "images C height width"),),
    free=("C",), layout="gy", flops="R * C * P * Q * 8", bound=Bound("region_shares", depth="4 * R * P * Q + 8"),
    vjp={"gy": f"roi_align_max_gather(ggx, boxes, indices, {_ALIGN_MAX})", "boxes": "None", "indices": "None"},
    cases=tuple(map(terms.backward_case, _MAX_CASES)),
)  # fmt: skip
ROI_ALIGN_MAX_GATHER = Contract(
    "roi_align_max_gather", "The samples that the bins chose, of another map.",
    inputs=(Arg("ggx", "N C H W"), terms.region_boxes("N", "H", "W"), _SAMPLE_INDICES),
    attributes=(terms.SCALE, terms.RATIO, terms.ALIGNED, _CORNERS),
    requires=(terms.FORWARD[1], terms.SCALE_POSITIVE, terms.RATIO_BOUNDED),
    outputs=(Out("y", "R C P Q"),),
    free=("C", "R"), layout="ggx", flops="R * C * P * Q * 8", bound=Bound("region_means", depth="16"),
    vjp={
        "ggx": f"roi_align_max_grad(gy, boxes, indices, images=N, height=H, width=W, {_ALIGN_MAX})", "boxes": "None",
        "indices": "None",
    },
    cases=tuple(
        Case(name, {**e, "H": h, "W": w, "P": p, "Q": q}, a) for name, e, (h, w), (p, q), a in _MAX_CASES
    ),
)  # fmt: skip

_roi_align_max, _roi_pool = (Operator(contract, terms.plain_sizes) for contract in (ROI_ALIGN_MAX, ROI_POOL))
for _contract in (ROI_ALIGN_MAX_GRAD, ROI_ALIGN_MAX_GATHER, ROI_POOL_GRAD, ROI_POOL_GATHER):
    Operator(_contract)


def roi_pool(
    x: Any,
    boxes: Any,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    *,
    return_indices: bool = False,
    out: Any = None,
) -> Any:
    """The maximum of each bin of each region: (N, C, H, W) and boxes (R, 5) to (R, C, P, Q).

    Boxes are roi_align's. Their corners times ``spatial_scale`` are rounded, halves away from zero; a region holds
    both corners' elements and is at least one long. Bin p of P begins at the whole element at or before p length / P
    and ends at the one at or behind (p + 1) length / P, so neighbours may overlap; it is clipped to the map. The first
    maximum in row-major order wins, and the first NaN wins over everything; a bin without elements is 0. With
    ``return_indices`` the result is (y, indices): int64, h * W + w inside the plane, -1 where there is no element.

    Types, defined results and errors are roi_align's; a map has less than 2^31 elements. Gradients of any order with
    respect to x. Stable.

    Source: Girshick, "Fast R-CNN", arXiv 1504.08083, section 2.1; the rules are those of torchvision.ops.roi_pool.

    >>> import numpy as np
    >>> from mmkernels.ops.roi_chosen import roi_pool
    >>> roi_pool(np.arange(16.0).reshape(1, 1, 4, 4), np.array([[0.0, 0.0, 0.0, 3.0, 3.0]]), 2)[0, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    """
    return _roi_pool.call(x, regions("roi_pool", x, boxes), output_size, spatial_scale, return_indices, out)
