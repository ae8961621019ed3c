"""Normalisation of groups of channels and of trailing extents."""

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
from mmkernels.ops.norm import ACTIVATIONS, group_norm, layer_norm

Array = NDArray[Any]
SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from(["float32", "float64"])


def normal(seed: int, *shape: int, dtype: str = "float32") -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@settings(max_examples=60, deadline=None)
@given(
    st.booleans(), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.lists(st.integers(1, 9), max_size=3),
    DTYPES, SEEDS, st.data(),
)  # fmt: skip
def test_group_norm(
    gradient: bool, n: int, groups: int, each: int, spatial: list[int], dtype: str, seed: int, data: st.DataObject
) -> None:
    operator = OPERATORS["group_norm_grad" if gradient else "group_norm"]
    extents = {"N": n, "C": groups * each, "S": tuple(spatial)}
    attributes: dict[str, Any] = {"num_groups": groups, "eps": data.draw(st.sampled_from([1e-5, 1e-2, 1.0]))}
    if not gradient:
        attributes["activation"] = data.draw(st.sampled_from(ACTIVATIONS))
    check(operator, extents, attributes, dtype, seed, data)


@settings(max_examples=60, deadline=None)
@given(
    st.booleans(), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.sampled_from([None, 33, 140]), DTYPES, SEEDS,
    st.data(),
)  # fmt: skip
def test_layer_norm(
    gradient: bool, shape: list[int], last: int | None, dtype: str, seed: int, data: st.DataObject
) -> None:
    operator = OPERATORS["layer_norm_grad" if gradient else "layer_norm"]
    shape[-1] = last or shape[-1]
    attributes = {"axes": data.draw(st.integers(1, len(shape))), "eps": data.draw(st.sampled_from([1e-5, 1e-2]))}
    check(operator, {"S": tuple(shape)}, attributes, dtype, seed, data)


def check(operator: Any, extents: Any, attributes: Any, dtype: str, seed: int, data: st.DataObject) -> None:
    """Operands in drawn layouts, at a drawn distance from 0, against the reference."""
    random = np.random.default_rng(seed)
    optional = tuple(a.name for a in operator.contract.inputs if a.optional and data.draw(st.booleans()))
    case = Case("drawn", extents, attributes, optional)
    names = harness.case_names(operator.contract, case)
    operands = {}
    for a in operator.contract.inputs:
        if a.optional and a.name not in optional:
            continue
        x = random.standard_normal(operator.contract.extents_of(a.shape, names))
        x = x + data.draw(st.sampled_from([0.0, 30.0])) if a.name == "x" else x
        operands[a.name] = data.draw(st.sampled_from([np.asarray, *harness.LAYOUTS]))(np.asarray(x, dtype))
    harness.check_against_reference(operator, case, operands, dtype)


# ---- the fused form -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("given_", [(), ("scale",), ("shift",), ("scale", "shift")], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fused_is_the_composition(activation: str | None, given_: tuple[str, ...], dtype: str) -> None:
    """Bit for bit, signs of zeros included; differentiation runs through that very composition."""
    x = normal(0, 3, 8, 5, 7, dtype=dtype)
    x[0, :2] = 1  # a constant group: zeros
    weight, bias = normal(1, 8, dtype=dtype), normal(2, 8, dtype=dtype)
    bias[0] = 0
    extra = {k: normal(i, 3, 8, dtype=dtype) for i, k in enumerate(given_)}
    fused = group_norm(x, 4, weight, bias, activation=activation, **extra)
    y = group_norm(x, 4, weight, bias)
    if "scale" in extra:
        y = mmk.mul(y, mmk.add(extra["scale"], 1.0)[..., None, None])
    if "shift" in extra:
        y = mmk.add(y, extra["shift"][..., None, None])
    if activation:
        y = OPERATORS[activation](y)
    assert fused.tobytes() == y.tobytes()
    recorded = group_norm(autograd.Variable(x, requires_grad=True), 4, weight, bias, activation=activation, **extra)
    assert recorded.data.tobytes() == fused.tobytes()


def test_absent_operands_are_neutral() -> None:
    x = normal(3, 2, 6, 20)
    one, zero = np.ones(6, np.float32), np.zeros(6, np.float32)
    np.testing.assert_array_equal(group_norm(x, 3), group_norm(x, 3, one, zero))
    np.testing.assert_array_equal(
        group_norm(x, 3), group_norm(x, 3, scale=np.zeros((2, 6), np.float32), shift=np.zeros((2, 6), np.float32))
    )
    np.testing.assert_array_equal(
        layer_norm(x, 20), layer_norm(x, (20,), np.ones(20, np.float32), np.zeros(20, np.float32))
    )


