"""Planes at another resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from .. import arrays
from ..contract import Arg, Attr, Bound, Case, Contract, Operand, Out, Require
from ..errors import ContractError, ContractTypeError
from ..operator import Operator

__all__ = ["interpolate"]

_SCALE = Attr("scale", "floats", length=2, doc="step in the source per output pixel")
_MODE = Attr("mode", "choice", "nearest", choices=("nearest", "bilinear"))
_ALIGN = Attr("align_corners", "bool", False, doc="bilinear: pixel i is at i, not at i + 1/2")
_STEPS = Require(  # a row of one pixel between aligned corners has no step
    "min(scale) >= 0 and (min(scale) > 0 or mode == 'bilinear') and max(scale) < 1e30",
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
_LINEAR: tuple[tuple[str, dict[str, int], tuple[int, int], tuple[int, int], tuple[float, float], bool], ...] = (
    ("bilinear, twice", {"N": 2, "C": 3}, (5, 18), (10, 36), (0.5, 0.5), False),
    ("bilinear, corners aligned", {"N": 1, "C": 17}, (7, 5), (10, 12), (6 / 9, 4 / 11), True),
    ("bilinear, fewer", {"N": 2, "C": 2}, (9, 20), (4, 7), (2.25, 20 / 7), False),
    ("bilinear, one row", {"N": 1, "C": 4}, (3, 4), (1, 8), (0.0, 3 / 7), True),
    ("bilinear, one column", {"N": 1, "C": 2}, (4, 1), (7, 5), (4 / 7, 0.2), False),
    ("bilinear, steps past the end", {"N": 1, "C": 2}, (3, 4), (5, 9), (2.0, 1.0), False),
    ("bilinear, no outputs", {"N": 1, "C": 2}, (3, 4), (0, 8), (1.0, 0.5), False),
)
INTERPOLATE = Contract(
    "interpolate", "Each output pixel is the source pixel at floor(index * scale), or between four of them.",
    inputs=(Arg("x", "N C H W"),),
    attributes=(Attr("size", "ints", length=2, doc="(height, width) of y"), _SCALE, _MODE, _ALIGN),
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
    free=("N", "C"), layout="x", flops="6*N*C*P*Q if mode == 'bilinear' else 0", bound=Bound("interpolate"),
    vjp={"x": "interpolate_grad(gy, height=H, width=W, scale=scale, mode=mode, align_corners=align_corners)"},
    cases=(
        *(
            Case(name, {**e, "H": h, "W": w}, {"size": size, "scale": scale})
            for name, e, (h, w), size, scale in _PLANES
        ),
        *(
            Case(name, {**e, "H": h, "W": w}, {"size": size, "scale": scale, "mode": "bilinear", "align_corners": a})
            for name, e, (h, w), size, scale, a in _LINEAR
        ),
        Case(
            "U-Net", {"N": 2, "C": 320, "H": 32, "W": 32}, {"size": (64, 64), "scale": (0.5, 0.5)}, bench=True
        ),
        Case(
            "FPN, bilinear", {"N": 1, "C": 256, "H": 50, "W": 68},
            {"size": (100, 136), "scale": (0.5, 0.5), "mode": "bilinear"}, bench=True,
        ),
    ),
    source="torch.nn.functional.interpolate, modes nearest and bilinear",
)  # fmt: skip
INTERPOLATE_GRAD = Contract(
    "interpolate_grad", "The gradients of the output pixels that read each source pixel, added in row-major order.",
    inputs=(Arg("gy", "N C P Q"),),
    attributes=(Attr("height", "int", doc="of gx"), Attr("width", "int", doc="of gx"), _SCALE, _MODE,
                _ALIGN),
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
    free=("N", "C"), layout="gy", flops="N*C*P*Q*(8 if mode == 'bilinear' else 1)",
    bound=Bound("interpolate_grad", depth="P * Q"),
    vjp={"gy": "interpolate(ggx, size=(P, Q), scale=scale, mode=mode, align_corners=align_corners)"},
    cases=(
        *(
            Case(name, {**e, "P": p, "Q": q}, {"height": h, "width": w, "scale": scale})
            for name, e, (h, w), (p, q), scale in _PLANES
        ),
        *(
            Case(name, {**e, "P": p, "Q": q},
                 {"height": h, "width": w, "scale": scale, "mode": "bilinear", "align_corners": a})
            for name, e, (h, w), (p, q), scale, a in _LINEAR
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
    the size. A size without a scale steps by the quotient of the extents, nearest in float32. Between aligned corners
    the step is that of the first and last pixels, whatever was given."""
    raw = {**raw, "align_corners": False if raw["align_corners"] is None else raw["align_corners"]}
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
        steps = tuple(1.0 / f for f in factors)
    else:
        size = _pair("size", size)
        if not all(hasattr(n, "__index__") for n in size):
            raise ContractTypeError(f"size is {size}; expected integers")
        number = float if raw["mode"] == "bilinear" else np.float32
        steps = tuple(float(number(n) / number(m)) if n and m > 0 else 1.0 for n, m in zip(extents, size, strict=True))
    if raw["mode"] == "bilinear":  # torch's rule: whatever the factor, an axis that keeps its extent is copied
        steps = tuple(1.0 if n == m else s for n, m, s in zip(extents, size, steps, strict=True))
    if raw["align_corners"] is True:
        steps = tuple((n - 1) / (m - 1) if n and m > 1 else 0.0 for n, m in zip(extents, size, strict=True))
    return {**raw, "size": size, "scale": steps}


