"""Functions of each element, softmax along an axis, dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import harness
import mmkernels as mmk
from mmkernels import autograd
from mmkernels.contract import Case
from mmkernels.operator import OPERATORS
from mmkernels.ops import activation
from mmkernels.ops.activation import (
    dropout,
    gelu,
    leaky_relu,
    log_softmax,
    relu,
    sigmoid,
    silu,
    softmax,
)  # fmt: skip
from reference import activation as reference
from reference import arith
from reference.noise import philox_uniform

Array = NDArray[Any]
INF, NAN = np.inf, np.nan
SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from(["float32", "float64"])


def any_floats(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Random bit patterns: every exponent, both signs, subnormals, infinities and NaN."""
    return np.random.default_rng(seed).integers(0, 2**32, count, dtype=np.uint32).view(np.float32)


# ---- each element by itself -----------------------------------------------------------------------------------------

GRADIENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "silu_grad": ("silu_grad", {}),
    "gelu_grad": ("gelu_grad", {"approximate": "none"}),
    "gelu_tanh_grad": ("gelu_grad", {"approximate": "tanh"}),
}


@pytest.mark.parametrize(
    "name", ["exp", "log", "erf", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh", "relu", *GRADIENTS]
)
def test_bits_are_the_definitions(name: str) -> None:
    """The arithmetic's definition, operation by operation in NumPy, gives the kernels' bits."""
    x = np.concatenate([any_floats(4000), np.random.default_rng(1).standard_normal(4000).astype(np.float32) * 6])
    wanted = getattr(arith, name)(x)
    if name in GRADIENTS:
        operator, attributes = GRADIENTS[name]
        found = OPERATORS[operator](x, np.ones_like(x), **attributes)
    else:
        attributes = {"approximate": "tanh"} if name == "gelu_tanh" else {}
        found = OPERATORS[name.removesuffix("_tanh")](x, **attributes)
    assert harness.same_bits((found,), (wanted,))


# core/arith.h's own table: the largest error in units in the last place of a result that is not subnormal.
@pytest.mark.parametrize(
    ("name", "limit", "low", "high"),
    [
        ("exp", 1.0, -87, 88.7), ("log", 0.88, 1e-30, 1e30), ("erf", 1.11, -4, 4), ("tanh", 1.34, -10, 10),
        ("sigmoid", 2.4, -87, 90), ("silu", 2.4, -80, 90), ("gelu", 6.0, -12.5, 20),
    ],
)  # fmt: skip
def test_errors_are_those_stated(name: str, limit: float, low: float, high: float) -> None:
    random = np.random.default_rng(5)
    wide = random.uniform(low, high, 100_000)
    near = np.exp(random.uniform(-60, np.log(high), 50_000)) * (1 if low > 0 else random.choice([-1, 1], 50_000))
    x = np.concatenate([wide, near[(near >= low) & (near <= high)]]).astype(np.float32)
    attributes = {"approximate": "none"} if name == "gelu" else {}
    exact = getattr(reference, name)(x.astype(np.float64), **attributes)
    y = OPERATORS[name](x, **attributes)
    normal = np.abs(exact) >= 2.0**-126
    units = np.spacing(np.abs(exact[normal]).astype(np.float32)).astype(np.float64)
    assert np.max(np.abs(y[normal] - exact[normal]) / units) <= limit * 1.02


@pytest.mark.parametrize(
    ("name", "attributes", "points"),
    [
        ("relu", {}, [(-INF, 0.0), (-0.0, 0.0), (0.0, 0.0), (INF, INF)]),
        ("leaky_relu", {"negative_slope": 0.5}, [(-INF, -INF), (-2.0, -1.0), (-0.0, -0.0), (INF, INF)]),
        ("sigmoid", {}, [(-INF, 0.0), (0.0, 0.5), (INF, 1.0)]),
        ("tanh", {}, [(-INF, -1.0), (-0.0, -0.0), (INF, 1.0)]),
        ("silu", {}, [(-INF, -0.0), (-1e30, -0.0), (0.0, 0.0), (INF, INF)]),
        ("gelu", {"approximate": "none"}, [(-INF, -0.0), (-1e30, -0.0), (0.0, 0.0), (INF, INF)]),
        ("gelu", {"approximate": "tanh"}, [(-INF, -0.0), (-1e30, -0.0), (0.0, 0.0), (INF, INF)]),
        ("exp", {}, [(-INF, 0.0), (0.0, 1.0), (INF, INF), (1000.0, INF), (-1000.0, 0.0)]),
        ("log", {}, [(-1.0, NAN), (-0.0, -INF), (0.0, -INF), (1.0, 0.0), (INF, INF)]),
        ("sqrt", {}, [(-1.0, NAN), (-0.0, -0.0), (4.0, 2.0), (INF, INF)]),
        ("erf", {}, [(-INF, -1.0), (-0.0, -0.0), (INF, 1.0)]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_limits(name: str, attributes: dict[str, Any], points: list[tuple[float, float]], dtype: str) -> None:
    for x, y in [*points, (NAN, NAN)]:
        found = OPERATORS[name](np.full(3, x, dtype), **attributes)
        np.testing.assert_array_equal(found, np.full(3, y, dtype), err_msg=f"{name}({x})")
        if y == 0:
            assert (np.signbit(found) == np.signbit(y)).all(), f"{name}({x}) has the other zero"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_slopes_at_infinity(dtype: str) -> None:
    x, gy = np.array([-INF, INF], dtype), np.ones(2, dtype)
    for name, attributes in (
        ("silu_grad", {}),
        ("gelu_grad", {"approximate": "none"}),
        ("gelu_grad", {"approximate": "tanh"}),
    ):
        np.testing.assert_array_equal(OPERATORS[name](x, gy, **attributes), [0, 1])


def test_relu_gradient_at_its_kink() -> None:
    x, gy = np.array([-1, -0.0, 0.0, NAN, 2], np.float32), np.full(5, 7, np.float32)
    np.testing.assert_array_equal(OPERATORS["relu_grad"](x, gy), [0, 0, 0, 7, 7])
    np.testing.assert_array_equal(OPERATORS["leaky_relu_grad"](x[:3], gy[:3], negative_slope=0.5), [3.5, 3.5, 3.5])


@pytest.mark.parametrize(
    ("name", "seam"), [("tanh", 0.625), ("erf", 0.93), ("sigmoid", 0.0), ("exp", 0.0), ("log", 1.0)]
)
def test_rises_across_its_seams(name: str, seam: float) -> None:
    """Where two forms of a function meet, neighbours 16 units apart still rise."""
    at = np.float32(seam)
    x = np.sort(at + np.arange(-2000, 2000, dtype=np.float32) * np.spacing(max(at, np.float32(0.5))) * 16)
    assert (np.diff(OPERATORS[name](x)) >= 0).all()


ELEMENTWISE = [n for n, o in OPERATORS.items() if o.contract in vars(activation).values() and o.contract.free == ("S",)]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ELEMENTWISE), st.lists(st.integers(0, 6), max_size=4), DTYPES, SEEDS, st.data())
def test_elementwise(name: str, shape: list[int], dtype: str, seed: int, data: st.DataObject) -> None:
    operator = OPERATORS[name]
    attributes: dict[str, Any] = {}
    for a in operator.contract.attributes:
        attributes[a.name] = data.draw(st.sampled_from(a.choices) if a.kind == "choice" else st.floats(0, 2))
    random = np.random.default_rng(seed)
    operands = {}
    for a in operator.contract.inputs:
        x = random.standard_normal(shape) * data.draw(st.sampled_from([0.01, 1.0, 3.0]))
        x = np.abs(x) + 1e-3 if a.domain == "positive" else x
        operands[a.name] = data.draw(st.sampled_from([np.asarray, *harness.LAYOUTS]))(np.asarray(x, dtype))
    case = Case("drawn", {"S": tuple(shape)}, attributes)
    if "tanh" in attributes.values():  # the tail's own error is in the table of core/arith.h
        operands["x"] = np.maximum(operands["x"], -3)
    harness.check_against_reference(operator, case, operands, dtype)


@pytest.mark.parametrize(
    "name", ["silu", "gelu", "gelu_tanh", "sigmoid", "tanh", "exp", "erf", "softmax", "log_softmax"]
)
def test_third_derivatives(name: str) -> None:
    """Gradients of gradients of gradients, against differences of the second."""
    attributes = {"gelu": {"approximate": "none"}, "gelu_tanh": {"approximate": "tanh"}}.get(name, {})
    attributes = {"dim": 1} if name.endswith("softmax") else attributes
    operator = OPERATORS["gelu" if name == "gelu_tanh" else name]
    random = np.random.default_rng(3)
    x, c = random.standard_normal((3, 5)), [random.standard_normal((3, 5)) for _ in range(3)]

    def nth(at: Array, order: int) -> Array:
        v = autograd.Variable(at, requires_grad=True)
        g: Any = operator(v, **attributes)
        for k in range(order):
            (g,) = autograd.grad(mmk.sum(mmk.mul(g, c[k])), [v], create_graph=True)
        return np.asarray(g.data)

    direction, step = random.standard_normal((3, 5)), 1e-5
    numeric = np.sum(c[2] * (nth(x + step * direction, 2) - nth(x - step * direction, 2))) / (2 * step)
    assert np.sum(nth(x, 3) * direction) == pytest.approx(numeric, rel=1e-6, abs=1e-7)


def test_public_functions_take_out() -> None:
    x = np.linspace(-2, 2, 40, dtype=np.float32).reshape(2, 20)
    functions: list[Callable[..., Any]] = [
        relu,
        leaky_relu,
        sigmoid,
        silu,
        gelu,
        lambda v, out=None: softmax(v, -1, out=out),
    ]
    for f in functions:
        out = np.full_like(x, NAN)
        assert f(x, out=out) is out
        np.testing.assert_array_equal(out, f(x))


# ---- softmax --------------------------------------------------------------------------------------------------------

ALONG_AXIS = ["softmax", "log_softmax", "softmax_grad", "log_softmax_grad"]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ALONG_AXIS), st.lists(st.integers(1, 20), min_size=1, max_size=4), DTYPES, SEEDS, st.data())
def test_along_any_axis(name: str, shape: list[int], dtype: str, seed: int, data: st.DataObject) -> None:
    dim = data.draw(st.integers(0, len(shape) - 1))
    shape[dim] = data.draw(st.sampled_from([shape[dim], 130, 17]))
    random, operator = np.random.default_rng(seed), OPERATORS[name]
    operands = {
        a.name: data.draw(st.sampled_from([np.asarray, *harness.LAYOUTS]))(
            np.asarray(random.standard_normal(shape), dtype)
        )
        for a in operator.contract.inputs
    }
    harness.check_against_reference(operator, Case("drawn", {"S": tuple(shape)}, {"dim": dim}), operands, dtype)
    # Rows are free: one alone has the bits it has among the others, whichever axis they run along.
    whole = harness.run(operator, Case("", {}, {"dim": dim}), operands)[0]
    index = tuple(data.draw(st.integers(0, n - 1)) for k, n in enumerate(shape) if k != dim)
    rows = {k: np.moveaxis(x, dim, -1)[index] for k, x in operands.items()}
    alone = harness.run(operator, Case("", {}, {"dim": 0}), rows)[0]
    assert harness.same_bits((alone,), (np.moveaxis(whole, dim, -1)[index],))


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 128, 197, 5000])
def test_softmax_rows_sum_to_one(n: int) -> None:
    x = np.random.default_rng(n).standard_normal((20, n)).astype(np.float32) * 4
    y = softmax(x, -1)
    assert (y >= 0).all() and (y <= 1).all()
    np.testing.assert_allclose(y.astype(np.float64).sum(1), 1, rtol=2e-6)
    np.testing.assert_allclose(np.exp(log_softmax(x, -1).astype(np.float64)), y, rtol=2e-5)


