"""Two-dimensional convolution and its gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..contract import Arg, Attr, Bound, Case, Contract, Operand, Out, Require
from ..errors import ContractError, ContractTypeError
from ..operator import Operator

__all__ = ["conv2d"]

_ACTIVATIONS = (None, "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu")
_SOURCE = "Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv 1603.07285, section 2"

_GEOMETRY = (
    Attr("stride", "ints", (1, 1), length=2, doc="step of the window: rows, columns"),
    Attr("padding", "ints", (0, 0, 0, 0), length=4, doc="zeros at the top, bottom, left, right"),
    Attr("dilation", "ints", (1, 1), length=2, doc="distance between taps: rows, columns"),
    Attr("groups", "int", 1, doc="channels are cut into so many groups, each with outputs of its own"),
)


def _roundings(channels: str) -> str:
    """The longest path of roundings: a chunk's chain, the chunks, bias and residual."""
    whole = "max(1, 256 // (R * S))"
    return f"min({channels}, {whole}) * R * S + ({channels} + {whole} - 1) // {whole} + 2"


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
    # The weight's shape, which the contract cannot divide out of no groups.
    Require("groups >= 1", "groups is {groups}; expected 1 or more", {"groups": 0, "weight": (20, 3, 3, 3)}),
)
_DIVIDES_C = Require("C % groups == 0", "groups is {groups}; expected a divisor of C = {C}", {"groups": 5})
_DIVIDES_K = Require("K % groups == 0", "groups is {groups}; expected a divisor of K = {K}", {"groups": 3})


def _fits(
    height: str, width: str, kernel_height: str, kernel_width: str, empty: Mapping[str, Any]
) -> tuple[Require, ...]:
    """The window is there, and not larger than the bordered input."""
    return (
        Require(
            f"{kernel_height} >= 1 and {kernel_width} >= 1",
            f"the kernel is {{{kernel_height}}} x {{{kernel_width}}}; expected 1 x 1 or more",
            empty,
        ),
        Require(
            f"dilation[0] * ({kernel_height} - 1) < {height} + padding[0] + padding[1] and "
            f"dilation[1] * ({kernel_width} - 1) < {width} + padding[2] + padding[3]",
            f"the kernel {{{kernel_height}}} x {{{kernel_width}}} with dilation {{dilation}} is larger than the input "
            f"{{{height}}} x {{{width}}} with padding {{padding}}; expected one that fits",
            {"dilation": (100, 1)},
        ),
    )


def _outputs(
    height: str, width: str, kernel_height: str, kernel_width: str, names: Sequence[str] = ("rows", "columns")
) -> dict[str, str]:
    return {
        names[0]: f"({height} + padding[0] + padding[1] - dilation[0] * ({kernel_height} - 1) - 1) // stride[0] + 1",
        names[1]: f"({width} + padding[2] + padding[3] - dilation[1] * ({kernel_width} - 1) - 1) // stride[1] + 1",
    }


