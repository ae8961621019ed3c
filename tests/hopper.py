"""What the tests of the kernels for Hopper share: the switch, and which kernel a call has run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from emulated import Array, Schedule, floor, run_on, scheduled
from mmkernels.contract import Case
from mmkernels.interop import device
from mmkernels.operator import Operator

CHECKED = Schedule("random", 5)


def switched(monkeypatch: pytest.MonkeyPatch, on: bool) -> None:
    if on:
        monkeypatch.setenv("MMK_CUDA_ARCH", "sm_90a")
    else:
        monkeypatch.delenv("MMK_CUDA_ARCH", raising=False)


def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list to which every call from now on adds the way that was chosen, and why."""
    ways: list[str] = []
    find = device._plan

    class Told:
        def __init__(self, plan: Any) -> None:
            self.plan = plan

        def run(self, *arguments: Any) -> str:
            ways.append(self.plan.run(*arguments[:-1], True))
            return ""

    def find_told(*arguments: Any) -> tuple[Any, ...]:
        plan, *rest = find(*arguments)
        return Told(plan), *rest

    monkeypatch.setattr(device, "_plan", find_told)
    return ways


def call(
    operator: Operator, case: Case, operands: Mapping[str, Array], checked: bool = False, out: Any = None
) -> tuple[Array, ...]:
    module = floor("_emulated_check" if checked else "_emulated")
    with scheduled(module, CHECKED if checked else Schedule(), checked):
        return run_on(module, operator, case, operands, out)
