"""Every law on every case of every operator. Nothing is listed here: operators and cases come from the contracts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import harness
from mmkernels.contract import Case
from mmkernels.operator import OPERATORS, Operator


def dtypes_of(operator: Operator) -> list[str]:
    """The float types that an operator has a form in; operators on integers alone are run once."""
    contract = operator.contract
    types = {t for a in (*contract.inputs, *contract.outputs) for t in contract.types.get(a.type, (a.type,))}
    return [t for t in ("float32", "float64") if t in types] or ["float32"]


def cases_of(operator: Operator) -> list[Case]:
    return [case for case in operator.contract.cases if not case.bench]


LAW_CALLS = [
    pytest.param(operator, case, dtype, id=f"{dtype}-{name}-{case.name}")
    for name, operator in sorted(OPERATORS.items())
    for case in cases_of(operator)
    for dtype in dtypes_of(operator)
]
DIFFERENTIABLE = [
    pytest.param(operator, case, id=f"{name}-{case.name}")
    for name, operator in sorted(OPERATORS.items())
    if operator.contract.vjp or operator.contract.composition
    for case in cases_of(operator)
]


@pytest.mark.parametrize("law", harness.LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize(("operator", "case", "dtype"), LAW_CALLS)
def test_law(law: Callable[[Operator, Case, str], None], operator: Operator, case: Case, dtype: str) -> None:
    law(operator, case, dtype)


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_requires(name: str) -> None:
    harness.law_requires(OPERATORS[name], "float32")


@pytest.mark.parametrize(("operator", "case"), DIFFERENTIABLE)
def test_gradients(operator: Operator, case: Case) -> None:
    harness.law_gradients(operator, case)
