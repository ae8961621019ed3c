"""Every law on every case of every operator. Nothing is listed here: operators and cases come from the contracts."""

from __future__ import annotations

import pytest

import harness
from mmkernels.contract import Case
from mmkernels.operator import OPERATORS, Operator

CASES = [
    pytest.param(OPERATORS[name], case, id=f"{name}-{case.name}")
    for name in sorted(OPERATORS)
    for case in OPERATORS[name].contract.cases
    if not case.bench
]


@pytest.mark.parametrize("law", harness.LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize(("operator", "case"), CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_law(law: object, operator: Operator, case: Case, dtype: str) -> None:
    types = {t for a in (*operator.contract.inputs, *operator.contract.outputs) for t in
             operator.contract.types.get(a.type, (a.type,))}  # fmt: skip
    if dtype not in types:
        if dtype == "float64":
            return  # the operator has no float64 form
        assert not types & {"float64"}
    law(operator, case, dtype)  # type: ignore[operator]


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_requires(name: str) -> None:
    harness.law_requires(OPERATORS[name], "float32")


@pytest.mark.parametrize(("operator", "case"), CASES)
def test_gradients(operator: Operator, case: Case) -> None:
    harness.law_gradients(operator, case)
