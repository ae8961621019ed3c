"""Deformable convolution and its gradients: sums over sampled positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..contract import Arg, Attr, Bound, Case, Contract, Operand, Out, Require
from ..errors import ContractError
from ..operator import Operator
from ..windows import borders, per_dimension

__all__ = ["deform_conv2d"]

_ACTIVATIONS = (None, "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu")
_DEFORM_SOURCE = (
    "Dai et al., Deformable Convolutional Networks, arXiv 1703.06211, equation 2; "
    "Zhu et al., Deformable ConvNets v2, arXiv 1811.11168, equation 1 (mask)"
)

# ---- conditions -----------------------------------------------------------------------------------------------------

_GEOMETRY = (
    Attr("stride", "ints", (1, 1), length=2, doc="step of the window: rows, columns"),
    Attr("padding", "ints", (0, 0, 0, 0), length=4, doc="zeros at the top, bottom, left, right"),
    Attr("dilation", "ints", (1, 1), length=2, doc="distance between taps: rows, columns"),
)
_GROUPS = Attr("groups", "int", 1, doc="channels are cut into so many groups, each with outputs of its own")
_POSITIVE = (
    Require("stride[0] >= 1 and stride[1] >= 1", "stride is {stride}; expected 1 or more", {"stride": (1, 0)}),
    Require(
        "dilation[0] >= 1 and dilation[1] >= 1", "dilation is {dilation}; expected 1 or more", {"dilation": (0, 1)}
    ),
    Require(
        "padding[0] >= 0 and padding[1] >= 0 and padding[2] >= 0 and padding[3] >= 0",
        "padding is {padding}; expected 0 or more",
        {"padding": (0, 0, -1, 0)},
    ),
)
_GROUPS_OF_X = Require(
    "C >= 1 and D >= 1 and C % D == 0",
    "weight has {D} channels for each group; expected a divisor of x's C = {C}, at least 1",
    {"D": 4},
)
_GROUPS_OF_K = Require(
    "groups >= 1 and K % groups == 0",
    "there are {K} filters and {groups} groups; expected a multiple",
    {"D": 2, "K": 4},
)
_OFFSET_TAPS = Require(
    "J >= 1 and J % (2 * R * S) == 0",
    "offset has {J} channels; expected a multiple of 2 * {R} * {S}, y and x of each tap",
    {"J": 20},
)
_OFFSET_GROUPS = Require(
    "C % offset_groups == 0", "offset has {offset_groups} groups; expected a divisor of C = {C}", {"J": 2 * 9 * 4}
)


def _fits(height: str, width: str, empty: Mapping[str, Any]) -> tuple[Require, ...]:
    """The window is there, and not larger than the bordered input."""
    return (
        Require("R >= 1 and S >= 1", "the kernel is {R} x {S}; expected 1 x 1 or more", empty),
        Require(
            f"dilation[0] * (R - 1) < {height} + padding[0] + padding[1] and "
            f"dilation[1] * (S - 1) < {width} + padding[2] + padding[3]",
            f"the kernel {{R}} x {{S}} with dilation {{dilation}} is larger than the input {{{height}}} x {{{width}}} "
            "with padding {padding}; expected one that fits",
            {"dilation": (100, 1)},
        ),
    )


def _outputs(height: str, width: str, names: Sequence[str]) -> dict[str, str]:
    return {
        names[0]: f"({height} + padding[0] + padding[1] - dilation[0] * (R - 1) - 1) // max(1, stride[0]) + 1",
        names[1]: f"({width} + padding[2] + padding[3] - dilation[1] * (S - 1) - 1) // max(1, stride[1]) + 1",
    }


_EXTENTS = Require(
    "P == rows and Q == columns",
    "gy has {P} x {Q} outputs; expected {rows} x {columns} for this input, kernel, stride, padding and dilation",
    {"P": 3},
)
_OFFSET_SETS = {"offset_groups": "J // max(1, 2 * R * S)"}
_CHUNK = "max(1, 256 // (R * S))"
_OFFSET = Arg("offset", "N J P Q", doc="J = offset groups * taps * 2; of each tap y, then x")
_MASK = Arg("mask", "N offset_groups*R*S P Q", optional=True, doc="a factor of each tap's sample")


# ---- cases ----------------------------------------------------------------------------------------------------------


def _case(
    name: str,
    extents: Sequence[int],
    kernel: Sequence[int],
    outputs: int,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    offset_groups: int = 1,
    activation: str | None = None,
    optional: tuple[str, ...] = (),
    bench: bool = False,
) -> tuple[Case, ...]:
    """One deformable convolution as a case of each operator: forward, gradients of x, offset, weight, mask; snap."""
    N, C, H, W = extents
    R, S = kernel
    P = (H + padding[0] + padding[1] - dilation[0] * (R - 1) - 1) // stride[0] + 1
    Q = (W + padding[2] + padding[3] - dilation[1] * (S - 1) - 1) // stride[1] + 1
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    masked = tuple(o for o in optional if o == "mask")
    base = {"N": N, "K": outputs, "J": 2 * offset_groups * R * S, "R": R, "S": S}
    image, pixels, depth = {"C": C, "H": H, "W": W}, {"P": P, "Q": Q}, {"D": C // groups}
    offsets = {"N": N, "J": base["J"], **pixels}
    snap = {**geometry, "kernel": kernel, "axis": outputs % 2, "step": N % 2}
    return (
        Case(name, {**base, **image, **depth}, {**geometry, "activation": activation}, optional, bench),
        Case(name, {**base, **pixels, **depth}, {**geometry, "height": H, "width": W, "groups": groups}, masked, bench),
        Case(name, {**base, **image, **pixels, **depth}, geometry, masked, bench),
        Case(name, {**offsets, **image, "K": outputs}, {**geometry, "kernel": (R, S), "groups": groups}, masked, bench),
        Case(name, {**base, **image, **pixels, **depth}, geometry, (), bench),
        Case(name, offsets, snap, (), bench),
    )  # fmt: skip


_CASES = (
    _case("3 x 3, mask", (2, 6, 6, 5), (3, 3), 20, padding=(1, 1, 1, 1), optional=("bias", "mask")),
    _case("stride, odd border", (2, 4, 9, 8), (3, 2), 9, stride=(2, 3), padding=(0, 1, 2, 1), activation="relu"),
    _case("groups of both kinds", (1, 12, 9, 7), (2, 3), 4, dilation=(3, 2), padding=(1, 0, 1, 2), groups=2,
          offset_groups=3, optional=("bias", "mask")),
    _case("several chunks", (1, 60, 3, 4), (3, 3), 34, padding=(1, 1, 1, 1), offset_groups=2, optional=("mask",)),
    _case("1 x 1 plane", (3, 2, 1, 1), (1, 1), 3, padding=(1, 1, 1, 1), offset_groups=2, activation="silu",
          optional=("bias",)),
    _case("an offset for every channel", (1, 5, 4, 6), (2, 2), 5, groups=5, offset_groups=5, optional=("mask",)),
    _case("no rows", (1, 2, 0, 3), (1, 1), 3, padding=(1, 0, 0, 0), optional=("bias",)),
    _case("no samples", (0, 3, 5, 5), (3, 3), 4, optional=("bias", "mask")),
    _case("DCN v2", (2, 256, 64, 64), (3, 3), 256, padding=(1, 1, 1, 1), optional=("bias", "mask"), bench=True),
)  # fmt: skip


def _cases_of(operator: int) -> tuple[Case, ...]:
    return tuple(cases[operator] for cases in _CASES)


# ---- deformable convolution -----------------------------------------------------------------------------------------

_SAME = "stride=stride, padding=padding, dilation=dilation"
_BOTH = "deform_conv2d_offset_grad({x}, offset, {weight}, gy, mask, " + _SAME + ")"


def _both(x: str, weight: str) -> str:
    """The gradients of offset and mask; None for a mask that is not there."""
    call = _BOTH.format(x=x, weight=weight)
    return f"{call} if has_mask else ({call}, None)"


DEFORM_CONV2D = Contract(
    "deform_conv2d", "Convolution whose taps read x at positions that offsets move; then bias and activation.",
    inputs=(Arg("x", "N C H W"), _OFFSET, Arg("weight", "K D R S"), Arg("bias", "K", optional=True), _MASK),
    attributes=(*_GEOMETRY, Attr("activation", "choice", None, choices=_ACTIVATIONS)),
    lets={"groups": "C // max(1, D)", **_OFFSET_SETS, **_outputs("H", "W", "PQ")},
    requires=(
        *_POSITIVE, _GROUPS_OF_X, _GROUPS_OF_K, *_fits("H", "W", {"R": 0}), _OFFSET_TAPS, _OFFSET_GROUPS,
    ),
    outputs=(Out("y", "N K P Q"),),
    free=("N",), layout="x", flops="2 * N * K * P * Q * D * R * S + 8 * N * C * P * Q * R * S",
    bound=Bound("deform_conv2d", depth=f"min(D, {_CHUNK}) * R * S + (D + {_CHUNK} - 1) // {_CHUNK} + 2", ulp=4.0),
    vjp={
        "x": f"deform_conv2d_input_grad(gy, offset, weight, mask, height=H, width=W, groups=groups, {_SAME})",
        "offset mask": _both("x", "weight"),
        "weight": f"deform_conv2d_weight_grad(x, offset, gy, mask, kernel=(R, S), groups=groups, {_SAME})",
        "bias": "sum(gy, dims=(0, 2, 3))",
    },
    composition=lambda o: _composed(o), composed_when="activation is not None",
    cases=_cases_of(0), source=_DEFORM_SOURCE,
)  # fmt: skip

DEFORM_CONV2D_INPUT_GRAD = Contract(
    "deform_conv2d_input_grad", "The gradient of deform_conv2d with respect to x.",
    inputs=(Arg("gy", "N K P Q"), _OFFSET, Arg("weight", "K D R S"), _MASK),
    attributes=(Attr("height", "int"), Attr("width", "int"), _GROUPS, *_GEOMETRY),
    lets={"C": "D * groups", **_OFFSET_SETS, **_outputs("height", "width", ("rows", "columns"))},
    requires=(
        Require("height >= 0 and width >= 0", "the input is {height} x {width}; expected 0 or more", {"height": -1}),
        *_POSITIVE,
        Require("D >= 1", "weight has {D} channels for each group; expected 1 or more", {"D": 0}),
        Require(
            "groups >= 1 and K % groups == 0",
            "groups is {groups}; expected a divisor of K = {K}, at least 1",
            {"groups": 3},
        ),
        *_fits("height", "width", {"S": 0}), _EXTENTS, _OFFSET_TAPS, _OFFSET_GROUPS,
    ),
    outputs=(Out("gx", "N C height width"),),
    free=("N",), layout="gy", flops="2 * N * K * P * Q * D * R * S + 8 * N * C * P * Q * R * S",
    bound=Bound("deform_input", depth="min(256, K // groups) + (K // groups + 255) // 256 + P * Q * R * S"),
    vjp={
        "gy": f"deform_conv2d(ggx, offset, weight, None, mask, {_SAME})",
        "offset mask": _both("ggx", "weight"),
        "weight": f"deform_conv2d_weight_grad(ggx, offset, gy, mask, kernel=(R, S), groups=groups, {_SAME})",
    },
    cases=_cases_of(1), source=_DEFORM_SOURCE,
)  # fmt: skip

DEFORM_CONV2D_OFFSET_GRAD = Contract(
    "deform_conv2d_offset_grad", "The gradients of deform_conv2d with respect to offset and mask.",
    inputs=(Arg("x", "N C H W"), _OFFSET, Arg("weight", "K D R S"), Arg("gy", "N K P Q"), _MASK),
    attributes=_GEOMETRY,
    lets={"groups": "C // max(1, D)", **_OFFSET_SETS, **_outputs("H", "W", ("rows", "columns"))},
    requires=(
        *_POSITIVE, _GROUPS_OF_X, _GROUPS_OF_K, *_fits("H", "W", {"R": 0}), _EXTENTS, _OFFSET_TAPS, _OFFSET_GROUPS,
    ),
    outputs=(Out("goffset", "N J P Q"), Out("gmask", "N offset_groups*R*S P Q", when="has_mask")),
    free=("N",), flops="2 * N * K * P * Q * D * R * S + 24 * N * C * P * Q * R * S",
    bound=Bound("deform_offset", depth="min(256, K // groups) + (K // groups + 255) // 256"),
    composition=lambda o: _differences(o), cases=_cases_of(2), source=_DEFORM_SOURCE,
)  # fmt: skip

DEFORM_CONV2D_MASK_GRAD = Contract(
    "deform_conv2d_mask_grad", "The gradient of deform_conv2d with respect to mask, which it does not depend on.",
    inputs=(Arg("x", "N C H W"), _OFFSET, Arg("weight", "K D R S"), Arg("gy", "N K P Q")),
    attributes=_GEOMETRY,
    lets={"groups": "C // max(1, D)", **_OFFSET_SETS, **_outputs("H", "W", ("rows", "columns"))},
    requires=(
        *_POSITIVE, _GROUPS_OF_X, _GROUPS_OF_K, *_fits("H", "W", {"R": 0}), _EXTENTS, _OFFSET_TAPS, _OFFSET_GROUPS,
    ),
    outputs=(Out("gmask", "N offset_groups*R*S P Q"),),
    free=("N",), flops="2 * N * K * P * Q * D * R * S + 16 * N * C * P * Q * R * S",
    bound=Bound("deform_mask", depth="min(256, K // groups) + (K // groups + 255) // 256"),
    vjp={
        "x": f"deform_conv2d_input_grad(gy, offset, weight, ggmask, height=H, width=W, groups=groups, {_SAME})",
        "offset": f"deform_conv2d_offset_grad(x, offset, weight, gy, ggmask, {_SAME})[0]",
        "weight": f"deform_conv2d_weight_grad(x, offset, gy, ggmask, kernel=(R, S), groups=groups, {_SAME})",
        "gy": f"deform_conv2d(x, offset, weight, None, ggmask, {_SAME})",
    },
    cases=_cases_of(4), source=_DEFORM_SOURCE,
)  # fmt: skip

_AXIS = Require("axis == 0 or axis == 1", "axis is {axis}; expected 0 or 1", {"axis": 2})
_STEP = Require("step == 0 or step == 1", "step is {step}; expected 0 or 1", {"step": -1})


def _other_axis(shape: str, pairs: str, axis: str) -> str:
    """The gradient of what snaps: nothing along the axis, all along the other."""
    g = f"reshape(gy, {pairs})"
    first, second = f"slice_of({g}, 1, 0, 1)", f"slice_of({g}, 1, 1, 2)"
    parts = f"[zeros_like({first}), {second}] if {axis} == 0 else [{first}, zeros_like({second})]"
    return f"reshape(concat({parts}, 1), {shape})"


DEFORM_CONV2D_SNAP = Contract(
    "deform_conv2d_snap", "Offsets that move samples, along one axis, to the element below them or the one above.",
    inputs=(_OFFSET,),
    attributes=(
        Attr("kernel", "ints", length=2, doc="rows and columns of the filters"), *_GEOMETRY,
        Attr("axis", "int", 0, doc="0: rows; 1: columns"),
        Attr("step", "int", 0, doc="0: the element at or below the position; 1: the next one"),
    ),
    lets={"R": "kernel[0]", "S": "kernel[1]"},
    requires=(
        *_POSITIVE,
        Require("R >= 1 and S >= 1", "the kernel is {R} x {S}; expected 1 x 1 or more", {"kernel": (0, 3)}),
        _OFFSET_TAPS, _AXIS, _STEP,
    ),
    outputs=(Out("y", "N J P Q"),),
    free=("N",), flops="4 * N * J * P * Q", bound=Bound("exact"),
    vjp={"offset": _other_axis("(N, J, P, Q)", "(N * J // 2, 2, P, Q)", "axis")},
    cases=_cases_of(5), source=_DEFORM_SOURCE,
)  # fmt: skip

DEFORM_CONV2D_WEIGHT_GRAD = Contract(
    "deform_conv2d_weight_grad", "The gradient of deform_conv2d with respect to weight.",
    inputs=(Arg("x", "N C H W"), _OFFSET, Arg("gy", "N K P Q"), _MASK),
    attributes=(Attr("kernel", "ints", length=2, doc="rows and columns of the filters"), _GROUPS, *_GEOMETRY),
    lets={"R": "kernel[0]", "S": "kernel[1]", **_OFFSET_SETS, **_outputs("H", "W", ("rows", "columns"))},
    requires=(
        *_POSITIVE,
        Require(
            "groups >= 1 and C >= 1 and C % groups == 0",
            "groups is {groups}; expected a divisor of C = {C}, at least 1",
            {"groups": 4},
        ),
        Require("K % groups == 0", "groups is {groups}; expected a divisor of K = {K}", {"groups": 3}),
        *_fits("H", "W", {"kernel": (0, 3)}), _EXTENTS, _OFFSET_TAPS, _OFFSET_GROUPS,
    ),
    outputs=(Out("gweight", "K C//groups R S"),),
    flops="2 * N * K * P * Q * (C // groups) * R * S + 8 * N * C * P * Q * R * S",
    bound=Bound("deform_weight", depth="min(256, N * P * Q) + (N * P * Q + 255) // 256"),
    vjp={
        "x": f"deform_conv2d_input_grad(gy, offset, ggweight, mask, height=H, width=W, groups=groups, {_SAME})",
        "offset mask": _both("x", "ggweight"),
        "gy": f"deform_conv2d(x, offset, ggweight, None, mask, {_SAME})",
    },
    cases=_cases_of(3), source=_DEFORM_SOURCE,
)  # fmt: skip


def _composed(o: Any) -> Any:
    """deform_conv2d with an activation as the plain one and that activation."""
    y = o.deform_conv2d(
        o.x, o.offset, o.weight, o.bias, o.mask, stride=o.stride, padding=o.padding, dilation=o.dilation
    )
    more: dict[str, dict[str, Any]] = {"leaky_relu": {"negative_slope": 0.01}, "gelu": {"approximate": "none"}}
    return o[o.activation](y, **more.get(o.activation, {}))


def _differences(o: Any) -> Any:
    """A bilinear sample gains along an axis what lies between the samples at the elements on both sides of it."""
    geometry = {"stride": o.stride, "padding": o.padding, "dilation": o.dilation}

    def reached(offset: Any) -> Any:
        return o.deform_conv2d_mask_grad(o.x, offset, o.weight, o.gy, **geometry)

    slopes = []
    for axis in range(2):
        below, above = (
            reached(o.deform_conv2d_snap(o.offset, kernel=(o.R, o.S), axis=axis, step=step, **geometry))
            for step in range(2)
        )
        slope = o.sub(above, below)
        slope = o.mul(slope, o.mask) if o.has_mask else slope
        slopes.append(o.reshape(slope, (o.N * o.J // 2, 1, o.P, o.Q)))
    goffset = o.reshape(o.concat(slopes, 1), (o.N, o.J, o.P, o.Q))
    return (goffset, reached(o.offset)) if o.has_mask else goffset


def _plain(raw: dict[str, Any], operands: Mapping[str, Operand]) -> dict[str, Any]:
    stride, dilation = (per_dimension(raw[name], name, 2) for name in ("stride", "dilation"))
    if isinstance(raw["padding"], str):
        raise ContractError(f"padding is {raw['padding']!r}; expected numbers")
    return {**raw, "stride": stride, "dilation": dilation, "padding": borders(raw["padding"], (), stride, dilation)}


_deform_conv2d = Operator(DEFORM_CONV2D, _plain)
_input_grad = Operator(DEFORM_CONV2D_INPUT_GRAD, _plain)
_offset_grad = Operator(DEFORM_CONV2D_OFFSET_GRAD, _plain)
_weight_grad = Operator(DEFORM_CONV2D_WEIGHT_GRAD, _plain)
_mask_grad = Operator(DEFORM_CONV2D_MASK_GRAD, _plain)
_snap = Operator(DEFORM_CONV2D_SNAP, _plain)


def deform_conv2d(
    x: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Sequence[tuple[int, int]] = 0,
    dilation: int | Sequence[int] = 1,
    mask: Any = None,
    *,
    activation: str | None = None,
    out: Any = None,
) -> Any:
    """activation(deformable convolution of x with weight + bias): version 1 without a mask, version 2 with one.

    ``x`` is (N, C, H, W), ``weight`` (K, C / groups, R, S), ``bias`` (K), ``offset`` (N, 2 G R S, P, Q) and ``mask``
    (N, G R S, P, Q): all float32, float64, float16 or bfloat16. groups and G, the number of offset groups, follow
    from the shapes. Tap (r, s) of output (p, q) reads x at row p * stride - padding + r * dilation + offset[.., 2 t]
    and column q * stride - padding + s * dilation + offset[.., 2 t + 1], t = r S + s, by bilinear interpolation in an
    image that zeros surround; the mask multiplies it. A position outside (-1, H) x (-1, W) reads 0, however far
    (an infinite offset too), a NaN offset reads NaN. ``padding`` is one number, (height, width) or ((top, bottom),
    (left, right)). The result is (N, K, P, Q), P and Q as conv2d's; with offsets of zero, no mask and a finite x it
    has conv2d's bits. One sample has the same bits in any batch; no extent of the batch is refused.

    Gradients of any order with respect to all operands, on CUDA too without floating-point atomics: the same bits
    every time. At whole numbers the slope along an offset is that towards the next element.

    Raises ContractError if shapes do not agree or a stride, dilation or padding is out of range; ContractTypeError
    for other dtypes.

    Source: Dai et al., Deformable Convolutional Networks, arXiv 1703.06211, equation 2; Zhu et al., Deformable
    ConvNets v2, arXiv 1811.11168, equation 1. Provisional.

    >>> import numpy as np
    >>> from mmkernels.ops.deform import deform_conv2d
    >>> x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> half_a_row_down = np.stack([np.full((3, 3), 0.5), np.zeros((3, 3))])[None].astype(np.float32)
    >>> deform_conv2d(x, half_a_row_down, np.ones((1, 1, 1, 1), np.float32))[0, 0]
    array([[1.5, 2.5, 3.5],
           [4.5, 5.5, 6.5],
           [3. , 3.5, 4. ]], dtype=float32)
    """
    return _deform_conv2d.call(x, offset, weight, bias, mask, stride, padding, dilation, activation, out)