def test_softmax_depends_on_differences_alone() -> None:
    """Integers and their differences are exact: a shift changes no bit, nor can it overflow."""
    x = np.random.default_rng(0).integers(-40, 40, (6, 50)).astype(np.float32)
    for shift in (1000.0, -70000.0):
        np.testing.assert_array_equal(softmax(x + np.float32(shift), 1), softmax(x, 1))
        np.testing.assert_array_equal(log_softmax(x + np.float32(shift), 1), log_softmax(x, 1))
    np.testing.assert_array_equal(softmax(np.array([[3e38, -3e38, 3e38]], np.float32), 1), [[0.5, 0, 0.5]])


@pytest.mark.parametrize("n", [3, 16, 40, 300])
def test_softmax_of_special_rows(n: int) -> None:
    x = np.zeros((5, n), np.float32)
    x[0] = -INF  # nothing to attend to
    x[1, n // 2] = NAN
    x[2, 1] = INF
    x[3, 1:] = -INF  # one element is left
    y, z = softmax(x, 1), log_softmax(x, 1)
    for row in (0, 1, 2):
        assert np.isnan(y[row]).all() and np.isnan(z[row, x[row] != -INF]).all()
    np.testing.assert_array_equal(y[3], np.eye(n)[0])
    np.testing.assert_array_equal(z[3], np.where(np.arange(n) == 0, 0, -INF))
    np.testing.assert_array_equal(y[4], np.full(n, np.float32(1) / np.float32(n)))


def test_softmax_errors() -> None:
    x = np.ones((2, 3), np.float32)
    with pytest.raises(mmk.ContractError, match=r"^softmax: dim is 2; expected an axis of \(2, 3\)$"):
        softmax(x, 2)
    with pytest.raises(mmk.ContractError, match=r"^log_softmax: dim is -3; expected an axis"):
        log_softmax(x, -3)
    with pytest.raises(mmk.ContractError, match=r"^gelu: approximate is 'erf'; expected one of 'none', 'tanh'$"):
        gelu(x, "erf")  # type: ignore[arg-type]


# ---- dropout --------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4), st.lists(st.integers(1, 12), max_size=3), st.floats(0, 1), DTYPES, st.integers(0, 2**64 - 1),
)  # fmt: skip
def test_dropout_is_its_definition(n: int, shape: list[int], p: float, dtype: str, key: int) -> None:
    x = np.random.default_rng(n).standard_normal((n, *shape)).astype(dtype)
    keys = np.arange(n, dtype=np.uint64) + np.uint64(key // 2)
    kept = philox_uniform(keys, extents=tuple(shape), offset=0) >= np.float32(p)
    with np.errstate(all="ignore"):
        wanted = np.where(kept, x / np.dtype(dtype).type(1 - p), np.zeros_like(x))
    assert harness.same_bits((dropout(x, p, seed=list(map(int, keys))),), (wanted,))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_right_fraction(p: float) -> None:
    n = 400_000
    y = dropout(np.ones((4, n // 4), np.float32), p, seed=11)
    assert abs(np.mean(y != 0) - (1 - p)) < 5 * np.sqrt(p * (1 - p) / n)  # five standard deviations
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(1 - p)}


def test_dropout_of_a_prefix_and_of_a_part_of_the_batch() -> None:
    x = np.random.default_rng(2).standard_normal((5, 301)).astype(np.float32)
    whole = dropout(x, 0.4, seed=9)
    np.testing.assert_array_equal(dropout(x[:3], 0.4, seed=9), whole[:3])
    np.testing.assert_array_equal(dropout(x[:, :77], 0.4, seed=9), whole[:, :77])
    keys = [3, 1, 4, 1, 5]
    chosen = dropout(x, 0.4, seed=keys)
    np.testing.assert_array_equal(dropout(x[2:4], 0.4, seed=keys[2:4]), chosen[2:4])
    assert (
        (dropout(np.ones_like(x), 0.4, seed=keys)[1] != 0) == (dropout(np.ones_like(x), 0.4, seed=keys)[3] != 0)
    ).all()
    assert (dropout(x, 0.4, seed=10) != whole).any()


def test_dropout_off() -> None:
    x = np.array([[1.5, -0.0, INF, NAN]], np.float32)
    for y in (dropout(x, 0.7, False, seed=1), dropout(x, 0.0, seed=1)):
        assert y is not x and not np.shares_memory(x, y)
        assert y.tobytes() == x.tobytes()
    y = dropout(x, 1.0, seed=1)
    assert y.tobytes() == np.zeros_like(x).tobytes()


def test_dropout_drops_what_is_not_finite() -> None:
    x = np.full((1, 1000), NAN, np.float32)
    y = dropout(x, 0.5, seed=0)
    assert 400 < np.isnan(y).sum() < 600 and (y[~np.isnan(y)] == 0).all()


def test_dropout_gradient_drops_the_same() -> None:
    x = np.random.default_rng(4).standard_normal((3, 50)).astype(np.float32)
    v = autograd.Variable(x, requires_grad=True)
    y = dropout(v, 0.3, seed=6)
    (g,) = autograd.grad(mmk.sum(y), [v], create_graph=True)
    np.testing.assert_array_equal(g.data, dropout(np.ones_like(x), 0.3, seed=6))
    assert ((g.data == 0) == (y.data == 0)).all()


def test_dropout_errors() -> None:
    x = np.ones((2, 3), np.float32)
    for p in (-0.1, 1.5, NAN):
        with pytest.raises(mmk.ContractError, match=r"^dropout: p is .*; expected 0 <= p <= 1$"):
            dropout(x, p, seed=1)
    with pytest.raises((mmk.ContractError, mmk.ContractTypeError), match=r"^dropout: "):
        dropout(x, 0.5, seed=[1, 2, 3])
    with pytest.raises((mmk.ContractError, mmk.ContractTypeError), match=r"^dropout: seed is 'a'"):
        dropout(x, 0.5, seed="a")  # type: ignore[arg-type]
    with pytest.raises(mmk.ContractError, match=r"^dropout: x has 0 extents"):
        dropout(np.float32(1), 0.5, seed=1)