# ---- what is normalised ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 5, 129), (3, 2, 3, 5, 7)])
def test_one_channel_a_group_is_layer_norm_of_planes(shape: tuple[int, ...]) -> None:
    """Instance normalisation two ways, to the bit."""
    x = normal(4, *shape)
    np.testing.assert_array_equal(group_norm(x, shape[1]), layer_norm(x, shape[2:]))


def test_worked_example() -> None:
    """Groups {1, 3} and {2, 6}: means 2 and 4, deviations 1 and 2."""
    x = np.array([[[1.0], [3.0], [2.0], [6.0]]], np.float32)
    np.testing.assert_array_equal(group_norm(x, 2, eps=0)[0, :, 0], [-1, 1, -1, 1])
    weight, bias = np.array([1, 2, 3, 4], np.float32), np.array([0, 10, 0, 10], np.float32)
    np.testing.assert_array_equal(group_norm(x, 2, weight, bias, eps=0)[0, :, 0], [-1, 12, -3, 14])
    # 5 = 1 + eps: 1 / sqrt(4) of the differences
    np.testing.assert_array_equal(layer_norm(np.array([1.0, 3.0]), 2, eps=3.0), [-0.5, 0.5])


@pytest.mark.parametrize("value", [0.0, 3.0, -1024.5, 1e30])
def test_constant_input_gives_bias(value: float) -> None:
    x = np.full((2, 6, 16, 16), value, np.float32)
    bias = normal(5, 6)
    if value == 1e30:  # the sum rounds, so the mean may be another number: still nothing overflows
        assert np.isfinite(group_norm(x, 3, None, bias)).all()
        return
    np.testing.assert_array_equal(group_norm(x, 3, None, bias), np.broadcast_to(bias[:, None, None], x.shape))
    np.testing.assert_array_equal(layer_norm(x, (6, 16, 16)), np.zeros_like(x))


@pytest.mark.parametrize("offset", [1e4, -1e6])
def test_large_offset(offset: float) -> None:
    """Two passes: an offset costs the digits that the operand has lost already, not the variance.

    The square of the mean is 1e8 (1e12) times the variance: the difference of squares would have no digit left.
    """
    x = (normal(6, 2, 8, 32, 32).astype(np.float64) + offset).astype(np.float32)
    wide = x.astype(np.float64).reshape(2, 2, -1)
    exact = (wide - wide.mean(2, keepdims=True)) / np.sqrt(wide.var(2, keepdims=True) + 1e-5)
    y = group_norm(x, 2).astype(np.float64).reshape(2, 2, -1)
    # The mean's own rounding, half a unit of the offset, moves every element alike; the spread is right to 1e-5.
    half = float(np.spacing(np.float32(abs(offset)))) / 2
    assert np.abs(y - exact).max() < 1.5 * half
    assert np.abs(y.std(2) / exact.std(2) - 1).max() < 1e-5 + half**2


def test_tiny_and_huge_values() -> None:
    x = normal(7, 4, 300)
    np.testing.assert_allclose(layer_norm(x * np.float32(1e12), 300), layer_norm(x, 300, eps=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        layer_norm(x * np.float32(1e-12), 300, eps=0), layer_norm(x, 300, eps=0), rtol=1e-4, atol=1e-5
    )


def test_groups_and_samples_keep_to_themselves() -> None:
    x = normal(8, 3, 6, 50)
    clean = group_norm(x, 3, activation="silu")
    x[1, 2, 7] = np.nan
    spoilt = group_norm(x, 3, activation="silu")
    assert np.isnan(spoilt[1, 2:4]).all()
    keep = np.ones((3, 6), bool)
    keep[1, 2:4] = False
    np.testing.assert_array_equal(spoilt[keep], clean[keep])
    np.testing.assert_array_equal(group_norm(x[2:], 3, activation="silu"), clean[2:])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=2, max_size=3), st.sampled_from([3, 64, 200]), SEEDS, st.data())
def test_rows_are_free(rows: list[int], size: int, seed: int, data: st.DataObject) -> None:
    x = normal(seed, *rows, size)
    whole = layer_norm(x, size)
    index = tuple(data.draw(st.integers(0, n - 1)) for n in rows)
    np.testing.assert_array_equal(layer_norm(x[index], size), whole[index])


def test_result_is_normalised() -> None:
    y = group_norm(normal(9, 2, 8, 40, 40) * 5 + 3, 4).astype(np.float64).reshape(2, 4, -1)
    np.testing.assert_allclose(y.mean(2), 0, atol=1e-6)
    np.testing.assert_allclose(y.var(2), 1, rtol=1e-5)


# ---- gradients ------------------------------------------------------------------------------------------------------


