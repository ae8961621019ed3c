"""The contract's own language and its words."""

from __future__ import annotations

import pytest

import mmkernels as mmk
from mmkernels.contract import Arg, Attr, Contract, Operand, Out, Require, evaluate, number


def operand(*shape: int, dtype: str = "float32") -> Operand:
    strides = []
    step = 1
    for n in reversed(shape):
        strides.insert(0, step)
        step *= n
    return Operand(shape, tuple(strides), dtype)


CONV = Contract(
    "conv",
    "A small convolution.",
    inputs=(
        Arg("x", "N C H"),
        Arg("weight", "K C//groups R"),
        Arg("bias", "K", optional=True),
        Arg("mask", "N K P", "bool", optional=True, broadcast=("N", "K", "P")),
    ),
    attributes=(
        Attr("stride", "int", 1), Attr("groups", "int", 1), Attr("mode", "choice", "same", choices=("same", None))
    ),
    lets={"P": "(H - R) // stride + 1"},
    requires=(
        Require("stride >= 1", "stride is {stride}; expected at least 1", {"stride": 0}),
        Require("C % groups == 0", "groups is {groups}; expected a divisor of C = {C}", {"groups": 5}),
    ),
    outputs=(Out("y", "N K P"),),
)  # fmt: skip
GOOD = {"x": operand(2, 6, 9), "weight": operand(4, 3, 3)}


@pytest.mark.parametrize(
    ("operands", "attributes", "error", "text"),
    [
        ({"weight": operand(4, 5, 3)}, {"groups": 2}, mmk.ContractError,
         "conv: weight.shape[1] is 5; expected C // groups = 3"),
        ({}, {"groups": 4}, mmk.ContractError, "conv: groups is 4; expected a divisor of C = 6"),
        ({}, {"groups": 2, "stride": 0}, mmk.ContractError, "conv: stride is 0; expected at least 1"),
        ({}, {"groups": 2.5}, mmk.ContractTypeError, "conv: groups is 2.5; expected an integer"),
        ({}, {"groups": True}, mmk.ContractTypeError, "conv: groups is True; expected an integer"),
        ({}, {"groups": 2**70}, mmk.ContractError, f"conv: groups is {2**70}; expected a 64-bit integer"),
        ({}, {"groups": 2, "mode": "x"}, mmk.ContractError, "conv: mode is 'x'; expected one of 'same', None"),
        ({"x": operand(2, 6)}, {"groups": 2}, mmk.ContractError, "conv: x has 2 extents (2, 6); expected 3: N C H"),
        ({"bias": operand(5)}, {"groups": 2}, mmk.ContractError, "conv: bias.shape[0] is 5; expected K = 4"),
        ({"weight": operand(4, 3, 3, dtype="float64")}, {"groups": 2}, mmk.ContractTypeError,
         "conv: weight.dtype is float64; expected float32, as x has"),
        ({"x": operand(2, 6, 9, dtype="int64")}, {"groups": 2}, mmk.ContractTypeError,
         "conv: x.dtype is int64; expected float32, float64, float16 or bfloat16"),
        ({"mask": operand(3, 1, 7, dtype="bool")}, {"groups": 2}, mmk.ContractError,
         "conv: mask.shape[0] is 3; expected N = 2 or 1"),
        ({"x": operand(2, 6, 1)}, {"groups": 2}, mmk.ContractError, "conv: y would have P = -1; expected 0 or more"),
    ],
)  # fmt: skip
def test_messages(operands: dict, attributes: dict, error: type[Exception], text: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(error) as caught:
        CONV.solve({**GOOD, **operands}, attributes)
    assert str(caught.value) == text


def test_solution() -> None:
    solution = CONV.solve({**GOOD, "mask": operand(1, 4, 1, dtype="bool")}, {"groups": 2, "stride": 2})
    assert solution.outputs["y"].shape == (2, 4, 4)
    assert solution.operands["mask"] == Operand((2, 4, 4), (0, 1, 0), "bool")
    assert solution.names["C"] == 6 and solution.names["has_bias"] is False


def test_expressions_are_harmless() -> None:
    assert evaluate("max(a, 3) // 2 if b else prod((a, a))", {"a": 7, "b": True}) == 3
    for text in ("__import__('os')", "a.b", "[x for x in a]", "open('x')", "lambda: 1"):
        with pytest.raises((SyntaxError, NameError)):
            evaluate(text, {"a": 1})


def test_markdown_states_everything() -> None:
    text = CONV.markdown()
    for word in ("`K C//groups R`", "optional", "P = (H - R) // stride + 1", "C % groups == 0", "'same'"):
        assert word in text


class Several:
    """As an array of several numbers: it has the methods of a number, and they refuse."""

    def __index__(self) -> int:
        raise TypeError("only integer scalar arrays can be converted to a scalar index")

    def __float__(self) -> float:
        raise TypeError("only 0-dimensional arrays can be converted to Python scalars")

    def __repr__(self) -> str:
        return "several"


@pytest.mark.parametrize(
    ("kind", "value", "error", "text"),
    [
        ("int", Several(), mmk.ContractTypeError, "f: n is several; expected an integer"),
        ("float", Several(), mmk.ContractTypeError, "f: n is several; expected a number"),
        ("float", 10**400, mmk.ContractError, "expected a number that float64 holds"),
        ("bool", Several(), mmk.ContractTypeError, "f: n is several; expected True or False"),
        ("int", 2**63, mmk.ContractError, "expected a 64-bit integer"),
    ],
)
def test_what_is_no_number(kind: str, value: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        number(kind, value, f"f: n is {value!r}")
    assert text in str(caught.value)


def test_results_that_no_memory_holds() -> None:
    """Told before strides are computed, which would not be 64-bit integers; empty results have strides too."""
    c = Contract(
        "grow", "", inputs=(Arg("x", "N"),), attributes=(Attr("n", "int"),), outputs=(Out("y", "N n n"),),
        types={"T": ("float32",)},
    )  # fmt: skip
    for rows in (1, 0):
        x = {"x": Operand((rows,), (1,), "float32")}
        assert c.solve(x, {"n": 2**29}).outputs["y"].shape == (rows, 2**29, 2**29)
        with pytest.raises(mmk.ContractError, match=r"^grow: y would be .*, \d+ elements; expected at most 2\^59$"):
            c.solve(x, {"n": 2**31})
