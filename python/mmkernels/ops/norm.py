"""Normalisation of groups of channels and of trailing extents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..arrays import broadcast_to, library_of, off_tape, reshape, shape_of
from ..contract import Arg, Attr, Bound, Case, Contract, Operand, Out, Require, number
from ..errors import ContractError, ContractTypeError
from ..operator import OPERATORS, Operator, list_out
from ..windows import listed

__all__ = ["group_norm", "instance_norm", "layer_norm", "rms_norm"]

ACTIVATIONS = (None, "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu")
_EPS = Attr("eps", "float", 1e-5, doc="added to the variance")
_EPS_POSITIVE = Require("eps >= 0", "eps is {eps}; expected 0 or more", broken={"eps": -1.0})
_NUM_GROUPS = Attr("num_groups", "int", doc="how many groups the channels are cut into")
_DIVIDES = Require(
    "num_groups >= 1 and C % num_groups == 0", "num_groups is {num_groups}; expected a divisor of C = {C}",
    broken={"num_groups": 5},
)  # fmt: skip


def _normalised(o: Any, x: Any, axis: int, extents: tuple[int, ...]) -> tuple[Any, Any]:
    """(x - mean) / sqrt(var + eps) of x, seen with these extents, along an axis; and the factor."""
    x = o.reshape(x, extents)
    centred = o.sub(x, o.mean(x, dims=(axis,), keepdim=True))
    variance = o.mean(o.mul(centred, centred), dims=(axis,), keepdim=True)
    factor = o.div(1.0, o.sqrt(o.add(variance, o.eps)))
    return o.mul(centred, factor), factor


def _operand_gradient(o: Any, normalised: Any, factor: Any, g: Any, axis: int) -> Any:
    """From the gradient g of the normalised values: g without its mean and without its part along them."""
    mean = o.mean(g, dims=(axis,), keepdim=True)
    part = o.mul(normalised, o.mean(o.mul(g, normalised), dims=(axis,), keepdim=True))
    return o.mul(factor, o.sub(o.sub(g, mean), part))


# ---- group_norm -----------------------------------------------------------------------------------------------------


def _group_norm_unfused(o: Any) -> Any:
    y = o.group_norm(o.x, o.weight, o.bias, num_groups=o.num_groups, eps=o.eps)
    per_channel = (o.N, o.C, *(1 for _ in o.S))
    if o.scale is not None:
        y = o.mul(y, o.reshape(o.add(o.scale, 1.0), per_channel))
    if o.shift is not None:
        y = o.add(y, o.reshape(o.shift, per_channel))
    return y if o.activation is None else o[o.activation](y)


def _group_norm_grad_unfused(o: Any) -> Any:
    grouped, whole = (o.N, o.num_groups, o.M), (o.N, o.C, *o.S)
    others = (0, *range(2, len(whole)))
    normalised, factor = _normalised(o, o.x, 2, grouped)
    g = o.gy if o.weight is None else o.mul(o.gy, o.reshape(o.weight, (o.C, *(1 for _ in o.S))))
    gx = o.reshape(_operand_gradient(o, normalised, factor, o.reshape(g, grouped), 2), whole)
    products = o.mul(o.gy, o.reshape(normalised, whole))
    return gx, o.sum(products, dims=others), o.sum(o.gy, dims=others)


_GROUP_CASES = (
    Case("affine", {"N": 2, "C": 12, "S": (5, 7)}, {"num_groups": 3}, ("weight", "bias")),
    Case("plain, one channel a group", {"N": 3, "C": 4, "S": (6, 6)}, {"num_groups": 4, "eps": 1e-3}),
    Case("one group, odd", {"N": 2, "C": 5, "S": (3, 37)}, {"num_groups": 1}, ("bias",)),
    Case("no spatial extent", {"N": 4, "C": 36, "S": ()}, {"num_groups": 2}, ("weight",)),
    Case("three spatial extents", {"N": 1, "C": 6, "S": (2, 9, 15)}, {"num_groups": 2}, ("weight", "bias")),
)
GROUP_NORM = Contract(
    "group_norm", "activation((1 + scale) * ((x - mean) / sqrt(var + eps) * weight + bias) + shift).",
    inputs=(
        Arg("x", "N C *S"),
        Arg("weight", "C", optional=True), Arg("bias", "C", optional=True),
        Arg("scale", "N C", optional=True), Arg("shift", "N C", optional=True),
    ),
    attributes=(_NUM_GROUPS, _EPS, Attr("activation", "choice", None, choices=ACTIVATIONS)),
    outputs=(Out("y", "N C *S"),), requires=(_DIVIDES, _EPS_POSITIVE), lets={"M": "C // num_groups * prod(S)"},
    free=("N",), layout="x", flops="8*N*C*prod(S)", bound=Bound("norm", depth="M"),
    vjp={"x weight bias": "group_norm_grad(x, gy, weight, num_groups=num_groups, eps=eps)"},
    composition=_group_norm_unfused, composed_when="has_scale or has_shift or activation is not None",
    cases=(
        *_GROUP_CASES,
        Case("adaptive", {"N": 2, "C": 6, "S": (4, 5)}, {"num_groups": 2, "activation": "silu"},
             ("weight", "bias", "scale", "shift")),
        Case("scale alone", {"N": 2, "C": 6, "S": (11,)}, {"num_groups": 3, "activation": "leaky_relu"}, ("scale",)),
        Case("shift alone", {"N": 2, "C": 4, "S": (3, 3)}, {"num_groups": 2, "activation": "gelu"}, ("shift", "bias")),
        Case("empty", {"N": 2, "C": 4, "S": (0, 3)}, {"num_groups": 2}),
        Case("U-Net", {"N": 2, "C": 320, "S": (64, 64)}, {"num_groups": 32, "activation": "silu"}, ("weight", "bias"),
             bench=True),
    ),
    source="Wu and He, arXiv 1803.08494; scale and shift: Dhariwal and Nichol, arXiv 2105.05233",
)  # fmt: skip
GROUP_NORM_GRAD = Contract(
    "group_norm_grad", "Gradients of group_norm without scale, shift and activation.",
    inputs=(Arg("x", "N C *S"), Arg("gy", "N C *S"), Arg("weight", "C", optional=True)),
    attributes=(_NUM_GROUPS, _EPS),
    outputs=(Out("gx", "N C *S"), Out("gweight", "C"), Out("gbias", "C")),
    requires=(_DIVIDES, _EPS_POSITIVE), lets={"M": "C // num_groups * prod(S)"},
    layout="x", flops="16*N*C*prod(S)", bound=Bound("norm_grad", depth="M"),
    composition=_group_norm_grad_unfused,
    cases=(
        *(Case(c.name, c.extents, c.attributes, tuple(n for n in c.optional if n == "weight")) for c in _GROUP_CASES),
        Case("many samples", {"N": 150, "C": 20, "S": (2, 2)}, {"num_groups": 5}, ("weight",)),
        Case("empty planes", {"N": 2, "C": 4, "S": (0, 3)}, {"num_groups": 2}),
        Case("no samples", {"N": 0, "C": 4, "S": (2,)}, {"num_groups": 2}, ("weight",)),
        Case("U-Net", {"N": 2, "C": 320, "S": (64, 64)}, {"num_groups": 32}, ("weight",), bench=True),
    ),
)  # fmt: skip

# ---- layer_norm -----------------------------------------------------------------------------------------------------


def _layer_norm_grad_unfused(o: Any) -> Any:
    rows, leading = (o.S[: len(o.S) - o.axes]), tuple(range(len(o.S) - o.axes))
    flat = (*rows, o.M)
    normalised, factor = _normalised(o, o.x, len(rows), flat)
    g = o.gy if o.weight is None else o.mul(o.gy, o.weight)
    gx = o.reshape(_operand_gradient(o, normalised, factor, o.reshape(g, flat), len(rows)), o.S)
    return gx, o.sum(o.mul(o.gy, o.reshape(normalised, o.S)), dims=leading), o.sum(o.gy, dims=leading)


_AXES = Attr("axes", "int", doc="how many trailing extents are normalised")
_AXES_THERE = Require("1 <= axes <= len(S)", "axes is {axes}; expected 1 or more trailing extents of {S}",
                      broken={"axes": 9})  # fmt: skip
_ROWS = {"D": "S[len(S)-axes:]", "M": "prod(D)"}
_LAYER_CASES = (
    Case("affine", {"S": (2, 5, 48)}, {"axes": 1}, ("weight", "bias")),
    Case("odd rows, plain", {"S": (7, 197)}, {"axes": 1, "eps": 1e-6}),
    Case("two axes", {"S": (3, 4, 5, 7)}, {"axes": 2}, ("weight", "bias")),
    Case("everything", {"S": (6, 50)}, {"axes": 2}, ("weight",)),
    Case("many rows", {"S": (130, 3)}, {"axes": 1}, ("weight",)),
    Case("no rows", {"S": (0, 4)}, {"axes": 1}, ("weight",)),
    Case("empty rows", {"S": (3, 0)}, {"axes": 1}),
    Case("ViT-B", {"S": (8, 197, 768)}, {"axes": 1}, ("weight", "bias"), bench=True),
)
LAYER_NORM = Contract(
    "layer_norm", "(x - mean) / sqrt(var + eps) * weight + bias over the trailing extents.",
    inputs=(Arg("x", "*S"), Arg("weight", "*D", optional=True), Arg("bias", "*D", optional=True)),
    attributes=(_AXES, _EPS), outputs=(Out("y", "*S"),), requires=(_AXES_THERE, _EPS_POSITIVE), lets=_ROWS,
    layout="x", flops="8*prod(S)", bound=Bound("norm", depth="M"),
    vjp={"x weight bias": "layer_norm_grad(x, gy, weight, axes=axes, eps=eps)"},
    cases=_LAYER_CASES, source="Ba, Kiros and Hinton, arXiv 1607.06450",
)  # fmt: skip
LAYER_NORM_GRAD = Contract(
    "layer_norm_grad", "Gradients of layer_norm.",
    inputs=(Arg("x", "*S"), Arg("gy", "*S"), Arg("weight", "*D", optional=True)),
    attributes=(_AXES, _EPS), outputs=(Out("gx", "*S"), Out("gweight", "*D"), Out("gbias", "*D")),
    requires=(_AXES_THERE, _EPS_POSITIVE), lets=_ROWS,
    layout="x", flops="16*prod(S)", bound=Bound("norm_grad", depth="M"), composition=_layer_norm_grad_unfused,
    cases=tuple(
        Case(c.name, c.extents, c.attributes, tuple(n for n in c.optional if n == "weight"), c.bench)
        for c in _LAYER_CASES
    ),
)  # fmt: skip

# ---- rms_norm -------------------------------------------------------------------------------------------------------


def _rms_norm_grad_unfused(o: Any) -> Any:
    rows, leading = (o.S[: len(o.S) - o.axes]), tuple(range(len(o.S) - o.axes))
    flat, axis = (*rows, o.M), (len(rows),)
    x = o.reshape(o.x, flat)
    factor = o.div(1.0, o.sqrt(o.add(o.mean(o.mul(x, x), dims=axis, keepdim=True), o.eps)))
    normalised = o.mul(x, factor)
    g = o.reshape(o.gy if o.weight is None else o.mul(o.gy, o.weight), flat)
    part = o.mul(normalised, o.mean(o.mul(g, normalised), dims=axis, keepdim=True))
    gx = o.reshape(o.mul(factor, o.sub(g, part)), o.S)
    return gx, o.sum(o.mul(o.gy, o.reshape(normalised, o.S)), dims=leading)


_RMS_CASES = tuple(
    Case(c.name, c.extents, c.attributes, tuple(n for n in c.optional if n == "weight"), c.bench) for c in _LAYER_CASES
)
RMS_NORM = Contract(
    "rms_norm", "x / sqrt(mean(x^2) + eps) * weight over the trailing extents.",
    inputs=(Arg("x", "*S"), Arg("weight", "*D", optional=True)), attributes=(_AXES, _EPS), outputs=(Out("y", "*S"),),
    requires=(_AXES_THERE, _EPS_POSITIVE), lets=_ROWS, layout="x", flops="5*prod(S)",
    bound=Bound("rms_norm", depth="M"),
    vjp={"x weight": "rms_norm_grad(x, gy, weight, axes=axes, eps=eps)"},
    cases=_RMS_CASES, source="Zhang and Sennrich, arXiv 1910.07467",
)  # fmt: skip
RMS_NORM_GRAD = Contract(
    "rms_norm_grad", "Gradients of rms_norm.",
    inputs=(Arg("x", "*S"), Arg("gy", "*S"), Arg("weight", "*D", optional=True)),
    attributes=(_AXES, _EPS), outputs=(Out("gx", "*S"), Out("gweight", "*D")),
    requires=(_AXES_THERE, _EPS_POSITIVE), lets=_ROWS,
    layout="x", flops="11*prod(S)", bound=Bound("rms_norm_grad", depth="M"), composition=_rms_norm_grad_unfused,
    cases=_RMS_CASES,
)  # fmt: skip

# ---- instance_norm --------------------------------------------------------------------------------------------------

INSTANCE_NORM = Contract(
    "instance_norm", "activation((x - mean) / sqrt(var + eps) * weight + bias) over each sample's channel.",
    inputs=(Arg("x", "N C *S"), Arg("weight", "C", optional=True), Arg("bias", "C", optional=True)),
    attributes=(_EPS, Attr("activation", "choice", None, choices=ACTIVATIONS)),
    outputs=(Out("y", "N C *S"),), lets={"M": "prod(S)"},
    requires=(
        _EPS_POSITIVE,
        Require("M != 1", "x has 1 value for each mean: its shape behind N and C is {S}; expected more than 1",
                broken={"S": ()}),
    ),
    free=("N", "C"), layout="x", flops="8*N*C*prod(S)", bound=Bound("instance_norm", depth="M"),
    vjp={"x weight bias": "group_norm_grad(x, gy, weight, num_groups=C, eps=eps)"},
    composition=lambda o: o[o.activation](o.instance_norm(o.x, o.weight, o.bias, eps=o.eps)),
    composed_when="activation is not None",
    cases=(
        Case("affine", {"N": 2, "C": 5, "S": (5, 7)}, {}, ("weight", "bias")),
        Case("plain", {"N": 3, "C": 4, "S": (6, 23)}, {"eps": 1e-3}),
        Case("one spatial extent", {"N": 2, "C": 17, "S": (137,)}, {"activation": "relu"}, ("weight",)),
        Case("three spatial extents", {"N": 1, "C": 3, "S": (2, 9, 15)}, {"activation": "silu"}, ("bias",)),
        Case("no samples", {"N": 0, "C": 3, "S": (2, 2)}, {}, ("weight", "bias")),
        Case("CycleGAN", {"N": 1, "C": 256, "S": (64, 64)}, {"activation": "relu"}, bench=True),
    ),
    source="Ulyanov et al., arXiv 1607.08022",
)  # fmt: skip


def _extents(name: str, normalized_shape: Any) -> tuple[int, ...]:
    """One extent, or a sequence of them."""
    where, normalized_shape = f"{name}: normalized_shape is {normalized_shape!r}", listed(normalized_shape)
    if isinstance(normalized_shape, (tuple, list)):
        return tuple(number("int", n, where) for n in normalized_shape)
    return (number("int", normalized_shape, where),)


def _plain_axes(raw: dict[str, Any], operands: Mapping[str, Operand]) -> dict[str, Any]:
    """A shape stands for its number of extents, once it is known to be that of x's last ones."""
    wanted = raw["axes"]
    if isinstance(wanted, int):
        return raw
    wanted, shape = tuple(wanted), operands["x"].shape
    if not wanted or shape[-len(wanted) :] != wanted:
        raise ContractError(f"normalized_shape is {wanted}; expected the last extents of x.shape = {shape}")
    return {**raw, "axes": len(wanted)}


