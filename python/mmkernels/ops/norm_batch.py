"""Normalisation of each channel by statistics of the whole batch, or by those that are kept of earlier batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..arrays import library_of, zeros_like
from ..contract import FLOATS, WIDE, Arg, Attr, Bound, Case, Contract, Operand, Out, Require, number
from ..errors import ContractError, ContractTypeError
from ..operator import Operator
from .norm import _EPS, _EPS_POSITIVE, ACTIVATIONS

__all__ = ["batch_norm"]

# P: the parameters' type, that of x or the one that x is computed in.
_TYPES = {"T": FLOATS, "P": FLOATS}
_ACTIVATION = Attr("activation", "choice", None, choices=ACTIVATIONS)
_PARAMETERS = (Arg("weight", "C", "P", optional=True), Arg("bias", "C", "P", optional=True))
_BOTH = ("weight", "bias")
_LETS = {"M": "N * prod(S)", "others": "drop((0, 1, 2, 3, 4, 5, 6, 7)[: len(S) + 2], (1,))"}


def _parameter_type(raw: dict[str, Any], operands: Mapping[str, Operand]) -> dict[str, Any]:
    """Parameters have x's type or the one that it is computed in; other types are told by the contract."""
    x = operands["x"].dtype
    wide = WIDE.get(x, x)
    for name, o in operands.items():
        if x in FLOATS and o.dtype in FLOATS and o.dtype not in (x, wide):
            expected = x if wide == x else f"{x} or {wide}"
            raise ContractTypeError(f"{name}.dtype is {o.dtype}; expected {expected}, as x has {x}")
    return raw


# ---- inference ------------------------------------------------------------------------------------------------------

_IMAGES: tuple[tuple[str, dict[str, Any], tuple[str, ...]], ...] = (
    ("affine", {"N": 2, "C": 5, "S": (5, 7)}, _BOTH),
    ("plain", {"N": 3, "C": 4, "S": (6, 6)}, ()),
    ("no spatial extent", {"N": 8, "C": 37, "S": ()}, ("bias",)),
    ("three spatial extents", {"N": 2, "C": 3, "S": (3, 14, 15)}, ("weight",)),
    ("one channel, long", {"N": 1, "C": 1, "S": (1037,)}, _BOTH),
)
BATCH_NORM = Contract(
    "batch_norm", "activation((x - running_mean) / sqrt(running_var + eps) * weight + bias).",
    inputs=(
        Arg("x", "N C *S"), Arg("running_mean", "C", "P"), Arg("running_var", "C", "P", domain="positive"),
        *_PARAMETERS,
    ),
    attributes=(_EPS, _ACTIVATION), outputs=(Out("y", "N C *S"),), requires=(_EPS_POSITIVE,), types=_TYPES,
    lets=_LETS, free=("N", "C"), layout="x", flops="4*N*C*prod(S)", bound=Bound("batch_norm"),
    vjp={
        "x weight bias": "batch_norm_grad(x, gy, running_mean, div(1.0, sqrt(add(running_var, eps))), weight, "
        "None, None, frozen=True)",
        "running_mean": "mul(sum(batch_norm(gy, zeros_like(running_mean), running_var, weight, None, eps=eps), "
        "dims=others), -1.0)",
        "running_var": "mul(div(sum(mul(gy, batch_norm(x, running_mean, running_var, weight, None, eps=eps)), "
        "dims=others), add(running_var, eps)), -0.5)",
    },
    composition=lambda o: o[o.activation](
        o.batch_norm(o.x, o.running_mean, o.running_var, o.weight, o.bias, eps=o.eps)
    ),
    composed_when="activation is not None",
    cases=(
        *(Case(name, e, {}, optional) for name, e, optional in _IMAGES),
        Case("fused", {"N": 2, "C": 6, "S": (4, 8)}, {"activation": "relu", "eps": 1e-3}, _BOTH),
        Case("fused, odd", {"N": 2, "C": 7, "S": (33,)}, {"activation": "silu"}, _BOTH),
        Case("empty", {"N": 2, "C": 3, "S": (0, 4)}, {}, _BOTH),
        Case("no channels", {"N": 2, "C": 0, "S": (4,)}, {}, _BOTH),
        Case("ResNet-50", {"N": 1, "C": 256, "S": (56, 56)}, {"activation": "relu"}, _BOTH, bench=True),
    ),
    source="Ioffe and Szegedy, arXiv 1502.03167",
)  # fmt: skip

# ---- training -------------------------------------------------------------------------------------------------------


