"""Contracts of convolutions, as functions of the number of dimensions; mmkernels.ops.conv states them.

Extents of one, two and three dimensions end alike: elements (D, H, W), taps (T, R, S), results (O, P, Q).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..contract import Arg, Attr, Bound, Case, Contract, Operand, Out, Require
from ..errors import ContractError, ContractTypeError
from ..windows import borders, per_dimension

__all__ = ["Dimensions", "cases_of", "forward", "input_grad", "plain", "transposed", "transposed_case", "weight_grad"]

ACTIVATIONS = (None, "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu")
ALGORITHM = Attr(
    "algorithm", "choice", None, choices=(None, "tf32"), only={"tf32": ("float32",)},
    doc='"tf32" rounds the factors to TF32 and, on CUDA, uses tensor cores',
)  # fmt: skip
SOURCE = "Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv 1603.07285, section 2"


@dataclass(frozen=True)
class Dimensions:
    """What a contract says of each dimension, and of all."""

    count: int

    @property
    def elements(self) -> str:
        """Names of the input's extents."""
        return "DHW"[-self.count :]

    @property
    def taps(self) -> str:
        """Names of the kernel's extents."""
        return "TRS"[-self.count :]

    @property
    def results(self) -> str:
        """Names of the result's extents."""
        return "OPQ"[-self.count :]

    @property
    def sizes(self) -> tuple[str, ...]:
        """Attributes that tell an input's extents."""
        return ("depth", "height", "width")[-self.count :]

    @property
    def counts(self) -> tuple[str, ...]:
        """The results that an input has, where they must agree with an operand's."""
        return ("slices", "rows", "columns")[-self.count :]

    @property
    def words(self) -> str:
        """For documentation."""
        return ", ".join(self.counts)

    @property
    def dims(self) -> str:
        """The axes but channels."""
        return str((0, *range(2, 2 + self.count)))

    def product(self, names: Sequence[str]) -> str:
        """As an expression."""
        return " * ".join(names)

    def by(self, names: Sequence[str]) -> str:
        """As a message says it: {H} x {W}."""
        return " x ".join(f"{{{name}}}" for name in names)

    def all(self, condition: str, names: Sequence[str] = ()) -> str:
        """A condition on every dimension: i stands for its number, n for its name."""
        return " and ".join(
            condition.format(i=i, before=2 * i, after=2 * i + 1, n=names[i] if names else "") for i in range(self.count)
        )

    def one(self, index: int, value: int, rest: int) -> tuple[int, ...]:
        """A tuple with one value of its own."""
        return tuple(value if i == index % self.count else rest for i in range(self.count))


def _geometry(d: Dimensions) -> tuple[Attr, ...]:
    sides = ("front", "back", "top", "bottom", "left", "right")[-2 * d.count :]
    ones = (1,) * d.count
    return (
        Attr("stride", "ints", ones, length=d.count, doc=f"step of the window: {d.words}"),
        Attr("padding", "ints", (0,) * (2 * d.count), length=2 * d.count, doc=f"zeros at the {', '.join(sides)}"),
        Attr("dilation", "ints", ones, length=d.count, doc=f"distance between taps: {d.words}"),
        Attr("groups", "int", 1, doc="channels are cut into so many groups, each with outputs of its own"),
    )


def _roundings(channels: str, d: Dimensions) -> str:
    """The longest path of roundings: a chunk's chain, the chunks, bias and residual."""
    taps = d.product(d.taps)
    whole = f"max(1, 256 // ({taps}))"
    return f"min({channels}, {whole}) * {taps} + ({channels} + {whole} - 1) // {whole} + 2"


