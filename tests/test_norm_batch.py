"""Normalisation by statistics of the batch; instance_norm and rms_norm, which share the kernels of other norms."""

from __future__ import annotations

from typing import Any

import ml_dtypes  # noqa: F401  (names bfloat16 for NumPy)
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import harness
import mmkernels as mmk
from mmkernels.autograd import Variable, grad
from mmkernels.contract import Case
from mmkernels.operator import OPERATORS
from mmkernels.ops.norm import ACTIVATIONS, group_norm, instance_norm, rms_norm
from mmkernels.ops.norm_batch import batch_norm
from test_norm import DTYPES, SEEDS, check

Array = NDArray[Any]


def normal(seed: int, *shape: int, dtype: str = "float32") -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["batch_norm", "batch_norm_training", "batch_norm_grad", "instance_norm"]), st.integers(1, 70),
    st.integers(1, 40), st.sampled_from([(), (1,), (3, 3), (7, 9), (520,), (3, 5, 5)]), DTYPES, SEEDS, st.data(),
)  # fmt: skip
def test_channels(
    name: str, n: int, c: int, spatial: tuple[int, ...], dtype: str, seed: int, data: st.DataObject
) -> None:
    if np.prod(spatial) > 100:
        n, c = n % 3 + 1, c % 5 + 1
    if name == "instance_norm" and np.prod(spatial) == 1:
        spatial = (2, 1)
    operator = OPERATORS[name]
    attributes: dict[str, Any] = {"eps": data.draw(st.sampled_from([1e-5, 1e-2, 1.0]))}
    if name == "batch_norm_grad":
        attributes = {"frozen": data.draw(st.booleans())}
    elif data.draw(st.booleans()):
        attributes["activation"] = data.draw(st.sampled_from(ACTIVATIONS))
    if name == "batch_norm_training":
        n, attributes["momentum"] = max(n, 2), data.draw(st.sampled_from([0.1, 0.0, 1.0]))
    random = np.random.default_rng(seed)
    optional = tuple(a.name for a in operator.contract.inputs if a.optional and data.draw(st.booleans()))
    if "running_mean" in optional or "running_var" in optional:
        optional = (*{*optional, "running_mean", "running_var"},)
    case = Case("drawn", {"N": n, "C": c, "S": spatial}, attributes, optional)
    names = harness.case_names(operator.contract, case)
    operands = {}
    for a in operator.contract.inputs:
        if a.optional and a.name not in optional:
            continue
        x = random.standard_normal(operator.contract.extents_of(a.shape, names))
        x = np.abs(x) + 0.1 if a.domain == "positive" else x
        x = x + data.draw(st.sampled_from([0.0, 30.0])) if a.name == "x" else x
        operands[a.name] = data.draw(st.sampled_from([np.asarray, *harness.LAYOUTS]))(np.asarray(x, dtype))
    harness.check_against_reference(operator, case, operands, dtype)


@settings(max_examples=40, deadline=None)
@given(
    st.booleans(), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.sampled_from([None, 33, 140]), DTYPES, SEEDS,
    st.data(),
)  # fmt: skip
def test_rms_norm(gradient: bool, shape: list[int], last: int | None, dtype: str, seed: int, data: Any) -> None:
    shape[-1] = last or shape[-1]
    attributes = {"axes": data.draw(st.integers(1, len(shape))), "eps": data.draw(st.sampled_from([1e-5, 1e-2]))}
    check(OPERATORS["rms_norm_grad" if gradient else "rms_norm"], {"S": tuple(shape)}, attributes, dtype, seed, data)


# ---- statistics -------------------------------------------------------------------------------------------------


def test_statistics_do_not_cancel() -> None:
    """A mean of 10,000 and a sample of zeros: one sum of squares, or squares about a first value, would lose all. A
    segment's mean is off by some 5e-4, and 0.05 away from the whole's: that is what the variance may err by."""
    x = 1e4 + normal(0, 8, 3, 20, 31)
    _, mean, var = batch_norm(x, None, None, training=True)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(var, wide.var((0, 2, 3), ddof=1), rtol=5e-5)
    x[0] = 0
    _, _, var = batch_norm(x, None, None, training=True)
    np.testing.assert_allclose(var, x.astype(np.float64).var((0, 2, 3), ddof=1), rtol=1e-6)


