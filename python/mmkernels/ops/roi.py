"""Regions of interest: the mean of what boxes hold of a map, in a fixed number of bins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ..contract import Arg, Bound, Case, Contract, Out, Require
from ..errors import ContractError, ContractTypeError
from ..operator import Operator
from . import roi_terms as terms
from .roi_boxes import regions
from .roi_chosen import _roi_align_max

__all__ = ["ps_roi_align", "ps_roi_pool", "roi_align"]

_ALIGN_CASES: tuple[terms.AlignCase, ...] = (
    ("7x7 of two samples", {"N": 2, "C": 19, "R": 5}, (13, 17), (7, 7),
     {"spatial_scale": 0.5, "sampling_ratio": 2, "aligned": True}),
    ("counted samples", {"N": 1, "C": 3, "R": 7}, (20, 9), (2, 3), {"spatial_scale": 0.25}),
    ("one bin", {"N": 3, "C": 5, "R": 4}, (12, 31), (1, 1), {"sampling_ratio": 0, "aligned": True}),
    ("more bins than elements", {"N": 1, "C": 33, "R": 3}, (5, 4), (9, 16), {"sampling_ratio": 1}),
    ("sixteen channels", {"N": 2, "C": 16, "R": 40}, (9, 21), (2, 2), {"sampling_ratio": 3, "aligned": True}),
    ("no boxes", {"N": 2, "C": 3, "R": 0}, (4, 4), (2, 2), {}),
    ("no images", {"N": 0, "C": 3, "R": 0}, (4, 4), (2, 2), {}),
    ("no plane", {"N": 1, "C": 2, "R": 3}, (0, 5), (2, 1), {"aligned": True}),
)  # fmt: skip
_FPN: terms.AlignCase = (
    "FPN", {"N": 1, "C": 256, "R": 1000}, (100, 136), (7, 7),
    {"spatial_scale": 0.125, "sampling_ratio": 2, "aligned": True},
)  # fmt: skip
ROI_ALIGN = Contract(
    "roi_align", "The mean of the samples of each bin of each region.",
    inputs=(Arg("x", "N C H W"), terms.region_boxes("N", "H", "W")),
    attributes=(terms.SIZE, terms.SCALE, terms.RATIO, terms.ALIGNED),
    lets={"P": "output_size[0]", "Q": "output_size[1]"},
    requires=(*terms.FORWARD, terms.SCALE_POSITIVE, terms.RATIO_BOUNDED),
    outputs=(Out("y", "R C P Q"),),
    free=("C", "R"), layout="x", flops=f"R * C * P * Q * 8 * {terms.SAMPLES}",
    bound=Bound("region_means", depth=terms.TAPS.format("H", "W")),
    vjp={"x": f"roi_align_grad(gy, boxes, images=N, height=H, width=W, {terms.ALIGN})", "boxes": "None"},
    cases=(*map(terms.forward_case, _ALIGN_CASES), terms.forward_case(_FPN, bench=True)),
    source="He et al., arXiv 1703.06870, 3; rules as in torchvision.ops.roi_align",
)  # fmt: skip
ROI_ALIGN_GRAD = Contract(
    "roi_align_grad", "The gradients of bins, dealt out to the elements that their samples lie between.",
    inputs=(Arg("gy", "R C P Q"), terms.region_boxes("images", "height", "width")),
    attributes=(terms.IMAGES, terms.HEIGHT, terms.WIDTH, terms.SCALE, terms.RATIO, terms.ALIGNED),
    requires=(*terms.BACKWARD, terms.SCALE_POSITIVE, terms.RATIO_BOUNDED),
    outputs=(Out("gx", "images C height width"),),
    free=("C",), layout="gy", flops=f"R * C * P * Q * 8 * {terms.SAMPLES}",
    bound=Bound("region_shares", depth=f"R * P * (Q + 1) + {terms.TAPS.format('height', 'width')}"),
    vjp={"gy": f"roi_align(ggx, boxes, output_size=(P, Q), {terms.ALIGN})", "boxes": "None"},
    cases=(*map(terms.backward_case, _ALIGN_CASES), terms.backward_case(_FPN, bench=True)),
)  # fmt: skip


# ---- one map for every channel and bin ------------------------------------------------------------------------------

_SENSITIVE = Require(
    "C % prod(output_size) == 0",
    "x.shape[1] is {C}; expected a multiple of output_size[0] * output_size[1], of {output_size}",
    {"output_size": (2, 13)},
)
_SENSITIVE_CASES: tuple[terms.AlignCase, ...] = (
    ("3x2 of two samples", {"N": 2, "C": 18, "R": 5}, (13, 17), (3, 2), {"spatial_scale": 0.5, "sampling_ratio": 2}),
    ("counted samples", {"N": 1, "C": 3, "R": 7}, (20, 9), (2, 3), {"spatial_scale": 0.25}),
    ("one bin", {"N": 3, "C": 5, "R": 4}, (12, 31), (1, 1), {}),
    ("no boxes", {"N": 2, "C": 3, "R": 0}, (4, 4), (2, 2), {}),
    ("no plane", {"N": 1, "C": 2, "R": 3}, (0, 5), (2, 1), {}),
)  # fmt: skip
_RFCN: terms.AlignCase = ("R-FCN", {"N": 1, "C": 21, "R": 300}, (38, 63), (7, 7), {"spatial_scale": 0.0625})


def _sensitive_cases(backward: bool, sampled: bool) -> tuple[Case, ...]:
    cases = []
    for name, extents, plane, (p, q), attributes in (*_SENSITIVE_CASES, _RFCN):
        kept = {k: v for k, v in attributes.items() if sampled or k != "sampling_ratio"}
        bench = name == _RFCN[0]
        if backward:
            cases.append(terms.backward_case((name, extents, plane, (p, q), kept), bench))
        else:
            cases.append(terms.forward_case((name, {**extents, "C": extents["C"] * p * q}, plane, (p, q), kept), bench))
    return tuple(cases)


def _sensitive(
    name: str, gradient: str, summary: str, sampled: bool, source: str, depths: tuple[str, str]
) -> tuple[Contract, Contract]:
    """A position-sensitive operator and its gradient."""
    kept = "spatial_scale=spatial_scale" + (", sampling_ratio=sampling_ratio" if sampled else "")
    ratio, bounded = ((terms.RATIO,), (terms.RATIO_BOUNDED,)) if sampled else ((), ())
    samples = f" * 8 * {terms.SAMPLES}" if sampled else " * 4"
    return (
        Contract(
            name, summary,
            inputs=(Arg("x", "N C H W"), terms.region_boxes("N", "H", "W")),
            attributes=(terms.SIZE, terms.SCALE, *ratio),
            lets={"P": "output_size[0]", "Q": "output_size[1]"},
            requires=(*terms.FORWARD, _SENSITIVE, terms.SCALE_POSITIVE, *bounded),
            outputs=(Out("y", "R C//(P*Q) P Q"),),
            free=("R",), flops="R * C" + samples, bound=Bound("region_means", depth=depths[0]),
            vjp={"x": f"{gradient}(gy, boxes, images=N, height=H, width=W, {kept})", "boxes": "None"},
            cases=_sensitive_cases(False, sampled), source=source,
        ),
        Contract(
            gradient, "The gradients of bins, dealt out to the elements of their own planes.",
            inputs=(Arg("gy", "R C P Q"), terms.region_boxes("images", "height", "width")),
            attributes=(terms.IMAGES, terms.HEIGHT, terms.WIDTH, terms.SCALE, *ratio),
            requires=(*terms.BACKWARD, terms.SCALE_POSITIVE, *bounded),
            outputs=(Out("gx", "images C*P*Q height width"),),
            flops="R * C * P * Q" + samples, bound=Bound("region_shares", depth=depths[1]),
            vjp={"gy": f"{name}(ggx, boxes, output_size=(P, Q), {kept})", "boxes": "None"},
            cases=_sensitive_cases(True, sampled),
        ),
    )  # fmt: skip


PS_ROI_ALIGN, PS_ROI_ALIGN_GRAD = _sensitive(
    "ps_roi_align", "ps_roi_align_grad", "The mean of each bin's samples of a plane of its own.", True,
    "Dai et al., arXiv 1605.06409; Li et al., arXiv 1711.07264; rules as in torchvision.ops.ps_roi_align",
    (terms.TAPS.format("H", "W"), f"R + {terms.TAPS.format('height', 'width')}"),
)  # fmt: skip
PS_ROI_POOL, PS_ROI_POOL_GRAD = _sensitive(
    "ps_roi_pool", "ps_roi_pool_grad", "The mean of each bin's elements of a plane of its own.", False,
    "Dai et al., arXiv 1605.06409, 3; rules as in torchvision.ops.ps_roi_pool", ("H + W + 8", "R + 8"),
)  # fmt: skip

_roi_align, _ps_roi_align, _ps_roi_pool = (
    Operator(contract, terms.plain_sizes) for contract in (ROI_ALIGN, PS_ROI_ALIGN, PS_ROI_POOL)
)
for _contract in (ROI_ALIGN_GRAD, PS_ROI_ALIGN_GRAD, PS_ROI_POOL_GRAD):
    Operator(_contract)


def _half_pixel(name: str, aligned: bool, coordinates: str | None) -> bool:
    if coordinates is None:
        return aligned
    known = {"half_pixel": True, "output_half_pixel": False}
    if not isinstance(coordinates, str) or coordinates not in known:
        raise ContractError(f"{name}: coordinates is {coordinates!r}; expected one of {', '.join(map(repr, known))}")
    return known[coordinates]


def roi_align(
    x: Any,
    boxes: Any,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    mode: Literal["avg", "max", "corner_max"] = "avg",
    coordinates: Literal["half_pixel", "output_half_pixel"] | None = None,
    out: Any = None,
) -> Any:
    """Each region of a map in a fixed number of bins: (N, C, H, W) and boxes (R, 5) to (R, C, P, Q).

    A box is its image's number (a fraction is cut off), x1, y1, x2, y2; ``boxes`` may also be a sequence of (L, 4),
    one array per image. Coordinates times ``spatial_scale`` are positions on the map; with ``aligned`` half an
    element is subtracted, else a region is at least one element long. A region is cut into ``output_size`` bins, a
    bin holds ``sampling_ratio`` samples along each axis (0 or less: the bin's length, rounded up), and a sample lies
    between four elements; beyond one element outside the map it is 0. ``mode``: "avg", the samples' mean; "max",
    their maximum (mmcv, OpenVINO); "corner_max", the maximum of all samples' four weighted elements (ONNX's "max").
    ``coordinates`` says ``aligned`` in ONNX's words: "half_pixel" is True, "output_half_pixel" False.

    float32, float64, float16 or bfloat16; boxes have x's dtype, or float32 beside 16 bits. Elements without a weight
    take no part, whatever they are. Zeros are the result of boxes that are not finite, of regions without samples, and
    (on CUDA and while tracing) of images that do not exist. Gradients of any order with respect to x, the same bits
    every time; none with respect to boxes.

    Raises ContractError for an image outside [0, N) (on the CPU), a size below 1, a scale not above 0, more than 4096
    samples; ContractTypeError for other dtypes. Stable.

    Source: He et al., "Mask R-CNN", arXiv 1703.06870, section 3; the rules are those of torchvision.ops.roi_align.

    >>> import numpy as np
    >>> from mmkernels.ops.roi import roi_align
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> roi_align(x, [np.array([[0.0, 0.0, 4.0, 4.0]])], 2, aligned=True)[0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    half = _half_pixel("roi_align", aligned, coordinates)
    found = regions("roi_align", x, boxes)
    if not isinstance(mode, str):
        raise ContractTypeError(f"roi_align: mode is {mode!r}; expected one of 'avg', 'max', 'corner_max'")
    if mode == "avg":
        return _roi_align.call(x, found, output_size, spatial_scale, sampling_ratio, half, out)
    if mode not in ("max", "corner_max"):
        raise ContractError(f"roi_align: mode is {mode!r}; expected one of 'avg', 'max', 'corner_max'")
    corners = mode == "corner_max"
    return _roi_align_max.call(x, found, output_size, spatial_scale, sampling_ratio, half, corners, False, out)


def ps_roi_align(
    x: Any,
    boxes: Any,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    *,
    out: Any = None,
) -> Any:
    """roi_align with ``aligned``, each bin on a plane of its own: (N, C P Q, H, W) and boxes (R, 5) to (R, C, P, Q).

    Bin (p, q) of channel c is taken from plane (c P + p) Q + q. Boxes, types, defined results and errors are
    roi_align's, and ContractError is raised if the planes are no multiple of P Q. A region without samples is 0.
    Gradients of any order with respect to x. Provisional.

    Source: Dai et al., "R-FCN", arXiv 1605.06409; Li et al., "Light-Head R-CNN", arXiv 1711.07264; the rules are those
    of torchvision.ops.ps_roi_align.

    >>> import numpy as np
    >>> from mmkernels.ops.roi import ps_roi_align
    >>> x = np.arange(4.0).reshape(1, 4, 1, 1) + np.zeros((1, 4, 4, 4))
    >>> ps_roi_align(x, np.array([[0.0, 0.0, 0.0, 4.0, 4.0]]), 2)[0, 0]
    array([[0., 1.],
           [2., 3.]])
    """
    return _ps_roi_align.call(x, regions("ps_roi_align", x, boxes), output_size, spatial_scale, sampling_ratio, out)


def ps_roi_pool(
    x: Any, boxes: Any, output_size: int | Sequence[int], spatial_scale: float = 1.0, *, out: Any = None
) -> Any:
    """The mean of each bin's elements, each on a plane of its own: (N, C P Q, H, W) and boxes (R, 5) to (R, C, P, Q).

    Bin (p, q) of channel c is taken from plane (c P + p) Q + q. Corners are rounded as in roi_pool, but the second
    corner's elements are not part of a region, nor are the map's last row and column (torchvision's forward; its
    gradient here is that of the same bins). A bin without elements is 0. Boxes, types, defined results and errors are
    ps_roi_align's. Gradients of any order with respect to x. Provisional.

    Source: Dai et al., "R-FCN", arXiv 1605.06409, section 3; the rules are those of torchvision.ops.ps_roi_pool.

    >>> import numpy as np
    >>> from mmkernels.ops.roi import ps_roi_pool
    >>> x = np.arange(4.0).reshape(1, 4, 1, 1) + np.zeros((1, 4, 5, 5))
    >>> ps_roi_pool(x, np.array([[0.0, 0.0, 0.0, 4.0, 4.0]]), 2)[0, 0]
    array([[0., 1.],
           [2., 3.]])
    """
    return _ps_roi_pool.call(x, regions("ps_roi_pool", x, boxes), output_size, spatial_scale, out)