def _training_unfused(o: Any) -> Any:
    y, *rest = o.batch_norm_training(
        o.x, o.running_mean, o.running_var, o.weight, o.bias, momentum=o.momentum, eps=o.eps
    )
    return o[o.activation](y), *rest


_RUNNING = ("running_mean", "running_var")
_TRAINING: tuple[tuple[str, dict[str, Any], tuple[str, ...]], ...] = (
    *_IMAGES,
    ("many samples", {"N": 150, "C": 19, "S": (2, 2)}, ("weight",)),
    ("several segments", {"N": 3, "C": 18, "S": (31, 35)}, _BOTH),
    ("no samples", {"N": 0, "C": 3, "S": (4,)}, _BOTH),
)
BATCH_NORM_TRAINING = Contract(
    "batch_norm_training", "batch_norm by the statistics of the batch, which the running ones follow.",
    inputs=(
        Arg("x", "N C *S"), Arg("running_mean", "C", "P", optional=True),
        Arg("running_var", "C", "P", optional=True, domain="positive"), *_PARAMETERS,
    ),
    attributes=(
        Attr("momentum", "float", 0.1, doc="the batch's share of the new running statistics"), _EPS, _ACTIVATION,
    ),
    outputs=(
        Out("y", "N C *S"),
        Out("new_mean", "C", "wide T", doc="(1 - momentum) running_mean + momentum mean, or the mean where none runs"),
        Out("new_var", "C", "wide T", doc="the same of the unbiased variance"),
        Out("mean", "C", "wide T"), Out("rstd", "C", "wide T", doc="1 / sqrt(biased variance + eps)"),
    ),
    lets=_LETS, types=_TYPES,
    requires=(
        _EPS_POSITIVE,
        Require("M != 1", "x has 1 value for each channel: N is {N}, the shape behind C is {S}; expected more than 1",
                broken={"N": 1, "S": ()}),
        Require("has_running_mean == has_running_var", "one of running_mean and running_var is None; expected both, "
                "or neither", broken={"optional": ("running_mean",)}),
    ),
    free=("C",), layout="x", flops="8*N*C*prod(S)", bound=Bound("batch_norm_training", depth="M"),
    vjp={
        "x weight bias": "batch_norm_grad(x, gy, mean, rstd, weight, gmean, grstd, frozen=False)",
        "running_mean": "None", "running_var": "None",
    },
    composition=_training_unfused, composed_when="activation is not None",
    cases=(
        *(Case(name, e, {}, (*optional, *_RUNNING)) for name, e, optional in _TRAINING),
        Case("nothing runs", {"N": 2, "C": 6, "S": (3, 5)}, {}, _BOTH),
        Case("fused", {"N": 2, "C": 6, "S": (4, 8)}, {"activation": "relu", "momentum": 0.3}, (*_RUNNING, *_BOTH)),
        Case("ResNet-50", {"N": 8, "C": 256, "S": (56, 56)}, {}, (*_RUNNING, *_BOTH), bench=True),
    ),
    source="Ioffe and Szegedy, arXiv 1502.03167",
)  # fmt: skip


def _batch_norm_grad_unfused(o: Any) -> Any:
    """In plain arithmetic, of mean and rstd as operands of their own, so that derivatives reach x through them too."""
    per_channel = (o.C, *(1 for _ in o.S))
    d = o.sub(o.x, o.reshape(o.mean, per_channel))
    sum_gy, sum_gy_d = o.sum(o.gy, dims=o.others), o.sum(o.mul(o.gy, d), dims=o.others)
    factor = o.rstd if o.weight is None else o.mul(o.rstd, o.weight)
    gx = o.mul(o.gy, o.reshape(factor, per_channel))
    if not o.frozen and o.M:
        to_mean, to_rstd = o.mul(sum_gy, factor), sum_gy_d if o.weight is None else o.mul(sum_gy_d, o.weight)
        to_mean = to_mean if o.gmean is None else o.sub(to_mean, o.gmean)
        to_rstd = to_rstd if o.grstd is None else o.add(to_rstd, o.grstd)
        k2 = o.div(o.mul(o.mul(o.mul(to_rstd, o.rstd), o.rstd), o.rstd), float(o.M))
        gx = o.sub(gx, o.reshape(o.div(to_mean, float(o.M)), per_channel))
        gx = o.sub(gx, o.mul(d, o.reshape(k2, per_channel)))
    return gx, o.mul(sum_gy_d, o.rstd), sum_gy


