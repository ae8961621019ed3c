"""Arithmetic with broadcasting, selection and sums: what gradients and models need between kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..contract import Arg, Attr, Bound, Case, Contract, Operand, Out
from ..errors import ContractError, ContractTypeError
from ..operator import Operator

__all__ = ["add", "div", "greater", "mean", "mul", "sub", "sum", "where"]

_BINARY_CASES = (
    Case("plain", {"S": (2, 3, 4, 5)}),
    Case("long odd", {"S": (3, 1037)}),
    Case("one element", {"S": ()}),
    Case("empty", {"S": (2, 0, 3)}),
    Case("large", {"S": (256, 56, 56)}, bench=True),
)


def _binary(name: str, summary: str, vjp: Mapping[str, str], second: str = "normal") -> Contract:
    return Contract(
        name, summary,
        inputs=(Arg("a", "*S", broadcast=("S",)), Arg("b", "*S", broadcast=("S",), domain=second)),
        outputs=(Out("y", "*S"),),
        free=("S",), layout="a", flops="prod(S)", bound=Bound("elementwise", ulp=0.5), vjp=vjp, cases=_BINARY_CASES,
    )  # fmt: skip


ADD = _binary("add", "a + b.", {"a": "gy", "b": "gy"})
SUB = _binary("sub", "a - b.", {"a": "gy", "b": "mul(gy, -1.0)"})
MUL = _binary("mul", "a * b.", {"a": "mul(gy, b)", "b": "mul(gy, a)"})
DIV = _binary("div", "a / b.", {"a": "div(gy, b)", "b": "mul(div(mul(gy, y), b), -1.0)"}, "positive")
GREATER = Contract(
    "greater", "a > b; false where either is NaN.",
    inputs=(Arg("a", "*S", broadcast=("S",)), Arg("b", "*S", broadcast=("S",))),
    outputs=(Out("y", "*S", "bool"),),
    free=("S",), layout="a", flops="prod(S)", bound=Bound("exact"), cases=_BINARY_CASES[:4],
)  # fmt: skip
WHERE = Contract(
    "where", "condition ? a : b, element by element.",
    inputs=(
        Arg("condition", "*S", "bool", broadcast=("S",)),
        Arg("a", "*S", broadcast=("S",)),
        Arg("b", "*S", broadcast=("S",)),
    ),
    outputs=(Out("y", "*S"),),
    free=("S",), layout="a", bound=Bound("exact"),
    vjp={"condition": "None", "a": "where(condition, gy, 0.0)", "b": "where(condition, 0.0, gy)"},
    cases=_BINARY_CASES[:4],
)  # fmt: skip


def _reduction(name: str, summary: str, vjp: str, ulp: float) -> Contract:
    return Contract(
        name, summary,
        inputs=(Arg("x", "*S"),),
        attributes=(Attr("dims", "ints", doc="the axes to sum over"), Attr("keepdim", "bool", False)),
        lets={
            "K": "keep(S, dims)", "R": "K if keepdim else drop(S, dims)", "count": "prod(pick(S, dims))",
            "reduced": "bits(dims)",
        },
        outputs=(Out("y", "*R"),),
        free=(), flops="prod(S)", bound=Bound("sum", depth="count", ulp=ulp), vjp={"x": vjp},
        cases=(
            Case("last axis", {"S": (5, 1000)}, {"dims": (1,)}),
            Case("outer axes", {"S": (3, 4, 5, 6)}, {"dims": (0, 2), "keepdim": True}),
            Case("everything", {"S": (7, 300)}, {"dims": (0, 1)}),
            Case("nothing", {"S": (7, 3)}, {"dims": ()}),
            Case("empty sum", {"S": (4, 0)}, {"dims": (1,)}),
            Case("long", {"S": (8, 100003)}, {"dims": (1,)}, bench=True),
        ),
    )  # fmt: skip


SUM = _reduction("sum", "The long sum over some axes.", "broadcast_to(reshape(gy, K), S)", 0.5)
MEAN = _reduction(
    "mean", "The long sum over some axes, divided by their extent.",
    "broadcast_to(reshape(div(gy, count), K), S)", 1.0,
)  # fmt: skip


def _dims(raw: dict[str, Any], operands: Mapping[str, Operand]) -> dict[str, Any]:
    """None is every axis, an int is one, negative ones count from the back; the result rises."""
    dim, rank = raw["dims"], len(operands["x"].shape)
    dims = range(rank) if dim is None else (dim,) if hasattr(dim, "__index__") else tuple(dim)
    if not all(hasattr(d, "__index__") for d in dims):
        raise ContractTypeError(f"dim is {dim!r}; expected an axis or several")
    plain = sorted({d + rank if d < 0 else d for d in dims})
    if len(plain) != len(dims) or any(not 0 <= d < rank for d in plain):
        raise ContractError(f"dim is {dim}; expected different axes of {rank}")
    return {**raw, "dims": tuple(plain)}


_add, _sub, _mul, _div, _greater, _where = map(Operator, (ADD, SUB, MUL, DIV, GREATER, WHERE))
_sum, _mean = Operator(SUM, _dims), Operator(MEAN, _dims)


def add(a: Any, b: Any, *, out: Any = None) -> Any:
    """a + b with NumPy's broadcasting, correctly rounded.

    Operands are arrays or numbers, float32 or float64, of one dtype. Raises ContractError if the shapes do not
    broadcast, ContractTypeError for other dtypes. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.add(np.ones((2, 2), np.float32), np.array([1, 2], np.float32))
    array([[2., 3.],
           [2., 3.]], dtype=float32)
    """
    return _add.call(a, b, out)


def sub(a: Any, b: Any, *, out: Any = None) -> Any:
    """a - b; see add.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.sub(np.array([3.0, 2.0]), 1.0)
    array([2., 1.])
    """
    return _sub.call(a, b, out)


def mul(a: Any, b: Any, *, out: Any = None) -> Any:
    """a * b; see add.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.mul(np.array([3.0, 2.0]), 0.5)
    array([1.5, 1. ])
    """
    return _mul.call(a, b, out)


def div(a: Any, b: Any, *, out: Any = None) -> Any:
    """a / b; see add. Division by zero follows IEEE 754.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.div(np.array([3.0, -2.0]), 0.0)
    array([ inf, -inf])
    """
    return _div.call(a, b, out)


def greater(a: Any, b: Any, *, out: Any = None) -> Any:
    """a > b as bool, with broadcasting; false where either is NaN. No gradient flows through it. Stable.

    >>> import numpy as np
    >>> from mmkernels.ops.pointwise import greater
    >>> greater(np.array([1.0, 3.0, np.nan]), 2.0)
    array([False,  True, False])
    """
    return _greater.call(a, b, out)


def where(condition: Any, a: Any, b: Any, *, out: Any = None) -> Any:
    """a where the condition (bool) holds, else b; shapes broadcast, dtypes of a and b are equal. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.where(np.array([True, False]), np.array([1.0, 2.0]), 0.0)
    array([1., 0.])
    """
    return _where.call(condition, a, b, out)


def sum(x: Any, dim: int | Sequence[int] | None = None, keepdim: bool = False, *, out: Any = None) -> Any:
    """The sum over ``dim`` (one axis, several, or all), by the long sum of the arithmetic. Stable.

    Raises ContractError for an axis that x does not have.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.sum(np.arange(6.0).reshape(2, 3), dim=-1)
    array([ 3., 12.])
    """
    return _sum.call(x, dim, keepdim, out)


def mean(x: Any, dim: int | Sequence[int] | None = None, keepdim: bool = False, *, out: Any = None) -> Any:
    """The sum over ``dim`` divided by the number of elements in it; NaN for none. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.mean(np.arange(6.0).reshape(2, 3), dim=(0, 1))
    array(2.5)
    """
    return _mean.call(x, dim, keepdim, out)
