"""What tests/test_laws.py does not say of the deform family: random geometry, semantics, positions outside and NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import harness
import mmkernels as mmk
from harness import channels_last, fortran, strided
from mmkernels import autograd
from mmkernels.contract import Case
from mmkernels.operator import OPERATORS
from mmkernels.ops.conv import conv2d
from mmkernels.ops.deform import _case, deform_conv2d
from mmkernels.ops.deform_attention import _attention_case, ms_deform_attention
from mmkernels.verify import case_operands, run
from reference import deform as reference

Array = NDArray[Any]
# as _case and _attention_case give them
CONV = tuple(
    "deform_conv2d" + which for which in ("", "_input_grad", "_offset_grad", "_weight_grad", "_mask_grad", "_snap")
)
ATTENTION = tuple(
    "ms_deform_attention" + which for which in ("", "_value_grad", "_points_grad", "_weights_grad", "_snap")
)


def normal(shape: tuple[int, ...], seed: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# ---- random geometry ------------------------------------------------------------------------------------------------


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[tuple[Case, ...], Any, str, float]:
    groups, sets = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 3)))
    padding = draw(st.tuples(*[st.integers(0, 3)] * 4))
    least = [
        max(1, d * (k - 1) + 1 - a - b)
        for d, k, a, b in zip(dilation, kernel, padding[::2], padding[1::2], strict=True)
    ]
    cases = _case(
        "random",
        (draw(st.integers(1, 2)), groups * sets * draw(st.sampled_from([1, 2, 5, 17])),
         least[0] + draw(st.integers(0, 5)), least[1] + draw(st.integers(0, 18))),
        kernel, groups * draw(st.sampled_from([1, 2, 9, 17, 33])), stride=stride, padding=padding, dilation=dilation,
        groups=groups, offset_groups=sets, optional=draw(st.sampled_from([(), ("bias",), ("mask",), ("bias", "mask")])),
        activation=draw(st.sampled_from([None, None, "relu", "silu"])),
    )  # fmt: skip
    layout = draw(st.sampled_from([np.ascontiguousarray, fortran, strided, channels_last]))
    return cases, layout, draw(st.sampled_from(["float32", "float64"])), draw(st.sampled_from([0.3, 1.0, 8.0]))


@settings(max_examples=200, deadline=None)
@given(convolutions())
def test_random_geometry(drawn: tuple[tuple[Case, ...], Any, str, float]) -> None:
    cases, layout, dtype, reach = drawn
    for name, case in zip(CONV, cases, strict=True):
        operator = OPERATORS[name]
        operands = {k: layout(x) for k, x in case_operands(operator.contract, case, dtype).items()}
        operands["offset"] = layout(operands["offset"] * operands["offset"].dtype.type(reach))
        harness.check_against_reference(operator, case, operands, dtype)


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(*[st.integers(1, 3)] * 3), st.sampled_from([1, 3, 8, 16, 33, 130]), st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=4),
    st.sampled_from(["float32", "float64"]), st.sampled_from([1.0, 3.0]),
)  # fmt: skip
def test_random_levels(
    extents: tuple[int, int, int], channels: int, points: int, shapes: list[tuple[int, int]], dtype: str, reach: float
) -> None:
    for name, case in zip(ATTENTION, _attention_case("random", *extents, channels, points, *shapes), strict=True):
        operator = OPERATORS[name]
        operands = case_operands(operator.contract, case, dtype)
        locations = operands["sampling_locations"]
        operands["sampling_locations"] = (locations - locations.dtype.type(0.5)) * locations.dtype.type(reach)
        harness.check_against_reference(operator, case, operands, dtype)


# ---- semantics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2])
def test_offsets_of_zero_give_conv2d(groups: int) -> None:
    """The same bits, of the result and of the weight gradient."""
    x, weight, bias = normal((2, 60, 7, 9), 1), normal((34, 60 // groups, 3, 2), 2), normal((34,), 3)
    geometry: dict[str, Any] = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}
    wanted = conv2d(x, weight, bias, groups=groups, **geometry, activation="silu")
    offset = np.zeros((2, 2 * 3 * 3 * 2, *wanted.shape[2:]), np.float32)
    found = deform_conv2d(x, offset, weight, bias, **geometry, activation="silu")
    assert found.tobytes() == wanted.tobytes()
    ones = np.ones((2, 3 * 3 * 2, *wanted.shape[2:]), np.float32)
    assert (
        deform_conv2d(x, offset, weight, bias, mask=ones, **geometry, activation="silu").tobytes() == wanted.tobytes()
    )
    more = {**geometry, "kernel": (3, 2), "groups": groups}
    gy = normal(wanted.shape, 4)
    found = OPERATORS["deform_conv2d_weight_grad"](x, offset, gy, **more)
    assert found.tobytes() == OPERATORS["conv2d_weight_grad"](x, gy, **more).tobytes()


def test_order_of_offsets() -> None:
    """Channels of an offset: group, tap, y before x."""
    x = np.arange(2 * 16, dtype=np.float32).reshape(1, 2, 4, 4)
    offset = np.zeros((1, 2 * 2 * 2, 1, 1), np.float32)  # two groups, taps (0, 0) and (0, 1)
    weight = np.zeros((1, 2, 1, 2), np.float32)
    for group in range(2):
        for tap in range(2):
            for axis in range(2):
                moved = offset.copy()
                moved[0, (group * 2 + tap) * 2 + axis] = 1
                one = weight.copy()
                one[0, group, 0, tap] = 1
                y = deform_conv2d(x, moved, one, stride=4)
                assert y.item() == x[0, group, 1 - axis, tap + axis]


def test_a_half_offset_reads_the_mean() -> None:
    x = np.array([[[[1.0, 3.0], [5.0, 11.0]]]], np.float32)
    offset = np.full((1, 2, 2, 2), 0.5, np.float32)
    found = deform_conv2d(x, offset, np.ones((1, 1, 1, 1), np.float32))[0, 0]
    np.testing.assert_array_equal(found, [[5.0, 3.5], [4.0, 2.75]])


POSITIONS = (-np.inf, -1e30, -3e9, -1.0, -1 + 2**-24, 0.0, 3.0, 3.5, 4 - 2**-22, 4.0, 3e9, 1e30, np.inf, np.nan)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CONV)
def test_any_offset(name: str, dtype: str) -> None:
    """Every position has a defined result: outside (-1, H) x (-1, W) nothing, at NaN NaN."""
    operator = OPERATORS[name]
    case = dict(zip(CONV, _case("any", (1, 2, 4, 4), (1, 1), 3, optional=("mask",)), strict=True))[name]
    operands = case_operands(operator.contract, case, dtype)
    p, q = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")
    for y in POSITIONS:
        for x in (-1.0, 1.25, 1e30, np.nan):
            operands["offset"] = np.stack([y - p, x - q])[None].astype(dtype)
            given = [operands.get(a.name) for a in operator.contract.inputs]
            wanted = getattr(reference, name)(*given, **harness.plain_attributes(operator, case))
            for found, w in zip(run(operator, case, operands), wanted if isinstance(wanted, tuple) else (wanted,),
                                strict=True):  # fmt: skip
                np.testing.assert_allclose(found, w, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ATTENTION)
def test_any_location(name: str) -> None:
    operator = OPERATORS[name]
    case = dict(zip(ATTENTION, _attention_case("any", 1, 1, 2, 3, 1, (4, 5), (1, 2)), strict=True))[name]
    operands = case_operands(operator.contract, case, "float32")
    for y in POSITIONS:
        for x in (-0.5, 0.3, 1e38, np.nan):
            operands["sampling_locations"][...] = np.array([x, y], np.float32)
            given = [operands.get(a.name) for a in operator.contract.inputs]
            wanted = getattr(reference, name)(*given, **harness.plain_attributes(operator, case))
            for found, w in zip(run(operator, case, operands), wanted if isinstance(wanted, tuple) else (wanted,),
                                strict=True):  # fmt: skip
                np.testing.assert_allclose(found, w, rtol=1e-5, atol=1e-5)


def test_no_batch_is_refused() -> None:
    """Implementations that take the batch in steps refuse one that the steps do not divide."""
    x, weight, offset = normal((65, 2, 3, 3), 1), normal((2, 2, 3, 3), 2), normal((65, 18, 3, 3), 3)
    whole = deform_conv2d(x, offset, weight, padding=1)
    assert whole[37:38].tobytes() == deform_conv2d(x[37:38], offset[37:38], weight, padding=1).tobytes()


def test_many_samples_of_one_element() -> None:
    """All samples at the same place: the order of the sum is that of the samples."""
    gy, weight = normal((1, 3, 9, 11), 5), normal((3, 4, 2, 2), 6)
    p, q = np.meshgrid(np.arange(9.0), np.arange(11.0), indexing="ij")
    r, s = np.meshgrid(np.arange(2.0), np.arange(2.0), indexing="ij")
    away = np.stack([4 - r[..., None, None] - p, 5 - s[..., None, None] - q], axis=2)
    offset = away.reshape(1, 8, 9, 11).astype(np.float32)
    found = OPERATORS["deform_conv2d_input_grad"](gy, offset, weight, height=10, width=12)
    z = np.zeros((4, 4, 99), np.float32)  # tap, channel, pixel; k in one chunk of fma
    for k in range(3):
        product = weight[k].reshape(4, 4).T[..., None].astype(np.float64) * gy[0, k].reshape(99).astype(np.float64)
        z = (product + z.astype(np.float64)).astype(np.float32)
    total = np.zeros(4, np.float32)
    for pixel in range(99):
        for tap in range(4):
            total = total + z[tap, :, pixel]
    np.testing.assert_array_equal(found[0, :, 4, 5], total)
    assert np.count_nonzero(found) == 4


# ---- gradients and doors --------------------------------------------------------------------------------------------


def test_composition_of_slopes() -> None:
    """What is differentiated again agrees with the kernel."""
    conv = _case("c", (2, 4, 5, 6), (3, 2), 6, groups=2, offset_groups=2, padding=(1, 1, 0, 1), optional=("mask",))[2]
    attention = _attention_case("c", 2, 3, 2, 5, 2, (4, 5), (3, 2))[2]
    for name, case in (("deform_conv2d_offset_grad", conv), ("ms_deform_attention_points_grad", attention)):
        operator = OPERATORS[name]
        operands = case_operands(operator.contract, case, "float64")
        given = [operands[a.name] for a in operator.contract.inputs]
        recorded = operator(*[autograd.Variable(x, requires_grad=True) for x in given], **case.attributes)
        for found, wanted in zip(recorded, operator(*given, **case.attributes), strict=True):
            np.testing.assert_allclose(found.data, wanted, rtol=1e-12, atol=1e-12)


def test_third_derivatives() -> None:
    """Along one direction of all operands at once, against differences of the second derivative."""
    case = _case("third", (1, 2, 5, 4), (2, 2), 3, offset_groups=2, optional=("bias", "mask"))[0]
    operands = case_operands(OPERATORS["deform_conv2d"].contract, case, "float64")
    names = ("x", "offset", "weight", "mask")
    away = {name: normal(operands[name].shape, 11 + i, np.float64) for i, name in enumerate(names)}

    def along(step: float, order: int) -> float:
        """The derivative of that order of sum(y^3) along the direction, at `step` of it."""
        at = [autograd.Variable(operands[n] + step * away[n], requires_grad=True) for n in names]
        y = deform_conv2d(at[0], at[1], at[2], mask=at[3])
        total = mmk.sum(mmk.mul(mmk.mul(y, y), y))
        for _ in range(order):
            found = autograd.grad(total, at, create_graph=True)
            parts = [mmk.sum(mmk.mul(g, away[n])) for n, g in zip(names, found, strict=True) if g is not None]
            total = parts[0]
            for part in parts[1:]:
                total = mmk.add(total, part)
        return total.item()

    step = 1e-5
    for order in (1, 2, 3):
        numeric = (along(step, order - 1) - along(-step, order - 1)) / (2 * step)
        assert abs(along(0.0, order) - numeric) <= 1e-6 * (1 + abs(numeric))


def test_attention_takes_shapes_of_any_kind() -> None:
    case = _attention_case("kinds", 1, 2, 2, 4, 2, (2, 3), (1, 2))[0]
    o = case_operands(OPERATORS["ms_deform_attention"].contract, case)
    rest = (o["sampling_locations"], o["attention_weights"])
    wanted = ms_deform_attention(o["value"], ((2, 3), (1, 2)), *rest)
    for shapes in ([[2, 3], [1, 2]], np.array([[2, 3], [1, 2]]), np.array([[2, 3], [1, 2]], np.int32), (2, 3, 1, 2)):
        assert ms_deform_attention(o["value"], shapes, *rest).tobytes() == wanted.tobytes()
    with pytest.raises(mmk.ContractError, match="ms_deform_attention: spatial_shapes"):
        ms_deform_attention(o["value"], ((2, 3, 1), (1, 2)), *rest)
    with pytest.raises(mmk.ContractError, match="value has 8 pixels; expected 9"):
        ms_deform_attention(o["value"], ((2, 3), (1, 3)), *rest)


def test_attention_is_a_mean_where_weights_are_one() -> None:
    """At the middles of pixels a sample is the pixel."""
    value = normal((1, 6, 2, 3), 1)
    at = np.array([[(c + 0.5) / 3, (r + 0.5) / 2] for r in range(2) for c in range(3)], np.float32)
    locations = np.broadcast_to(at, (1, 1, 2, 1, 6, 2)).copy()
    weights = np.full((1, 1, 2, 1, 6), 1 / 6, np.float32)
    found = ms_deform_attention(value, ((2, 3),), locations, weights)
    np.testing.assert_allclose(found.reshape(2, 3), value[0].mean(axis=0), rtol=1e-5, atol=1e-6)