_EPSILON = {"float64": 2.0**-52}


def _plain_rms(raw: dict[str, Any], operands: Mapping[str, Operand]) -> dict[str, Any]:
    """No eps is that of the type that is computed in."""
    plain = _plain_axes(raw, operands)
    return {**plain, "eps": _EPSILON.get(operands["x"].dtype, 2.0**-23)} if plain["eps"] is None else plain


_group_norm, _group_norm_grad = Operator(GROUP_NORM), Operator(GROUP_NORM_GRAD)
_layer_norm, _layer_norm_grad = Operator(LAYER_NORM, _plain_axes), Operator(LAYER_NORM_GRAD)
_rms_norm, _rms_norm_grad = Operator(RMS_NORM, _plain_rms), Operator(RMS_NORM_GRAD)
_instance_norm = Operator(INSTANCE_NORM)


def group_norm(
    x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *,
    scale: Any = None, shift: Any = None, activation: str | None = None, out: Any = None,
) -> Any:  # fmt: skip
    """Normalises each group of channels to mean 0 and variance 1 (Wu and He, arXiv 1803.08494).

    The result is ``activation((1 + scale) * ((x - mean) / sqrt(var + eps) * weight + bias) + shift)``: mean and biased
    variance are those of a sample's group. x is (N, C, ...), weight and bias (C,), scale and shift (N, C); float32 or
    float64, all of one dtype. ``activation`` is None, "relu", "leaky_relu" (slope 0.01), "sigmoid", "tanh", "silu" or
    "gelu". The fused form has the bits of the separate operators. Raises ContractError if num_groups does not divide C
    or shapes disagree, ContractTypeError for other dtypes. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> x = np.array([[[1.0, 3.0], [10.0, 30.0]]])
    >>> mmk.group_norm(x, 2, eps=0.0)
    array([[[-1.,  1.],
            [-1.,  1.]]])
    """
    return _group_norm.call(x, weight, bias, scale, shift, num_groups, eps, activation, out)