_EXTENTS = Require(
    "P == rows and Q == columns",
    "gy has {P} x {Q} outputs; expected {rows} x {columns} for this input, kernel, stride, padding and dilation",
    {"P": 3},
)


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
    activation: str | None = None,
    optional: tuple[str, ...] = (),
    bench: bool = False,
) -> tuple[Case, Case, Case]:
    """One convolution as a case of each of the three operators."""
    N, C, H, W = extents
    R, S = kernel
    P = (H + padding[0] + padding[1] - dilation[0] * (R - 1) - 1) // stride[0] + 1
    Q = (W + padding[2] + padding[3] - dilation[1] * (S - 1) - 1) // stride[1] + 1
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return (
        Case(
            name, {"N": N, "C": C, "H": H, "W": W, "K": outputs, "R": R, "S": S},
            {**geometry, "activation": activation}, optional, bench,
        ),
        Case(
            name, {"N": N, "K": outputs, "P": P, "Q": Q, "D": C // groups, "R": R, "S": S},
            {**geometry, "height": H, "width": W}, (), bench,
        ),
        Case(
            name, {"N": N, "C": C, "H": H, "W": W, "K": outputs, "P": P, "Q": Q},
            {**geometry, "kernel": (R, S)}, (), bench,
        ),
    )  # fmt: skip


_CASES = (
    _case("3 x 3 with a border", (2, 3, 6, 5), (3, 3), 20, padding=(1, 1, 1, 1), optional=("bias",)),
    _case("stride, odd border", (2, 4, 9, 8), (3, 2), 9, stride=(2, 3), padding=(0, 1, 2, 1), activation="relu"),
    _case("dilation, groups", (1, 6, 9, 7), (2, 3), 4, dilation=(3, 2), padding=(1, 0, 1, 2), groups=2,
          activation="silu", optional=("bias", "residual")),
    _case("depthwise", (2, 5, 8, 9), (3, 3), 5, padding=(1, 1, 1, 1), groups=5, optional=("bias",)),
    _case("several chunks", (1, 60, 3, 4), (3, 3), 33, padding=(1, 1, 1, 1), optional=("residual",)),
    _case("1 x 1, stride 2", (2, 17, 5, 6), (1, 1), 18, stride=(2, 2), activation="gelu"),
    _case("no samples", (0, 3, 5, 5), (3, 3), 4, optional=("bias",)),
    _case("U-Net 8 x 8", (64, 96, 8, 8), (3, 3), 96, padding=(1, 1, 1, 1), optional=("bias",), bench=True),
    _case("LeNet 1 to 6", (64, 1, 32, 32), (5, 5), 6, optional=("bias",), bench=True),
    _case("LeNet 6 to 16", (64, 6, 14, 14), (5, 5), 16, optional=("bias",), bench=True),
    _case("ResNet stem", (1, 3, 224, 224), (7, 7), 64, stride=(2, 2), padding=(3, 3, 3, 3), optional=("bias",),
          bench=True),
    _case("ResNet 3 x 3", (1, 64, 56, 56), (3, 3), 64, padding=(1, 1, 1, 1), optional=("bias",), bench=True),
    _case("ResNet 1 x 1", (1, 256, 56, 56), (1, 1), 64, optional=("bias",), bench=True),
    _case("MobileNet depthwise", (1, 144, 56, 56), (3, 3), 144, padding=(1, 1, 1, 1), groups=144, optional=("bias",),
          bench=True),
)  # fmt: skip

CONV2D = Contract(
    "conv2d", "Convolution of images with a bank of filters; then bias, residual and activation.",
    inputs=(
        Arg("x", "N C H W"),
        Arg("weight", "K C//groups R S"),
        Arg("bias", "K", optional=True),
        Arg("residual", "N K P Q", optional=True, doc="added before the activation"),
    ),
    attributes=(*_GEOMETRY, Attr("activation", "choice", None, choices=_ACTIVATIONS)),
    lets=_outputs("H", "W", "R", "S", names="PQ"),
    requires=(*_POSITIVE, _DIVIDES_C, _DIVIDES_K, *_fits("H", "W", "R", "S", {"R": 0})),
    outputs=(Out("y", "N K P Q"),),
    free=("N",), layout="x", flops="2 * N * K * P * Q * (C // groups) * R * S",
    tensor_cores=True, bound=Bound("dot", depth=_roundings("C // groups"), ulp=4.0),
    vjp={
        "x": "conv2d_input_grad(gy, weight, height=H, width=W, stride=stride, padding=padding, dilation=dilation, "
             "groups=groups)",
        "weight": "conv2d_weight_grad(x, gy, kernel=(R, S), stride=stride, padding=padding, dilation=dilation, "
                  "groups=groups)",
        "bias": "sum(gy, dims=(0, 2, 3))",
        "residual": "gy",
    },
    composition=lambda o: _composed(o), composed_when="activation is not None",
    cases=tuple(forward for forward, _, _ in _CASES), source=_SOURCE,
)  # fmt: skip

CONV2D_INPUT_GRAD = Contract(
    "conv2d_input_grad", "The gradient of conv2d with respect to x.",
    inputs=(Arg("gy", "N K P Q"), Arg("weight", "K D R S")),
    attributes=(Attr("height", "int"), Attr("width", "int"), *_GEOMETRY),
    lets={"C": "D * groups", **_outputs("height", "width", "R", "S")},
    requires=(
        Require("height >= 0 and width >= 0", "the input is {height} x {width}; expected 0 or more", {"height": -1}),
        *_POSITIVE, _DIVIDES_K, *_fits("height", "width", "R", "S", {"S": 0}), _EXTENTS,
    ),
    outputs=(Out("gx", "N C height width"),),
    free=("N",), layout="gy", flops="2 * N * K * P * Q * D * R * S",
    tensor_cores=True, bound=Bound("dot", depth=_roundings("K // groups")),
    vjp={
        "gy": "conv2d(ggx, weight, stride=stride, padding=padding, dilation=dilation, groups=groups)",
        "weight": "conv2d_weight_grad(ggx, gy, kernel=(R, S), stride=stride, padding=padding, dilation=dilation, "
                  "groups=groups)",
    },
    cases=tuple(case for _, case, _ in _CASES), source=_SOURCE,
)  # fmt: skip

CONV2D_WEIGHT_GRAD = Contract(
    "conv2d_weight_grad", "The gradient of conv2d with respect to weight.",
    inputs=(Arg("x", "N C H W"), Arg("gy", "N K P Q")),
    attributes=(Attr("kernel", "ints", length=2, doc="rows and columns of the filters"), *_GEOMETRY),
    lets={"R": "kernel[0]", "S": "kernel[1]", **_outputs("H", "W", "R", "S")},
    requires=(*_POSITIVE, _DIVIDES_C, _DIVIDES_K, *_fits("H", "W", "R", "S", {"kernel": (0, 3)}), _EXTENTS),
    outputs=(Out("gweight", "K C//groups R S"),),
    flops="2 * N * K * P * Q * (C // groups) * R * S",
    tensor_cores=True, bound=Bound("dot", depth="min(256, N * P * Q) + (N * P * Q + 255) // 256"),
    vjp={
        "x": "conv2d_input_grad(gy, ggweight, height=H, width=W, stride=stride, padding=padding, dilation=dilation, "
             "groups=groups)",
        "gy": "conv2d(x, ggweight, stride=stride, padding=padding, dilation=dilation, groups=groups)",
    },
    cases=tuple(case for _, _, case in _CASES), source=_SOURCE,
)  # fmt: skip


def _composed(o: Any) -> Any:
    """conv2d with an activation as the plain convolution and that activation."""
    y = o.conv2d(
        o.x, o.weight, o.bias, o.residual,
        stride=o.stride, padding=o.padding, dilation=o.dilation, groups=o.groups,
    )  # fmt: skip
    more: dict[str, dict[str, Any]] = {"leaky_relu": {"negative_slope": 0.01}, "gelu": {"approximate": "none"}}
    return o[o.activation](y, **more.get(o.activation, {}))


def pair(value: Any, name: str) -> tuple[int, int]:
    """One int for rows and columns, or both."""
    if isinstance(value, (tuple, list)):
        if len(value) == 2:
            return (value[0], value[1])
        raise ContractError(f"{name} is {value!r}; expected one integer, or two for rows and columns")
    return (value, value)


def borders(padding: Any, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """Any form of padding as top, bottom, left, right. The odd element of "same" goes to the end."""
    if isinstance(padding, str):
        if padding == "valid":
            return (0, 0, 0, 0)
        if padding != "same":
            raise ContractError(f"padding is {padding!r}; expected 'same', 'valid' or numbers")
        if tuple(stride) != (1, 1):
            raise ContractError(f"padding is 'same' and stride is {tuple(stride)}; expected stride 1")
        spare = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return (spare[0] // 2, spare[0] - spare[0] // 2, spare[1] // 2, spare[1] - spare[1] // 2)
    if not isinstance(padding, (tuple, list)):
        return (padding,) * 4
    flat: list[Any] = []
    for side in padding:
        flat.extend(side if isinstance(side, (tuple, list)) else (side,))
    nested = [len(side) for side in padding if isinstance(side, (tuple, list))]
    if len(padding) == 2 and not nested:
        return (flat[0], flat[0], flat[1], flat[1])
    if (len(padding) == 4 and not nested) or (len(padding) == 2 and nested == [2, 2]):
        return tuple(flat)
    raise ContractError(
        f"padding is {padding!r}; expected one integer, (height, width), ((top, bottom), (left, right)), 'same' or "
        "'valid'"
    )


def _plain(raw: dict[str, Any], operands: Mapping[str, Operand]) -> dict[str, Any]:
    stride, dilation = pair(raw["stride"], "stride"), pair(raw["dilation"], "dilation")
    weight = operands.get("weight")
    kernel = raw["kernel"] if "kernel" in raw else weight.shape[2:] if weight is not None else ()
    if isinstance(raw["padding"], str) and len(kernel) != 2:
        raise ContractError(f"padding is {raw['padding']!r}; expected numbers, as weight has no two kernel extents")
    if any(type(v) is not int for v in (*stride, *dilation)) and isinstance(raw["padding"], str):
        raise ContractTypeError(f"stride is {stride!r} and dilation is {dilation!r}; expected integers")
    return {
        **raw, "stride": stride, "dilation": dilation,
        "padding": borders(raw["padding"], kernel, stride, dilation),
    }  # fmt: skip


_conv2d = Operator(CONV2D, _plain)
_conv2d_input_grad = Operator(CONV2D_INPUT_GRAD, _plain)
_conv2d_weight_grad = Operator(CONV2D_WEIGHT_GRAD, _plain)


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Sequence[tuple[int, int]] | Literal["same", "valid"] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: Any = None,
    algorithm: str | None = None,
    out: Any = None,
) -> Any:
    """activation(convolution of x with weight + bias + residual).

    ``x`` is (N, C, H, W), ``weight`` (K, C / groups, R, S), ``bias`` (K), ``residual`` of the result's shape
    (N, K, P, Q) with P = (H + top + bottom - dilation (R - 1) - 1) // stride + 1, Q likewise; all float32 or all
    float64. The filters are not flipped (cross-correlation). ``padding`` is one number of zeros for all sides,
    (height, width), ((top, bottom), (left, right)), "valid" (none) or "same" (stride 1; the odd one at the end).
    ``activation`` is None, "relu", "leaky_relu" (slope 0.01), "sigmoid", "tanh", "silu" or "gelu"; the result has the
    bits of the operators one after another. ``algorithm`` is None or "direct". A channels-last x gives a
    channels-last result. One sample has the same bits in any batch.

    Raises ContractError if shapes do not agree, groups does not divide the channels, the kernel is larger than the
    input with its border, or a stride, dilation or padding is out of range; ContractTypeError for other dtypes.

    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv 1603.07285, section 2.
    Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> laplacian = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32).reshape(1, 1, 3, 3)
    >>> mmk.conv2d(x, laplacian, padding="same")[0, 0]
    array([[  4.,   2.,  -2.],
           [ -2.,   0.,  -6.],
           [-14., -10., -20.]], dtype=float32)
    """
    if algorithm is not None and algorithm != "direct":
        raise ContractError(f"conv2d: algorithm is {algorithm!r}; expected None or 'direct'")
    return _conv2d.call(x, weight, bias, residual, stride, padding, dilation, groups, activation, out)