def _positive(d: Dimensions, weight: tuple[int, ...] | None) -> tuple[Require, ...]:
    signs = " and ".join(f"padding[{i}] >= 0" for i in range(2 * d.count))
    return (
        Require(d.all("stride[{i}] >= 1"), "stride is {stride}; expected 1 or more", {"stride": d.one(1, 0, 1)}),
        Require(
            d.all("dilation[{i}] >= 1"), "dilation is {dilation}; expected 1 or more", {"dilation": d.one(0, 0, 1)}
        ),
        Require(
            signs, "padding is {padding}; expected 0 or more",
            {"padding": (*(0,) * (2 * d.count - 2), -1, 0)},
        ),
        # The weight's shape, which the contract cannot divide out of no groups.
        Require(
            "groups >= 1", "groups is {groups}; expected 1 or more",
            {"groups": 0, **({"weight": weight} if weight else {})},
        ),
    )  # fmt: skip


_DIVIDES_C = Require("C % groups == 0", "groups is {groups}; expected a divisor of C = {C}", {"groups": 5})
_DIVIDES_K = Require("K % groups == 0", "groups is {groups}; expected a divisor of K = {K}", {"groups": 3})


def _window(d: Dimensions, empty: Mapping[str, Any]) -> Require:
    return Require(
        d.all("{n} >= 1", d.taps), f"the kernel is {d.by(d.taps)}; expected {' x '.join('1' * d.count)} or more", empty
    )


def _fits(d: Dimensions, elements: Sequence[str], empty: Mapping[str, Any]) -> tuple[Require, ...]:
    """The window is there, and not larger than the bordered input."""
    inside = " and ".join(
        f"dilation[{i}] * ({tap} - 1) < {n} + padding[{2 * i}] + padding[{2 * i + 1}]"
        for i, (n, tap) in enumerate(zip(elements, d.taps, strict=True))
    )
    return (
        _window(d, empty),
        Require(
            inside,
            f"the kernel {d.by(d.taps)} with dilation {{dilation}} is larger than the input {d.by(elements)} with "
            "padding {padding}; expected one that fits",
            {"dilation": d.one(0, 100, 1)},
        ),
    )


