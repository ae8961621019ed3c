"""The CUDA floor without a GPU: every operator, case and dtype, under every schedule of the emulator, against the CPU
floor's bits; small cases under its checker. Nothing is listed here: operators and cases come from the contracts."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import harness
from emulated import SCHEDULES, Array, Schedule, floor, run_on, scheduled
from floors import call_id, calls, check_found, differences
from mmkernels.contract import Case
from mmkernels.errors import ContractError
from mmkernels.interop import device
from mmkernels.operator import OPERATORS, Operator
from mmkernels.verify import case_operands, run


def parameters(*dtypes: str) -> list[Any]:
    return [pytest.param(*call, id=call_id(*call)) for call in calls(*dtypes)]


CALLS = parameters()


@functools.lru_cache(maxsize=4)
def _on_cpu(name: str, case_name: str, dtype: str) -> tuple[dict[str, Array], tuple[Array, ...]]:
    operator = OPERATORS[name]
    case = next(c for c in operator.contract.cases if c.name == case_name)
    operands = case_operands(operator.contract, case, dtype)
    return operands, run(operator, case, operands)


def check_floor(
    module_name: str,
    operator: Operator,
    case: Case,
    dtype: str,
    schedule: Schedule,
    operands: Mapping[str, Array],
    check: bool = False,
    wanted: tuple[Array, ...] | None = None,
) -> tuple[Array, ...]:
    """One run against the CPU floor: the same bits, but for tensor cores and float64, which are held to bounds."""
    module = floor(module_name)
    with scheduled(module, schedule, check):
        found = run_on(module, operator, case, operands)
    if wanted is None:
        wanted = run(operator, case, operands)
    where = f"python tests/emulated.py {operator.name} {case.name!r} {dtype}"
    check_found(operator, case, dtype, operands, found, wanted, f"{where}, {schedule}")
    return found


@pytest.mark.parametrize(("operator", "case", "dtype"), CALLS)
def test_schedules(operator: Operator, case: Case, dtype: str) -> None:
    """In order, in reverse and in three random orders, with late and early copies: always the same bits."""
    operands, wanted = _on_cpu(operator.name, case.name, dtype)
    first = None
    for schedule in SCHEDULES:
        found = check_floor("_emulated", operator, case, dtype, schedule, operands, wanted=wanted)
        first = first or found
        assert harness.same_bits(found, first), f"{schedule} gives other bits than {SCHEDULES[0]}"


@pytest.mark.parametrize(("operator", "case", "dtype"), CALLS)
def test_checked(operator: Operator, case: Case, dtype: str) -> None:
    """No race, no access out of bounds, nothing read that was not written, under a random order."""
    operands, wanted = _on_cpu(operator.name, case.name, dtype)
    check_floor("_emulated_check", operator, case, dtype, Schedule("random", 7), operands, check=True, wanted=wanted)


LAYOUTS = (
    harness.fortran, harness.strided, harness.reversed_memory, harness.channels_last, harness.broadcast_view,
)  # fmt: skip


@pytest.mark.parametrize(("operator", "case", "dtype"), parameters("float32", "bfloat16"))
def test_layouts(operator: Operator, case: Case, dtype: str) -> None:
    """Strides and the alignment of the first element change no bit; where order in 16 bits may depend on the way that
    an operand lies, results stay within their bounds."""
    operands, wanted = _on_cpu(operator.name, case.name, dtype)
    for layout in LAYOUTS:
        for first in (0, 1):
            module = floor("_emulated_check" if layout is harness.channels_last and first else "_emulated")
            door = device.library(module.__name__)
            given = {name: door.place(layout(x), first) for name, x in operands.items()}
            with scheduled(module, Schedule(), check=module.__name__ == "_emulated_check"):
                found = run_on(module, operator, case, given)
            check_found(operator, case, dtype, operands, found, wanted, f"{layout.__name__}, first {first}")


@pytest.mark.parametrize(("operator", "case", "dtype"), parameters("float32", "float16"))
def test_out(operator: Operator, case: Case, dtype: str) -> None:
    """Results that are given are written whole, one in any layout, and nothing beside it is touched."""
    operands, wanted = _on_cpu(operator.name, case.name, dtype)
    if not wanted[0].size:
        return
    module = floor("_emulated")
    door = device.library(module.__name__)
    found = run_on(module, operator, case, operands)
    if len(wanted) != 1:
        outs = tuple(door.from_numpy(np.full_like(y, np.nan if harness.is_float(y) else 1), None) for y in found)
        with scheduled(module, Schedule("reverse")):
            again = run_on(module, operator, case, operands, outs)
        assert harness.same_bits(again, found), differences(operator, again, found)
        assert harness.same_bits(tuple(map(door.to_numpy, outs)), found)
        if found[0].shape == found[1].shape and found[0].dtype == found[1].dtype:
            with pytest.raises(ContractError, match=r"out\[1\] overlaps out\[0\]; expected memory of its own"):
                run_on(module, operator, case, operands, (outs[0], outs[0], *outs[2:]))
        return
    for layout in (harness.strided, harness.fortran):
        wide = np.zeros((wanted[0].size * 2 + 8,), wanted[0].dtype)
        memory = door.from_numpy(wide, None)
        step = 2 if layout is harness.strided else 1
        inside = memory[4 : 4 + wanted[0].size * step : step]
        shape = wanted[0].shape
        out = np.lib.stride_tricks.as_strided(
            inside, shape, _fortran_strides(shape, inside.strides[0], layout is harness.fortran), subok=True
        )
        with scheduled(module, Schedule("reverse")):
            again = run_on(module, operator, case, operands, out)
        assert harness.same_bits(again, found), differences(operator, again, found)
        written = np.zeros(wide.shape, bool)
        written[4 : 4 + wanted[0].size * step : step] = True
        assert not door.to_numpy(memory)[~written].astype(np.float64).any()


def _fortran_strides(shape: tuple[int, ...], first: int, fortran: bool) -> tuple[int, ...]:
    strides, size = [], first
    for extent in shape if fortran else shape[::-1]:
        strides.append(size)
        size *= extent
    return tuple(strides if fortran else strides[::-1])