BATCH_NORM_GRAD = Contract(
    "batch_norm_grad", "Gradients of batch_norm without activation; frozen: mean and rstd do not depend on x.",
    inputs=(
        Arg("x", "N C *S"), Arg("gy", "N C *S"), Arg("mean", "C", "Q"), Arg("rstd", "C", "Q", domain="positive"),
        Arg("weight", "C", "P", optional=True),
        Arg("gmean", "C", "wide T", optional=True, doc="gradient of mean as a result"),
        Arg("grstd", "C", "wide T", optional=True, doc="gradient of rstd as a result"),
    ),
    attributes=(Attr("frozen", "bool", False, doc="mean and rstd are given, not x's own"),),
    outputs=(Out("gx", "N C *S"), Out("gweight", "C", "P"), Out("gbias", "C", "P")),
    lets=_LETS, types={**_TYPES, "Q": FLOATS},
    layout="x", flops="12*N*C*prod(S)", bound=Bound("batch_norm_grad", depth="M"), composition=_batch_norm_grad_unfused,
    cases=(
        *(Case(n, e, {}, tuple(o for o in optional if o != "bias")) for n, e, optional in _TRAINING if e["N"]),
        Case("statistics are used", {"N": 2, "C": 6, "S": (3, 5)}, {}, ("weight", "gmean", "grstd")),
        Case("frozen", {"N": 2, "C": 6, "S": (3, 5)}, {"frozen": True}, ("weight",)),
        Case("frozen, no samples", {"N": 0, "C": 3, "S": (4,)}, {"frozen": True}, ("weight",)),
        Case("ResNet-50", {"N": 8, "C": 256, "S": (56, 56)}, {}, ("weight",), bench=True),
    ),
)  # fmt: skip

_batch_norm, _batch_norm_training = (
    Operator(BATCH_NORM, _parameter_type),
    Operator(BATCH_NORM_TRAINING, _parameter_type),
)
_batch_norm_grad = Operator(BATCH_NORM_GRAD, _parameter_type)


def batch_norm(
    x: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5, *, activation: str | None = None, out: Any = None,
) -> Any:  # fmt: skip
    """Normalises each channel by its mean and variance over the batch (Ioffe and Szegedy, arXiv 1502.03167).

    x is (N, C, ...) with any number of further extents; the statistics, weight and bias are (C,). In inference the
    result is ``activation((x - running_mean) / sqrt(running_var + eps) * weight + bias)``. With ``training`` mean and
    biased variance are those of the batch, and the result is ``(y, new_mean, new_var)``: no operand is changed,
    ``new = (1 - momentum) * running + momentum * batch``, with the batch's unbiased variance. Where None runs, new_mean
    and new_var are the batch's own. An empty batch leaves the statistics as they are.

    float16 and bfloat16 x take parameters and statistics of its dtype or of float32; new statistics are then float32.
    ``activation`` is as in group_norm; fused, it has the bits of the separate operator. ``out`` is an array, in
    training a tuple of three.
    Raises ContractError if shapes disagree, for missing statistics in inference and for a single value per channel in
    training; ContractTypeError for other dtypes. Gradients of any order, of x, weight and bias through the batch's
    statistics. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> y, mean, var = mmk.batch_norm(x, np.zeros(2), np.ones(2), training=True, momentum=0.5, eps=0.0)
    >>> y.tolist(), mean.tolist(), var.tolist()
    ([[-1.0, -1.0], [1.0, 1.0]], [1.0, 10.0], [1.5, 100.5])
    >>> mmk.batch_norm(x, np.zeros(2), np.ones(2), eps=0.0)
    array([[ 1., 10.],
           [ 3., 30.]])
    """
    if number("bool", training, f"batch_norm: training is {training!r}"):
        if out is not None:
            if not isinstance(out, tuple) or len(out) != 3:
                found = f"a tuple of {len(out)}" if isinstance(out, tuple) else "one array"
                raise ContractTypeError(f"batch_norm: out= was given {found}; expected a tuple of 3, one a result")
            if library_of(out[1]):  # the mean and rstd, which gradients need, have no other place
                out = (*out, zeros_like(out[1]), zeros_like(out[1]))
        return _batch_norm_training.call(
            x, running_mean, running_var, weight, bias, momentum, eps, activation, out
        )[:3]  # fmt: skip
    if running_mean is None or running_var is None:
        missing = "running_mean" if running_mean is None else "running_var"
        raise ContractError(f"batch_norm: {missing} is None; expected the channels' statistics, as training is False")
    return _batch_norm.call(x, running_mean, running_var, weight, bias, eps, activation, out)
