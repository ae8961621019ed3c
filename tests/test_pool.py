"""Maximum and average pooling: windows, ties, NaN, divisors, orders of summation, gradients."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import mmkernels as mmk
from mmkernels import autograd
from mmkernels.operator import OPERATORS
from mmkernels.ops.pool import avg_pool2d, max_pool2d
from reference import pool as reference

Array = NDArray[Any]
LAYOUTS = ("contiguous", "channels last", "every second", "reversed")


def laid_out(x: Array, layout: str) -> Array:
    """The same values in another order of memory."""
    if layout == "channels last":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    if layout == "every second":
        return np.repeat(x, 2, axis=3)[..., ::2]
    if layout == "reversed":
        return x[:, :, ::-1, ::-1].copy()[:, :, ::-1, ::-1]
    return x


def random_plane(seed: int, shape: tuple[int, ...], dtype: str) -> Array:
    """Few values, so that there are ties; now and then a NaN, an infinity or a negative zero."""
    random = np.random.default_rng(seed)
    x = random.integers(-3, 4, shape).astype(dtype)
    if seed % 3 == 0:
        x = random.standard_normal(shape).astype(dtype)
    for value in (np.nan, np.inf, -np.inf, -0.0):
        x[random.random(shape) < (0.05 if seed % 2 else 0.0)] = value
    return x


@st.composite
def pooling(draw: st.DrawFn, dilated: bool) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Extents and attributes of a call that is allowed."""
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    a: dict[str, Any] = {
        "kernel": kernel,
        "stride": (draw(st.integers(1, 4)), draw(st.integers(1, 4))),
        "padding": (draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2))),
        "ceil_mode": draw(st.booleans()),
    }
    if dilated:
        a["dilation"] = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    extents = []
    for i, largest in enumerate((9, 40)):
        span = a.get("dilation", (1, 1))[i] * (kernel[i] - 1) + 1 - 2 * a["padding"][i]
        extents.append(draw(st.integers(max(1, span), max(largest, span))))
    return (draw(st.integers(1, 2)), draw(st.sampled_from([1, 3, 16, 19])), *extents), a


@settings(max_examples=60, deadline=None)
@given(pooling(True), st.sampled_from(["float32", "float64"]), st.sampled_from(LAYOUTS), st.integers(0, 10**6))
def test_max_is_the_references(
    call: tuple[tuple[int, ...], dict[str, Any]], dtype: str, layout: str, seed: int
) -> None:
    """Values and indices are exact, ties and NaN included; without indices the values are the same."""
    shape, a = call
    x = laid_out(random_plane(seed, shape, dtype), layout)
    operator = OPERATORS["max_pool2d"]
    y, indices = operator(x, **a, return_indices=True)
    wanted, wanted_indices = reference.max_pool2d(x, **a, return_indices=True)
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(indices, wanted_indices)
    assert y.dtype == x.dtype and indices.dtype == np.int64
    alone = operator(x, **a)
    np.testing.assert_array_equal(alone, y)
    assert not np.signbit(alone[alone == 0]).any()


def row_major_average(x: Array, a: dict[str, Any]) -> Array:
    """The definition, window by window: a sum in x's dtype from +0 in row-major order, then one division."""
    extents = (*x.shape[2:], a["kernel"], a["stride"], a["padding"], a["ceil_mode"])
    (rows, columns), windows = reference._average_windows(*extents, a["count_include_pad"], a["divisor_override"])
    y = np.zeros((*x.shape[:2], rows, columns), x.dtype)
    for (p, q), h, w, divisor in windows:
        total = np.zeros(x.shape[:2], x.dtype)
        for i, j in itertools.product(range(h.start, h.stop), range(w.start, w.stop)):
            total = total + x[:, :, i, j]
        y[:, :, p, q] = total / x.dtype.type(divisor)
    return y


