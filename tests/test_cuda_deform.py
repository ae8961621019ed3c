"""The deform family on the CUDA floor where the contracts' cases do not reach: several rounds of samples (the emulated
floor takes few at a time), large tiles, channels in parts, sums over many channels, crowded cells."""

from __future__ import annotations

from typing import Any

import ml_dtypes  # noqa: F401  (names bfloat16 for NumPy)
import numpy as np
import pytest

import harness
from emulated import Schedule
from mmkernels.contract import Case
from mmkernels.operator import OPERATORS
from mmkernels.ops.deform import _case
from mmkernels.ops.deform_attention import _attention_case
from mmkernels.verify import case_operands, run
from test_deform import ATTENTION, CONV
from test_emulated import check_floor

BORDER: dict[str, Any] = {"padding": (1, 1, 1, 1), "optional": ("bias", "mask")}
CASES: dict[str, dict[str, Case]] = {
    "large tiles": dict(zip(CONV, _case("c", (2, 4, 40, 41), (1, 1), 72, optional=("bias",)), strict=True)),
    "several rounds": dict(zip(CONV, _case("c", (3, 12, 14, 13), (3, 3), 9, offset_groups=2, **BORDER), strict=True)),
    "channels in parts": dict(zip(CONV, _case("c", (2, 20, 11, 12), (3, 3), 6, groups=2, **BORDER), strict=True)),
    "packs of channels": dict(
        zip(CONV, _case("c", (2, 24, 9, 7), (2, 2), 10, stride=(2, 1), offset_groups=2, **BORDER), strict=True)
    ),
    "many channels": dict(zip(CONV, _case("c", (1, 904, 3, 2), (1, 1), 3, optional=("mask",)), strict=True)),
    "attention, many channels": dict(zip(ATTENTION, _attention_case("a", 1, 3, 2, 904, 2, (3, 2)), strict=True)),
    "attention, several blocks": dict(
        zip(ATTENTION, _attention_case("a", 2, 60, 3, 8, 4, (9, 7), (4, 4)), strict=True)
    ),
}


def check(operator: str, case: Case, dtype: str, operands: dict[str, Any]) -> None:
    wanted = run(OPERATORS[operator], case, operands)
    first = None
    for schedule in (Schedule(), Schedule("random", 2, late=False)):
        found = check_floor("_emulated", OPERATORS[operator], case, dtype, schedule, operands, wanted=wanted)
        first = first or found
        assert harness.same_bits(found, first)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "operator"), [(name, operator) for name, of in CASES.items() for operator in of])
def test_kernels(name: str, operator: str, dtype: str) -> None:
    case = CASES[name][operator]
    check(operator, case, dtype, case_operands(OPERATORS[operator].contract, case, dtype))


@pytest.mark.parametrize("operator", ["deform_conv2d", "deform_conv2d_input_grad", "deform_conv2d_weight_grad"])
def test_checked(operator: str) -> None:
    case = CASES["several rounds"][operator]
    operands = case_operands(OPERATORS[operator].contract, case, "float32")
    check_floor("_emulated_check", OPERATORS[operator], case, "float32", Schedule("random", 3), operands, check=True)


@pytest.mark.parametrize("spread", [0.0, 0.7])
def test_crowded_cells(spread: float) -> None:
    """All samples at one place, or at few: lists of hundreds, and still the CPU's order."""
    operator = "deform_conv2d_input_grad"
    case = _case("c", (1, 4, 9, 8), (2, 2), 3, optional=("mask",))[1]
    operands = case_operands(OPERATORS[operator].contract, case, "float32")
    p, q = np.meshgrid(np.arange(8.0), np.arange(7.0), indexing="ij")
    away = [[4.25 - r - p, 3.5 - s - q] for r in range(2) for s in range(2)]
    operands["offset"] = (np.reshape(away, (1, 8, 8, 7)) + spread * operands["offset"]).astype(np.float32)
    check(operator, case, "float32", operands)

    operator, case = "ms_deform_attention_value_grad", _attention_case("a", 1, 90, 1, 5, 3, (4, 3))[1]
    operands = case_operands(OPERATORS[operator].contract, case, "float32")
    operands["sampling_locations"] = np.float32(0.5) + np.float32(spread / 4) * operands["sampling_locations"]
    check(operator, case, "float32", operands)
