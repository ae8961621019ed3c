"""Interpolation: which pixel is read, and where its gradient goes."""

from __future__ import annotations

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
        ({"size": 2, "mode": "cubic"}, "interpolate: mode is 'cubic'; expected one of 'nearest', 'bilinear'"),
        ({"size": 2, "mode": "linear"}, "interpolate: mode is 'linear'; expected one of 'nearest', 'bilinear'"),
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
        interpolate(x[0], 2, mode="bilinear")
    with pytest.raises(mmk.ContractError, match="interpolate: x has 2 extents"):
        interpolate(x[0, 0], 2)
    with pytest.raises(
        mmk.ContractTypeError, match=r"interpolate: size is \(2, 2\); expected a number for the one axis"
    ):
        interpolate(x[0], (2, 2), mode="linear")
    with pytest.raises(mmk.ContractTypeError, match="interpolate: align_corners is 3; expected True or False"):
        interpolate(x, 2, mode="bilinear", align_corners=3)  # type: ignore[arg-type]
    with pytest.raises(mmk.ContractError, match="interpolate: x has planes of 0 x 2; expected at least one pixel"):
        interpolate(x[:, :, :0], 2)


# ---- between pixels ---------------------------------------------------------------------------------------------


def plain_steps(
    shape: tuple[int, ...], size: tuple[int, int], factor: tuple[float, float] | None, align: bool
) -> tuple[float, ...]:
    if align:
        return tuple((n - 1) / (m - 1) if m > 1 else 0.0 for n, m in zip(shape[2:], size, strict=True))
    if factor:  # as torch has it, an axis that keeps its extent is copied
        return tuple(1.0 if n == m else 1 / f for n, m, f in zip(shape[2:], size, factor, strict=True))
    return tuple(n / max(m, 1) for n, m in zip(shape[2:], size, strict=True))


@settings(max_examples=80, deadline=None)
@given(SHAPES, st.integers(1, 20), st.integers(1, 80), st.sampled_from([None, True, False]), st.booleans(),
       st.sampled_from(["float32", "float64"]), st.sampled_from(LAYOUTS), st.integers(0, 10**6))  # fmt: skip
def test_bilinear(
    shape: tuple[int, ...], p: int, q: int, align: bool | None, by_factor: bool, dtype: str, layout: Any, seed: int
) -> None:
    """The public function is the operator of these steps; it and its gradient are within their bounds."""
    random = np.random.default_rng(seed)
    x = layout(random.standard_normal(shape).astype(dtype))
    factor = (p / shape[2] + 0.01, q / shape[3] + 0.01) if by_factor else None
    size = (int(shape[2] * factor[0]), int(shape[3] * factor[1])) if factor else (p, q)
    steps = plain_steps(shape, size, factor, bool(align))
    attributes: dict[str, Any] = {"scale": steps, "mode": "bilinear", "align_corners": bool(align)}
    y = interpolate(x, None if factor else size, factor, "bilinear", align)
    case = Case("drawn", {"C": shape[1]}, {"size": size, **attributes})
    harness.check_against_reference(OPERATORS["interpolate"], case, {"x": x}, dtype, found=(y,))
    gy = layout(random.standard_normal(y.shape).astype(dtype))
    gradient = Case("drawn", {"C": shape[1]}, {"height": shape[2], "width": shape[3], **attributes})
    harness.check_against_reference(OPERATORS["interpolate_grad"], gradient, {"gy": gy}, dtype)


def test_bilinear_by_hand() -> None:
    x = np.array([[[[0.0, 4.0], [8.0, 12.0]]]])
    half = interpolate(x, (4, 4), mode="bilinear")[0, 0]
    assert half.tolist() == [[0, 1, 3, 4], [2, 3, 5, 6], [6, 7, 9, 10], [8, 9, 11, 12]]
    whole = interpolate(x, (3, 5), mode="bilinear", align_corners=True)[0, 0]
    assert whole.tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, 10, 11, 12]]
    assert interpolate(x, 1, mode="bilinear")[0, 0].tolist() == [[6]]
    assert interpolate(x, 1, mode="bilinear", align_corners=True)[0, 0].tolist() == [[0]]


def test_the_same_size_is_a_copy() -> None:
    """A share of 0 takes no part: infinities stay where they are."""
    x = np.random.default_rng(3).standard_normal((2, 18, 7, 9)).astype(np.float32)
    x[0, 0, 3, 4], x[1, 2, 0, 8] = np.inf, np.nan
    for layout in LAYOUTS:
        for align in (None, True):
            np.testing.assert_array_equal(interpolate(layout(x), (7, 9), mode="bilinear", align_corners=align), x)