@settings(max_examples=50, deadline=None)
@given(
    pooling(False), st.sampled_from(["float32", "float64"]), st.sampled_from(LAYOUTS), st.booleans(),
    st.sampled_from([0, 0, 7, -2]), st.integers(0, 10**6),
)  # fmt: skip
def test_average_and_its_gradient_to_the_bit(
    call: tuple[tuple[int, ...], dict[str, Any]], dtype: str, layout: str, include: bool, divisor: int, seed: int
) -> None:
    shape, a = call
    a = {**a, "count_include_pad": include, "divisor_override": divisor}
    random = np.random.default_rng(seed)
    x = laid_out(random.standard_normal(shape).astype(dtype), layout)
    y = OPERATORS["avg_pool2d"](x, **a)
    np.testing.assert_array_equal(y, row_major_average(x, a))
    gy = laid_out(random.standard_normal(y.shape).astype(dtype), layout)
    gx = OPERATORS["avg_pool2d_grad"](gy, height=shape[2], width=shape[3], **a)
    # The reference adds window by window, in (p, q) order too.
    np.testing.assert_array_equal(gx, reference.avg_pool2d_grad(gy, height=shape[2], width=shape[3], **a))


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 2), st.sampled_from([1, 5, 16, 33]), st.integers(1, 6), st.integers(1, 20)),
    st.integers(1, 9), st.integers(1, 9), st.sampled_from(LAYOUTS), st.integers(0, 10**6),
)  # fmt: skip
def test_scatter_and_gather_to_the_bit(shape: tuple[int, ...], height: int, width: int, layout: str, seed: int) -> None:
    """Arbitrary indices, collisions and -1 included; np.add.at adds in row-major order as well."""
    random = np.random.default_rng(seed)
    gy = laid_out(random.standard_normal(shape).astype(np.float32), layout)
    indices = laid_out(random.integers(-1, height * width, shape), layout)
    gx = OPERATORS["max_pool2d_grad"](gy, indices, height=height, width=width)
    np.testing.assert_array_equal(gx, reference.max_pool2d_grad(gy, indices, height=height, width=width))
    ggx = laid_out(random.standard_normal((*shape[:2], height, width)).astype(np.float32), layout)
    np.testing.assert_array_equal(
        OPERATORS["max_pool2d_gather"](ggx, indices), reference.max_pool2d_gather(ggx, indices)
    )


# ---- what a window is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extent", "kernel", "stride", "padding", "floor", "ceil"),
    [
        (6, 1, 2, 0, 3, 3),  # a fourth window would start at 6, outside: the plain ceiling rule would allow it
        (6, 3, 2, 0, 2, 3),
        (5, 2, 2, 1, 3, 3),  # ceil would give 4, but that window starts in the padding behind
        (4, 2, 3, 1, 2, 2),
        (112, 3, 2, 1, 56, 57),
        (7, 7, 7, 0, 1, 1),
    ],
)
def test_number_of_windows(extent: int, kernel: int, stride: int, padding: int, floor: int, ceil: int) -> None:
    x = np.zeros((1, 1, extent, extent), np.float32)
    for pool in (max_pool2d, avg_pool2d):
        assert pool(x, kernel, stride, padding).shape == (1, 1, floor, floor)
        assert pool(x, kernel, stride, padding, ceil_mode=True).shape == (1, 1, ceil, ceil)


def test_stride_is_the_kernels_unless_given() -> None:
    x = np.zeros((2, 3, 9, 12), np.float32)
    assert max_pool2d(x, 3).shape == avg_pool2d(x, (3,)).shape == (2, 3, 3, 4)
    assert max_pool2d(x, (3, 2), [2, 1]).shape == (2, 3, 4, 11)


def test_padding_takes_no_part_in_a_maximum() -> None:
    x = np.full((1, 1, 3, 3), -5, np.float32)
    np.testing.assert_array_equal(max_pool2d(x, 3, 1, 1), x)


def test_first_maximum_in_scan_order() -> None:
    x = np.array([[1.0, 7.0, 7.0], [7.0, 0.0, 7.0], [-0.0, 0.0, 7.0]], np.float32)[None, None]
    y, indices = max_pool2d(x, 2, 1, return_indices=True)
    assert y[0, 0].tolist() == [[7, 7], [7, 7]] and indices[0, 0].tolist() == [[1, 1], [3, 5]]


