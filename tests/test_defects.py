"""Defects planted into the real kernels, each of which the emulator has to find: what keeps its checker honest.

A defect is a line `MMK_DEFECT(name)` in csrc/cuda; tests/defects/<family>.py says which call shows it: operator, case,
dtype and, where it is needed, environment. Run with -s to
see how each was found.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import ml_dtypes  # noqa: F401  (names bfloat16 for NumPy)
import pytest

import defects
import harness
from emulated import Schedule, defect_id, floor, run_on
from mmkernels.operator import OPERATORS
from mmkernels.verify import case_operands

KERNELS = Path(__file__).parents[1] / "csrc" / "cuda"
DEFECTS: dict[str, tuple[str, str, str] | tuple[str, str, str, dict[str, str]]] = {}
for _module in pkgutil.iter_modules(defects.__path__):
    DEFECTS.update(importlib.import_module(f"defects.{_module.name}").DEFECTS)


def test_all_are_listed() -> None:
    named = set(re.findall(r"MMK_DEFECT\((\w+)\)", "".join(p.read_text() for p in KERNELS.glob("*.cu*"))))
    named -= {"name"}
    assert named == set(DEFECTS), named ^ set(DEFECTS)
    assert len(named) >= 20


@pytest.mark.parametrize("name", sorted(DEFECTS))
def test_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator_name, case_name, dtype, *environment = DEFECTS[name]
    for variable, value in (environment[0] if environment else {}).items():
        monkeypatch.setenv(variable, value)
    operator = OPERATORS[operator_name]
    case = next(c for c in operator.contract.cases if c.name == case_name)
    operands = case_operands(operator.contract, case, dtype)
    module = floor("_emulated_check")
    module.configure("in_order", 1, True, 0, False)
    wanted = run_on(module, operator, case, operands)
    seen = []
    for schedule in (Schedule(), Schedule("random", 1), Schedule("random", 2, late=False)):
        module.take_reports()
        module.configure(schedule.order, schedule.seed, schedule.late, schedule.preempt, True)
        module.plant_defect(defect_id(name))
        try:
            found = run_on(module, operator, case, operands)
        except RuntimeError as error:
            seen.append(str(error).strip().splitlines()[-1])
        else:
            if not harness.same_bits(found, wanted):
                seen.append("other results than without it")
        finally:
            module.plant_defect(0)
    assert seen, f"{name} was not found"
    print(f"\n{name}: {seen[0]}")
