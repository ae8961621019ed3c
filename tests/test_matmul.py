"""What tests/test_laws.py does not say of matrix products: random shapes and strides, rows and columns, order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import mmkernels as mmk
from harness import strided
from mmkernels import _core, autograd
from mmkernels.operator import OPERATORS
from mmkernels.ops.matmul import linear, matmul
from mmkernels.verify import instruction_set
from reference import matmul as reference

Array = NDArray[Any]
ACTIVATIONS = [None, "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu"]


def normal(shape: tuple[int, ...], seed: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def transposed(x: Array) -> Array:
    return np.swapaxes(np.ascontiguousarray(np.swapaxes(x, -1, -2)), -1, -2)


def reversed_rows(x: Array) -> Array:
    return np.flip(np.flip(x, -2).copy(), -2)


LAYOUTS = st.sampled_from([np.ascontiguousarray, transposed, strided, reversed_rows])


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_random_shapes(data: st.DataObject) -> None:
    draw = data.draw
    rows, columns = draw(st.integers(1, 60)), draw(st.integers(1, 70))
    depth = draw(st.sampled_from([0, 1, 5, 16, 17, 255, 256, 257, 520]))
    batch = draw(st.lists(st.integers(1, 3), max_size=2))
    left = [n if draw(st.booleans()) else 1 for n in batch][draw(st.integers(0, len(batch))) :]
    right = batch if draw(st.booleans()) else []
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    wide = np.float64 if dtype == np.float32 else np.longdouble
    seed = draw(st.integers(0, 2**30))
    a = draw(LAYOUTS)(normal((*left, rows, depth), seed, dtype))
    b = draw(LAYOUTS)(normal((*right, depth, columns), seed + 1, dtype))
    bias = normal((columns,), seed + 2, dtype) if draw(st.booleans()) else None
    activation = draw(st.sampled_from(ACTIVATIONS))
    y = matmul(a, b, bias=bias, activation=activation)
    exact = reference.matmul(
        a.astype(wide), b.astype(wide), None if bias is None else bias.astype(wide), activation=activation
    )
    most = reference.matmul(np.abs(a).astype(wide), np.abs(b).astype(wide),
                            None if bias is None else np.abs(bias).astype(wide), activation=None)  # fmt: skip
    unit = float(np.finfo(dtype).eps) / 2
    limit = 1.01 * unit * (1.13 * (min(depth, 256) + depth // 256 + 3) * most + 8 * np.abs(exact)) + 1e-300
    assert y.dtype == dtype and y.shape == exact.shape
    assert (np.abs(y - exact) <= limit).all()
    if not right:  # the same product with the other operand's strides
        assert (linear(a, b.T, bias, activation=activation) == y).all()


@pytest.mark.parametrize("isa", _core.available_isas())
def test_every_tile(isa: str) -> None:
    """Integers, so that every order of summation is exact: whatever tiles are chosen, no row is lost."""
    draw = np.random.default_rng(0)
    with instruction_set(isa):
        for rows in range(1, 46):
            for columns in (1, 16, 17, 32, 33):
                a = draw.integers(-4, 5, (rows, 300)).astype(np.float32)
                b = draw.integers(-4, 5, (300, columns)).astype(np.float32)
                assert (matmul(a, b) == a @ b).all()
        a, b = draw.integers(-4, 5, (500, 20)).astype(np.float32), draw.integers(-4, 5, (20, 3)).astype(np.float32)
        assert (matmul(a, b) == a @ b).all()


def test_rows_and_columns() -> None:
    a, b = normal((3, 4, 5), 0), normal((3, 5, 6), 1)
    x = normal((5,), 2)
    whole = matmul(a, b)
    assert matmul(x, x).shape == () and matmul(a, x).shape == (3, 4) and matmul(x, b).shape == (3, 6)
    assert (matmul(a[0, 0], b) == matmul(a[0, :1], b)[:, 0]).all()
    assert (matmul(a, b[1, :, 2]) == matmul(a, b[1])[..., 2]).all()
    assert (matmul(a[:1], b)[1] == matmul(a[0], b[1])).all() and whole.shape == (3, 4, 6)
    assert matmul(x, b, bias=np.ones(6, np.float32)).shape == (3, 6)
    out = np.empty((3, 4), np.float32)
    assert matmul(a, x, out=out) is out and (out == matmul(a, x)).all()
    out = np.empty((), np.float32)
    assert matmul(x, x, out=out) is out and out == matmul(x, x)


def test_gradients_of_rows_and_columns() -> None:
    a, x = normal((4, 5), 0, np.float64), normal((5,), 1, np.float64)
    left, right = autograd.Variable(a, requires_grad=True), autograd.Variable(x, requires_grad=True)
    found = autograd.grad(mmk.sum(matmul(left, right)), [left, right])
    np.testing.assert_allclose(found[0].data, np.broadcast_to(x, a.shape))  # type: ignore[union-attr]
    np.testing.assert_allclose(found[1].data, a.sum(0))  # type: ignore[union-attr]


def test_order_of_the_definition() -> None:
    """Chunks of 256 products, each a chain of fma from +0, added in order; then + 0."""
    a, b = normal((3, 600), 0), normal((600, 2), 1)
    y = matmul(a, b)
    for m in range(3):
        total: Any = None
        for begin in range(0, 600, 256):
            sum = np.float32(0)
            for k in range(begin, min(begin + 256, 600)):
                sum = np.float32(float(a[m, k]) * float(b[k, 1]) + float(sum))
            total = sum if total is None else np.float32(total + sum)
        assert y[m, 1] == total + np.float32(0)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    """One row, a few and many take other tiles, other packing and other threads."""
    x, weight, bias = normal((700, 300), 0), normal((50, 300), 1), normal((50,), 2)
    whole = linear(x, weight, bias, activation="gelu")
    for part in (slice(0, 1), slice(5, 18), slice(300, 640)):
        assert (linear(x[part], weight, bias, activation="gelu") == whole[part]).all()
    assert (linear(x, weight[7:40], bias[7:40], activation="gelu") == whole[:, 7:40]).all()
    assert (linear(x[3], weight, bias, activation="gelu") == whole[3]).all()
    assert (matmul(x.reshape(7, 100, 300), weight.T, bias=bias, activation="gelu").reshape(700, 50) == whole).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_is_the_composition(activation: str | None) -> None:
    x, weight, bias = normal((9, 20), 0), normal((35, 20), 1), normal((35,), 2)
    plain = mmk.add(linear(x, weight), bias)
    identity = np.eye(35, dtype=np.float32)
    fused = linear(x, weight, bias, activation=activation)
    assert (fused == linear(plain, identity, activation=activation)).all()
    assert (fused == matmul(x, weight.T, bias=bias, activation=activation)).all()


def test_empty() -> None:
    a, b = np.empty((2, 3, 0), np.float32), np.empty((0, 4), np.float32)
    assert (matmul(a, b) == np.zeros((2, 3, 4))).all() and not np.signbit(matmul(a, b)).any()
    assert (matmul(a, b, bias=np.full(4, -2, np.float32)) == -2).all()
    assert matmul(np.empty((0, 3, 4), np.float32), np.empty((4, 5), np.float32)).shape == (0, 3, 5)


def test_weight_gradient_of_a_shared_matrix_is_one_product() -> None:
    """The batch is part of the sum's index, not a sum of sums."""
    a, b, gy = normal((4, 100, 8), 0), normal((8, 6), 1), normal((4, 100, 6), 2)
    variable = autograd.Variable(b, requires_grad=True)
    (found,) = autograd.grad(matmul(a, variable), [variable], gy)
    assert (found.data == matmul(a.reshape(400, 8).T, gy.reshape(400, 6))).all()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: matmul(x((2, 3)), x((4, 5))), r"matmul: b.shape\[0\] is 4; expected K = 3"),
        (lambda x: matmul(x((2, 3)), x((4,))), r"matmul: b.shape\[0\] is 4; expected K = 3"),
        (lambda x: matmul(x((2, 2, 3)), x((3, 3, 5))), "matmul: b.shape is .3,.; expected what broadcasts to .2,."),
        (lambda x: matmul(x(()), x((3,))), "matmul: a has shape .. and b .3,.; expected one extent or more"),
        (lambda x: matmul(x((2, 3)), x((3, 5)), bias=x((3,))), r"matmul: bias.shape\[0\] is 3; expected N = 5"),
        (lambda x: matmul(x((2, 3)), x((3, 5)), activation="swish"), "matmul: activation is 'swish'; expected one of"),
        (lambda x: linear(x((2, 3)), x((4, 2))), r"linear: weight.shape\[1\] is 2; expected I = 3"),
        (lambda x: linear(x((2, 3)), x((3,))), "linear: weight has 1 extents .* expected 2: O I"),
    ],
)
def test_errors(call: Any, text: str) -> None:
    with pytest.raises(mmk.ContractError, match="^" + text):
        call(lambda shape: np.zeros(shape, np.float32))


def test_types() -> None:
    with pytest.raises(mmk.ContractTypeError, match=r"^matmul: b.dtype is float64; expected float32, as a has"):
        matmul(np.zeros((2, 2), np.float32), np.zeros((2, 2)))
    with pytest.raises(mmk.ContractTypeError, match=r"^matmul: b is a list; expected an array"):
        matmul(np.zeros((2, 2), np.float32), [1.0])
    with pytest.raises(mmk.ContractTypeError, match=r"^matmul: out is a list; expected an array"):
        matmul(np.zeros(2, np.float32), np.zeros(2, np.float32), out=[0.0])


def test_plan() -> None:
    x, weight = normal((3, 8), 0), normal((4, 8), 1)
    assert "packed in passing" in mmk.plan("linear", x, weight)
    assert "packed ahead" in mmk.plan("linear", normal((1000, 8), 0), weight)
    assert OPERATORS["linear"].contract.free == ("S", "O")