_interpolate, _interpolate_grad = Operator(INTERPOLATE, _mode_and_step), Operator(INTERPOLATE_GRAD)


def interpolate(
    x: Any,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: Literal["nearest", "linear", "bilinear", "trilinear"] = "nearest",
    align_corners: bool | None = None,
    *,
    out: Any = None,
) -> Any:
    """x (N, C, H, W), of a float dtype, at another resolution: (N, C, *size). Also x (N, C, W) with mode "linear", and
    (N, C, D, H, W) with mode "trilinear"; both with "nearest".

    Either ``size`` or ``scale_factor`` is given, one number or one per axis; size = floor(extent * scale_factor).

    "nearest": output pixel i reads pixel min(floor(i * step), extent - 1), computed in float32; the step is
    extent / size, or 1 / scale_factor if that is what was given. "bilinear" ("linear" for one axis): output pixel i
    lies at r = max((i + 1/2) * step - 1/2, 0), or with ``align_corners`` at r = i * step with
    step = (extent - 1) / (size - 1); between pixels floor(r) and floor(r) + 1 the latter's share is r - floor(r). A
    share of 0 takes no part; an axis that keeps its extent is copied, whatever the factor. No filter is applied where
    the size is less. "trilinear" is "bilinear" of the planes and then along the depth, in 16 bits rounded after each.

    Raises ContractError for both or neither of size and scale_factor, another mode, align_corners with "nearest", or a
    plane without pixels; ContractTypeError for other dtypes. Gradients of any order. Stable.

    Source: torch.nn.functional.interpolate.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.interpolate(np.array([[[[1.0, 2.0]]]]), scale_factor=2)[0, 0]
    array([[1., 1., 2., 2.],
           [1., 1., 2., 2.]])
    >>> mmk.interpolate(np.array([[[[1.0, 3.0]]]]), (1, 4), mode="bilinear")[0, 0]
    array([[1. , 1.5, 2.5, 3. ]])
    """
    if (size is None) == (scale_factor is None):
        raise ContractError(f"interpolate: size is {size} and scale_factor is {scale_factor}; expected one of them")
    if not isinstance(mode, str):
        raise ContractError(f"interpolate: mode is {mode!r}; expected 'nearest', 'linear', 'bilinear' or 'trilinear'")
    for name, given in (("size", size), ("scale_factor", scale_factor)):
        if isinstance(given, (str, bytes)):
            raise ContractTypeError(f"interpolate: {name} is {given!r}; expected a number, or one for each axis")
    if align_corners is not None and mode == "nearest":
        raise ContractError(f"interpolate: align_corners is {align_corners}; expected None with mode 'nearest'")
    if out is not None and not arrays.library_of(out):
        raise ContractTypeError(f"interpolate: out is a {type(out).__name__}; expected an array")
    if arrays.library_of(x) and len(x.shape) == 3 and mode in ("nearest", "linear"):
        return _interpolate_lines(x, size, scale_factor, mode, align_corners, out)
    if arrays.library_of(x) and len(x.shape) == 5 and mode in ("nearest", "trilinear"):
        return _interpolate_volumes(x, size, scale_factor, mode, align_corners, out)
    return _interpolate.call(x, size, scale_factor, mode, align_corners, out)