def test_first_nan_wins() -> None:
    x = np.array([[1.0, np.nan], [np.nan, np.inf]], np.float32)[None, None]
    y, indices = max_pool2d(x, 2, return_indices=True)
    assert np.isnan(y.item()) and indices.item() == 1
    assert np.isnan(max_pool2d(x, 2).item())


def test_minus_infinity_alone_gives_the_first_element_inside() -> None:
    x = np.full((1, 1, 4, 4), -np.inf, np.float32)
    y, indices = max_pool2d(x, 3, 2, 1, return_indices=True)
    assert (y == -np.inf).all() and indices[0, 0].tolist() == [[0, 1], [4, 5]]


def test_a_window_without_elements() -> None:
    """Taps at -1 and 2 of two elements: there is none inside."""
    x = np.ones((1, 2, 1, 2), np.float32)
    for layout in LAYOUTS:
        y, indices = max_pool2d(laid_out(x, layout), (1, 2), 1, (0, 1), (1, 3), return_indices=True)
        assert y.shape == (1, 2, 1, 1) and (y == -np.inf).all() and (indices == -1).all()
    assert not OPERATORS["max_pool2d_grad"](np.ones_like(y), indices, height=1, width=2).any()


def test_negative_zero_becomes_zero() -> None:
    x = np.full((1, 16, 2, 2), -0.0, np.float32)
    for layout in ("contiguous", "channels last"):
        for y in (max_pool2d(laid_out(x, layout), 2), avg_pool2d(laid_out(x, layout), 2),
                  max_pool2d(laid_out(x, layout), 2, return_indices=True)[0]):  # fmt: skip
            assert not np.signbit(y).any()


def test_divisors_at_the_border() -> None:
    """Ones: what a window sees, over its size between the paddings; the overhang of ceil_mode never counts."""
    x = np.ones((1, 1, 4, 4))
    inside = [2 / 3, 1.0, 0.5]  # of the three windows along an axis: 2 of 3, 3 of 3, 1 of 2 (its third overhangs)
    np.testing.assert_allclose(avg_pool2d(x, 3, 2, 1, ceil_mode=True)[0, 0], np.outer(inside, inside), rtol=1e-15)
    assert (avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False) == 1).all()
    np.testing.assert_allclose(
        avg_pool2d(x, 3, 2, 1, ceil_mode=True, divisor_override=2)[0, 0], np.outer([2, 3, 1], [2, 3, 1]) / 2
    )


def test_sum_is_row_major() -> None:
    """1e8 + 1 - 1e8 is 0 in float32, in this order alone."""
    x = np.array([[1e8, 1.0], [-1e8, 0.0]], np.float32)[None, None]
    assert avg_pool2d(x, 2).item() == 0.0
    assert avg_pool2d(x.swapaxes(2, 3), 2).item() == 0.25


HALF = "max_pool2d: padding is (2, 2); expected at most half of kernel = (3, 3)"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: max_pool2d(x, 3, 2, 2), HALF),
        (lambda x: max_pool2d(x, 3, 1, 2, 2), HALF),  # as in torch the kernel counts, not what dilation makes of it
        (lambda x: avg_pool2d(x, 2, 0), "avg_pool2d: stride is (0, 0); expected numbers from 1 to 2147483647"),
        (lambda x: avg_pool2d(x, 7), "avg_pool2d: there would be 0 x 0 windows of kernel = (7, 7); expected at least"),
        (lambda x: max_pool2d(x, 3, 1, 0, 3), "max_pool2d: there would be 0 x 0 windows of kernel = (3, 3)"),
        (lambda x: max_pool2d(x[0], 2), "max_pool2d: x has 3 extents (3, 6, 6); expected 4: N C H W"),
    ],
)
def test_refusals(call: Any, text: str) -> None:
    with pytest.raises(mmk.ContractError) as caught:
        call(np.zeros((1, 3, 6, 6), np.float32))
    assert str(caught.value).startswith(text)


