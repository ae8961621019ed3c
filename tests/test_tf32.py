"""algorithm="tf32": factors rounded, sums in float32, only where it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import mmkernels as mmk
from mmkernels import autograd
from mmkernels.operator import OPERATORS
from mmkernels.ops import conv
from mmkernels.verify import case_operands, run
from reference.tf32 import rounded

Array = NDArray[Any]
ONE = np.ones((1, 1), np.float32)
CALLS = [
    pytest.param(name, case, id=f"{name}-{case.name}")
    for name, operator in sorted(OPERATORS.items())
    for case in operator.contract.cases
    if case.attributes.get("algorithm") == "tf32"
]


def as_factor(x: Array) -> Array:
    """What a product makes of numbers: each times 1, which TF32 has."""
    y: Array = mmk.matmul(x.reshape(-1, 1), ONE, algorithm="tf32")
    return y.reshape(x.shape)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_rounding(bits: list[int]) -> None:
    x = np.array(bits, np.uint32).view(np.float32)
    assert np.array_equal(as_factor(x), rounded(x) + np.float32(0), equal_nan=True)


def test_rounding_of_named_numbers() -> None:
    step, most = 2.0**-10, (2 - 2.0**-10) * 2.0**127
    given_and_wanted = [
        (1 + step, 1 + step),
        (1 + step / 2, 1 + step),  # ties go away from zero
        (-1 - step / 2, -1 - step),
        (1 + step * 3 / 2, 1 + 2 * step),
        (np.nextafter(np.float32(1 + step / 2), np.float32(0)), 1.0),
        (2 - 2.0**-23, 2.0),
        (most, most),
        (np.finfo(np.float32).max, np.inf),
        (-np.inf, -np.inf),
        (2.0**-149, 0.0),  # of subnormals 2^-136 is the step
        (2.0**-137, 2.0**-136),
        (np.nan, np.nan),
    ]
    x, wanted = (np.array(column, np.float32) for column in zip(*given_and_wanted, strict=True))
    assert np.array_equal(as_factor(x), wanted, equal_nan=True)


@pytest.mark.parametrize(("name", "case"), CALLS)
def test_is_the_operator_on_rounded_factors(name: str, case: Any) -> None:
    """Bit for bit on the CPU; bias and residual are not rounded, and without the attribute nothing is."""
    operator = OPERATORS[name]
    operands = case_operands(operator.contract, case, "float32")
    factors = {n: x if n in ("bias", "residual") else rounded(x) for n, x in operands.items()}
    plain = type(case)(case.name, case.extents, {**case.attributes, "algorithm": None}, case.optional)
    found = run(operator, case, operands)[0]
    assert found.tobytes() == run(operator, plain, factors)[0].tobytes()
    assert found.tobytes() != run(operator, plain, operands)[0].tobytes()


def test_a_factor_that_broadcasts() -> None:
    x = np.random.default_rng(1).standard_normal((3, 4, 5)).astype(np.float32)
    row = np.broadcast_to(x[:1, :1], x.shape)
    weight = np.broadcast_to(x[0, 0], (6, 5))
    assert (mmk.matmul(row, x.transpose(0, 2, 1), algorithm="tf32")
            == mmk.matmul(row.copy(), x.transpose(0, 2, 1), algorithm="tf32")).all()  # fmt: skip
    assert (mmk.linear(x, weight, algorithm="tf32") == mmk.linear(x, weight.copy(), algorithm="tf32")).all()


X, W = np.ones((1, 3, 5)), np.ones((4, 3, 3))
PUBLIC: list[tuple[Callable[..., Any], Array, Array]] = [
    (mmk.matmul, X[0], X[0].T),
    (mmk.linear, X, np.ones((2, 5))),
    (conv.conv1d, X, W),
    (mmk.conv2d, X[..., None], W[..., None]),
    (conv.conv3d, X[..., None, None], W[..., None, None]),
    (conv.conv_transpose1d, X, np.ones((3, 4, 3))),
    (conv.conv_transpose2d, X[..., None], np.ones((3, 4, 3, 1))),
    (conv.conv_transpose3d, X[..., None, None], np.ones((3, 4, 3, 1, 1))),
]


@pytest.mark.parametrize(("function", "x", "weight"), PUBLIC, ids=[f[0].__name__ for f in PUBLIC])
def test_only_float32_may_ask(function: Callable[..., Any], x: Array, weight: Array) -> None:
    name = function.__name__
    for dtype in ("float64", "float16"):
        text = f"^{name}: algorithm is 'tf32' and [ax].dtype is {dtype}; expected float32$"
        with pytest.raises(mmk.ContractTypeError, match=text):
            function(x.astype(dtype), weight.astype(dtype), algorithm="tf32")
        function(x.astype(dtype), weight.astype(dtype))
    with pytest.raises(mmk.ContractError, match=rf"^{name}: algorithm is 'bf16'; expected .*'tf32'"):
        function(x, weight, algorithm="bf16")
    y = function(x.astype(np.float32), weight.astype(np.float32), algorithm="tf32")
    assert y.dtype == np.float32 and (y == function(x, weight)).all()  # ones stay ones


@pytest.mark.parametrize("algorithm", [None, "tf32"])
@pytest.mark.parametrize(("function", "x", "weight"), PUBLIC, ids=[f[0].__name__ for f in PUBLIC])
def test_gradients(function: Callable[..., Any], x: Array, weight: Array, algorithm: str | None) -> None:
    """Those of a call that asks for TF32 are such calls, those of any other never: each factor of the gradients, gy
    among them, is rounded or is not."""
    draw = np.random.default_rng(2)
    x, weight = (draw.standard_normal(v.shape).astype(np.float32) for v in (x, weight))
    y = function(x, weight, activation="silu", algorithm=algorithm)
    gy = draw.standard_normal(y.shape).astype(np.float32)

    def gradients(x: Array, weight: Array, gy: Array, algorithm: str | None) -> list[Array]:
        variables = [autograd.Variable(v, requires_grad=True) for v in (x, weight)]
        total = mmk.sum(mmk.mul(function(*variables, algorithm=algorithm), gy))
        return [g.data for g in autograd.grad(total, variables)]

    found = gradients(x, weight, gy, algorithm)
    wanted = gradients(rounded(x), rounded(weight), rounded(gy), None)
    for g, w in zip(found, wanted, strict=True):
        assert (g.tobytes() == w.tobytes()) == (algorithm == "tf32")


def test_second_derivatives() -> None:
    """Of TF32 calls: the gradient of a gradient's sum, against the same on rounded factors."""
    draw = np.random.default_rng(3)
    x, weight = draw.standard_normal((2, 3, 5, 5)).astype(np.float32), draw.standard_normal((4, 3, 3, 3))

    def second(x: Array, weight: Array, algorithm: str | None) -> Array:
        v = [autograd.Variable(rounded(z.astype(np.float32)), requires_grad=True) for z in (x, weight)]
        y = mmk.conv2d(*v, algorithm=algorithm)
        first = autograd.grad(mmk.sum(y), v, create_graph=True)
        (g,) = autograd.grad(mmk.sum(first[0]), [v[1]])
        found: Array = g.data
        return found

    assert np.allclose(second(x, weight, "tf32"), second(x, weight, None), rtol=2**-9, atol=1e-3)


def test_names_that_are_arrays() -> None:
    """One that holds the name is the name, any other is refused."""
    x = np.random.default_rng(4).standard_normal((4, 4)).astype(np.float32)
    named = mmk.matmul(x, x, algorithm=np.array("tf32"))  # type: ignore[arg-type]
    assert (named == mmk.matmul(x, x, algorithm="tf32")).all()
    for value in (np.array("tf"), np.array(["tf32", "tf32"]), ["tf32"]):
        with pytest.raises((mmk.ContractError, mmk.ContractTypeError), match=r"^matmul: .*expected"):
            mmk.matmul(x, x, algorithm=value)  # type: ignore[arg-type]


def test_conv2d_direct_is_the_default() -> None:
    x, weight = np.ones((1, 2, 4, 4), np.float64), np.ones((3, 2, 3, 3), np.float64)
    assert (mmk.conv2d(x, weight, algorithm="direct") == mmk.conv2d(x, weight)).all()
