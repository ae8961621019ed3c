"""Arithmetic with broadcasting, selection, sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import mmkernels as mmk

SHAPES = hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=5, min_side=0)
OPERATORS = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.sampled_from(sorted(OPERATORS)), st.sampled_from(["float32", "float64"]), st.integers(0, 2**32 - 1))
def test_arithmetic_is_numpys(shapes: hnp.BroadcastableShapes, name: str, dtype: str, seed: int) -> None:
    """Each is one correctly rounded operation, so NumPy's bits are ours."""
    random = np.random.default_rng(seed)
    a, b = (random.standard_normal(s).astype(dtype) for s in shapes.input_shapes)
    with np.errstate(all="ignore"):
        wanted = OPERATORS[name](a, b)
    found = getattr(mmk, name)(a, b)
    assert found.dtype == wanted.dtype and found.shape == shapes.result_shape
    np.testing.assert_array_equal(found, wanted)


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=1, max_dims=4, max_side=6), elements=st.floats(-10, 10)),
    st.data(),
)
def test_sums_follow_their_axes(x: np.ndarray, data: st.DataObject) -> None:  # type: ignore[type-arg]
    dims = data.draw(st.sets(st.integers(-x.ndim, x.ndim - 1), max_size=x.ndim).filter(
        lambda s: len({d % x.ndim for d in s}) == len(s)))  # fmt: skip
    keep = data.draw(st.booleans())
    axis = tuple(dims)
    bound = 1e-14 * (1 + np.abs(x).sum())
    assert np.abs(mmk.sum(x, axis, keep) - x.sum(axis, keepdims=keep)).max(initial=0) <= bound
    assert mmk.mean(x, axis, keep).shape == x.mean(axis, keepdims=keep).shape


def test_long_sum_is_accurate() -> None:
    """A million terms of one size: the error of a running sum would be a thousand times larger."""
    x = np.full(1_000_003, 0.1, np.float32)
    exact = float(np.float64(np.float32(0.1)) * x.size)
    assert abs(float(mmk.sum(x)) - exact) <= 2e-6 * exact


def test_long_sum_order() -> None:
    """Element i goes to lane i % 16 of chunk i / 128; chunks as a binary counter; lanes as 8, 4, 2, 1."""
    x = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    padded = np.concatenate([x, np.zeros(24, np.float32)]).reshape(8, 8, 16)
    chunks = np.zeros((8, 16), np.float32)
    for k in range(8):
        chunks = chunks + padded[:, k]
    while len(chunks) > 1:
        chunks = chunks[0::2] + chunks[1::2]
    lanes = chunks[0]
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    assert mmk.sum(x).tobytes() == lanes[0].tobytes()


def test_where_selects_and_does_not_mix() -> None:
    x = np.array([np.nan, 1.0, np.inf], np.float32)
    found = mmk.where(np.isfinite(x), x, 0.0)
    assert found.tolist() == [0.0, 1.0, 0.0]


def test_scalars_take_the_arrays_dtype() -> None:
    assert mmk.mul(np.ones(2, np.float32), 2).dtype == np.float32
    assert mmk.sub(1.0, np.ones(2, np.float32)).dtype == np.float32
    assert mmk.mul(np.ones(2, np.float32), np.float64(2)).dtype == np.float32


def test_axes_are_checked() -> None:
    for dim in (2, -3, (0, 0), (0, -2)):
        with pytest.raises(mmk.ContractError, match="sum: dim is"):
            mmk.sum(np.ones((2, 3)), dim)