def test_refused_types() -> None:
    x = np.zeros((1, 3, 6, 6), np.float32)
    with pytest.raises(mmk.ContractTypeError, match=r"max_pool2d: kernel_size is 2\.5; expected an integer"):
        max_pool2d(x, 2.5)  # type: ignore[arg-type]
    with pytest.raises(mmk.ContractTypeError, match=r"max_pool2d: kernel is .*; expected 2 numbers"):
        max_pool2d(x, (2, 2, 2))
    with pytest.raises(mmk.ContractTypeError, match=r"avg_pool2d: x\.dtype is int64"):
        avg_pool2d(np.zeros((1, 1, 2, 2), np.int64), 2)


def test_padding_wider_than_memory() -> None:
    """Nothing is allocated for padding that no line could hold."""
    x = np.random.default_rng(1).standard_normal((1, 2, 3, 4)).astype(np.float32)
    kernel, padding = 2**31 - 1, 2**30 - 1
    y, indices = max_pool2d(x, kernel, 1, padding, return_indices=True)
    assert y.shape == x.shape
    assert (y == x.max(axis=(2, 3), keepdims=True)).all()
    assert (indices == x.reshape(1, 2, -1).argmax(-1)[:, :, None, None]).all()
    assert avg_pool2d(x, kernel, 1, padding, count_include_pad=False).shape == y.shape


# ---- what is computed -----------------------------------------------------------------------------------------------


def test_indices_are_computed_on_request_alone() -> None:
    x = np.zeros((1, 4, 8, 40), np.float32)
    assert "with indices" not in mmk.plan("max_pool2d", x, kernel=2, stride=2)
    assert "with indices" in mmk.plan("max_pool2d", x, kernel=2, stride=2, return_indices=True)
    assert "channels" in mmk.plan("max_pool2d", laid_out(x, "channels last"), kernel=2, stride=2)


def test_result_keeps_channels_last() -> None:
    x = laid_out(np.random.default_rng(0).standard_normal((2, 5, 8, 9)), "channels last")
    y, indices = max_pool2d(x, 3, 2, 1, return_indices=True)
    for result in (y, indices, avg_pool2d(x, 2)):
        assert np.moveaxis(result, 1, -1).flags.c_contiguous


def test_out() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 33)).astype(np.float32)
    out = np.empty((2, 3, 4, 16), np.float32)
    assert max_pool2d(x, 3, 2, out=out) is out
    np.testing.assert_array_equal(out, max_pool2d(x, 3, 2))
    with pytest.raises(mmk.ContractTypeError, match="out= was given"):
        max_pool2d(x, 3, 2, return_indices=True, out=out)


def test_gradient_goes_to_the_first_maximum() -> None:
    x = autograd.Variable(np.array([[2.0, 2.0], [2.0, 1.0]])[None, None], requires_grad=True)
    (gx,) = autograd.grad(max_pool2d(x, 2), [x])
    assert gx is not None and gx.data[0, 0].tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("pool", [lambda x: max_pool2d(x, 3, 2, 1), lambda x: avg_pool2d(x, 3, 2, 1, ceil_mode=True)])
def test_second_derivative(pool: Any) -> None:
    """The sum of cubes of what was pooled: its Hessian times v, against differences of the gradient."""
    random = np.random.default_rng(3)
    point, v = random.standard_normal((2, 1, 2, 7, 6))

    def gradient(at: Array) -> tuple[autograd.Variable, autograd.Variable]:
        x = autograd.Variable(at, requires_grad=True)
        y = pool(x)
        (g,) = autograd.grad(mmk.sum(y * y * y), [x], create_graph=True)
        assert g is not None
        return x, g

    x, g = gradient(point)
    (product,) = autograd.grad(mmk.sum(g * v), [x])
    assert product is not None
    step = 1e-6
    difference = (gradient(point + step * v)[1].data - gradient(point - step * v)[1].data) / (2 * step)
    np.testing.assert_allclose(product.data, difference, atol=1e-6)
