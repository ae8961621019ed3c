"""Planes at another resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ..contract import Arg, Attr, Bound, Case, Contract, Operand, Out, Require
from ..errors import ContractError, ContractTypeError
from ..operator import Operator

__all__ = ["interpolate"]

_SCALE = Attr("scale", "floats", length=2, doc="step in the source per output pixel")
_MODE = Attr("mode", "choice", "nearest", choices=("nearest",))
_STEPS = Require(
    "0 < scale[0] and scale[0] < 1e30 and 0 < scale[1] and scale[1] < 1e30",
    "scale is {scale}; expected steps above 0, not infinite",
    {"scale": (0.0, 1.0)},
)
_PLANES: tuple[tuple[str, dict[str, int], tuple[int, int], tuple[int, int], tuple[float, float]], ...] = (
    ("twice", {"N": 2, "C": 3}, (5, 18), (10, 36), (0.5, 0.5)),
    ("odd", {"N": 1, "C": 17}, (7, 5), (10, 12), (0.7, 5 / 12)),
    ("fewer", {"N": 2, "C": 2}, (9, 20), (4, 7), (2.25, 20 / 7)),
    ("steps that do not reach the end", {"N": 1, "C": 1}, (6, 7), (4, 5), (0.5, 0.3)),
    ("steps past the end", {"N": 1, "C": 2}, (3, 4), (5, 9), (2.0, 1.0)),
    ("no samples", {"N": 0, "C": 2}, (3, 4), (6, 8), (0.5, 0.5)),
    ("no outputs", {"N": 1, "C": 2}, (3, 4), (0, 8), (1.0, 0.5)),
)
INTERPOLATE = Contract(
    "interpolate", "Each output pixel is the source pixel at floor(index * scale), at most the last.",
    inputs=(Arg("x", "N C H W"),),
    attributes=(Attr("size", "ints", length=2, doc="(height, width) of y"), _SCALE, _MODE),
    lets={"P": "size[0]", "Q": "size[1]"},
    requires=(
        Require("min(size) >= 0", "size is {size}; expected at least 0", {"size": (-1, 2)}),
        _STEPS,
        Require(
            "min(H, W) >= 1 or min(size) == 0",
            "x has planes of {H} x {W}; expected at least one pixel to read",
            {"H": 0},
        ),
    ),
    outputs=(Out("y", "N C P Q"),),
    free=("N", "C"), layout="x", bound=Bound("exact"),
    vjp={"x": "interpolate_grad(gy, height=H, width=W, scale=scale, mode=mode)"},
    cases=(
        *(
            Case(name, {**e, "H": h, "W": w}, {"size": size, "scale": scale})
            for name, e, (h, w), size, scale in _PLANES
        ),
        Case(
            "U-Net", {"N": 2, "C": 320, "H": 32, "W": 32}, {"size": (64, 64), "scale": (0.5, 0.5)}, bench=True
        ),
    ),
    source="torch.nn.functional.interpolate, mode nearest",
)  # fmt: skip
INTERPOLATE_GRAD = Contract(
    "interpolate_grad", "The gradients of the output pixels that read each source pixel, added in row-major order.",
    inputs=(Arg("gy", "N C P Q"),),
    attributes=(Attr("height", "int", doc="of gx"), Attr("width", "int", doc="of gx"), _SCALE, _MODE),
    requires=(
        _STEPS,
        Require(
            "height >= 0 and width >= 0", "height, width are {height}, {width}; expected at least 0", {"height": -1}
        ),
        Require(
            "min(height, width) >= 1 or min(P, Q) == 0",
            "height, width are {height}, {width}; expected at least one pixel that was read",
            {"height": 0},
        ),
    ),
    outputs=(Out("gx", "N C height width"),),
    free=("N", "C"), layout="gy", flops="N * C * P * Q", bound=Bound("chain", depth="P * Q"),
    vjp={"gy": "interpolate(ggx, size=(P, Q), scale=scale, mode=mode)"},
    cases=(
        *(
            Case(name, {**e, "P": p, "Q": q}, {"height": h, "width": w, "scale": scale})
            for name, e, (h, w), (p, q), scale in _PLANES
        ),
        Case(
            "U-Net", {"N": 2, "C": 320, "P": 64, "Q": 64}, {"height": 32, "width": 32, "scale": (0.5, 0.5)}, bench=True
        ),
    ),
)  # fmt: skip


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    """One number for both axes, or one for each."""
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(pair) != 2 or not all(hasattr(n, "__float__") or hasattr(n, "__index__") for n in pair):
        raise ContractTypeError(f"{name} is {value!r}; expected a number, or one for each axis")
    return pair


def _mode_and_step(raw: dict[str, Any], operands: Mapping[str, Operand]) -> dict[str, Any]:
    """A scale without a size is the public function's scale_factor: its step is 1 / factor, whatever the rounding of
    the size. A size without a scale steps by the quotient of the extents, in float32."""
    if raw["mode"] == "bilinear":
        raise ContractError("mode is 'bilinear'; nearest only in this version")
    size, scale = raw["size"], raw["scale"]
    if size is not None and scale is not None:
        return raw
    extents = operands["x"].shape[2:]
    if len(extents) != 2:  # told by the contract
        return {**raw, "size": (0, 0), "scale": (1.0, 1.0)}
    if size is None:
        factors = tuple(float(f) for f in _pair("scale_factor", scale))
        if not all(1e-6 <= f <= 1e6 for f in factors):
            raise ContractError(f"scale_factor is {scale}; expected numbers from 1e-6 to 1e6")
        size = tuple(int(np.floor(float(n) * f)) for n, f in zip(extents, factors, strict=True))
        return {**raw, "size": size, "scale": tuple(1.0 / f for f in factors)}
    size = _pair("size", size)
    if not all(hasattr(n, "__index__") for n in size):
        raise ContractTypeError(f"size is {size}; expected integers")
    steps = [np.float32(n) / np.float32(m) if n and m > 0 else 1.0 for n, m in zip(extents, size, strict=True)]
    return {**raw, "size": size, "scale": tuple(map(float, steps))}


_interpolate, _interpolate_grad = Operator(INTERPOLATE, _mode_and_step), Operator(INTERPOLATE_GRAD)


def interpolate(
    x: Any,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: Literal["nearest", "bilinear"] = "nearest",
    align_corners: bool | None = None,
    *,
    out: Any = None,
) -> Any:
    """x (N, C, H, W), float32 or float64, at another resolution: (N, C, *size).

    Either ``size`` or ``scale_factor`` is given, one number or one per axis; size = floor(extent * scale_factor).
    Output pixel i reads pixel min(floor(i * step), extent - 1), computed in float32; the step is extent / size, or
    1 / scale_factor if that is what was given. Only mode "nearest" is there in this version, so ``align_corners``
    must be None.

    Raises ContractError for both or neither of size and scale_factor, another mode, align_corners, or a plane
    without pixels; ContractTypeError for other dtypes. Gradients of any order. Stable for mode "nearest".

    Source: torch.nn.functional.interpolate.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.interpolate(np.array([[[[1.0, 2.0]]]]), scale_factor=2)[0, 0]
    array([[1., 1., 2., 2.],
           [1., 1., 2., 2.]])
    """
    if (size is None) == (scale_factor is None):
        raise ContractError(f"interpolate: size is {size} and scale_factor is {scale_factor}; expected one of them")
    if align_corners is not None and mode == "nearest":
        raise ContractError(f"interpolate: align_corners is {align_corners}; expected None with mode 'nearest'")
    return _interpolate.call(x, size, scale_factor, mode, out)