def test_running_statistics_follow() -> None:
    x, old, var = normal(1, 4, 2, 3), np.array([1, 2], np.float32), np.array([3, 4], np.float32)
    kept = old.copy(), var.copy()
    y, new_mean, new_var = batch_norm(x, old, var, training=True, momentum=0.25)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(new_mean, 0.75 * old + 0.25 * wide.mean((0, 2)), rtol=1e-6)
    np.testing.assert_allclose(new_var, 0.75 * var + 0.25 * wide.var((0, 2), ddof=1), rtol=1e-6)
    assert (old == kept[0]).all() and (var == kept[1]).all(), "an operand was changed"
    np.testing.assert_array_equal(y, batch_norm(x, None, None, training=True)[0])
    frozen = batch_norm(x, old, var, training=True, momentum=0.0)
    assert (frozen[1] == old).all() and (frozen[2] == var).all()
    _, empty_mean, empty_var = batch_norm(x[:0], old, var, training=True)
    assert (empty_mean == old).all() and (empty_var == var).all()


def test_channels_and_layouts_do_not_matter() -> None:
    x = normal(2, 3, 18, 7, 11)
    whole = batch_norm(x, None, None, training=True)
    for layout in harness.LAYOUTS:
        for found, wanted in zip(batch_norm(layout(x), None, None, training=True), whole, strict=True):
            np.testing.assert_array_equal(found, wanted)
    part = batch_norm(x[:, 5:9], None, None, training=True)
    np.testing.assert_array_equal(part[0], whole[0][:, 5:9])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_wide_parameters(dtype: str) -> None:
    """float32 parameters beside 16-bit x: the float32 call, its y rounded once."""
    x = normal(3, 4, 6, 5).astype(dtype)
    mean, var, weight, bias = (np.abs(normal(s, 6)) + np.float32(0.1) for s in range(4))
    wide = x.astype(np.float32)
    np.testing.assert_array_equal(
        batch_norm(x, mean, var, weight, bias), batch_norm(wide, mean, var, weight, bias).astype(dtype)
    )
    y, new_mean, new_var = batch_norm(x, mean, var, weight, bias, training=True)
    wanted = batch_norm(wide, mean, var, weight, bias, training=True)
    np.testing.assert_array_equal(y, wanted[0].astype(dtype))
    assert new_mean.dtype == new_var.dtype == np.float32 and (new_mean == wanted[1]).all()
    v, w = Variable(x, requires_grad=True), Variable(weight, requires_grad=True)
    y, _, _ = batch_norm(v, mean, var, w, bias, training=True)
    gx, gweight = grad(y, [v, w], np.ones(x.shape, dtype))
    assert gx is not None and gweight is not None and gx.dtype == x.dtype and gweight.dtype == np.float32