def layer_norm(
    x: Any, normalized_shape: int | Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *,
    out: Any = None,
) -> Any:  # fmt: skip
    """Normalises over the last extents of x to mean 0 and variance 1 (Ba, Kiros and Hinton, arXiv 1607.06450).

    ``normalized_shape`` are those extents, an int for one; weight and bias have that shape. The result is
    ``(x - mean) / sqrt(var + eps) * weight + bias`` with the biased variance; float32 or float64, all of one dtype.
    Raises ContractError if x does not end in normalized_shape or shapes disagree, ContractTypeError for other dtypes.
    Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.layer_norm(np.array([[1.0, 3.0], [10.0, 30.0]]), (2,), eps=0.0)
    array([[-1.,  1.],
           [-1.,  1.]])
    """
    shape = _extents("layer_norm", normalized_shape)
    return _layer_norm.call(x, weight, bias, shape, eps, out)


def rms_norm(
    x: Any, normalized_shape: int | Sequence[int], weight: Any = None, eps: float | None = None, *, out: Any = None
) -> Any:
    """Divides by the root of the mean square over the last extents of x (Zhang and Sennrich, arXiv 1910.07467).

    The result is ``x / sqrt(mean(x^2) + eps) * weight``, rounded once in 16 bits. ``normalized_shape`` are those
    extents, an int for one; weight has that shape. Without ``eps`` it is 2^-23, in float64 2^-52. All of one float
    dtype. Raises ContractError if x does not end in normalized_shape or shapes disagree, ContractTypeError for other
    dtypes. Gradients of any order. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.rms_norm(np.array([[3.0, 3.0], [0.0, 8.0]]), (2,), eps=0.0).round(4)
    array([[1.    , 1.    ],
           [0.    , 1.4142]])
    """
    shape = _extents("rms_norm", normalized_shape)
    return _rms_norm.call(x, weight, shape, eps, out)


