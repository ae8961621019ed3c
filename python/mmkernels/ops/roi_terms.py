"""What the contracts of regions share: operands, attributes, conditions and cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..contract import Arg, Attr, Case, Operand, Require
from ..errors import ContractTypeError

__all__ = [
    "ALIGN", "ALIGNED", "BACKWARD", "FORWARD", "HEIGHT", "IMAGES", "RATIO", "RATIO_BOUNDED", "SAMPLES", "SCALE",
    "SCALE_POSITIVE", "SIZE", "TAPS", "WIDTH", "AlignCase", "backward_case", "forward_case", "plain_sizes",
    "region_boxes",
]  # fmt: skip


def region_boxes(images: str, height: str, width: str, scale: str = "spatial_scale") -> Arg:
    """Boxes as every operator of unrotated regions takes them; some lie partly outside the map."""
    return Arg(
        "boxes", "R 5", "wide T", values=("0", images), column=0,
        columns=(
            ("0", images), ("-2 / " + scale, f"{width} / 2 / {scale}"), ("-2 / " + scale, f"{height} / 2 / {scale}"),
            (f"{width} / 3 / {scale}", f"({width} + 2) / {scale}"),
            (f"{height} / 3 / {scale}", f"({height} + 2) / {scale}"),
        ),
        doc="batch index (its fraction is cut off), x1, y1, x2, y2",
    )  # fmt: skip


SIZE = Attr("output_size", "ints", length=2, doc="bins along (height, width)")
SCALE = Attr("spatial_scale", "float", 1.0, doc="elements of the map per unit of the boxes")
RATIO = Attr("sampling_ratio", "int", -1, doc="samples of a bin along each axis; 0 or less: ceil(its length)")
ALIGNED = Attr("aligned", "bool", False, doc="half an element is subtracted, and regions may be shorter than one")
IMAGES, HEIGHT, WIDTH = (Attr(name, "int", doc="of gx") for name in ("images", "height", "width"))
SCALE_POSITIVE = Require(
    "0 < spatial_scale and spatial_scale < 1e30",
    "spatial_scale is {spatial_scale}; expected a number above 0",
    {"spatial_scale": -1.0},
)
RATIO_BOUNDED = Require(
    "sampling_ratio <= 4096", "sampling_ratio is {sampling_ratio}; expected at most 4096", {"sampling_ratio": 4097}
)
FORWARD = (
    Require("min(output_size) >= 1", "output_size is {output_size}; expected numbers of at least 1",
            {"output_size": (2, 0)}),
    Require("max(H, W) < 2147483648", "x is {H} x {W}; expected less than 2147483648",
            {"W": 2147483648, "C": 0}),
)  # fmt: skip
BACKWARD = (
    *(Require(f"{n} >= 0", f"{n} is {{{n}}}; expected at least 0", {n: -1}) for n in ("images", "height", "width")),
    Require("max(height, width) < 2147483648", "gx is {height} x {width}; expected less than 2147483648",
            {"width": 2147483648}),
)  # fmt: skip
TAPS = "(8 * sampling_ratio if sampling_ratio > 0 else 2 * ({0} + {1})) + 8"  # roundings of a term of a mean
SAMPLES = "max(sampling_ratio, 1) * max(sampling_ratio, 1)"

# name, extents, (height, width), bins, attributes
AlignCase = tuple[str, dict[str, int], tuple[int, int], tuple[int, int], dict[str, Any]]


def forward_case(case: AlignCase, bench: bool = False) -> Case:
    """A case of an operator that reads a map."""
    name, extents, (height, width), bins, attributes = case
    return Case(name, {**extents, "H": height, "W": width}, {"output_size": bins, **attributes}, bench=bench)


def backward_case(case: AlignCase, bench: bool = False) -> Case:
    """The same case of its gradient."""
    name, extents, (height, width), (p, q), attributes = case
    rest = {key: n for key, n in extents.items() if key != "N"}
    return Case(
        name, {**rest, "P": p, "Q": q}, {"images": extents["N"], "height": height, "width": width, **attributes},
        bench=bench,
    )  # fmt: skip


ALIGN = "spatial_scale=spatial_scale, sampling_ratio=sampling_ratio, aligned=aligned"


def _pair(name: str, value: Any) -> Any:
    """One number for both axes; a sequence of one is one number too."""
    if isinstance(value, Sequence) and len(value) == 1:
        value = value[0]
    if isinstance(value, Sequence):
        return tuple(value)
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ContractTypeError(f"{name} is {value!r}; expected an integer, or one for each axis")
    return (value, value)


def plain_sizes(raw: dict[str, Any], operands: Mapping[str, Operand]) -> dict[str, Any]:
    """The bins along both axes, of one number or two."""
    return {**raw, "output_size": _pair("output_size", raw["output_size"])}
