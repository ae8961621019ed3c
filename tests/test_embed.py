"""Embeddings: rows by index, gradients in token order, waves that are exact at any time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import mmkernels as mmk
from mmkernels import autograd
from mmkernels.operator import OPERATORS
from mmkernels.ops.embed import embedding, fourier_features, sinusoidal_features
from reference import embed as reference

Array = NDArray[Any]


@settings(max_examples=50, deadline=None)
@given(
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7), st.integers(1, 9), st.integers(0, 35),
    st.sampled_from(["int32", "int64"]), st.sampled_from(["float32", "float64"]), st.integers(1, 2),
    st.integers(0, 10**6),
)  # fmt: skip
def test_rows_and_gradient_to_the_bit(
    shape: tuple[int, ...], rows: int, width: int, index: str, dtype: str, step: int, seed: int
) -> None:
    """np.add.at adds token by token, as we do."""
    random = np.random.default_rng(seed)
    indices = np.asarray(random.integers(0, rows, shape), index)
    weight = random.standard_normal((rows, width * step)).astype(dtype)[:, ::step]
    y = embedding(indices, weight)
    assert y.dtype == weight.dtype
    np.testing.assert_array_equal(y, weight[indices])
    gy = random.standard_normal(y.shape).astype(dtype)
    found = OPERATORS["embedding_grad"](indices, gy, rows=rows)
    np.testing.assert_array_equal(found, reference.embedding_grad(indices, gy, rows=rows))


def test_gradient_is_the_same_on_many_threads() -> None:
    random = np.random.default_rng(0)
    indices, gy = random.integers(0, 50, 3000), random.standard_normal((3000, 64)).astype(np.float32)
    before = mmk.get_num_threads()
    try:
        for threads in (1, 2, 7):
            mmk.set_num_threads(threads)
            found = OPERATORS["embedding_grad"](indices, gy, rows=50)
            np.testing.assert_array_equal(found, reference.embedding_grad(indices, gy, rows=50))
    finally:
        mmk.set_num_threads(before)


@pytest.mark.parametrize("value", [-1, 4, 2**31 - 1])
def test_index_outside(value: int) -> None:
    indices = np.array([[0, 3], [value, 1]], np.int32)
    text = rf"embedding: indices\.flat\[2\] is {value}; expected 0 <= value < V = 4"
    with pytest.raises(mmk.ContractError, match=text):
        embedding(indices, np.zeros((4, 2), np.float32))


def test_derivatives() -> None:
    indices = np.array([1, 1, 0])
    weight = autograd.Variable(np.array([[1.0], [2.0], [3.0]]), requires_grad=True)
    y = embedding(indices, weight)
    (g,) = autograd.grad(mmk.sum(y * y * y), [weight], create_graph=True)
    assert g is not None and g.data.ravel().tolist() == [3, 24, 0]
    (h,) = autograd.grad(mmk.sum(g), [weight])
    assert h is not None and h.data.ravel().tolist() == [6, 24, 0]


# ---- waves ----------------------------------------------------------------------------------------------------------


def close(found: Array, wanted: Array, ulps: float) -> None:
    """Within so many units of the result; next to a zero, within what the reference's angle is off."""
    eps = float(np.finfo(found.dtype).eps)
    assert (np.abs(found - wanted) <= ulps * eps * np.abs(wanted) + 1e-15).all()


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 4), st.integers(2, 70), st.sampled_from([10000.0, 100.0, 3.5]),
    st.sampled_from(["sin-cos", "cos-sin"]), st.sampled_from([0.0, 0.25, -1.0]),
    st.sampled_from(["float32", "float64"]), st.sampled_from([1.0, 1e3, 1e6]),
    st.integers(0, 10**6),
)  # fmt: skip
def test_sinusoidal(
    n: int, dim: int, period: float, order: Any, shift: float, dtype: str, largest: float, seed: int
) -> None:
    """Two units in the last place at any time, where a float32 angle would lose all digits."""
    t = np.random.default_rng(seed).uniform(-largest, largest, n).astype(dtype)
    y = sinusoidal_features(t, dim, max_period=period, order=order, shift=shift)
    assert y.dtype == t.dtype and y.shape == (n, dim)
    exact = t.astype(np.longdouble)
    wanted = reference.sinusoidal_features(exact, dim=dim, max_period=period, order=order, shift=shift)
    eps = float(np.finfo(y.dtype).eps)
    # the table's frequencies are right to a few units of a double, long double's sine to 1e-19 of the angle
    angle = 1e-15 * largest if dtype == "float32" else 1e-18 * largest
    assert (np.abs(y - wanted) <= 2 * eps * np.abs(wanted) + angle).all()


