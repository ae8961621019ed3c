"""Interpolation: which pixel is read, and where its gradient goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import mmkernels as mmk
from mmkernels import autograd
from mmkernels.operator import OPERATORS
from mmkernels.ops.resample import interpolate
from reference import resample as reference

Array = NDArray[Any]


def channels_last(x: Array) -> Array:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


SHAPES = st.tuples(st.integers(1, 2), st.sampled_from([1, 3, 16, 18]), st.integers(1, 9), st.integers(1, 40))
LAYOUTS = (np.asarray, channels_last, lambda x: np.repeat(x, 2, axis=3)[..., ::2])


@settings(max_examples=50, deadline=None)
@given(SHAPES, st.integers(0, 20), st.integers(0, 80), st.sampled_from(["float32", "float64"]),
       st.sampled_from(LAYOUTS), st.integers(0, 10**6))  # fmt: skip
def test_size(shape: tuple[int, ...], p: int, q: int, dtype: str, layout: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = layout(random.standard_normal(shape).astype(dtype))
    step = tuple(float(np.float32(n) / np.float32(max(m, 1))) for n, m in zip(shape[2:], (p, q), strict=True))
    y = interpolate(x, (p, q))
    np.testing.assert_array_equal(y, reference.interpolate(x, size=(p, q), scale=step, mode="nearest"))
    assert y.dtype == x.dtype


@settings(max_examples=50, deadline=None)
@given(SHAPES, st.floats(0.2, 4.0), st.sampled_from([0.5, 2.0, 2.0, 3.0, 1.7]), st.sampled_from(LAYOUTS),
       st.integers(0, 10**6))  # fmt: skip
def test_scale_factor_and_gradient(shape: tuple[int, ...], f: float, g: float, layout: Any, seed: int) -> None:
    """The step is 1 / factor, not extent / size. The gradient has the reference's bits: its sums have one order."""
    random = np.random.default_rng(seed)
    x = layout(random.standard_normal(shape).astype(np.float32))
    size, scale = (int(shape[2] * f), int(shape[3] * g)), (1 / f, 1 / g)
    y = interpolate(x, scale_factor=(f, g))
    np.testing.assert_array_equal(y, reference.interpolate(x, size=size, scale=scale, mode="nearest"))
    gy = layout(random.standard_normal(y.shape).astype(np.float32))
    a = {"height": shape[2], "width": shape[3], "scale": scale, "mode": "nearest"}
    np.testing.assert_array_equal(OPERATORS["interpolate_grad"](gy, **a), reference.interpolate_grad(gy, **a))


def test_step_is_rounded_to_float32() -> None:
    """Of 82 pixels from 2, pixel 41 reads 41 * 2 / 82 = 1; in float32 the step is just below 1 / 41, so it reads 0,
    as it does in PyTorch. Its neighbour reads 1."""
    for dtype in (np.float32, np.float64):
        y = interpolate(np.arange(2, dtype=dtype).reshape(1, 1, 1, 2), (1, 82))
        assert y[0, 0, 0, 41:43].tolist() == [0, 1]


def test_a_factor_is_not_the_quotient_of_the_sizes() -> None:
    """Both give 4 pixels from 2; the factor steps by 1 / 2.3, the size by 2 / 4."""
    x = np.arange(2.0).reshape(1, 1, 1, 2)
    assert interpolate(x, scale_factor=(1, 2.3))[0, 0, 0].tolist() == [0, 0, 0, 1]
    assert interpolate(x, (1, 4))[0, 0, 0].tolist() == [0, 0, 1, 1]


def test_twice_and_back() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 37)).astype(np.float32)
    y = interpolate(x, scale_factor=2)
    np.testing.assert_array_equal(y, x.repeat(2, axis=2).repeat(2, axis=3))
    np.testing.assert_array_equal(interpolate(y, scale_factor=0.5), x)
    np.testing.assert_array_equal(interpolate(x, 7)[..., :1], x[:, :, [0, 0, 1, 2, 2, 3, 4], :1])


def test_result_keeps_channels_last() -> None:
    y = interpolate(channels_last(np.ones((2, 3, 4, 5))), scale_factor=2)
    assert np.moveaxis(y, 1, -1).flags.c_contiguous


def test_gradients() -> None:
    x = autograd.Variable(np.ones((1, 1, 2, 2)), requires_grad=True)
    y = interpolate(x, (3, 5))
    (g,) = autograd.grad(mmk.sum(y * y), [x], create_graph=True)
    assert g is not None and g.data[0, 0].tolist() == [[12, 8], [6, 4]]  # twice the pixels that read each
    (h,) = autograd.grad(mmk.sum(g), [x])
    assert h is not None and h.data[0, 0].tolist() == [[12, 8], [6, 4]]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "interpolate: size is None and scale_factor is None; expected one of them"),
        ({"size": 2, "scale_factor": 2}, "interpolate: size is 2 and scale_factor is 2; expected one of them"),
        ({"size": 2, "mode": "bilinear"}, "interpolate: mode is 'bilinear'; nearest only in this version"),
        ({"size": 2, "mode": "cubic"}, "interpolate: mode is 'cubic'; expected one of 'nearest'"),
        (
            {"size": 2, "align_corners": False},
            "interpolate: align_corners is False; expected None with mode 'nearest'",
        ),
        ({"scale_factor": 0.0}, "interpolate: scale_factor is 0.0; expected numbers from 1e-6 to 1e6"),
        ({"size": (2, -1)}, "interpolate: size is (2, -1); expected at least 0"),
    ],
)
def test_refusals(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(mmk.ContractError) as caught:
        interpolate(np.zeros((1, 1, 2, 2)), **arguments)
    assert str(caught.value) == text


def test_refused_types() -> None:
    x = np.zeros((1, 1, 2, 2))
    with pytest.raises(mmk.ContractTypeError, match=r"interpolate: size is \(1\.5, 2\); expected integers"):
        interpolate(x, (1.5, 2))  # type: ignore[arg-type]
    with pytest.raises(mmk.ContractTypeError, match="interpolate: scale_factor is 'a'"):
        interpolate(x, scale_factor="a")  # type: ignore[arg-type]
    with pytest.raises(mmk.ContractError, match="interpolate: x has 3 extents"):
        interpolate(x[0], 2)
    with pytest.raises(mmk.ContractError, match="interpolate: x has planes of 0 x 2; expected at least one pixel"):
        interpolate(x[:, :, :0], 2)
