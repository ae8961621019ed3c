"""Additive attention, of Bahdanau et al., fused: the tanh of every pair of query and key is never stored."""

from __future__ import annotations

from typing import Any

from ..contract import Arg, Attr, Bound, Case, Contract, Out, number
from ..errors import ContractTypeError
from ..operator import Operator, list_out

__all__ = ["additive_attention"]

_Q = Arg("q", "*B Tq A", doc="projected queries")
_K = Arg("k", "*B Tk A", doc="projected keys")
_V = Arg("v", "*B Tk Dv", doc="values")
_WEIGHT = Arg("weight", "A", doc="what tanh(q + k) is multiplied with and summed")
_MASK = Arg("mask", "*B Tq Tk", "bool", optional=True, broadcast=("B", "Tq"), doc="True = attend")
_LSE = Arg("lse", "*B Tq", "wide T", doc="additive_attention's second result")
_SOURCE = "Bahdanau, Cho and Bengio 2015, arXiv 1409.0473, section A.1.2"


def _case(name: str, extents: str, *optional: str, bench: bool = False, **shapes: Any) -> Case:
    """A case from "B Tq Tk A Dv" in numbers."""
    found: dict[str, Any] = dict(zip(("B", "Tq", "Tk", "A", "Dv"), map(int, extents.split()), strict=True))
    return Case(name, {**found, "B": (found["B"],), **shapes}, {}, optional, bench)


_CASES = (
    _case("plain", "2 3 5 8 4"),
    _case("two blocks of keys", "1 2 131 19 7"),
    _case("two blocks of queries", "1 130 4 5 3"),
    _case("mask", "2 5 9 16 20", "mask"),
    _case("key mask", "3 1 17 33 4", "mask", mask=(3, 1, 17)),
    _case("no keys", "2 3 0 4 5"),
    _case("batch of two extents", "2 2 3 4 5", B=(2, 3)),
)
_BENCH = (_case("decoder", "64 1 200 256 512", bench=True), _case("sentence", "32 40 40 256 256", bench=True))

ADDITIVE_ATTENTION = Contract(
    "additive_attention", "softmax(sum(weight tanh(q + k))) v over the keys that each query sees.",
    inputs=(_Q, _K, _V, _WEIGHT, _MASK),
    outputs=(
        Out("y", "*B Tq Dv"),
        Out("lse", "*B Tq", "wide T", when="return_lse", doc="natural logarithm of the softmax's denominator"),
    ),
    attributes=(Attr("return_lse", "bool", True),),
    free=("B",),
    flops="prod(B) * Tq * Tk * (25 * A + 2 * Dv)",
    bound=Bound("additive_attention"),
    vjp={  # without lse among the results it is computed again
        "q k v weight": "additive_attention_grad(q, k, v, weight, y, lse if return_lse else "
        "additive_attention(q, k, v, weight, mask)[1], gy, mask, glse if return_lse else None)"
    },
    derivatives=1,
    cases=(
        *_CASES, Case("one result", {"B": (2,), "Tq": 3, "Tk": 9, "A": 8, "Dv": 4}, {"return_lse": False}), *_BENCH
    ),
    source=_SOURCE,
)  # fmt: skip

ADDITIVE_ATTENTION_GRAD = Contract(
    "additive_attention_grad", "The gradients of additive attention's queries, keys, values and weight.",
    inputs=(
        _Q, _K, _V, _WEIGHT, Arg("y", "*B Tq Dv", doc="additive_attention's result"), _LSE,
        Arg("gy", "*B Tq Dv", doc="gradient of y"), _MASK,
        Arg("glse", "*B Tq", "wide T", optional=True, doc="gradient of lse"),
    ),
    outputs=(Out("gq", "*B Tq A"), Out("gk", "*B Tk A"), Out("gv", "*B Tk Dv"), Out("gweight", "A")),
    flops="prod(B) * Tq * Tk * (58 * A + 6 * Dv)",
    bound=Bound("additive_attention_grad"),
    derivatives=0,
    cases=(*_CASES, _case("gradient of lse", "2 3 5 8 4", "glse"), *_BENCH),
    source=_SOURCE,
)  # fmt: skip

