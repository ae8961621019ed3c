"""Pooling of lines, planes and volumes with any windows, adaptive, Lp and stochastic pooling, unpooling."""

from __future__ import annotations

import itertools
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
from mmkernels.ops import pool
from reference import pool_volumes as reference

Array = NDArray[Any]
DTYPES = st.sampled_from(["float32", "float64"])
Call = tuple[tuple[int, ...], dict[str, Any]]


def laid_out(x: Array, layout: str) -> Array:
    """The same values in another order of memory."""
    if layout == "channels last":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    return np.flip(np.flip(x).copy()) if layout == "reversed" else x


LAYOUTS = st.sampled_from(["contiguous", "channels last", "reversed"])
CHANNELS = st.sampled_from([1, 3, 16, 19])


@st.composite
def windows(draw: st.DrawFn) -> Call:
    """Extents and geometry of one, two or three axes."""
    rank = draw(st.integers(1, 3))
    a: dict[str, Any] = {}
    for name, low, high in (("kernel", 1, 4), ("stride", 1, 4), ("dilation", 1, 3)):
        a[name] = tuple(draw(st.integers(low, high)) for _ in range(rank))
    spans = [d * (k - 1) for d, k in zip(a["dilation"], a["kernel"], strict=True)]
    a["ceil_mode"] = draw(st.booleans())
    if draw(st.booleans()):
        a["padding"] = tuple(draw(st.integers(0, span)) for span in spans)
        a["padding_end"] = tuple(draw(st.integers(0, span)) for span in spans)
    else:
        a["padding"] = tuple(draw(st.integers(0, k // 2)) for k in a["kernel"])
        a["padding_end"] = ()
    around = [p + q for p, q in zip(a["padding"], a["padding_end"] or a["padding"], strict=True)]
    extents = [draw(st.integers(max(1, s + 1 - p), max(1, s + 1 - p) + (30, 6, 4)[rank - 1]))
               for s, p in zip(spans, around, strict=True)]  # fmt: skip
    return (draw(st.integers(1, 2)), draw(CHANNELS), *extents), a


def values(seed: int, shape: tuple[int, ...], dtype: str, special: bool = True) -> Array:
    """Few values, so that there are ties; now and then a NaN, an infinity or a negative zero."""
    random = np.random.default_rng(seed)
    x = random.integers(-3, 4, shape).astype(dtype) if seed % 3 else random.standard_normal(shape).astype(dtype)
    if special and seed % 2:
        for value in (np.nan, np.inf, -np.inf, -0.0):
            x[random.random(shape) < 0.03] = value
    return x


@settings(max_examples=60, deadline=None)
@given(windows(), DTYPES, LAYOUTS, st.integers(0, 10**6))
def test_maximum(call: Call, dtype: str, layout: str, seed: int) -> None:
    """Values and indices are exact, ties, NaN and windows without elements included."""
    shape, a = call
    x = values(seed, shape, dtype)
    operator = OPERATORS[f"max_pool{len(shape) - 2}d"]
    y, indices = operator(laid_out(x, layout), **a, return_indices=True)
    wanted, wanted_indices = reference.max_pool1d(x, **a, return_indices=True)
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(indices, wanted_indices)
    np.testing.assert_array_equal(operator(laid_out(x, layout), **a), y)


def row_major_means(x: Array, axes: list[Any], divisor_override: int) -> Array:
    """The definition: a sum in x's dtype from +0 in scan order, then one division."""
    y = reference.empty(x, axes)
    for at, positions, count in reference.each_window(axes):
        total = np.zeros(x.shape[:2], x.dtype)
        for place in itertools.product(*positions):
            total = total + x[(..., *place)]
        y[(..., *at)] = total / x.dtype.type(divisor_override or count or 1)
    return y


@settings(max_examples=50, deadline=None)
@given(windows(), DTYPES, LAYOUTS, st.booleans(), st.sampled_from([0, 0, 7, -2]), st.integers(0, 10**6))
def test_mean_and_its_gradient_to_the_bit(
    call: Call, dtype: str, layout: str, include: bool, divisor: int, seed: int
) -> None:
    shape, a = call
    more = {"count_include_pad": include, "divisor_override": divisor}
    x = values(seed, shape, dtype, special=False)
    y = OPERATORS[f"avg_pool{len(shape) - 2}d"](laid_out(x, layout), **a, **more)
    axes = reference.regular_windows(shape[2:], **a, count_include_pad=include)
    np.testing.assert_array_equal(y, row_major_means(x, axes, divisor))
    gy = values(seed + 1, y.shape, dtype, special=False)
    gx = OPERATORS["avg_pool_grad"](laid_out(gy, layout), size=shape[2:], **a, **more)
    np.testing.assert_array_equal(gx, reference.avg_pool_grad(gy, size=shape[2:], **a, **more))


@st.composite
def adaptive(draw: st.DrawFn) -> Call:
    rank = draw(st.integers(1, 3))
    extents = tuple(draw(st.integers(1, (30, 9, 6)[rank - 1])) for _ in range(rank))
    return (draw(st.integers(1, 2)), draw(CHANNELS), *extents), {
        "output_size": tuple(draw(st.integers(1, 7)) for _ in range(rank))
    }


@settings(max_examples=50, deadline=None)
@given(adaptive(), DTYPES, LAYOUTS, st.integers(0, 10**6))
def test_adaptive_to_the_bit(call: Call, dtype: str, layout: str, seed: int) -> None:
    shape, a = call
    rank, x = len(shape) - 2, values(seed, shape, dtype)
    y, indices = OPERATORS[f"adaptive_max_pool{rank}d"](laid_out(x, layout), **a, return_indices=True)
    wanted, wanted_indices = reference.adaptive_max_pool1d(x, **a, return_indices=True)
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(indices, wanted_indices)
    x = values(seed, shape, dtype, special=False)
    y = OPERATORS[f"adaptive_avg_pool{rank}d"](laid_out(x, layout), **a)
    np.testing.assert_array_equal(y, row_major_means(x, reference.adaptive_windows(shape[2:], **a), 0))
    np.testing.assert_array_equal(y, reference.adaptive_avg_pool1d(x, **a))
    gx = OPERATORS["adaptive_avg_pool_grad"](laid_out(y, layout), size=shape[2:])
    np.testing.assert_array_equal(gx, reference.adaptive_avg_pool_grad(y, size=shape[2:]))


@settings(max_examples=50, deadline=None)
@given(windows(), DTYPES, LAYOUTS, st.booleans(), st.integers(0, 10**6))
def test_draws_are_the_references(call: Call, dtype: str, layout: str, training: bool, seed: int) -> None:
    """The reference adds in the same order and dtype: the same elements are drawn, to the bit."""
    shape, a = call
    x = values(seed, shape, dtype)
    keys = np.random.default_rng(seed).integers(0, 2**63, shape[0]).astype(np.uint64)
    operator = OPERATORS[f"stochastic_pool{len(shape) - 2}d"]
    wanted, places = reference.stochastic_pool1d(x, keys, **a, training=training, return_indices=True)
    if training:
        y, indices = operator(laid_out(x, layout), keys, **a, return_indices=True)
        np.testing.assert_array_equal(indices, places)
        np.testing.assert_array_equal(operator(laid_out(x, layout), keys, **a), y)
    else:
        y = operator(laid_out(x, layout), keys, **a, training=False)
    np.testing.assert_array_equal(y, wanted)


@settings(max_examples=50, deadline=None)
@given(windows(), st.sampled_from([1.0, 2.0, 3.0, 0.5, 2.7, np.inf]), LAYOUTS, st.integers(0, 10**6))
def test_norms_are_within_their_bound(call: Call, p: float, layout: str, seed: int) -> None:
    shape, a = call
    x = values(seed, shape, "float32", special=False)
    operator = OPERATORS[f"lp_pool{len(shape) - 2}d"]
    case = Case("drawn", {}, {**a, "norm_type": p})
    harness.check_against_reference(operator, case, {"x": laid_out(x, layout)}, "float32")
    if p < 1e308:
        y = operator(x, **case.attributes)
        operands = {"gy": values(seed + 1, y.shape, "float32", special=False), "x": x, "y": y}
        harness.check_against_reference(OPERATORS["lp_pool_grad"], case, operands, "float32")


# ---- by name --------------------------------------------------------------------------------------------------------


def test_lp_takes_absolute_values() -> None:
    """Where torch gives NaN (odd p) and the signed sum (p = 1)."""
    x = np.array([[[[-3.0, 4.0], [0.0, -5.0]]]], np.float32)
    assert pool.lp_pool2d(x, 1, 2).item() == 12
    assert pool.lp_pool2d(x, 2, 2).item() == np.sqrt(np.float32(50))
    assert pool.lp_pool2d(x, 3, 2).item() == pytest.approx(216 ** (1 / 3), rel=1e-6)
    assert pool.lp_pool2d(x, np.inf, 2).item() == 5


def test_lp_windows_that_overhang_are_not_scaled() -> None:
    """[5] in a window of 2 x 2 is 5 in ONNX Runtime too; torch scales it by 4 / 1 under the root."""
    assert pool.lp_pool2d(np.full((1, 1, 1, 1), 5.0), 2, 2, ceil_mode=True, padding=1).item() == 5
    y = pool.lp_pool2d(np.full((1, 1, 3, 3), 5.0), 2, 2, ceil_mode=True)
    assert y[0, 0].tolist() == [[10, np.sqrt(50)], [np.sqrt(50), 5]]


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, np.inf])
def test_the_gradient_of_a_norm_of_zeros_is_zero(p: float) -> None:
    x = autograd.Variable(np.zeros((1, 2, 4, 4), np.float32), requires_grad=True)
    y = pool.lp_pool2d(x, p, 2)
    (gx,) = autograd.grad(y, [x], np.ones((1, 2, 2, 2), np.float32), create_graph=p < 10)
    assert gx is not None and not gx.data.any()
    if p < 10:  # derivatives of the derivative are numbers too
        (second,) = autograd.grad(mmk.sum(gx), [x])
        assert second is None or np.isfinite(second.data).all()


def test_small_norms_have_gradients() -> None:
    """y^(1 - p) would be infinite, |x| / y is 1."""
    x = autograd.Variable(np.full((1, 1, 1, 1), 1e-12, np.float32), requires_grad=True)
    for p in (3, 2.5):
        y = OPERATORS["lp_pool_grad"](
            np.ones((1, 1, 1, 1), np.float32), x.data, x.data, norm_type=float(p), kernel=(1, 1), stride=(1, 1),
            padding=(0, 0), dilation=(1, 1),
        )  # fmt: skip
        assert y.item() == 1


def test_adaptive_windows_overlap() -> None:
    x = np.arange(5.0)[None, None]
    assert pool.adaptive_avg_pool1d(x, 3)[0, 0].tolist() == [0.5, 2, 3.5]
    assert pool.adaptive_avg_pool1d(x, None).tolist() == x.tolist()
    assert pool.adaptive_max_pool2d(np.ones((1, 1, 4, 6)), (None, 2)).shape == (1, 1, 4, 2)


@settings(max_examples=40, deadline=None)
@given(adaptive(), DTYPES, LAYOUTS, st.integers(0, 10**6))
def test_long_windows_to_the_bit(call: Call, dtype: str, layout: str, seed: int) -> None:
    """More than 256 elements, in part or all: chains of 256, then one through their sums."""
    shape, a = call
    rank = len(shape) - 2
    shape = (*shape[:2], *(n * (40, 6, 3)[rank - 1] + 1 for n in shape[2:]))
    a = {"output_size": tuple(-(-n // 3) for n in a["output_size"])}
    x = values(seed, shape, dtype, special=False)
    y = OPERATORS[f"adaptive_avg_pool{rank}d"](laid_out(x, layout), **a)
    np.testing.assert_array_equal(y, reference.adaptive_avg_pool1d(x, **a))


@pytest.mark.parametrize(
    "shape", [(1, 1, 512, 512), (1, 3, 1, 65536), (2, 130, 17, 16), (2, 40, 34, 71), (1, 1, 1, 257)]
)
def test_the_chunks_of_a_window(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(8).standard_normal(shape).astype(np.float32)
    for size in ((1, 1), (min(shape[2], 3), 3)):
        wanted = reference.adaptive_avg_pool1d(x, output_size=size)
        for layout in ("contiguous", "channels last", "reversed"):
            np.testing.assert_array_equal(pool.adaptive_avg_pool2d(laid_out(x, layout), size), wanted)


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("shape", [(2, 5, 7, 7), (1, 33, 20, 3), (3, 16, 1, 100)])
def test_global_average_is_the_row_major_sum(shape: tuple[int, ...], layout: str) -> None:
    """Global, adaptive, and average pooling with a window of the plane: one result."""
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    total = np.zeros(shape[:2], np.float32)
    for value in np.moveaxis(x.reshape(*shape[:2], -1), 2, 0):
        total = total + value
    wanted = (total / np.float32(shape[2] * shape[3]))[..., None, None]
    np.testing.assert_array_equal(pool.adaptive_avg_pool2d(laid_out(x, layout), 1), wanted)
    np.testing.assert_array_equal(pool.avg_pool2d(laid_out(x, layout), shape[2:]), wanted)


def test_draws_follow_the_law() -> None:
    """Frequencies over 40000 windows of (1, 3, -5, 4): within five standard deviations."""
    count = 40000
    x = np.tile(np.array([1.0, 3.0, -5.0, 4.0], np.float32), count)[None, None]
    y, indices = pool.stochastic_pool1d(x, 4, seed=3, return_indices=True)
    for value, p in ((1, 1 / 8), (3, 3 / 8), (4, 1 / 2)):
        assert abs((y == value).sum() - count * p) < 5 * np.sqrt(count * p * (1 - p))
    assert (x[0, 0][indices[0, 0]] == y[0, 0]).all() and (y > 0).all()
    expected = pool.stochastic_pool1d(x[..., :4], 4, seed=3, training=False).item()
    assert expected == 26 / 8


def test_draws_are_the_samples_own() -> None:
    """Alone or in a batch, in any layout, in 16 bits: the same elements."""
    x = np.random.default_rng(5).random((3, 18, 8, 8)).astype(np.float32)
    _, indices = pool.stochastic_pool2d(x, 2, seed=[5, 6, 7], return_indices=True)
    alone = pool.stochastic_pool2d(x[1:2], 2, seed=[6], return_indices=True)[1]
    np.testing.assert_array_equal(alone, indices[1:2])
    assert not (indices[0] == indices[1]).all()
    nine, again, eight = (pool.stochastic_pool2d(x, 2, seed=seed) for seed in (9, 9, 8))
    assert (nine == again).all() and not (nine == eight).all()


def test_nothing_positive_and_nan() -> None:
    x = np.array([-1.0, 0.0, -np.inf, -2.0, 5.0, np.nan, 1.0, np.nan], np.float32)[None, None]
    y, indices = pool.stochastic_pool1d(x, 4, seed=1, return_indices=True)
    assert y[0, 0, 0] == 0 and np.isnan(y[0, 0, 1]) and indices[0, 0].tolist() == [-1, 5]
    expected = pool.stochastic_pool1d(x, 4, seed=1, training=False)[0, 0]
    assert expected[0] == 0 and np.isnan(expected[1])


def test_the_gradient_of_a_draw_goes_to_what_was_drawn() -> None:
    x = autograd.Variable(np.array([[[1.0, 3.0, -5.0, 4.0]]]), requires_grad=True)
    y, indices = pool.stochastic_pool1d(x, 4, seed=1, return_indices=True)
    (gx,) = autograd.grad(y, [x], np.full((1, 1, 1), 7.0))
    assert gx is not None and gx.data.sum() == 7 and gx.data[0, 0, indices.data.item()] == 7


def test_unpool_undoes_a_pooling() -> None:
    x = np.random.default_rng(0).random((2, 3, 5, 8)).astype(np.float32)
    y, indices = pool.max_pool2d(x, 2, return_indices=True)
    back = pool.max_unpool2d(y, indices, 2, output_size=(5, 8))
    np.testing.assert_array_equal(back, np.where(back > 0, x, 0))
    assert (back > 0).sum() == y.size
    np.testing.assert_array_equal(pool.max_pool2d(back, 2), y)
    assert pool.max_unpool2d(y[:, :, :, :2], indices[:, :, :, :2] // 8, 2).shape == (2, 3, 4, 4)


def test_the_last_window_has_the_element_and_its_gradient() -> None:
    x = autograd.Variable(np.array([[[1.0, 2.0, 3.0]]]), requires_grad=True)
    y = pool.max_unpool1d(x, np.array([[[4, 0, 4]]]), 2)
    assert y.data[0, 0].tolist() == [2, 0, 0, 0, 3, 0]
    (gx,) = autograd.grad(y, [x], np.arange(1.0, 7.0)[None, None])
    assert gx is not None and gx.data[0, 0].tolist() == [0, 1, 5]


def test_output_sizes_of_an_unpooling() -> None:
    x, indices = np.ones((1, 1, 2, 2)), np.zeros((1, 1, 2, 2), np.int64)
    for size in ((3, 5), (1, 1, 5, 3), [4, 4]):
        assert pool.max_unpool2d(x, indices, 2, output_size=size).shape[2:] == tuple(size)[-2:]
    with pytest.raises(mmk.ContractError, match=r"^max_unpool2d: output_size is \(6, 4\); expected extents less than"):
        pool.max_unpool2d(x, indices, 2, output_size=(6, 4))
    with pytest.raises(mmk.ContractError, match=r"^max_unpool2d: output_size is \(4,\); expected 2 extents"):
        pool.max_unpool2d(x, indices, 2, output_size=(4,))
    with pytest.raises(mmk.ContractError, match=r"max_unpool2d: indices\.flat\[0\] is 16; expected -1 <= value"):
        pool.max_unpool2d(x, indices + 16, 2)


PLANE, VOLUME = np.ones((1, 1, 4, 4)), np.ones((1, 1, 4, 4, 4))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: pool.max_pool1d(PLANE, 2), "max_pool1d: x has 4 extents"),
        (lambda: pool.max_pool3d(VOLUME, 3, 1, 2), "max_pool3d: padding is (2, 2, 2); expected at most half"),
        (lambda: pool.avg_pool2d(PLANE, 3, 1, ((0, 3), (0, 0))), "avg_pool2d: padding is (0, 0) before and"),
        (lambda: pool.avg_pool3d(VOLUME, 3, 1, ((0, 3), (0, 0))), "avg_pool3d: padding is ((0, 3), (0, 0))"),
        (lambda: pool.lp_pool2d(PLANE, 0, 2), "lp_pool2d: norm_type is 0.0; expected a positive number"),
        (
            lambda: pool.adaptive_avg_pool2d(np.ones((1, 1, 0, 4)), 2),
            "adaptive_avg_pool2d: x has extents 0 x 4; expected",
        ),
        (lambda: pool.adaptive_avg_pool1d(np.ones((1, 1, 4)), -1), "adaptive_avg_pool1d: output_size is (-1,)"),
        (lambda: pool.stochastic_pool2d(np.ones((2, 1, 4, 4)), 2, seed=[1]), "stochastic_pool2d: seed"),
        (
            lambda: pool.stochastic_pool2d(np.ones((2, 1, 4, 4)), 2, seed=1, training=False, return_indices=True),
            "stochastic_pool2d: return_indices is True and training is False",
        ),
    ],
)
def test_errors_name_the_operator_and_its_own_axes(call: Any, text: str) -> None:
    with pytest.raises(mmk.ContractError) as caught:
        call()
    assert str(caught.value).startswith(text)


def test_sixteen_bits() -> None:
    """avg_pool3d, which torch does not have on the CPU in 16 bits: float32's result, rounded once."""
    x = np.random.default_rng(2).standard_normal((1, 3, 4, 5, 6)).astype(np.float16)
    wanted = pool.avg_pool3d(x.astype(np.float32), 2).astype(np.float16)
    np.testing.assert_array_equal(pool.avg_pool3d(x, 2), wanted)


def test_windows_too_large_to_hold() -> None:
    """Sixteen planes of 400 x 400 would be 10 MB of scratch memory: the other way is the row-major sum too."""
    x = np.random.default_rng(4).standard_normal((1, 3, 400, 400)).astype(np.float32)
    windows = {"norm_type": 1.0, "kernel": (400, 200), "stride": (1, 200), "padding": (0, 0)}
    assert "channels" in mmk.plan("lp_pool2d", x, **windows)
    for half, y in enumerate(OPERATORS["lp_pool2d"](x, **windows)[0, :, 0].transpose()):
        elements = np.abs(x[0, :, :, 200 * half : 200 * half + 200]).reshape(3, -1)
        np.testing.assert_array_equal(y, np.cumsum(elements, axis=1)[:, -1])


def test_elements_abreast_find_the_first_maximum() -> None:
    """Long lines: lanes are elements of one window; of equal ones the first counts, and a NaN before any number."""
    rng = np.random.default_rng(5)
    x = rng.integers(0, 9, (2, 3, 5, 83)).astype(np.float32)
    x[0, 1, 2, 50] = x[0, 1, 3, 3] = np.nan
    x[1, 2] = -np.inf
    assert "elements abreast" in mmk.plan("adaptive_max_pool2d", x, output_size=(1, 1))
    y, indices = pool.adaptive_max_pool2d(x, 1, return_indices=True)
    np.testing.assert_array_equal(indices.ravel(), x.reshape(6, -1).argmax(1))
    np.testing.assert_array_equal(y.ravel(), x.reshape(6, -1).max(1))


@pytest.mark.parametrize("padding", [0, 1])
def test_few_planes_have_the_bits_of_many(padding: int) -> None:
    """One plane goes neighbour by neighbour, sixteen go abreast."""
    x = np.random.default_rng(6).standard_normal((16, 1, 9, 101)).astype(np.float32)
    calls = [
        lambda x: pool.lp_pool2d(x, 3.0, 3, 2, padding=padding),
        lambda x: pool.avg_pool2d(x, 3, 2, padding, ceil_mode=True, dilation=2),
        lambda x: pool.stochastic_pool2d(x, 3, 2, padding, seed=list(range(len(x))), return_indices=True),
        lambda x: pool.adaptive_max_pool2d(x, (4, 17), return_indices=True),
    ]
    assert "neighbours abreast" in mmk.plan(
        "lp_pool2d", x[:1], norm_type=3.0, kernel=(3, 3), stride=(2, 2), padding=(0, 0)
    )
    for call in calls:
        one, all_of_them = call(x[:1]), call(x)
        for a, b in zip(*((r if isinstance(r, tuple) else (r,)) for r in (one, all_of_them)), strict=True):
            np.testing.assert_array_equal(a, b[:1])


def test_large_dilations_are_not_searched() -> None:
    """The windows that see an element under a dilation of 2^30 are found at once."""
    gy = np.ones((1, 1, 3), np.float32)
    gx = OPERATORS["avg_pool_grad"](gy, size=(3,), kernel=(1,), stride=(1,), padding=(0,), dilation=(2**30,))
    assert gx.tolist() == [[[1, 1, 1]]]


def test_unpooling_refuses_what_is_no_number() -> None:
    x, indices = np.ones((1, 1, 2, 2)), np.zeros((1, 1, 2, 2), np.int64)
    size, kernel = np.array([4, 4]), np.uint8(2)
    assert pool.max_unpool2d(x, indices, kernel, output_size=size).shape == (1, 1, 4, 4)  # type: ignore[arg-type]
    assert pool.max_unpool2d(x, indices, np.uint8(200), padding=np.uint8(198)).shape == (1, 1, 4, 4)  # type: ignore[arg-type]
    bad: Any
    for bad in (1.5, "a", (None, 1), (np.array([1, 2]), 1), [[1], [2]], object()):
        for name in ("kernel_size", "stride", "padding", "output_size"):
            with pytest.raises(
                (mmk.ContractError, mmk.ContractTypeError), match=rf"^max_unpool2d: {name} is .*; expected"
            ):
                pool.max_unpool2d(x, indices, **{"kernel_size": 2, name: bad})