def test_gradients_through_running_statistics() -> None:
    """Frozen: the layer is a scale and a shift."""
    x, weight = normal(4, 2, 3, 4, dtype="float64"), normal(5, 3, dtype="float64")
    mean, var = normal(6, 3, dtype="float64"), np.abs(normal(7, 3, dtype="float64")) + 0.1
    v = Variable(x, requires_grad=True)
    (gx,) = grad(batch_norm(v, mean, var, weight), [v], np.ones_like(x))
    assert gx is not None
    np.testing.assert_allclose(gx.data, np.broadcast_to((weight / np.sqrt(var + 1e-5))[:, None], x.shape), rtol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_fused_activation_has_the_bits_of_the_separate_one(activation: str) -> None:
    x, mean, var = normal(8, 2, 5, 9), normal(9, 5), np.abs(normal(10, 5))
    function = getattr(mmk, activation)
    np.testing.assert_array_equal(batch_norm(x, mean, var, activation=activation), function(batch_norm(x, mean, var)))
    fused = batch_norm(x, mean, var, training=True, activation=activation)
    plain = batch_norm(x, mean, var, training=True)
    np.testing.assert_array_equal(fused[0], function(plain[0]))
    np.testing.assert_array_equal(fused[1], plain[1])
    np.testing.assert_array_equal(instance_norm(x, activation=activation), function(instance_norm(x)))


def test_what_is_refused() -> None:
    x, one = normal(11, 1, 3), np.ones(3, np.float32)
    with pytest.raises(mmk.ContractError, match=r"^batch_norm_training: x has 1 value for each channel: N is 1"):
        batch_norm(x, one, one, training=True)
    with pytest.raises(mmk.ContractError, match=r"^batch_norm: running_var is None; expected"):
        batch_norm(x, one, None)
    with pytest.raises(mmk.ContractError, match=r"^batch_norm_training: one of running_mean and running_var"):
        batch_norm(normal(0, 2, 3), one, None, training=True)
    with pytest.raises(mmk.ContractError, match=r"^batch_norm: weight.shape\[0\] is 4; expected C = 3"):
        batch_norm(x, one, one, np.ones(4, np.float32))
    with pytest.raises(mmk.ContractTypeError, match=r"^batch_norm: running_mean.dtype is float64; expected float32"):
        batch_norm(x, np.ones(3), one)
    with pytest.raises(mmk.ContractTypeError, match=r"^batch_norm: bias.dtype is float64; expected float16 or float32"):
        batch_norm(x.astype(np.float16), one, one, None, np.ones(3))
    with pytest.raises(mmk.ContractTypeError, match=r"^batch_norm: out= was given one array; expected a tuple of 3"):
        batch_norm(normal(0, 2, 3), one, one, training=True, out=np.empty((2, 3), np.float32))
    with pytest.raises(mmk.ContractError, match=r"^instance_norm: x has 1 value for each mean"):
        instance_norm(x)
    with pytest.raises(mmk.ContractError, match=r"^instance_norm: weight.shape\[0\] is 2; expected C = 3"):
        instance_norm(normal(0, 1, 3, 4), weight=np.ones(2, np.float32))
    with pytest.raises(mmk.ContractError, match=r"^instance_norm: one of running_mean and running_var is None"):
        instance_norm(normal(0, 1, 3, 4), one)
    with pytest.raises(mmk.ContractError, match=r"^instance_norm: running_var.shape is \(2,\); expected \(3,\)"):
        instance_norm(normal(0, 1, 3, 4), one, np.ones(2, np.float32))
    with pytest.raises(mmk.ContractTypeError, match=r"^instance_norm: out= was given one array; expected a tuple of 3"):
        instance_norm(normal(0, 1, 3, 4), one, one, out=np.empty((1, 3, 4), np.float32))
    with pytest.raises(mmk.ContractError, match=r"^rms_norm: normalized_shape is \(2,\); expected the last extents"):
        rms_norm(x, 2)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_instance_norms_running_statistics(dtype: str) -> None:
    """As torch's: each sample's channel moves the statistics, and the samples' are averaged; y does not see them."""
    x, momentum = normal(0, 3, 5, 4, 6).astype(dtype), 0.3
    mean, var = normal(1, 5).astype(dtype), np.abs(normal(2, 5)).astype(dtype)
    weight, bias = normal(3, 5).astype(dtype), normal(4, 5).astype(dtype)
    before = [a.copy() for a in (x, mean, var)]
    y, new_mean, new_var = instance_norm(x, mean, var, weight, bias, momentum=momentum)
    np.testing.assert_array_equal(y, instance_norm(x, None, None, weight, bias))
    wide, wanted = x.astype(np.float64), "float64" if dtype == "float64" else "float32"
    means, variances = wide.mean((2, 3)).mean(0), wide.var((2, 3), ddof=1).mean(0)
    for new, old, batch in ((new_mean, mean, means), (new_var, var, variances)):
        assert new.dtype == wanted
        np.testing.assert_allclose(
            new, (1 - momentum) * old.astype(np.float64) + momentum * batch, rtol=1e-5, atol=1e-6
        )
    for a, b in zip((x, mean, var), before, strict=True):
        np.testing.assert_array_equal(a, b)
    out = tuple(np.empty_like(a) for a in (y, new_mean, new_var))
    found = instance_norm(x, mean, var, weight, bias, momentum=momentum, out=out)
    assert all(a is b for a, b in zip(found, out, strict=True))
    for a, b in zip(out, (y, new_mean, new_var), strict=True):
        np.testing.assert_array_equal(a, b)


def test_instance_norms_statistics_leave_gradients_alone() -> None:
    x, one = Variable(normal(5, 2, 3, 7), requires_grad=True), np.ones(3, np.float32)
    gy = normal(6, 2, 3, 7)
    gradients = [grad(y, [x], gy)[0] for y in (instance_norm(x), instance_norm(x, one, one)[0])]
    assert gradients[0] is not None and gradients[1] is not None
    np.testing.assert_array_equal(gradients[0].data, gradients[1].data)
    empty = instance_norm(normal(0, 0, 3, 4), one, 2 * one)
    assert empty[0].shape == (0, 3, 4) and empty[1].tolist() == [1, 1, 1] and empty[2].tolist() == [2, 2, 2]


def test_batch_norm_trains_into_given_memory() -> None:
    x, one = normal(7, 4, 3, 5), np.ones(3, np.float32)
    wanted = batch_norm(x, one, one, training=True)
    out = tuple(np.empty_like(a) for a in wanted)
    found = batch_norm(x, one, one, training=True, out=out)
    assert len(found) == 3 and all(a is b for a, b in zip(found, out, strict=True))
    for a, b in zip(out, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_instance_norm_is_group_norm_of_single_channels() -> None:
    x, weight, bias = normal(12, 2, 5, 6, 7), normal(13, 5), normal(14, 5)
    np.testing.assert_array_equal(instance_norm(x, None, None, weight, bias), group_norm(x, 5, weight, bias))
    mean, var = normal(15, 5), np.abs(normal(16, 5))
    np.testing.assert_array_equal(
        instance_norm(x, mean, var, weight, bias, False), batch_norm(x, mean, var, weight, bias)
    )


def test_rms_norm_without_eps() -> None:
    """torch.finfo(dtype).eps, of float32 in 16 bits."""
    tiny = np.full((1, 4), 2.0**-12)
    for dtype, eps in (("float64", 2.0**-52), ("float32", 2.0**-23), ("float16", 2.0**-23)):
        y = rms_norm(tiny.astype(dtype), 4)
        np.testing.assert_array_equal(y, rms_norm(tiny.astype(dtype), (4,), eps=eps))
    np.testing.assert_array_equal(rms_norm(np.zeros((2, 4)), 4), np.zeros((2, 4)))


def test_switches_and_shapes_of_the_wrong_kind() -> None:
    x, c, bad = np.ones((2, 3, 4), np.float32), np.ones(3, np.float32), np.array([[1, 2], [3, 4]])
    with pytest.raises(mmk.ContractTypeError, match=r"^batch_norm: training is .*; expected True or False"):
        batch_norm(x, c, c, training=np.array([1, 2]))  # type: ignore[arg-type]
    with pytest.raises(mmk.ContractTypeError, match=r"^instance_norm: use_input_stats is .*; expected True or False"):
        instance_norm(x, c, c, use_input_stats=np.array([1, 2]))  # type: ignore[arg-type]
    assert harness.same_bits(rms_norm(x, np.array([3, 4])), rms_norm(x, (3, 4)))  # type: ignore[arg-type]
    for shape in (bad, None, 1.5, "ab", (None,)):
        with pytest.raises(mmk.ContractTypeError, match=r"(?s)^rms_norm: normalized_shape is .*; expected an integer"):
            rms_norm(x, shape)  # type: ignore[arg-type]