ADDITIVE_ATTENTION_WEIGHTS = Contract(
    "additive_attention_weights", "exp(sum(weight tanh(q + k)) - lse), 0 where a query does not see a key.",
    inputs=(_Q, _K, _WEIGHT, _LSE, _MASK),
    outputs=(Out("weights", "*B Tq Tk"),),
    free=("B",),
    flops="prod(B) * Tq * Tk * 25 * A",
    bound=Bound("additive_attention_weights"),
    derivatives=0,
    cases=_CASES,
    source=_SOURCE,
)  # fmt: skip

_additive_attention = Operator(ADDITIVE_ATTENTION)
_additive_attention_grad = Operator(ADDITIVE_ATTENTION_GRAD)
_additive_attention_weights = Operator(ADDITIVE_ATTENTION_WEIGHTS)


def additive_attention(
    q: Any,
    k: Any,
    v: Any,
    weight: Any,
    mask: Any = None,
    *,
    return_lse: bool = False,
    return_weights: bool = False,
    out: Any = None,
) -> Any:
    """softmax(sum(weight tanh(q + k))) v over the keys that each query sees: additive attention.

    q (*B, Tq, A) are queries after their projection, k (*B, Tk, A) keys after theirs (once per sequence, for all
    steps of a recurrent decoder), v (*B, Tk, Dv) values, weight (A); all of one float dtype. *B is any number of
    extents. The result is (*B, Tq, Dv). ``mask``, bool (*B, Tq, Tk), hides where it is False; *B and Tq may be 1 or
    missing: (*B, 1, Tk) is a mask of values, (*B, Tq, 1) is not one (broadcast it). A hidden key takes no part,
    whatever it holds; a query that sees none gives 0, which is what Keras's ``query_mask`` does.

    The score has no scale and no softmax temperature. Keras's ``use_scale`` is ``weight`` (ones without it); TF-Addons'
    normalised form is weight = g v / norm(v); its bias belongs to the projection of the queries.

    With ``return_lse`` and ``return_weights`` the result is a tuple: y, then lse (*B, Tq), the natural logarithm of the
    softmax's denominator, then the weights (*B, Tq, Tk), which are for pictures and have no gradient. Memory beside the
    results is O(Tq + Tk). y and lse have first gradients with respect to q, k, v and weight. ``out`` is an array, or a
    tuple of as many as there are results.

    Raises ContractError for shapes that do not fit, ContractTypeError for other dtypes.
    Source: Bahdanau, Cho and Bengio 2015, arXiv 1409.0473, section A.1.2. Provisional.

    >>> import numpy as np
    >>> from mmkernels.ops.attention import additive_attention
    >>> q, k = np.zeros((1, 1, 4), np.float32), np.zeros((1, 2, 4), np.float32)
    >>> v = np.array([[[1.0], [3.0]]], np.float32)
    >>> additive_attention(q, k, v, np.ones(4, np.float32))
    array([[[2.]]], dtype=float32)
    """
    return_lse = number("bool", return_lse, f"additive_attention: return_lse is {return_lse!r}")
    return_weights = number("bool", return_weights, f"additive_attention: return_weights is {return_weights!r}")
    operands, count, outs = (q, k, v, weight, mask), 1 + return_lse + return_weights, list_out(out)
    if out is not None and (len(outs) != count or isinstance(out, tuple) != (count > 1)):
        found = f"a tuple of {len(outs)}" if isinstance(out, tuple) else "one array"
        expected = f"a tuple of {count}" if count > 1 else "one array"
        raise ContractTypeError(f"additive_attention: out= was given {found}; expected {expected}")
    if not return_weights:
        if out is not None:
            return _additive_attention.call(*operands, return_lse, out)
        y, lse = _additive_attention.call(*operands, True, None)
        return (y, lse) if return_lse else y
    y, lse = _additive_attention.call(*operands, True, tuple(outs[:2]) if return_lse and outs else None)
    if outs and not return_lse:  # lse has no place of its own
        y = _additive_attention.call(*operands, False, outs[0])
    weights = _additive_attention_weights.call(q, k, weight, lse, mask, outs[-1] if outs else None)
    return (y, lse, weights) if return_lse else (y, weights)
