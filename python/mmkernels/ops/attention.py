"""Scaled dot-product attention with masks, biases, triangles and grouped queries, and its gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

from .. import arrays
from ..contract import Arg, Attr, Bound, Case, Contract, Out, Require, number
from ..errors import ContractTypeError
from ..operator import OPERATORS, Operator
from .attention_additive import (
    ADDITIVE_ATTENTION,
    ADDITIVE_ATTENTION_GRAD,
    ADDITIVE_ATTENTION_WEIGHTS,
    additive_attention,
)
from .attention_packed import (
    ATTENTION_PACKED,
    ATTENTION_PACKED_GRAD,
    ATTENTION_PACKED_SLOPES_GRAD,
    attention_packed,
)
from .attention_rule import ATTRIBUTES, REQUIRES, SOURCE, TYPES, plain

# A family's contracts are those of its module: profile.family_of and the house's tests look for them here.
OTHERS = (
    ADDITIVE_ATTENTION, ADDITIVE_ATTENTION_GRAD, ADDITIVE_ATTENTION_WEIGHTS, ATTENTION_PACKED, ATTENTION_PACKED_GRAD,
    ATTENTION_PACKED_SLOPES_GRAD,
)  # fmt: skip

__all__ = ["additive_attention", "attention", "attention_packed", "attention_weights"]

_OPERANDS = (
    Arg("q", "*B H Sq D", doc="queries"),
    Arg("k", "*B Hkv Sk D", doc="keys; query head h reads key head h // (H // Hkv)"),
    Arg("v", "*B Hkv Sk Dv", doc="values"),
)
_HIDING = (
    Arg("mask", "*B H Sq Sk", "bool", optional=True, broadcast=("B", "H", "Sq"), doc="True = attend"),
    Arg("bias", "*B H Sq Sk", optional=True, broadcast=("B", "H", "Sq"), doc="added to the scores"),
)
_SINK = Arg("sink", "H", optional=True, doc="a score per head that only the denominator sees")
_RELATIVE = (
    Arg("slopes", "*B H", "wide T", optional=True, broadcast=("B",), doc="-slope |key - position| is added (ALiBi)"),
    Arg("table", "H W", optional=True, doc="[h, key - position + W // 2] is added, clamped at both ends"),
)
_LENGTHS = (
    Arg("offset", "*B", "I", optional=True, broadcast=("B",), values=("-Sq", "Sk + 1"),
        doc="position of the first query among the keys"),
    Arg("key_lengths", "*B", "I", optional=True, broadcast=("B",), values=("0", "Sk + 1"), doc="real keys of an item"),
    Arg("query_lengths", "*B", "I", optional=True, broadcast=("B",), values=("0", "Sq + 1"),
        doc="real queries of an item"),
)  # fmt: skip
_REQUIRES = (
    *REQUIRES,
    Require(
        "not (has_offset and causal == 2)", "causal is 2, bottom-right; expected 0 or 1 beside offset",
        {"causal": 2, "optional": ("offset",)},
    ),
)  # fmt: skip
_ODD_TABLE = Require(
    "not has_table or W % 2 == 1", "table.shape[1] is {W}; expected an odd number",
    {"W": 4, "optional": ("table",)},
)  # fmt: skip


def _case(name: str, extents: str, *optional: str, bench: bool = False, causal: int = 0, **others: Any) -> Case:
    """A case from "B H Hkv Sq Sk D Dv" in numbers; others are attributes, further extents, and shapes of operands that
    broadcast."""
    found: dict[str, Any] = dict(zip(("B", "H", "Hkv", "Sq", "Sk", "D", "Dv"), map(int, extents.split()), strict=True))
    attributes = {"causal": causal, "scale": 1 / math.sqrt(found["D"])}
    attributes |= {n: others.pop(n) for n in ("window", "softcap") if n in others}
    return Case(name, {**found, "B": (found["B"],), "W": 5, **others}, attributes, optional, bench)


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
    _case("window", "1 2 1 9 300 8 8", "offset", window=(130, 20)),
    _case("window and triangle", "2 2 2 70 70 8 16", causal=1, window=(4, -1)),
    _case("soft cap", "1 2 1 9 11 8 8", "bias", causal=1, softcap=0.5),
    _case("relative", "2 3 1 51 20 4 4", "slopes", "table", causal=2, W=7),
    _case("lengths", "3 2 1 20 30 8 8", "offset", "key_lengths", "query_lengths", causal=1),
    _case("everything", "2 4 2 13 19 8 8", "mask", "bias", "slopes", "table", "key_lengths", "query_lengths",
          causal=2, window=(3, 2), softcap=2.0, mask=(1, 1, 13, 19), bias=(2, 1, 1, 19)),
)  # fmt: skip
_SUNK = (
    _case("sink", "2 2 2 5 7 8 8", "sink"),
    _case("sink, rows without keys", "1 2 2 60 40 8 8", "sink", causal=2),
    _case("everything and a sink", "3 4 2 13 19 8 8", "mask", "bias", "sink", "slopes", "table", "offset",
          "key_lengths", "query_lengths", causal=1, window=(6, 2), softcap=2.0),
)  # fmt: skip
_BENCH = (
    _case("ViT-B", "8 12 12 197 197 64 64", bench=True),
    _case("causal", "1 12 12 1024 1024 64 64", causal=1, bench=True),
    _case("self", "1 8 8 4096 4096 40 40", bench=True),
    _case("cross", "2 8 8 4096 77 40 40", bench=True),
    _case("temporal", "1024 8 8 16 16 40 40", bench=True),
    _case("small", "64 4 4 16 16 16 16", bench=True),
    _case("causal window", "1 8 8 8192 8192 64 64", causal=1, window=(511, 0), bench=True),
    _case("decode", "1 16 16 1 2048 64 64", bench=True),
)

_OPTIONS = "causal=causal, scale=scale, window=window, softcap=softcap"
_GRAD = "q, k, v, y, {}, gy, mask, bias, {}, slopes, table, offset, key_lengths, query_lengths, " + _OPTIONS
# Without lse among the results it is computed again.
_LSE = (
    "lse if return_lse else "
    f"attention(q, k, v, mask, bias, sink, slopes, table, offset, key_lengths, query_lengths, {_OPTIONS})[1]"
)
_GRAD_CALL = f"({_GRAD.format(_LSE, 'glse if return_lse else None')})"
# A bias that items share is summed where it is found, but in 16 bits, which tensor cores serve; there lse is wider.
_BIAS_GRAD = (
    f"reshape(attention_shared_bias_grad{_GRAD_CALL}, (*(1 for _ in B), H, Sq, Sk)) "
    "if return_lse and lse.dtype == q.dtype and {*shape_of(bias)[:-3]} <= {1} "
    f"else attention_bias_grad{_GRAD_CALL}"
)

ATTENTION = Contract(
    "attention", "softmax(scale q k^T + bias) v over the keys that each query sees.",
    inputs=(*_OPERANDS, *_HIDING, _SINK, *_RELATIVE, *_LENGTHS),
    outputs=(
        Out("y", "*B H Sq Dv"),
        Out("lse", "*B H Sq", "wide T", when="return_lse", doc="natural logarithm of the softmax's denominator"),
    ),
    attributes=(*ATTRIBUTES, Attr("return_lse", "bool", True)),
    requires=(*_REQUIRES, _ODD_TABLE),
    types=TYPES,
    free=("B",),
    flops="2 * prod(B) * H * Sq * Sk * (D + Dv) // (2 if causal else 1)",
    tensor_cores=True, bound=Bound("attention", depth="D"),
    vjp={
        "q k v": f"attention_grad{_GRAD_CALL}", "bias": _BIAS_GRAD,
        "table": f"attention_table_grad{_GRAD_CALL}", "slopes": f"attention_slopes_grad{_GRAD_CALL}",
        "sink": f"attention_sink_grad(y, {_LSE}, gy, sink, glse if return_lse else None)",
    },
    derivatives=1,
    cases=(*_CASES, *_SUNK, *_BENCH),
    source=SOURCE,
)  # fmt: skip

_GRAD_OPERANDS = (
    *_OPERANDS,
    Arg("y", "*B H Sq Dv", doc="attention's result"),
    Arg("lse", "*B H Sq", "wide T", doc="attention's second result"),
    Arg("gy", "*B H Sq Dv", doc="gradient of y"),
    *_HIDING,
    Arg("glse", "*B H Sq", "wide T", optional=True, doc="gradient of lse"),
    *_RELATIVE,
    *_LENGTHS,
)
_GLSE = _case("gradient of lse", "1 2 2 5 7 8 8", "glse")

ATTENTION_GRAD = Contract(
    "attention_grad", "The gradients of attention's queries, keys and values.",
    inputs=_GRAD_OPERANDS,
    outputs=(Out("gq", "*B H Sq D"), Out("gk", "*B Hkv Sk D"), Out("gv", "*B Hkv Sk Dv")),
    attributes=ATTRIBUTES,
    requires=(*_REQUIRES, _ODD_TABLE),
    types=TYPES,
    free=("B",),
    flops="2 * prod(B) * H * Sq * Sk * (3 * D + 2 * Dv) // (2 if causal else 1)",
    tensor_cores=True, bound=Bound("attention_grad", depth="D"),
    derivatives=0,
    cases=(*_CASES, _GLSE, *_BENCH),
    source=SOURCE,
)  # fmt: skip

ATTENTION_BIAS_GRAD = Contract(
    "attention_bias_grad", "The gradient of attention's scores, and so of its bias.",
    inputs=_GRAD_OPERANDS,
    outputs=(Out("gbias", "*B H Sq Sk"),),
    attributes=ATTRIBUTES,
    requires=(*_REQUIRES, _ODD_TABLE),
    types=TYPES,
    free=("B",),
    flops="2 * prod(B) * H * Sq * Sk * (D + Dv) // (2 if causal else 1)",
    tensor_cores=True, bound=Bound("attention_grad", depth="D"),
    derivatives=0,
    cases=(*_CASES, _GLSE),
    source=SOURCE,
)  # fmt: skip

ATTENTION_SHARED_BIAS_GRAD = Contract(
    "attention_shared_bias_grad", "attention_bias_grad summed over items, in memory of a bias that they share.",
    inputs=_GRAD_OPERANDS,
    outputs=(Out("gbias", "H Sq Sk"),),
    attributes=ATTRIBUTES,
    requires=(*_REQUIRES, _ODD_TABLE),
    types=TYPES,
    flops="2 * prod(B) * H * Sq * Sk * (D + Dv) // (2 if causal else 1)",
    bound=Bound("attention_shared_bias_grad", depth="D"),
    derivatives=0,
    cases=(
        _case("shared", "3 2 1 51 70 8 8", "bias", causal=2, bias=(2, 51, 70)),
        _case("two segments", "35 2 2 9 11 4 3", "bias", bias=(1, 2, 1, 11)),
        _case("two blocks", "2 1 1 20 150 300 270", "mask", mask=(2, 1, 1, 150)),
        _case("everything", "2 4 2 13 19 8 8", "mask", "bias", "slopes", "table", "offset", "key_lengths",
              "query_lengths", "glse", causal=1, window=(6, 2), softcap=2.0, mask=(1, 1, 13, 19), bias=(4, 1, 19)),
        _case("no keys", "2 2 2 3 0 4 4"),
    ),
    source=SOURCE,
)  # fmt: skip

ATTENTION_TABLE_GRAD = Contract(
    "attention_table_grad", "The gradient of attention's table of relative biases: the scores', summed by distance.",
    inputs=tuple(replace(a, optional=False) if a.name == "table" else a for a in _GRAD_OPERANDS),
    outputs=(Out("gtable", "H W"),),
    attributes=ATTRIBUTES,
    requires=(*_REQUIRES, replace(_ODD_TABLE, broken={"W": 4})),
    types=TYPES,
    flops="2 * prod(B) * H * Sq * Sk * (D + Dv) // (2 if causal else 1)",
    bound=Bound("attention_table_grad", depth="D"),
    derivatives=0,
    cases=(
        _case("relative", "2 2 1 51 20 4 4", "slopes", causal=2, W=7),
        _case("two segments", "1 1 1 800 9 2 2", W=5),
        _case("two blocks", "2 2 1 100 260 4 4", W=401, window=(90, 40)),
        _case("one entry", "1 2 2 5 7 4 4", W=1),
        _case("everything", "2 4 2 13 19 8 8", "mask", "bias", "slopes", "offset", "key_lengths", "query_lengths",
              "glse", causal=1, window=(6, 2), softcap=2.0, mask=(1, 1, 13, 19), bias=(2, 1, 1, 19)),
        _case("no keys", "2 2 2 3 0 4 4"),
    ),
    source="Shaw et al. 2018, arXiv 1803.02155; Raffel et al. 2020, arXiv 1910.10683, section 2.1",
)  # fmt: skip

ATTENTION_SLOPES_GRAD = Contract(
    "attention_slopes_grad", "The gradient of attention's slopes: the scores' times -|key - position|, summed by head.",
    inputs=tuple(replace(a, optional=False) if a.name == "slopes" else a for a in _GRAD_OPERANDS),
    outputs=(Out("gslopes", "*B H", "wide T"),),
    attributes=ATTRIBUTES,
    requires=(*_REQUIRES, _ODD_TABLE),
    types=TYPES,
    free=("B",),
    flops="2 * prod(B) * H * Sq * Sk * (D + Dv) // (2 if causal else 1)",
    bound=Bound("attention_slopes_grad", depth="D"),
    derivatives=0,
    cases=(
        _case("relative", "2 2 1 51 20 4 4", "table", causal=2, W=7),
        _case("two segments", "1 1 1 800 800 2 2", window=(5, 3)),
        _case("two blocks", "2 2 1 100 260 4 4", "offset", window=(9, 14), slopes=(1, 2)),
        _case("everything", "2 4 2 13 19 8 8", "mask", "bias", "table", "offset", "key_lengths", "query_lengths",
              "glse", causal=1, window=(6, 2), softcap=2.0, mask=(1, 1, 13, 19), bias=(2, 1, 1, 19)),
        _case("no keys", "2 2 2 3 0 4 4"),
    ),
    source="Press et al. 2022, arXiv 2108.12409",
)  # fmt: skip

ATTENTION_SINK_GRAD = Contract(
    "attention_sink_grad",
    "The gradient of attention's sinks: -sum(exp(sink - lse) (gy y - glse)) over rows.",
    inputs=(
        Arg("y", "*B H Sq Dv", doc="attention's result"),
        Arg("lse", "*B H Sq", "wide T", doc="attention's second result"),
        Arg("gy", "*B H Sq Dv", doc="gradient of y"),
        replace(_SINK, optional=False),
        Arg("glse", "*B H Sq", "wide T", optional=True, doc="gradient of lse"),
    ),
    outputs=(Out("gsink", "H"),),
    requires=(),
    bound=Bound("attention_sink_grad"),
    flops="2 * prod(B) * H * Sq * Dv",
    derivatives=0,
    cases=(
        Case("plain", {"B": (2,), "H": 2, "Sq": 5, "Dv": 8}, {}, ("glse",)),
        Case("several chunks", {"B": (2, 2), "H": 3, "Sq": 77, "Dv": 3}),
        Case("long rows", {"B": (1,), "H": 1, "Sq": 3, "Dv": 300}),
        Case("no queries", {"B": (2,), "H": 2, "Sq": 0, "Dv": 4}),
    ),
    source="Xiao et al. 2023, arXiv 2309.17453; Miller 2023, softmax with an additional term in its denominator",
)

_attention = Operator(ATTENTION, plain)
_attention_grad = Operator(ATTENTION_GRAD, plain)
_attention_bias_grad = Operator(ATTENTION_BIAS_GRAD, plain)
_attention_shared_bias_grad = Operator(ATTENTION_SHARED_BIAS_GRAD, plain)
_attention_table_grad = Operator(ATTENTION_TABLE_GRAD, plain)
_attention_slopes_grad = Operator(ATTENTION_SLOPES_GRAD, plain)
_attention_sink_grad = Operator(ATTENTION_SINK_GRAD)


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
    sink: Any = None,
    slopes: Any = None,
    table: Any = None,
    offset: Any = None,
    key_lengths: Any = None,
    query_lengths: Any = None,
    out: Any = None,
) -> Any:
    """softmax(scale q k^T + bias) v over the keys that each query sees.

    q is (*B, H, Sq, D), k (*B, Hkv, Sk, D), v (*B, Hkv, Sk, Dv), all of one float dtype; the result is
    (*B, H, Sq, Dv). *B is any number of extents, up to five, and no operand is copied for its strides as long as
    its last extent is dense: attention over time takes q (B, T, rows, columns, H, D) as its view (B, rows, columns,
    H, T, D), and writes ``out`` likewise. H is a multiple of Hkv: query head h reads key head h // (H // Hkv). D
    and Dv are at most 512; ``scale`` is 1 / sqrt(D) if it is None.

    What a query sees. Query i stands at position p = i + offset among the keys. The offset is ``offset``, integers
    (*B), (1,) or an int, if given (keys cached from earlier calls: how many); else Sk - Sq with
    ``causal="bottom-right"``; else 0, also where ``causal`` is False. ``causal`` hides key j unless j <= p; True is
    "top-left", as PyTorch's ``is_causal`` is. ``window=(left, right)`` hides it unless p - left <= j <= p + right,
    both included; -1 is open. ``mask``, bool (*B, H, Sq, Sk), hides where it is False; *B, H and Sq may be 1 or
    missing there and in ``bias``. ``key_lengths`` and ``query_lengths``, integers (*B), say how much of an item is
    real: "bottom-right" uses them, other keys are hidden, other queries give 0 and lse = -inf, and gradients of
    both are 0. On CUDA lengths are not read back, so that a recorded graph may change them; those out of range are
    clamped there and raise ContractError on the CPU.

    What a score is: s = scale q.k; ``softcap`` makes it softcap tanh(s / softcap); then come -slope |j - p| with
    ``slopes`` (H) or (*B, H) (ALiBi), table[h, clamp(j - p)] with ``table`` (H, 2R - 1), whose middle is j = p, and
    ``bias``. ``sink``, (H), is one more score of each row, which only the denominator sees. A hidden key takes no
    part, whatever it holds, NaN included. A query that sees no key, or only biases of -inf, gives 0.

    With ``return_lse`` the result is (y, lse): lse (*B, H, Sq) is log(sum(exp(scores))), natural; -inf for such a
    row, or its sink. Each row's bits depend on its own query, position and visible keys alone: not on B, H, Sq,
    other rows, threads, strides, or on how many queries come at once: decoding gives the bits of prefill. Memory is
    O(Sk) per thread and time proportional to the window. Both results have first gradients with respect to q, k, v,
    bias, slopes, table and sink; that of a bias takes an array of (*B, H, Sq, Sk), which is then summed where the
    bias was broadcast, or one of (H, Sq, Sk) for each 32 items where all share it (but in 16 bits).
    ``out`` is an array, with ``return_lse`` (y, lse).

    Raises ContractError for shapes that do not fit, ContractTypeError for other dtypes.
    Source: Vaswani et al. 2017, arXiv 1706.03762, equation 1; ALiBi: Press et al. 2022, arXiv 2108.12409; tables:
    Shaw et al. 2018, arXiv 1803.02155; sinks: Xiao et al. 2023, arXiv 2309.17453; softcap: Gemma Team 2024, arXiv
    2408.00118. Stable; what follows return_lse is provisional.

    >>> import numpy as np
    >>> from mmkernels.ops.attention import attention
    >>> q = k = np.zeros((1, 1, 2, 4), np.float32)
    >>> v = np.array([[1, 2], [3, 4]], np.float32).reshape(1, 1, 2, 2)
    >>> attention(q, k, v, causal=True)
    array([[[[1., 2.],
             [2., 3.]]]], dtype=float32)
    >>> attention(q[:, :, 1:], k, v, causal=True, offset=1)
    array([[[[2., 3.]]]], dtype=float32)
    """
    return_lse = number("bool", return_lse, f"attention: return_lse is {return_lse!r}")
    operands = (q, k, v, mask, bias, sink, slopes, table, offset, key_lengths, query_lengths)
    if out is not None:
        return _attention.call(*operands, causal, scale, window, softcap, return_lse, out)
    result = _attention.call(*operands, causal, scale, window, softcap, True, None)
    return result if return_lse else result[0]


def attention_weights(
    q: Any,
    k: Any,
    mask: Any = None,
    *,
    bias: Any = None,
    causal: bool | Literal["top-left", "bottom-right"] = False,
    scale: float | None = None,
    window: tuple[int, int] | None = None,
    softcap: float | None = None,
    sink: Any = None,
    slopes: Any = None,
    table: Any = None,
    offset: Any = None,
    key_lengths: Any = None,
    query_lengths: Any = None,
    out: Any = None,
) -> Any:
    """The probabilities (*B, H, Sq, Sk) by which ``attention`` weighs values: for pictures, as they take that memory.

    Operands and options are those of ``attention``. Hidden keys have 0; a row's sum is 1, less what a sink takes, or 0
    where nothing is seen. There is no gradient: ``attention`` has the gradients of what it computes.

    Raises what ``attention`` raises. Source: Vaswani et al. 2017, arXiv 1706.03762, equation 1. Provisional.

    >>> import numpy as np
    >>> from mmkernels.ops.attention import attention_weights
    >>> q = k = np.zeros((1, 1, 2, 4), np.float32)
    >>> attention_weights(q, k, causal=True)
    array([[[[1. , 0. ],
             [0.5, 0.5]]]], dtype=float32)
    """
    if not arrays.library_of(k) or not len(k.shape):
        found = "without extents" if arrays.library_of(k) else f"a {type(k).__name__}"
        raise ContractTypeError(f"attention_weights: k is {found}; expected an array of *B Hkv Sk D")
    options = (causal, scale, window, softcap)
    nothing = arrays.slice_of(k, len(k.shape) - 1, 0, 0)  # values without columns
    hiding, rest = (mask, bias), (slopes, table, offset, key_lengths, query_lengths)
    y, lse = _attention.call(q, k, nothing, *hiding, sink, *rest, *options, True, None)
    # The scores' gradient is p (gy.v - gy.y + glse): with no columns and ones for glse that is p.
    ones = OPERATORS["add"](arrays.zeros_like(lse), 1.0)
    return _attention_bias_grad.call(q, k, nothing, y, lse, y, *hiding, ones, *rest, *options, out)
