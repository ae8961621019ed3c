"""What the contracts' cases of norm and activation do not reach on the CUDA floor: rows and groups of every way that
they can be held, whole pieces of 16 bytes, planes that lie interleaved, rows that hold infinities and NaN."""

from __future__ import annotations

import ml_dtypes  # noqa: F401  (names bfloat16 for NumPy)
import numpy as np
import pytest

import harness
from emulated import Array, Schedule, floor, run_on, scheduled
from mmkernels.contract import Case
from mmkernels.operator import OPERATORS
from mmkernels.verify import case_operands, run
from test_emulated import check_floor

DTYPES = ["float32", "float64", "float16", "bfloat16"]
AFFINE = ("weight", "bias", "scale", "shift")

# name: operators, extents, attributes
CALLS = {
    "a warp's row": ("layer_norm layer_norm_grad", {"S": (9, 600)}, {"axes": 1}),
    "a block's row": ("layer_norm layer_norm_grad", {"S": (3, 2100)}, {"axes": 1}),
    "a wide block's row": ("layer_norm layer_norm_grad", {"S": (2, 9001)}, {"axes": 1}),
    "runs of rows": ("layer_norm_grad", {"S": (4500, 5)}, {"axes": 1}),
    "rows": ("softmax log_softmax softmax_grad log_softmax_grad", {"S": (3, 700)}, {"dim": 1}),
    "wide rows": ("softmax log_softmax softmax_grad log_softmax_grad", {"S": (2, 9001)}, {"dim": 1}),
    "long columns": ("softmax log_softmax softmax_grad log_softmax_grad", {"S": (2, 600, 19)}, {"dim": 1}),
    "aligned planes": ("group_norm group_norm_grad", {"N": 2, "C": 6, "S": (16, 16)},
                       {"num_groups": 2, "activation": "silu"}),
    "one plane": ("group_norm group_norm_grad", {"N": 2, "C": 2, "S": (60, 79)}, {"num_groups": 2}),
    "many planes": ("group_norm group_norm_grad", {"N": 1, "C": 1200, "S": (3,)}, {"num_groups": 2}),
    "a warp's row of squares": ("rms_norm rms_norm_grad", {"S": (9, 600)}, {"axes": 1}),
    "a block's row of squares": ("rms_norm rms_norm_grad", {"S": (3, 2100)}, {"axes": 1}),
    "aligned planes of a batch": ("batch_norm batch_norm_training batch_norm_grad prelu prelu_grad",
                                  {"N": 3, "C": 6, "S": (16, 16)}, {}),
    "33 chunks of rows": ("batch_norm_training batch_norm_grad prelu_grad", {"N": 2100, "C": 9, "S": ()}, {}),
}  # fmt: skip
# Longer than shared memory.
STREAMED = {
    "rows": ("layer_norm layer_norm_grad", {"S": (2, 58111)}, {"axes": 1}),
    "softmax": ("softmax softmax_grad", {"S": (2, 58111)}, {"dim": 1}),
    "group": ("group_norm", {"N": 1, "C": 4, "S": (171, 172)}, {"num_groups": 1, "activation": "gelu"}),
    "groups": ("group_norm_grad", {"N": 2, "C": 8, "S": (80, 101)}, {"num_groups": 2}),
}  # fmt: skip


def calls(table: dict[str, tuple[str, dict[str, object], dict[str, object]]]) -> list[object]:
    return [
        pytest.param(operator, extents, attributes, id=f"{operator}-{name}")
        for name, (operators, extents, attributes) in table.items()
        for operator in operators.split()
    ]


def case_of(operator_name: str, extents: dict[str, object], attributes: dict[str, object]) -> Case:
    contract = OPERATORS[operator_name].contract
    known = {a.name for a in contract.attributes}
    optional = tuple(a.name for a in contract.inputs if a.optional)
    return Case("here", extents, {k: v for k, v in attributes.items() if k in known}, optional)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "extents", "attributes"), calls(CALLS))
def test_held(name: str, extents: dict[str, object], attributes: dict[str, object], dtype: str) -> None:
    operator, case = OPERATORS[name], case_of(name, extents, attributes)
    operands = case_operands(operator.contract, case, dtype)
    wanted = run(operator, case, operands)
    first = check_floor("_emulated", operator, case, dtype, Schedule(), operands, wanted=wanted)
    found = check_floor("_emulated", operator, case, dtype, Schedule("random", 5), operands, wanted=wanted)
    assert harness.same_bits(found, first)
    if dtype == "float16":
        schedule = Schedule("random", 6, late=False)
        check_floor("_emulated_check", operator, case, dtype, schedule, operands, check=True, wanted=wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "extents", "attributes"), calls(STREAMED))
def test_streamed(name: str, extents: dict[str, object], attributes: dict[str, object], dtype: str) -> None:
    operator, case = OPERATORS[name], case_of(name, extents, attributes)
    operands = case_operands(operator.contract, case, dtype)
    check_floor("_emulated", operator, case, dtype, Schedule("random", 7), operands)


INTERLEAVED = {
    "held": ("group_norm group_norm_grad", {"N": 2, "C": 12, "S": (9, 11)}, {"num_groups": 3, "activation": "silu"}),
    "streamed": ("group_norm group_norm_grad", {"N": 2, "C": 34, "S": (61, 62)}, {"num_groups": 1}),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "extents", "attributes"), calls(INTERLEAVED))
def test_interleaved(name: str, extents: dict[str, object], attributes: dict[str, object], dtype: str) -> None:
    """Operands and result in channels-last order are read and written in place: the bits of the contiguous call."""
    operator, case = OPERATORS[name], case_of(name, extents, attributes)
    operands = case_operands(operator.contract, case, dtype)
    wanted = run(operator, case, operands)
    given = {k: harness.channels_last(x) for k, x in operands.items()}
    module = floor("_emulated" if operands["x"].size > 10000 else "_emulated_check")
    with scheduled(module, Schedule("random", 8), check=module.__name__ == "_emulated_check"):
        found = run_on(module, operator, case, given)
    assert harness.same_bits(found, wanted)


@pytest.mark.parametrize("name", ["batch_norm", "batch_norm_training", "batch_norm_grad"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_wide_parameters(name: str, dtype: str) -> None:
    """float32 parameters beside 16-bit operands: the CPU's bits."""
    operator, case = OPERATORS[name], case_of(name, {"N": 2, "C": 5, "S": (3, 7)}, {})
    operands = case_operands(operator.contract, case, dtype)
    operands = {k: x if k in ("x", "gy") else x.astype(np.float32) for k, x in operands.items()}
    wanted = run(operator, case, operands)
    module = floor("_emulated_check")
    with scheduled(module, Schedule("random", 9), check=True):
        found = run_on(module, operator, case, operands)
    assert [y.dtype for y in found] == [y.dtype for y in wanted] and harness.same_bits(found, wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("shape", "dim"), [((5, 40), 1), ((5, 600), 1), ((5, 1500), 1), ((5, 40, 3), 1)])
def test_rows_that_are_not_finite(shape: tuple[int, ...], dim: int, dtype: str) -> None:
    for name in ("softmax", "log_softmax"):
        operator = OPERATORS[name]
        case = Case("here", {"S": shape}, {"dim": dim})
        operands = case_operands(operator.contract, case, dtype)
        x: Array = operands["x"]
        x[0, 3:] = -np.inf
        x[1] = -np.inf
        x[2, 7] = np.inf
        x[3, -1] = np.nan
        check_floor("_emulated", operator, case, dtype, Schedule(), operands)