def test_lines() -> None:
    x = np.random.default_rng(4).standard_normal((2, 3, 7)).astype(np.float32)
    plane = interpolate(x[:, :, None], (1, 11), mode="bilinear")[:, :, 0]
    np.testing.assert_array_equal(interpolate(x, 11, mode="linear"), plane)
    np.testing.assert_array_equal(interpolate(x, (11,), mode="linear", align_corners=False), plane)
    np.testing.assert_array_equal(interpolate(x, scale_factor=2), x.repeat(2, axis=2))
    out = np.empty((2, 3, 11), np.float32)
    assert interpolate(x, 11, mode="linear", out=out) is out and (out == plane).all()


def test_bilinear_gradient_is_the_transpose() -> None:
    random = np.random.default_rng(5)
    for align in (None, True):
        x, gy = random.standard_normal((1, 2, 6, 5)), random.standard_normal((1, 2, 9, 3))
        v = autograd.Variable(x, requires_grad=True)
        y = interpolate(v, (9, 3), mode="bilinear", align_corners=align)
        (gx,) = autograd.grad(y, [v], gy)
        assert gx is not None
        np.testing.assert_allclose(np.sum(gx.data * x), np.sum(gy * y.data), rtol=1e-12)


def test_volumes() -> None:
    """Each axis by itself: the depth's lines, then the planes, give the same numbers but for the order."""
    x = np.random.default_rng(6).standard_normal((2, 3, 4, 5, 6))
    for size, align in (((7, 3, 11), None), ((2, 9, 6), True)):
        y = interpolate(x, size, mode="trilinear", align_corners=align)
        lines = np.moveaxis(x, 2, -1).reshape(2, -1, 4)
        deep = interpolate(lines, size[0], mode="linear", align_corners=align).reshape(2, 3, 5, 6, size[0])
        planes = np.moveaxis(deep, -1, 2).reshape(2, -1, 5, 6)
        wanted = interpolate(planes, size[1:], mode="bilinear", align_corners=align).reshape(y.shape)
        np.testing.assert_allclose(y, wanted, rtol=1e-12, atol=1e-13)
    twice = x.repeat(2, 2).repeat(2, 3).repeat(2, 4)
    np.testing.assert_array_equal(interpolate(x, scale_factor=2), twice)
    out = np.empty_like(twice)
    assert interpolate(x, (8, 10, 12), out=out) is out and (out == twice).all()
    with pytest.raises(mmk.ContractError, match=r"interpolate: out\.shape is"):
        interpolate(x, 2, out=out)
    with pytest.raises(mmk.ContractTypeError, match=r"interpolate: size is \(1, 2\); expected a number, or one for"):
        interpolate(x, (1, 2), mode="trilinear")
    v = autograd.Variable(x, requires_grad=True)
    y = interpolate(v, (5, 5, 5), mode="trilinear")
    (g,) = autograd.grad(y, [v], np.ones(y.shape))
    assert g is not None and abs(np.sum(g.data) - np.prod(y.shape)) < 1e-9


def test_out_of_lines_and_volumes() -> None:
    """They go through planes, but are told as such, before anything is written."""
    for x, size in ((np.ones((1, 2, 3)), (4,)), (np.ones((1, 2, 3, 3, 3)), (4, 5, 6))):
        wanted = interpolate(x, size)
        read_only, one = np.zeros_like(wanted), np.zeros(1)
        read_only.flags.writeable = False
        for out, message in (
            ((1,), "out is a tuple; expected an array"), (5, "out is a int; expected an array"),
            (read_only, "out is read-only; expected a writeable array"),
            (np.lib.stride_tricks.as_strided(one, wanted.shape, (0,) * wanted.ndim), "out has a stride of 0; expected"),
            (np.zeros(wanted.shape, np.float32), "out.dtype is float32; expected float64"),
        ):  # fmt: skip
            with pytest.raises((mmk.ContractError, mmk.ContractTypeError), match=rf"^interpolate: {message}"):
                interpolate(x, size, out=out)
        assert not one.any() and not read_only.any()
    bad: Any = np.array([1, 2])
    with pytest.raises(mmk.ContractError, match=r"^interpolate: mode is .*; expected 'nearest'"):
        interpolate(np.ones((1, 1, 2, 2)), 2, mode=bad)
    for align in (bad, np.array([])):
        with pytest.raises((mmk.ContractError, mmk.ContractTypeError), match=r"^interpolate: .*expected"):
            interpolate(np.ones((1, 1, 2, 2)), 2, mode="bilinear", align_corners=align)


def test_sizes_are_no_text() -> None:
    """A byte is no extent, though Python counts it as an integer."""
    x, bad = np.ones((1, 2, 3)), b"x"
    for name in ("size", "scale_factor"):
        with pytest.raises(mmk.ContractTypeError, match=rf"^interpolate: {name} is b'x'; expected a number"):
            interpolate(x, **{name: bad})  # type: ignore[arg-type]
    for more in ({"kernel_size": bad}, {"kernel_size": 2, "stride": bad}):
        with pytest.raises(mmk.ContractTypeError, match=r"^max_unpool1d: .* is b'x'; expected an integer"):
            mmk.max_unpool1d(x, np.zeros((1, 2, 3), np.int64), **more)  # type: ignore[arg-type]