def _interpolate_lines(x: Any, size: Any, factor: Any, mode: str, align_corners: bool | None, out: Any) -> Any:
    """Lines as planes of one row."""

    def one(name: str, value: Any) -> Any:
        if isinstance(value, Sequence) and len(value) != 1:
            raise ContractTypeError(f"interpolate: {name} is {value!r}; expected a number for the one axis")
        return value[0] if isinstance(value, Sequence) else value

    n, c, w = arrays.shape_of(x)
    y = _interpolate.call(
        arrays.reshape(x, (n, c, 1, w)),
        None if size is None else (1, one("size", size)),
        None if factor is None else (1.0, one("scale_factor", factor)),
        "bilinear" if mode == "linear" else mode,
        align_corners,
        None if out is None else out.reshape((*out.shape[:2], 1, *out.shape[2:])),
    )
    return out if out is not None else arrays.reshape(y, (*arrays.shape_of(y)[:2], arrays.shape_of(y)[3]))


def _interpolate_volumes(x: Any, size: Any, factor: Any, mode: str, align_corners: bool | None, out: Any) -> Any:
    """Planes first, then the depth, whose lines are the columns of a plane of (D, P * Q)."""

    def three(name: str, value: Any) -> tuple[Any, Any, Any]:
        triple = tuple(value) if isinstance(value, Sequence) else (value, value, value)
        if len(triple) != 3:
            raise ContractTypeError(f"interpolate: {name} is {value!r}; expected a number, or one for each axis")
        return triple[0], triple[1], triple[2]

    n, c, d, h, w = arrays.shape_of(x)
    plain = "bilinear" if mode == "trilinear" else mode
    sizes = None if size is None else three("size", size)
    factors = None if factor is None else three("scale_factor", factor)
    planes = _interpolate.call(
        arrays.reshape(x, (n, c * d, h, w)), sizes and sizes[1:], factors and factors[1:], plain, align_corners, None
    )
    p, q = arrays.shape_of(planes)[2:]
    y = _interpolate.call(
        arrays.reshape(planes, (n, c, d, p * q)), sizes and (sizes[0], p * q), factors and (factors[0], 1.0), plain,
        align_corners, None,
    )  # fmt: skip
    y = arrays.reshape(y, (*arrays.shape_of(y)[:3], p, q))
    if out is None:
        return y
    if arrays.shape_of(out) != arrays.shape_of(y):
        raise ContractError(f"interpolate: out.shape is {arrays.shape_of(out)}; expected {arrays.shape_of(y)}")
    if out.dtype != y.dtype:
        raise ContractTypeError(f"interpolate: out.dtype is {out.dtype}; expected {y.dtype}")
    if isinstance(out, np.ndarray):
        if not out.flags.writeable:
            raise ContractError("interpolate: out is read-only; expected a writeable array")
        if out.size and any(s == 0 and n > 1 for s, n in zip(out.strides, out.shape, strict=True)):
            raise ContractError("interpolate: out has a stride of 0; expected memory of its own for each element")
    out[...] = y
    return out
