"""Activations that no other operator fuses, prelu and local response normalisation."""

from __future__ import annotations

from typing import Any

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
from mmkernels.ops.activation_channels import local_response_norm, prelu
from mmkernels.ops.activation_rectifiers import celu, elu, hardtanh, mish, quick_gelu, relu6, selu, softplus
from reference import activation_more as reference

Array = NDArray[Any]
INF, NAN = np.inf, np.nan
SEEDS = st.integers(0, 2**32 - 1)
DTYPES = ("float32", "float64")
PLAIN = ("relu6", "hardsigmoid", "hardswish", "mish", "quick_gelu")
DRAWN: dict[str, dict[str, tuple[float, ...]]] = {
    **{name: {} for name in PLAIN},
    "hardtanh": {"min_val": (-1.0, -0.3, 0.0), "max_val": (1.0, 0.25)},
    "softplus": {"beta": (1.0, 0.5, 3.0, -1.0), "threshold": (20.0, 1.0)},
    "elu": {"alpha": (1.0, 0.5), "scale": (1.0, 1.5), "input_scale": (1.0, 0.5)},
}


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(DRAWN)), st.booleans(), st.integers(0, 90), st.sampled_from(DTYPES), SEEDS, st.data())
def test_each_element(name: str, gradient: bool, n: int, dtype: str, seed: int, data: st.DataObject) -> None:
    operator = OPERATORS[name + "_grad" if gradient else name]
    attributes = {k: data.draw(st.sampled_from(v)) for k, v in DRAWN[name].items()}
    random = np.random.default_rng(seed)
    layout = data.draw(st.sampled_from([np.asarray, *harness.LAYOUTS]))
    operands = {a.name: layout((random.standard_normal((3, n)) * 3).astype(dtype)) for a in operator.contract.inputs}
    harness.check_against_reference(operator, Case("drawn", {"S": (3, n)}, attributes), operands, dtype)


# The largest error in units in the last place of a result that is not subnormal, where nothing cancels: half of what
# the contracts allow in roundings.
@pytest.mark.parametrize(
    ("name", "limit", "low", "high"),
    [("mish", 4.5, -80, 30), ("softplus", 4.5, -1, 30), ("elu", 5.5, -90, 10), ("quick_gelu", 4.0, -1, 40)],
)
def test_errors(name: str, limit: float, low: float, high: float) -> None:
    random = np.random.default_rng(5)
    near = np.exp(random.uniform(-60, 0, 20_000)) * random.choice([-1, 1], 20_000)
    x = np.concatenate([random.uniform(low, high, 60_000), near]).astype(np.float32)
    attributes = {a.name: a.default for a in OPERATORS[name].contract.attributes}
    exact = getattr(reference, name)(x.astype(np.longdouble), **attributes)
    found = OPERATORS[name](x, **attributes)
    units = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    assert np.max(np.abs(found - exact) / units) <= limit