def test_sinusoidal_of_time_steps() -> None:
    """The first wave has frequency 1, and shift 1 makes the last one 1 / max_period; integers are welcome."""
    steps = np.arange(1000)
    y = sinusoidal_features(steps, 32, shift=1.0)
    assert y.dtype == np.float32
    close(y[:, 0], np.sin(steps.astype(np.float64)), 1.0)
    close(y[:, 31], np.cos(steps / 10000.0), 1.0)
    np.testing.assert_array_equal(y, sinusoidal_features(steps.astype(np.float32), 32, shift=1.0))
    swapped = sinusoidal_features(steps, 32, shift=1.0, order="cos-sin")
    np.testing.assert_array_equal(np.roll(swapped, 16, axis=1), y)


def test_sinusoidal_odd_dimension() -> None:
    y = sinusoidal_features(np.array([1.0, 2.0]), 7)
    assert y.shape == (2, 7) and (y[:, 6] == 0).all()
    np.testing.assert_array_equal(y[:, :6], sinusoidal_features(np.array([1.0, 2.0]), 6))


def test_sinusoidal_of_what_is_no_time() -> None:
    y = sinusoidal_features(np.array([np.inf, -np.inf, np.nan], np.float32), 6)
    assert np.isnan(y).all()
    assert (np.abs(sinusoidal_features(np.array([3.4e38, -1e30], np.float32), 64)) <= 1).all()


def test_sinusoidal_refusals() -> None:
    t = np.zeros(2, np.float32)
    with pytest.raises(mmk.ContractError, match=r"shift is 2\.0; expected other than dim // 2"):
        sinusoidal_features(t, 4, shift=2.0)
    with pytest.raises(mmk.ContractError, match=r"max_period is -1\.0; expected a number above 0"):
        sinusoidal_features(t, 4, max_period=-1.0)
    with pytest.raises(mmk.ContractError, match="shift is nan; expected a finite number"):
        sinusoidal_features(t, 4, shift=float("nan"))
    with pytest.raises(mmk.ContractError, match="order is 'cos'; expected one of 'sin-cos', 'cos-sin'"):
        sinusoidal_features(t, 4, order="cos")  # type: ignore[arg-type]
    time = autograd.Variable(t, requires_grad=True)
    with pytest.raises(NotImplementedError, match="sinusoidal_features: no gradient is defined for t"):
        autograd.grad(mmk.sum(sinusoidal_features(time, 4)), [time])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 4), st.integers(0, 40), st.sampled_from(["float32", "float64"]), st.sampled_from([1.0, 300.0]),
       st.integers(0, 10**6))  # fmt: skip
def test_fourier(n: int, features: int, dtype: str, largest: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    t = random.uniform(-1, 1, n).astype(dtype)
    frequencies = (largest * random.standard_normal(features)).astype(dtype)
    y = fourier_features(t, frequencies)
    assert y.dtype == t.dtype and y.shape == (n, 2 * features)
    wanted = reference.fourier_features(t.astype(np.longdouble), frequencies.astype(np.longdouble))
    assert (np.abs(y - wanted) <= 2 * np.finfo(y.dtype).eps * np.abs(wanted) + 1e-18 * largest).all()


def test_fourier_at_quarter_turns() -> None:
    """Exact where sine and cosine are: the angle never meets pi before it is reduced."""
    t = np.arange(-8, 9, dtype=np.float32) / 4
    y = fourier_features(t, np.array([1.0, 2.0**20 + 1], np.float32))
    quarters = np.array([[0, 1, 0, -1][i % 4] for i in range(-8, 9)], np.float32)
    for column in (0, 1):
        np.testing.assert_array_equal(y[:, column], quarters)
        np.testing.assert_array_equal(y[:, 2 + column], [*quarters[1:], 1.0])


def test_fourier_derivatives() -> None:
    """Of sin^2 + cos^2, which is constant, by t and by the frequencies, twice."""
    t = autograd.Variable(np.array([0.3, -1.1]), requires_grad=True)
    f = autograd.Variable(np.array([0.7, 1.9, 2.2]), requires_grad=True)
    y = fourier_features(t, f)
    gradients = autograd.grad(mmk.sum(y * y), [t, f], create_graph=True)
    for g in gradients:
        assert g is not None and np.abs(g.data).max() < 1e-14
    (second,) = autograd.grad(mmk.sum(gradients[0] * gradients[0]), [t])
    assert second is not None and np.abs(second.data).max() < 1e-12
