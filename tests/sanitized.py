"""The reduced set that the sanitized build runs: every operator's cases, every instruction set, strange layouts."""

from __future__ import annotations

import pytest

import harness
from mmkernels import _core
from mmkernels.contract import Case
from mmkernels.operator import OPERATORS, Operator
from mmkernels.verify import case_operands, instruction_set, run

CASES = [
    pytest.param(OPERATORS[name], case, id=f"{name}-{case.name}")
    for name in sorted(OPERATORS)
    for case in OPERATORS[name].contract.cases
    if not case.bench
]


@pytest.mark.parametrize(("operator", "case"), CASES)
def test_sanitized(operator: Operator, case: Case) -> None:
    operands = case_operands(operator.contract, case)
    for isa in _core.available_isas():
        with instruction_set(isa):
            run(operator, case, operands)
    harness.law_layouts(operator, case, "float32")
    harness.law_out(operator, case, "float32")


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_errors_under_the_sanitizers(name: str) -> None:
    operator = OPERATORS[name]
    harness.law_requires(operator, "float32")
    harness.law_errors(operator, operator.contract.cases[0], "float32")
