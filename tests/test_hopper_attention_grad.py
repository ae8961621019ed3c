"""attention's gradients for Hopper (csrc/cuda/attention.grad.sm90.cu) on the emulator: bounds, schedules, batches,
values that are not finite, and the calls that are left to the portable kernels."""

from __future__ import annotations

import math

import ml_dtypes  # noqa: F401  (names bfloat16 for NumPy)
import numpy as np
import pytest

import harness
from emulated import SCHEDULES, Array, Schedule, floor, run_on, scheduled
from floors import call_id, calls
from hopper import CHECKED, call, switched, told
from mmkernels.contract import Case
from mmkernels.interop import device
from mmkernels.operator import OPERATORS, Operator
from mmkernels.verify import case_operands, run

GRAD = OPERATORS["attention_grad"]
OURS = "tensor copies and wgmma"


@pytest.fixture(autouse=True)
def _hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    switched(monkeypatch, True)


def case_of(extents: str, causal: int = 0, optional: tuple[str, ...] = ()) -> Case:
    """A case from "B H Hkv Sq Sk D Dv" in numbers."""
    named = dict(zip(("B", "H", "Hkv", "Sq", "Sk", "D", "Dv"), map(int, extents.split()), strict=True))
    return Case(
        extents, {**named, "B": (named["B"],)}, {"causal": causal, "scale": 1 / math.sqrt(named["D"])}, optional
    )


# Blocks own 128 rows, for each of two multiprocessors; four stages of 64 rows are brought to them.
CASES = {
    "one tile": ("1 1 1 5 7 8 8", "float16"),
    "laps of queries": ("1 1 1 390 70 64 64", "bfloat16"),
    "laps of keys": ("1 1 1 70 390 64 40", "float16"),
    "several pieces of work": ("2 3 3 150 140 24 64", "bfloat16"),
    "query heads of a group": ("1 6 2 140 70 64 64", "float16"),
    "128 columns": ("1 2 1 150 333 128 72", "bfloat16"),
    "128 columns of values": ("1 2 2 200 65 40 128", "float16"),
}


@pytest.mark.parametrize("name", CASES)
def test_schedules(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the bound, always the same bits; on the emulator with those of mma.sync, whose order is the same."""
    extents, dtype = CASES[name]
    case = case_of(extents)
    operands = case_operands(GRAD.contract, case, dtype)
    module, first, ways = floor("_emulated"), None, told(monkeypatch)
    for schedule in SCHEDULES:
        with scheduled(module, schedule):
            found = run_on(module, GRAD, case, operands)
        first = first or found
        assert harness.same_bits(found, first), f"{schedule} gives other bits than {SCHEDULES[0]}"
    assert all(OURS in way for way in ways)
    harness.check_against_reference(GRAD, case, operands, dtype, found=first, bound="tensor_attention_grad")
    switched(monkeypatch, False)
    assert harness.same_bits(call(GRAD, case, operands), first or ())
    assert OURS not in ways[-1]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("schedule", [CHECKED, Schedule("reverse", late=False)], ids=str)
def test_checked(name: str, schedule: Schedule) -> None:
    """No race, nothing out of bounds, nothing read before it was delivered."""
    extents, dtype = CASES[name]
    case = case_of(extents)
    operands = case_operands(GRAD.contract, case, dtype)
    module = floor("_emulated_check")
    with scheduled(module, schedule, check=True):
        run_on(module, GRAD, case, operands)


CONTRACTED = [c for c in calls("float16", "bfloat16") if c[0] is GRAD]


@pytest.mark.parametrize(("operator", "case", "dtype"), CONTRACTED, ids=[call_id(*c) for c in CONTRACTED])
def test_contract(operator: Operator, case: Case, dtype: str) -> None:
    """The contract's cases, whichever kernel serves them."""
    operands = case_operands(operator.contract, case, dtype)
    found = call(operator, case, operands, checked=True)
    harness.check_against_reference(operator, case, operands, dtype, found=found, bound="tensor_attention_grad")


def test_batches_and_layouts() -> None:
    """A sample alone, heads beside each other, and strides that no tensor copy walks: the same bits."""
    case = case_of("2 2 2 70 70 64 64")
    operands = case_operands(GRAD.contract, case, "bfloat16")
    wanted = call(GRAD, case, operands)
    single = case_of("1 2 2 70 70 64 64")
    one = call(GRAD, single, {n: x[1:] for n, x in operands.items()})
    assert harness.same_bits(one, tuple(y[1:] for y in wanted))
    door = device.library(floor("_emulated").__name__)

    def beside(x: Array) -> Array:
        return np.ascontiguousarray(np.swapaxes(x, 1, 2)).swapaxes(1, 2)

    for layout in (beside, harness.fortran, harness.strided, harness.reversed_memory):
        for first in (0, 1):
            given = {n: door.place(layout(x), first) for n, x in operands.items()}
            assert harness.same_bits(call(GRAD, case, given), wanted), (layout, first)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_not_finite(dtype: str) -> None:
    """NaN and infinities where the CPU floor has them."""
    case = case_of("1 2 1 150 140 64 64")
    operands = case_operands(GRAD.contract, case, dtype)
    operands["gy"][0, 1, 7, 3] = np.inf
    operands["k"][0, 0, 130, 9] = np.nan
    for y, w in zip(call(GRAD, case, operands), run(GRAD, case, operands), strict=True):
        assert np.array_equal(np.isnan(y), np.isnan(w)) and np.array_equal(np.isinf(y), np.isinf(w))
        assert np.isnan(y).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_queries_without_scores(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries without a score above -inf take no part, whatever their rows hold."""
    case = case_of("1 2 1 150 140 64 64")
    operands = case_operands(GRAD.contract, case, dtype)
    operands["k"][..., 0] = np.abs(operands["k"][..., 0]) + 1
    operands["q"][0, 0, 66:69, 0] = -np.inf
    operands["gy"][0, 0, 67] = np.nan
    operands["lse"][0, 0, 66:69] = -np.inf
    operands["y"][0, 0, 66:69] = 0
    found = call(GRAD, case, operands, checked=True)
    assert np.isfinite(found[1]).all() and np.isfinite(found[2]).all() and not found[0][0, 0, 66:69].any()
    switched(monkeypatch, False)
    assert harness.same_bits(call(GRAD, case, operands), found)


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel runs where it is asked for: 16 bits, head dimensions up to 128, no key hidden, no bias."""
    ways = told(monkeypatch)

    def ours(extents: str, dtype: str = "bfloat16", causal: int = 0, optional: tuple[str, ...] = ()) -> bool:
        case = case_of(extents, causal, optional)
        call(GRAD, case, case_operands(GRAD.contract, case, dtype))
        return OURS in ways[-1]

    assert ours("1 1 1 5 7 8 8") and ours("3 2 1 70 5 128 8", "float16")
    assert not ours("1 1 1 5 7 8 8", "float32") and not ours("1 1 1 5 7 8 8", causal=1)
    assert not ours("1 1 1 5 7 8 8", optional=("mask",)) and not ours("1 1 1 5 7 8 8", optional=("bias",))
    assert not ours("1 1 1 5 7 136 8") and not ours("1 1 1 5 7 8 9")
    switched(monkeypatch, False)
    assert not ours("1 1 1 5 7 8 8")
