"""Attention over sequences of any lengths that follow one another in memory, without padding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from ..contract import Arg, Attr, Bound, Case, Contract, Operand, Out, Require, number
from ..operator import Operator
from .attention_rule import ATTRIBUTES, REQUIRES, SOURCE, TYPES, plain

__all__ = ["attention_packed"]

_OPERANDS = (
    Arg("q", "Tq H D", doc="queries of all sequences"),
    Arg("k", "Tk Hkv D", doc="keys of all sequences; query head h reads key head h // (H // Hkv)"),
    Arg("v", "Tk Hkv Dv", doc="values of all sequences"),
)
_STARTS = (
    Arg("query_starts", "N", "I", values=("0", "Tq + 1"), doc="where each sequence's queries begin, and the end"),
    Arg("key_starts", "N", "I", values=("0", "Tk + 1"), doc="where each sequence's keys begin, and the end"),
)
_SINK = Arg("sink", "H", optional=True, doc="a score per head that only the denominator sees")
_SLOPES = Arg("slopes", "H", "wide T", optional=True, doc="-slope |key - position| is added (ALiBi)")
_ATTRIBUTES = (
    *ATTRIBUTES,
    Attr("max_queries", "int", -1, doc="of a sequence, further ones give 0; -1: any"),
    Attr("max_keys", "int", -1, doc="of a sequence, further ones are hidden; -1: any"),
)
_REQUIRES = (
    *REQUIRES,
    Require("N >= 1", "query_starts has {N} numbers; expected one more than sequences", {"N": 0}),
)


def _case(name: str, extents: str, *optional: str, **attributes: Any) -> Case:
    """A case from "N Tq Tk H Hkv D Dv" in numbers."""
    found = dict(zip(("N", "Tq", "Tk", "H", "Hkv", "D", "Dv"), map(int, extents.split()), strict=True))
    return Case(name, found, {"causal": 0, "scale": 1 / math.sqrt(found["D"]), **attributes}, optional)


_CASES = (
    _case("plain", "4 20 30 2 2 8 8"),
    _case("bottom-right, groups", "6 90 140 4 2 8 16", causal=2),
    _case("window and soft cap", "3 70 150 1 1 5 3", "slopes", window=(9, 4), softcap=2.0),
    _case("most lengths", "4 60 40 2 1 8 8", causal=1, max_queries=13, max_keys=9),
    _case("no keys", "3 5 0 2 2 4 4"),
    _case("no sequences", "1 5 3 2 2 4 4"),
)
_SLOPED = (
    _case("slopes", "4 90 60 4 2 8 16", causal=2),
    _case("window and soft cap", "3 70 150 1 1 5 3", "glse", window=(9, 4), softcap=2.0),
    _case("most lengths", "4 60 40 2 1 8 8", causal=1, max_queries=13, max_keys=9),
    _case("no sequences", "1 5 3 2 2 4 4"),
)
_OPTIONS = "causal=causal, scale=scale, window=window, softcap=softcap, max_queries=max_queries, max_keys=max_keys"
# Without lse among the results it is computed again.
_LSE = f"(lse if return_lse else attention_packed(q, k, v, query_starts, key_starts, sink, slopes, {_OPTIONS})[1])"
_GRAD_CALL = f"(q, k, v, y, {_LSE}, gy, query_starts, key_starts, glse if return_lse else None, slopes, {_OPTIONS})"

ATTENTION_PACKED = Contract(
    "attention_packed", "attention of each sequence of queries over its own sequence of keys.",
    inputs=(*_OPERANDS, *_STARTS, _SINK, _SLOPES),
    outputs=(
        Out("y", "Tq H Dv"),
        Out("lse", "H Tq", "wide T", when="return_lse", doc="natural logarithm of the softmax's denominator"),
    ),
    attributes=(*_ATTRIBUTES, Attr("return_lse", "bool", True)),
    requires=_REQUIRES,
    types=TYPES,
    flops="2 * H * Tq * Tk * (D + Dv) // max(N - 1, 1)",
    tensor_cores=True, bound=Bound("attention_packed", depth="D"),
    vjp={
        "q k v": f"attention_packed_grad{_GRAD_CALL}", "slopes": f"attention_packed_slopes_grad{_GRAD_CALL}",
        "sink": f"attention_sink_grad(reshape(permute(y, (1, 0, 2)), (1, H, Tq, Dv)), reshape({_LSE}, (1, H, Tq)), "
                "reshape(permute(gy, (1, 0, 2)), (1, H, Tq, Dv)), sink, "
                "reshape(glse, (1, H, Tq)) if return_lse else None)",
    },
    derivatives=1,
    cases=(
        *_CASES, _case("sink", "4 20 30 2 2 8 8", "sink", causal=2),
        _case("one result", "4 20 30 2 1 8 8", causal=1, return_lse=False),
    ),
    source=SOURCE,
)  # fmt: skip

_GRAD_OPERANDS = (
    *_OPERANDS, Arg("y", "Tq H Dv", doc="attention_packed's result"),
    Arg("lse", "H Tq", "wide T", doc="attention_packed's second result"), Arg("gy", "Tq H Dv", doc="gradient of y"),
    *_STARTS, Arg("glse", "H Tq", "wide T", optional=True, doc="gradient of lse"),
)  # fmt: skip

ATTENTION_PACKED_GRAD = Contract(
    "attention_packed_grad", "The gradients of packed attention's queries, keys and values.",
    inputs=(*_GRAD_OPERANDS, _SLOPES),
    outputs=(Out("gq", "Tq H D"), Out("gk", "Tk Hkv D"), Out("gv", "Tk Hkv Dv")),
    attributes=_ATTRIBUTES,
    requires=_REQUIRES,
    types=TYPES,
    flops="2 * H * Tq * Tk * (3 * D + 2 * Dv) // max(N - 1, 1)",
    tensor_cores=True, bound=Bound("attention_packed_grad", depth="D"),
    derivatives=0,
    cases=(*_CASES, _case("gradient of lse", "4 20 30 2 2 8 8", "glse")),
    source=SOURCE,
)  # fmt: skip

ATTENTION_PACKED_SLOPES_GRAD = Contract(
    "attention_packed_slopes_grad", "The gradient of packed attention's slopes.",
    inputs=(*_GRAD_OPERANDS, replace(_SLOPES, optional=False)),
    outputs=(Out("gslopes", "H", "wide T"),),
    attributes=_ATTRIBUTES,
    requires=_REQUIRES,
    types=TYPES,
    flops="2 * H * Tq * Tk * (D + Dv) // max(N - 1, 1)",
    bound=Bound("attention_packed_slopes_grad", depth="D"),
    derivatives=0,
    cases=_SLOPED,
    source="Press et al. 2022, arXiv 2108.12409",
)  # fmt: skip


def _packed(raw: dict[str, Any], operands: Mapping[str, Operand]) -> dict[str, Any]:
    return {**plain(raw, operands), **{n: -1 if raw[n] is None else raw[n] for n in ("max_queries", "max_keys")}}


_attention_packed = Operator(ATTENTION_PACKED, _packed)
_attention_packed_grad = Operator(ATTENTION_PACKED_GRAD, _packed)
_attention_packed_slopes_grad = Operator(ATTENTION_PACKED_SLOPES_GRAD, _packed)


def attention_packed(
    q: Any,
    k: Any,
    v: Any,
    query_starts: Any,
    key_starts: Any,
    max_queries: int | None = None,
    max_keys: int | None = None,
    *,
    causal: bool | Literal["top-left", "bottom-right"] = False,
    scale: float | None = None,
    window: tuple[int, int] | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
    sink: Any = None,
    slopes: Any = None,
    out: Any = None,
) -> Any:
    """Attention of each sequence of queries over its own sequence of keys, packed without padding.

    q is (Tq, H, D), k (Tk, Hkv, D), v (Tk, Hkv, Dv), of one float dtype: the sequences of a batch, one after another.
    ``query_starts`` and ``key_starts``, integers (N + 1), say where each of the N begins and the last one ends;
    they are FlashAttention's cu_seqlens. Sequences without queries or keys are fine; a start below an earlier one
    counts as that one, and rows that belong to no sequence give 0 (lse -inf) and have gradients of 0.
    ``max_queries`` and ``max_keys`` say how long sequences are at most: on CUDA, where starts are not read back,
    that spares empty blocks; what is longer is cut off there. All else is as in ``attention``: "bottom-right"
    aligns each sequence by its own lengths. Masks, biases and tables need the padded form. The result is (Tq, H,
    Dv), with ``return_lse`` (y, lse), lse (H, Tq); bits are those of each sequence alone. ``out`` is an array, with
    ``return_lse`` (y, lse). First gradients with respect to q, k, v, slopes and sink.

    Raises ContractError for shapes that do not fit and starts out of range, ContractTypeError for other dtypes.
    Source: Dao 2023, arXiv 2307.08691. Provisional.

    >>> import numpy as np
    >>> from mmkernels.ops.attention import attention_packed
    >>> q = k = np.zeros((3, 1, 4), np.float32)
    >>> v = np.array([1, 3, 5], np.float32).reshape(3, 1, 1)
    >>> attention_packed(q, k, v, np.array([0, 2, 3]), np.array([0, 2, 3])).ravel()
    array([2., 2., 5.], dtype=float32)
    """
    return_lse = number("bool", return_lse, f"attention_packed: return_lse is {return_lse!r}")
    operands, options = (q, k, v, query_starts, key_starts, sink, slopes), (causal, scale, window, softcap)
    if out is not None:
        return _attention_packed.call(*operands, *options, max_queries, max_keys, return_lse, out)
    y, lse = _attention_packed.call(*operands, *options, max_queries, max_keys, True, None)
    return (y, lse) if return_lse else y
