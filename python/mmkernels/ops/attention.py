"""Scaled dot-product attention with masks, biases, triangles and grouped queries, and its gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from ..contract import Arg, Attr, Bound, Case, Contract, Operand, Out, Require
from ..errors import ContractError
from ..operator import Operator

__all__ = ["attention"]

_OPERANDS = (
    Arg("q", "B H Sq D", doc="queries"),
    Arg("k", "B Hkv Sk D", doc="keys; query head h reads head h // (H // Hkv)"),
    Arg("v", "B Hkv Sk Dv", doc="values"),
)
_HIDING = (
    Arg("mask", "B H Sq Sk", "bool", optional=True, broadcast=("B", "H", "Sq"), doc="True = attend"),
    Arg("bias", "B H Sq Sk", optional=True, broadcast=("B", "H", "Sq"), doc="added to the scaled scores"),
)
_ATTRIBUTES = (
    Attr("causal", "int", 0, doc='0 none; 1 "top-left": key <= query; 2 "bottom-right": key <= query + Sk - Sq'),
    Attr("scale", "float", None, doc="of q k^T; 1 / sqrt(D) if not given"),
)
_REQUIRES = (
    Require("H == 0 or (Hkv > 0 and H % Hkv == 0)", "Hkv is {Hkv}; expected a divisor of H = {H}", {"Hkv": 3}),
    Require("1 <= D and D <= 512", "D is {D}; expected 1 to 512", {"D": 513}),
    Require("Dv <= 512", "Dv is {Dv}; expected at most 512", {"Dv": 513}),
    Require("0 <= causal and causal <= 2", "causal is {causal}; expected 0, 1 or 2", {"causal": 3}),
)
_SOURCE = "Vaswani et al. 2017, arXiv 1706.03762, equation 1; Dao et al. 2022, arXiv 2205.14135"


def _case(name: str, extents: str, *optional: str, bench: bool = False, causal: int = 0, **shapes: Any) -> Case:
    """A case from "B H Hkv Sq Sk D Dv" in numbers; shapes are those of operands that broadcast."""
    found = dict(zip(("B", "H", "Hkv", "Sq", "Sk", "D", "Dv"), map(int, extents.split()), strict=True))
    attributes = {"causal": causal, "scale": 1 / math.sqrt(found["D"])}
    return Case(name, {**found, **shapes}, attributes, optional, bench)


_CASES = (
    _case("plain", "2 2 2 5 7 8 8"),
    _case("grouped queries, odd extents", "1 4 2 19 21 9 5"),
    _case("two blocks, top-left", "1 1 1 50 131 4 3", causal=1),
    _case("bottom-right", "1 2 1 6 9 17 16", causal=2),
    _case("bottom-right, rows without keys", "1 1 1 9 6 4 4", causal=2),
    _case("mask and bias", "2 2 1 5 11 3 4", "mask", "bias"),
    _case(
        "broadcast mask and bias", "3 3 3 5 7 4 4", "mask", "bias", causal=1, mask=(3, 1, 1, 7), bias=(1, 3, 5, 7)
    ),
    _case("chunks", "1 1 1 2 3 300 270"),
    _case("no keys", "2 2 2 3 0 4 4"),
)  # fmt: skip
_BENCH = (
    _case("ViT-B", "8 12 12 197 197 64 64", bench=True),
    _case("causal", "1 12 12 1024 1024 64 64", causal=1, bench=True),
    _case("self", "1 8 8 4096 4096 40 40", bench=True),
    _case("cross", "2 8 8 4096 77 40 40", bench=True),
    _case("temporal", "1024 8 8 16 16 40 40", bench=True),
    _case("small", "64 4 4 16 16 16 16", bench=True),
)

_GRAD = "q, k, v, y, {}, gy, mask, bias, {}, causal=causal, scale=scale"
# Without lse among the results it is computed again.
_LSE = "lse if return_lse else attention(q, k, v, mask, bias, causal=causal, scale=scale)[1]"
_GRAD_CALL = f"({_GRAD.format(_LSE, 'glse if return_lse else None')})"

ATTENTION = Contract(
    "attention", "softmax(scale q k^T + bias) v over the keys that each query sees.",
    inputs=(*_OPERANDS, *_HIDING),
    outputs=(
        Out("y", "B H Sq Dv"),
        Out("lse", "B H Sq", "wide T", when="return_lse", doc="natural logarithm of the softmax's denominator"),
    ),
    attributes=(*_ATTRIBUTES, Attr("return_lse", "bool", True)),
    requires=_REQUIRES,
    free=("B",),
    flops="2 * B * H * Sq * Sk * (D + Dv) // (2 if causal else 1)",
    tensor_cores=True, bound=Bound("attention", depth="D"),
    vjp={"q k v": f"attention_grad{_GRAD_CALL}", "bias": f"attention_bias_grad{_GRAD_CALL}"},
    derivatives=1,
    cases=_CASES + _BENCH,
    source=_SOURCE,
)  # fmt: skip

_GRAD_OPERANDS = (
    *_OPERANDS,
    Arg("y", "B H Sq Dv", doc="attention's result"),
    Arg("lse", "B H Sq", "wide T", doc="attention's second result"),
    Arg("gy", "B H Sq Dv", doc="gradient of y"),
    *_HIDING,
    Arg("glse", "B H Sq", "wide T", optional=True, doc="gradient of lse"),
)

ATTENTION_GRAD = Contract(
    "attention_grad", "The gradients of attention's queries, keys and values.",
    inputs=_GRAD_OPERANDS,
    outputs=(Out("gq", "B H Sq D"), Out("gk", "B Hkv Sk D"), Out("gv", "B Hkv Sk Dv")),
    attributes=_ATTRIBUTES,
    requires=_REQUIRES,
    free=("B",),
    flops="2 * B * H * Sq * Sk * (3 * D + 2 * Dv) // (2 if causal else 1)",
    tensor_cores=True, bound=Bound("attention_grad", depth="D"),
    derivatives=0,
    cases=(*_CASES, _case("gradient of lse", "1 2 2 5 7 8 8", "glse"), *_BENCH),
    source=_SOURCE,
)  # fmt: skip

ATTENTION_BIAS_GRAD = Contract(
    "attention_bias_grad", "The gradient of attention's scores, and so of its bias.",
    inputs=_GRAD_OPERANDS,
    outputs=(Out("gbias", "B H Sq Sk"),),
    attributes=_ATTRIBUTES,
    requires=_REQUIRES,
    free=("B",),
    flops="2 * B * H * Sq * Sk * (D + Dv) // (2 if causal else 1)",
    tensor_cores=True, bound=Bound("attention_grad", depth="D"),
    derivatives=0,
    cases=(*_CASES, _case("gradient of lse", "1 2 2 5 7 8 8", "glse")),
    source=_SOURCE,
)  # fmt: skip

_CAUSAL = {False: 0, None: 0, True: 1, "top-left": 1, "bottom-right": 2}


def _plain(raw: dict[str, Any], operands: Mapping[str, Operand]) -> dict[str, Any]:
    causal, scale = raw["causal"], raw["scale"]
    if isinstance(causal, str | bool) or causal is None:
        if causal not in _CAUSAL:
            raise ContractError(f"causal is {causal!r}; expected False, True, 'top-left' or 'bottom-right'")
        causal = _CAUSAL[causal]
    if scale is None:
        shape = operands["q"].shape if "q" in operands else ()
        scale = 1 / math.sqrt(shape[-1]) if shape and shape[-1] else 1.0
    return {**raw, "causal": causal, "scale": scale}


_attention = Operator(ATTENTION, _plain)
_attention_grad = Operator(ATTENTION_GRAD, _plain)
_attention_bias_grad = Operator(ATTENTION_BIAS_GRAD, _plain)


def attention(
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    *,
    bias: Any = None,
    causal: bool | Literal["top-left", "bottom-right"] = False,
    scale: float | None = None,
    window: tuple[int, int] | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
    out: Any = None,
) -> Any:
    """softmax(scale q k^T + bias) v over the keys that each query sees.

    q is (B, H, Sq, D), k (B, Hkv, Sk, D), v (B, Hkv, Sk, Dv), all float32 or float64; the result is (B, H, Sq, Dv).
    H is a multiple of Hkv: query head h reads key head h // (H // Hkv). D and Dv are at most 512; ``scale`` is
    1 / sqrt(D) if it is None.

    A query sees the keys that the mask, a bool array (B, H, Sq, Sk), allows (True = attend); B, H and Sq may each be
    1 there and in ``bias``, which is added to the scaled scores. ``causal="top-left"`` hides key j from query i unless
    j <= i, "bottom-right" unless j <= i + Sk - Sq. True is "top-left", as PyTorch's ``is_causal`` is; with Sq == Sk
    they agree. With keys cached from earlier calls use "bottom-right".
    A hidden key takes no part, whatever it holds, NaN included. A query that sees no key, or only biases of -inf,
    gives 0.

    With ``return_lse`` the result is (y, lse): lse (B, H, Sq) is log(sum(exp(scores))), natural, -inf for such a row.
    ``window`` and ``softcap`` must be None in this version. Each row's bits depend on its own query and keys alone: not
    on B, H, Sq, other rows, threads or strides. The memory used is O(Sk) per thread. Both results have first gradients
    with respect to q, k, v and bias; that of the bias takes an array of (B, H, Sq, Sk).

    Raises ContractError for shapes that do not fit, ContractTypeError for other dtypes.
    Source: Vaswani et al. 2017, arXiv 1706.03762, equation 1. Stable; window and softcap provisional.

    >>> import numpy as np, mmkernels as mmk
    >>> q = k = np.zeros((1, 1, 2, 4), np.float32)
    >>> v = np.array([[1, 2], [3, 4]], np.float32).reshape(1, 1, 2, 2)
    >>> mmk.attention(q, k, v, causal=True)
    array([[[[1., 2.],
             [2., 3.]]]], dtype=float32)
    """
    for name, value in (("window", window), ("softcap", softcap)):
        if value is not None:
            raise ContractError(f"attention: {name} is {value!r}; expected None in this version")
    if out is not None:
        return _attention.call(q, k, v, mask, bias, causal, scale, return_lse, out)
    result = _attention.call(q, k, v, mask, bias, causal, scale, True, None)
    return result if return_lse else result[0]