def test_gradient_lies_across_scale_and_shift() -> None:
    """Adding a constant to a group or scaling it changes nothing, so gx has no part along either (eps = 0)."""
    x, gy, weight = normal(10, 2, 6, 8, 8), normal(11, 2, 6, 8, 8), normal(12, 6)
    gx, gweight, gbias = OPERATORS["group_norm_grad"](x, gy, weight, num_groups=3, eps=0.0)
    grouped, g = x.astype(np.float64).reshape(2, 3, -1), gx.astype(np.float64).reshape(2, 3, -1)
    np.testing.assert_allclose(g.sum(2), 0, atol=2e-5)
    np.testing.assert_allclose((g * (grouped - grouped.mean(2, keepdims=True))).sum(2), 0, atol=2e-5)
    np.testing.assert_allclose(gbias, gy.astype(np.float64).sum((0, 2, 3)), atol=2e-5)
    np.testing.assert_allclose(gweight, (gy * group_norm(x, 3, eps=0.0)).astype(np.float64).sum((0, 2, 3)), atol=2e-5)


def test_gradients_of_the_adaptive_form() -> None:
    """Scale, shift and activation get their gradients through the composition: against central differences."""
    random = np.random.default_rng(13)
    values = [random.standard_normal(s) for s in ((2, 4, 3, 3), (4,), (4,), (2, 4), (2, 4))]
    c = random.standard_normal((2, 4, 3, 3))

    def loss(v: Any) -> Any:
        x, weight, bias, scale, shift = v
        return mmk.sum(mmk.mul(group_norm(x, 2, weight, bias, scale=scale, shift=shift, activation="silu"), c))

    variables = [autograd.Variable(v, requires_grad=True) for v in values]
    gradients = autograd.grad(loss(variables), variables)
    for i, g in enumerate(gradients):
        assert g is not None
        direction, step = random.standard_normal(values[i].shape), 1e-6
        up, down = ([*values[:i], values[i] + s * direction, *values[i + 1 :]] for s in (step, -step))
        numeric = (float(loss(up)) - float(loss(down))) / (2 * step)
        assert np.sum(g.data * direction) == pytest.approx(numeric, rel=1e-6, abs=1e-6)


def test_weight_gradients_of_many_rows() -> None:
    """Chunks of 64 rows and a tree: 100000 equal terms are summed without drift."""
    x = np.tile(np.array([[1.0, -1.0]], np.float32), (100_000, 1))
    _, gweight, gbias = OPERATORS["layer_norm_grad"](x, np.full_like(x, 0.1), axes=1, eps=0.0)
    np.testing.assert_allclose(gbias, 10000, rtol=3e-6)
    np.testing.assert_allclose(gweight, [10000, -10000], rtol=3e-6)


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_errors() -> None:
    x = np.ones((2, 6, 4), np.float32)
    weight = np.ones(5, np.float32)
    with pytest.raises(mmk.ContractError, match=r"^group_norm: num_groups is 4; expected a divisor of C = 6$"):
        group_norm(x, 4)
    with pytest.raises(mmk.ContractError, match=r"^group_norm: num_groups is 0; expected a divisor"):
        group_norm(x, 0)
    with pytest.raises(mmk.ContractError, match=r"^group_norm: weight.shape\[0\] is 5; expected C = 6$"):
        group_norm(x, 2, weight)
    with pytest.raises(mmk.ContractError, match=r"^group_norm: scale has 1 extents"):
        group_norm(x, 2, scale=np.ones(6, np.float32))
    with pytest.raises(mmk.ContractError, match=r"^group_norm: eps is -1.0; expected 0 or more$"):
        group_norm(x, 2, eps=-1.0)
    with pytest.raises(mmk.ContractError, match=r"^group_norm: activation is 'swish'; expected one of None, 'relu'"):
        group_norm(x, 2, activation="swish")
    with pytest.raises(mmk.ContractError, match=r"^group_norm: x has 1 extents"):
        group_norm(np.ones(6, np.float32), 2)
    for shape in ((6,), (2, 6), (), (1, 2, 6, 4)):
        with pytest.raises(
            mmk.ContractError, match=r"^layer_norm: normalized_shape is .*; expected the last extents of"
        ):
            layer_norm(x, shape)
    with pytest.raises(mmk.ContractError, match=r"^layer_norm: weight.shape\[0\] is 5; expected D\[0\] = 4$"):
        layer_norm(x, 4, weight)
    with pytest.raises(mmk.ContractError, match=r"^layer_norm: bias has 1 extents \(4,\); expected 2: \(6, 4\)$"):
        layer_norm(x, (6, 4), None, np.ones(4, np.float32))
    with pytest.raises(
        mmk.ContractTypeError, match=r"^layer_norm: weight.dtype is float64; expected float32, as x has$"
    ):
        layer_norm(x, 4, np.ones(4))