def instance_norm(
    x: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5, *, activation: str | None = None,
    out: Any = None,
) -> Any:  # fmt: skip
    """Normalises each channel of each sample to mean 0 and variance 1 (Ulyanov et al., arXiv 1607.08022).

    The result is ``activation((x - mean) / sqrt(var + eps) * weight + bias)``; x is (N, C, ...), weight and bias (C,),
    all of one float dtype. Without ``use_input_stats`` the running statistics are used, as in batch_norm. With it they
    follow the samples', where they are given, and the result is ``(y, new_mean, new_var)``, as no operand is changed:
    ``new = (1 - momentum) * running + momentum * (the mean over samples of their means, or unbiased variances)``.
    They have no gradient; their types and those of the results are as in batch_norm, and y's bits do not depend on
    them. ``out`` is an array, or a tuple of three. Raises ContractError if one of them is missing, for a single value
    behind N and C, and if shapes disagree; ContractTypeError for other dtypes. Gradients of any order. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.instance_norm(np.array([[[1.0, 3.0], [10.0, 30.0]]]), eps=0.0)
    array([[[-1.,  1.],
            [-1.,  1.]]])
    >>> x = np.array([[[1.0, 3.0]], [[3.0, 9.0]]])
    >>> y, mean, var = mmk.instance_norm(x, np.zeros(1), np.ones(1), momentum=0.5)
    >>> mean.tolist(), var.tolist()
    ([2.0], [5.5])
    """
    if not number("bool", use_input_stats, f"instance_norm: use_input_stats is {use_input_stats!r}"):
        from .norm_batch import batch_norm

        if running_mean is None or running_var is None:
            raise ContractError("instance_norm: running_mean or running_var is None; expected both, as use_input_stats "
                                "is False")  # fmt: skip
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps, activation=activation,
                          out=out)  # fmt: skip
    if running_mean is None and running_var is None:
        return _instance_norm.call(x, weight, bias, eps, activation, out)
    if running_mean is None or running_var is None:
        raise ContractError("instance_norm: one of running_mean and running_var is None; expected both, or neither")
    outs = list_out(out) or [None] * 3
    if out is not None and (not isinstance(out, tuple) or len(outs) != 3):
        found = f"a tuple of {len(outs)}" if isinstance(out, tuple) else "one array"
        raise ContractTypeError(f"instance_norm: out= was given {found}; expected a tuple of 3, one a result")
    y = _instance_norm.call(x, weight, bias, eps, activation, outs[0])
    return y, *_followed(off_tape(x), off_tape(running_mean), off_tape(running_var), momentum, outs[1:])


def _followed(x: Any, running_mean: Any, running_var: Any, momentum: Any, outs: Sequence[Any]) -> list[Any]:
    """The new statistics: those of each sample's channels as channels of one batch, and their means over samples."""
    shape, training, mean = shape_of(x), OPERATORS["batch_norm_training"], OPERATORS["mean"]
    samples, channels = shape[:2]
    for name, o in (("running_mean", running_mean), ("running_var", running_var)):
        if library_of(o) and shape_of(o) != (channels,):
            raise ContractError(f"instance_norm: {name}.shape is {shape_of(o)}; expected ({channels},)")
    if samples:
        running_mean, running_var = (
            reshape(broadcast_to(o, (samples, channels)), (samples * channels,)) if library_of(o) else o
            for o in (running_mean, running_var)
        )
        x = reshape(x, (1, samples * channels, *shape[2:]))
    found = training(x, running_mean, running_var, momentum=momentum)[1:3]
    return [mean(reshape(o, (max(samples, 1), channels)), dims=(0,), out=to) for o, to in zip(found, outs, strict=True)]