@pytest.mark.parametrize(
    ("function", "points"),
    [
        (relu6, [(-INF, 0.0), (-0.0, 0.0), (6.5, 6.0), (INF, 6.0)]),
        (lambda x: hardtanh(x, -2, 0.5), [(-INF, -2.0), (0.25, 0.25), (INF, 0.5)]),
        (OPERATORS["hardsigmoid"], [(-INF, 0.0), (0.0, 0.5), (INF, 1.0)]),
        (OPERATORS["hardswish"], [(-INF, 0.0), (-3.0, 0.0), (0.0, 0.0), (3.0, 3.0), (1e38, 1e38), (INF, INF)]),
        (mish, [(-INF, -0.0), (-1e30, -0.0), (0.0, 0.0), (1e38, 1e38), (INF, INF)]),
        (quick_gelu, [(-INF, -0.0), (-1e30, -0.0), (0.0, 0.0), (INF, INF)]),
        (softplus, [(-INF, 0.0), (25.0, 25.0), (INF, INF)]),
        (elu, [(-INF, -1.0), (-1e30, -1.0), (0.0, 0.0), (INF, INF)]),
        (lambda x: celu(x, 2.0), [(-INF, -2.0), (3.0, 3.0), (INF, INF)]),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_limits(function: Any, points: list[tuple[float, float]], dtype: str) -> None:
    for x, y in [*points, (NAN, NAN)]:
        found = function(np.full(3, x, dtype))
        np.testing.assert_array_equal(found, np.full(3, y, dtype), err_msg=f"at {x}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_slopes_far_away(dtype: str) -> None:
    x, gy = np.array([-INF, -1e6, 1e6, INF], dtype), np.ones(4, dtype)
    for name in (*PLAIN[2:], "softplus", "elu"):
        found = OPERATORS[name + "_grad"](x, gy)
        assert np.abs(found - [0, 0, 1, 1]).max() <= 5e-16, f"{name}: {found}"  # mish's is that of 20, 3.4e-16 off
    for name in ("relu6", "hardtanh", "hardsigmoid"):
        assert not OPERATORS[name + "_grad"](x, gy).any(), name


def test_named_forms_of_elu() -> None:
    x = np.linspace(-5, 5, 101)
    np.testing.assert_allclose(celu(x, 0.5), np.maximum(x, 0) + np.minimum(0, 0.5 * np.expm1(x / 0.5)), rtol=1e-14)
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    np.testing.assert_allclose(selu(x), scale * np.where(x > 0, x, alpha * np.expm1(x)), rtol=1e-14)


# ---- channels -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["prelu", "prelu_grad", "local_response_norm", "local_response_norm_grad"]), st.integers(1, 70),
    st.integers(1, 20), st.sampled_from([(), (1,), (3, 5), (530,), (2, 3, 3)]), st.sampled_from(DTYPES), SEEDS,
    st.data(),
)  # fmt: skip
def test_channels(
    name: str, n: int, c: int, spatial: tuple[int, ...], dtype: str, seed: int, data: st.DataObject
) -> None:
    n = n % 3 + 1 if np.prod(spatial) > 100 else n
    operator, random = OPERATORS[name], np.random.default_rng(seed)
    extents: dict[str, Any] = {"N": n, "C": c, "S": spatial}
    attributes: dict[str, Any] = {}
    if name.startswith("local"):
        extents["S"] = spatial or (1,)
        attributes = {"size": data.draw(st.integers(1, 9)), "alpha": data.draw(st.sampled_from([1e-4, 0.5])),
                      "beta": data.draw(st.sampled_from([0.75, 0.5, 1.0, 0.3])), "k": 1.5}  # fmt: skip
    elif data.draw(st.booleans()):
        extents["weight"] = (1,)
    case = Case("drawn", extents, attributes)
    names = harness.case_names(operator.contract, case)
    layout = data.draw(st.sampled_from([np.asarray, *harness.LAYOUTS]))
    operands = {}
    for a in operator.contract.inputs:
        shape = extents.get(a.name) or operator.contract.extents_of(a.shape, names)
        operands[a.name] = layout(random.standard_normal(shape).astype(dtype))
    harness.check_against_reference(operator, case, operands, dtype)


def test_prelu_shapes() -> None:
    x, slope = np.array([-2.0, 3.0]), np.array([0.25])
    np.testing.assert_array_equal(prelu(x, slope), [-0.5, 3])
    np.testing.assert_array_equal(prelu(x[0].reshape(()), slope), -0.5)
    out = np.empty(2)
    assert prelu(x, slope, out=out) is out and out.tolist() == [-0.5, 3]
    v, w = Variable(x, requires_grad=True), Variable(slope, requires_grad=True)
    gx, gw = grad(prelu(v, w), [v, w], np.ones(2))
    assert gx is not None and gw is not None and gx.data.tolist() == [0.25, 1] and gw.data.tolist() == [-2]
    with pytest.raises(mmk.ContractError, match=r"^prelu: weight.shape is \(2,\); expected \(1,\), as x has no"):
        prelu(x, np.ones(2))
    with pytest.raises(mmk.ContractError, match=r"^prelu: weight.shape\[0\] is 3; expected C = 2 or 1"):
        prelu(x[None], np.ones(3))
    with pytest.raises(mmk.ContractTypeError, match=r"^prelu: x is a list"):
        prelu([1.0], slope)


def test_response_window() -> None:
    """Of an even size the window reaches further back, as torch's."""
    x = np.zeros((1, 6, 1))
    x[0, 2] = 1
    y = local_response_norm(x + 1e-9, 4, alpha=4.0, beta=1.0, k=1.0)[0, :, 0]
    assert (np.abs(y[[1, 3, 4]] / 5e-10 - 1) < 1e-6).all() and (np.abs(y[[0, 5]] / 1e-9 - 1) < 1e-6).all()


def test_what_is_refused() -> None:
    x = np.ones((1, 2))
    with pytest.raises(mmk.ContractError, match=r"^local_response_norm: x has 2 extents; expected N, C and 1 or more"):
        local_response_norm(x, 3)
    with pytest.raises(mmk.ContractError, match=r"^local_response_norm: size is 0; expected 1 or more"):
        local_response_norm(x[..., None], 0)
    with pytest.raises(mmk.ContractError, match=r"^hardtanh: min_val is 2.0, max_val is 1.0; expected them in order"):
        hardtanh(x, 2.0, 1.0)
    with pytest.raises(mmk.ContractError, match=r"^softplus: beta is 0.0"):
        softplus(x, 0.0)
    with pytest.raises(mmk.ContractError, match=r"^celu: alpha is 0"):
        celu(x, 0)


def test_celu_wants_a_number() -> None:
    for alpha in (np.array([1.0, 2.0]), np.array([]), "a", None):
        with pytest.raises(mmk.ContractTypeError, match=r"^celu: alpha is .*; expected a number"):
            celu(np.ones(2), alpha)  # type: ignore[arg-type]