def _outputs(d: Dimensions, elements: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    return {
        name: f"({n} + padding[{2 * i}] + padding[{2 * i + 1}] - dilation[{i}] * ({tap} - 1) - 1) // stride[{i}] + 1"
        for i, (name, n, tap) in enumerate(zip(names, elements, d.taps, strict=True))
    }


def _extents_agree(d: Dimensions) -> Require:
    return Require(
        " and ".join(f"{n} == {wanted}" for n, wanted in zip(d.results, d.counts, strict=True)),
        f"gy has {d.by(d.results)} outputs; expected {d.by(d.counts)} for this input, kernel, stride, padding and "
        "dilation",
        {d.results[0] if d.count > 1 else "Q": 3},
    )


_CALL = "stride=stride, padding=padding, dilation=dilation, groups=groups, algorithm=algorithm"


def forward(name: str, count: int, cases: Sequence[Case]) -> Contract:
    """conv1d, conv2d, conv3d."""
    d = Dimensions(count)
    taps = f"({', '.join(d.taps)},)"
    sizes = ", ".join(f"{size}={n}" for size, n in zip(d.sizes, d.elements, strict=True))
    what = {1: "sequences", 2: "images", 3: "volumes"}[count]
    return Contract(
        name, f"Convolution of {what} with a bank of filters; then bias, residual and activation.",
        inputs=(
            Arg("x", f"N C {' '.join(d.elements)}"),
            Arg("weight", f"K C//groups {' '.join(d.taps)}"),
            Arg("bias", "K", optional=True),
            Arg("residual", f"N K {' '.join(d.results)}", optional=True, doc="added before the activation"),
        ),
        attributes=(*_geometry(d), Attr("activation", "choice", None, choices=ACTIVATIONS), ALGORITHM),
        lets=_outputs(d, d.elements, d.results),
        requires=(
            *_positive(d, (20, 3, *(3,) * count)), _DIVIDES_C, _DIVIDES_K,
            *_fits(d, d.elements, {d.taps[max(count - 2, 0)]: 0}),
        ),
        outputs=(Out("y", f"N K {' '.join(d.results)}"),),
        free=("N",), layout="x", flops=f"2 * N * K * {d.product(d.results)} * (C // groups) * {d.product(d.taps)}",
        tensor_cores=True, bound=Bound("dot", depth=_roundings("C // groups", d), ulp=4.0),
        vjp={
            "x": f"{name}_input_grad(gy, weight, {sizes}, {_CALL})",
            "weight": f"{name}_weight_grad(x, gy, kernel={taps}, {_CALL})",
            "bias": f"sum(gy, dims={d.dims})",
            "residual": "gy",
        },
        composition=lambda o: activated(
            o, o[name](o.x, o.weight, o.bias, o.residual,
                       stride=o.stride, padding=o.padding, dilation=o.dilation, groups=o.groups,
                       algorithm=o.algorithm)),
        composed_when="activation is not None",
        cases=tuple(cases), source=SOURCE,
    )  # fmt: skip


def input_grad(name: str, count: int, cases: Sequence[Case]) -> Contract:
    """The gradients of the above with respect to x."""
    d = Dimensions(count)
    plain_name = name.removesuffix("_input_grad")
    return Contract(
        name, f"The gradient of {plain_name} with respect to x.",
        inputs=(Arg("gy", f"N K {' '.join(d.results)}"), Arg("weight", f"K D {' '.join(d.taps)}")),
        attributes=(*(Attr(size, "int") for size in d.sizes), *_geometry(d), ALGORITHM),
        lets={"C": "D * groups", **_outputs(d, d.sizes, d.counts)},
        requires=(
            Require(d.all("{n} >= 0", d.sizes), f"the input is {d.by(d.sizes)}; expected 0 or more", {d.sizes[0]: -1}),
            *_positive(d, (20, 3, *(3,) * count)), _DIVIDES_K, *_fits(d, d.sizes, {"S": 0}), _extents_agree(d),
        ),
        outputs=(Out("gx", f"N C {' '.join(d.sizes)}"),),
        free=("N",), layout="gy", flops=f"2 * N * K * {d.product(d.results)} * D * {d.product(d.taps)}",
        tensor_cores=True, bound=Bound("dot", depth=_roundings("K // groups", d)),
        vjp={
            "gy": f"{plain_name}(ggx, weight, {_CALL})",
            "weight": f"{plain_name}_weight_grad(ggx, gy, kernel=({', '.join(d.taps)},), {_CALL})",
        },
        cases=tuple(cases), source=SOURCE,
    )  # fmt: skip


def weight_grad(name: str, count: int, cases: Sequence[Case]) -> Contract:
    """The gradients with respect to weight."""
    d = Dimensions(count)
    plain_name = name.removesuffix("_weight_grad")
    pixels = f"N * {d.product(d.results)}"
    sizes = ", ".join(f"{size}={n}" for size, n in zip(d.sizes, d.elements, strict=True))
    return Contract(
        name, f"The gradient of {plain_name} with respect to weight.",
        inputs=(Arg("x", f"N C {' '.join(d.elements)}"), Arg("gy", f"N K {' '.join(d.results)}")),
        attributes=(
            Attr("kernel", "ints", length=count, doc=f"{d.words.replace(', ', ' and ')} of the filters"), *_geometry(d),
            ALGORITHM,
        ),
        lets={**{tap: f"kernel[{i}]" for i, tap in enumerate(d.taps)}, **_outputs(d, d.elements, d.counts)},
        requires=(
            *_positive(d, None), _DIVIDES_C, _DIVIDES_K, *_fits(d, d.elements, {"kernel": d.one(0, 0, 3)}),
            _extents_agree(d),
        ),
        outputs=(Out("gweight", f"K C//groups {' '.join(d.taps)}"),),
        flops=f"2 * N * K * {d.product(d.results)} * (C // groups) * {d.product(d.taps)}",
        tensor_cores=True, bound=Bound("dot", depth=f"min(256, {pixels}) + ({pixels} + 255) // 256"),
        vjp={
            "x": f"{plain_name}_input_grad(gy, ggweight, {sizes}, {_CALL})",
            "gy": f"{plain_name}(x, ggweight, {_CALL})",
        },
        cases=tuple(cases), source=SOURCE,
    )  # fmt: skip


def transposed(name: str, count: int, cases: Sequence[Case]) -> Contract:
    """conv_transpose1d, conv_transpose2d, conv_transpose3d.

    The gradients are convolutions of gy. ``whole`` below is the result's extent without padding or output_padding:
    results in [padding before, whole) are all that some tap meets, ``met`` of them; ``cropped`` is the padding that
    gives them back their place in the whole."""
    d = Dimensions(count)
    convolution = name.replace("_transpose", "")
    whole = [f"(({n} - 1) * stride[{i}] + dilation[{i}] * ({tap} - 1) + 1)"
             for i, (n, tap) in enumerate(zip(d.elements, d.taps, strict=True))]  # fmt: skip
    met, cropped = "", ""
    for i, (all_, result) in enumerate(zip(whole, d.results, strict=True)):
        met += f"min({result}, max(0, {all_} - padding[{2 * i}])), "
        cropped += f"min(padding[{2 * i}], {all_}), max(0, {all_} - padding[{2 * i}] - {result}), "
    gy = "gy"
    for i in range(count):
        gy = f"slice_of({gy}, {2 + i}, 0, met[{i}])"
    call = _CALL.replace("padding=padding", "padding=cropped")
    return Contract(
        name, f"Transposed convolution, the gradient of {convolution} as an operator; then bias and activation.",
        inputs=(
            Arg("x", f"N C {' '.join(d.elements)}"),
            Arg("weight", f"C M {' '.join(d.taps)}", doc="M = result's channels / groups"),
            Arg("bias", "K", optional=True),
        ),
        attributes=(
            *_geometry(d), Attr("output_padding", "ints", (0,) * count, length=count, doc=f"more {d.words} at the end"),
            Attr("activation", "choice", None, choices=ACTIVATIONS), ALGORITHM,
        ),
        lets={
            "K": "M * groups",
            **{result: f"{all_} - padding[{2 * i}] - padding[{2 * i + 1}] + output_padding[{i}]"
               for i, (all_, result) in enumerate(zip(whole, d.results, strict=True))},
            "met": f"({met})", "cropped": f"({cropped})",
        },
        requires=(
            *_positive(d, None), replace(_DIVIDES_C, broken={"groups": 3}), _window(d, {d.taps[0]: 0}),
            Require(
                d.all("{n} >= 1", d.elements),
                f"the input is {d.by(d.elements)}; expected {' x '.join('1' * count)} or more", {d.elements[-1]: 0},
            ),
            Require(
                d.all("0 <= output_padding[{i}] and output_padding[{i}] < max(stride[{i}], dilation[{i}])"),
                "output_padding is {output_padding} with stride {stride} and dilation {dilation}; expected 0 or more, "
                "and less than stride or dilation",
                {"output_padding": d.one(-1, 7, 0)},
            ),
        ),
        outputs=(Out("y", f"N K {' '.join(d.results)}"),),
        free=("N",), layout="x", flops=f"2 * N * C * {d.product(d.elements)} * M * {d.product(d.taps)}",
        tensor_cores=True, bound=Bound("dot", depth=_roundings("C // groups", d), ulp=4.0),
        vjp={
            "x": f"{convolution}({gy}, weight, {call})",
            "weight": f"{convolution}_weight_grad({gy}, x, kernel=({', '.join(d.taps)},), {call})",
            "bias": f"sum(gy, dims={d.dims})",
        },
        composition=lambda o: activated(
            o, o[name](o.x, o.weight, o.bias, stride=o.stride, padding=o.padding, dilation=o.dilation,
                       groups=o.groups, output_padding=o.output_padding, algorithm=o.algorithm)),
        composed_when="activation is not None",
        cases=tuple(cases), source=SOURCE.replace("section 2", "section 4"),
    )  # fmt: skip


def activated(o: Any, y: Any) -> Any:
    """The activation that a call names, as the operator of that name."""
    more: dict[str, dict[str, Any]] = {"leaky_relu": {"negative_slope": 0.01}, "gelu": {"approximate": "none"}}
    return o[o.activation](y, **more.get(o.activation, {}))


def cases_of(
    name: str,
    extents: Sequence[int],
    kernel: Sequence[int],
    outputs: int,
    *,
    stride: Sequence[int] = (),
    padding: Sequence[int] = (),
    dilation: Sequence[int] = (),
    groups: int = 1,
    activation: str | None = None,
    algorithm: str | None = None,
    optional: tuple[str, ...] = (),
    bench: bool = False,
) -> tuple[Case, Case, Case]:
    """One convolution as a case of each of the three operators; ``extents`` are N, C and x's others."""
    d = Dimensions(len(kernel))
    ones = (1,) * d.count
    stride, dilation = tuple(stride) or ones, tuple(dilation) or ones
    padding = tuple(padding) or (0,) * (2 * d.count)
    n, c, *elements = extents
    results = [
        (e + a + b - g * (k - 1) - 1) // s + 1
        for e, k, s, g, a, b in zip(elements, kernel, stride, dilation, padding[::2], padding[1::2], strict=True)
    ]
    geometry: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if algorithm is not None:
        geometry["algorithm"] = algorithm
    x = {"N": n, "C": c, **dict(zip(d.elements, elements, strict=True))}
    taps = dict(zip(d.taps, kernel, strict=True))
    y = dict(zip(d.results, results, strict=True))
    sizes = dict(zip(d.sizes, elements, strict=True))
    return (
        Case(name, {**x, "K": outputs, **taps}, {**geometry, "activation": activation}, optional, bench),
        Case(name, {"N": n, "K": outputs, **y, "D": c // groups, **taps}, {**geometry, **sizes}, (), bench),
        Case(name, {**x, "K": outputs, **y}, {**geometry, "kernel": tuple(kernel)}, (), bench),
    )


def transposed_case(
    name: str,
    extents: Sequence[int],
    kernel: Sequence[int],
    outputs: int,
    *,
    stride: Sequence[int] = (),
    padding: Sequence[int] = (),
    dilation: Sequence[int] = (),
    output_padding: Sequence[int] = (),
    groups: int = 1,
    activation: str | None = None,
    algorithm: str | None = None,
    optional: tuple[str, ...] = (),
    bench: bool = False,
) -> Case:
    """One transposed convolution to ``outputs`` channels; ``extents`` are N, C and x's others."""
    d = Dimensions(len(kernel))
    ones = (1,) * d.count
    n, c, *elements = extents
    return Case(
        name,
        {"N": n, "C": c, **dict(zip(d.elements, elements, strict=True)), "M": outputs // groups,
         **dict(zip(d.taps, kernel, strict=True))},
        {"stride": tuple(stride) or ones, "padding": tuple(padding) or (0,) * (2 * d.count),
         "dilation": tuple(dilation) or ones, "groups": groups,
         "output_padding": tuple(output_padding) or (0,) * d.count, "activation": activation,
         **({"algorithm": algorithm} if algorithm else {})},
        optional, bench,
    )  # fmt: skip


def plain(raw: dict[str, Any], operands: Mapping[str, Operand], dims: int) -> dict[str, Any]:
    """The attributes that a caller gave, as the contracts have them."""
    steps: dict[str, Any] = {
        name: per_dimension(raw[name], name, dims)
        for name in ("stride", "dilation", "output_padding") if name in raw
    }  # fmt: skip
    stride, dilation = steps["stride"], steps["dilation"]
    weight = operands.get("weight")
    kernel = raw["kernel"] if "kernel" in raw else weight.shape[2:] if weight is not None else ()
    if isinstance(raw["padding"], str) and len(kernel) != dims:
        number = {1: "one kernel extent", 2: "two kernel extents", 3: "three kernel extents"}[dims]
        raise ContractError(f"padding is {raw['padding']!r}; expected numbers, as weight has no {number}")
    if any(type(v) is not int for v in (*stride, *dilation)) and isinstance(raw["padding"], str):
        raise ContractTypeError(f"stride is {stride!r} and dilation is {dilation!r}; expected integers")
    return {**raw, **steps, "padding": borders(raw["padding"], kernel, stride, dilation)}
