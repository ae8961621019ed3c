"""Every law on every case of every operator. Nothing is listed here: operators and cases come from the contracts."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes  # noqa: F401  (names bfloat16 for NumPy)
import pytest

import harness
from mmkernels.contract import WIDE, Case
from mmkernels.operator import OPERATORS, Operator


def dtypes_of(operator: Operator, *among: str) -> list[str]:
    """Those of the types that an operator has a form in."""
    contract = operator.contract
    types = {t for a in (*contract.inputs, *contract.outputs) for t in contract.types.get(a.type, (a.type,))}
    return [t for t in among if t in types]


def cases_of(operator: Operator) -> list[Case]:
    return [case for case in operator.contract.cases if not case.bench]


LAW_CALLS = [
    pytest.param(operator, case, dtype, id=f"{dtype}-{name}-{case.name}")
    for name, operator in sorted(OPERATORS.items())
    for case in cases_of(operator)
    for dtype in dtypes_of(operator, "float32", "float64") or ["float32"]  # on integers alone: once
    if operator.contract.serves(case.attributes, dtype)
]
STORED = [
    pytest.param(operator, case, dtype, id=f"{dtype}-{name}-{case.name}")
    for name, operator in sorted(OPERATORS.items())
    for case in cases_of(operator)
    for dtype in dtypes_of(operator, *WIDE)
    if operator.contract.serves(case.attributes, dtype)
]
DIFFERENTIABLE = [
    pytest.param(operator, case, id=f"{name}-{case.name}")
    for name, operator in sorted(OPERATORS.items())
    if operator.contract.vjp or operator.contract.composition
    for case in cases_of(operator)
    if operator.contract.serves(case.attributes, "float64")  # whose differences are exact enough
]


@pytest.mark.parametrize("law", harness.LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize(("operator", "case", "dtype"), LAW_CALLS)
def test_law(law: Callable[[Operator, Case, str], None], operator: Operator, case: Case, dtype: str) -> None:
    law(operator, case, dtype)


@pytest.mark.parametrize(("operator", "case", "dtype"), STORED)
def test_storage(operator: Operator, case: Case, dtype: str) -> None:
    harness.law_storage(operator, case, dtype)


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_requires(name: str) -> None:
    harness.law_requires(OPERATORS[name], "float32")


@pytest.mark.parametrize(("operator", "case"), DIFFERENTIABLE)
def test_gradients(operator: Operator, case: Case) -> None:
    harness.law_gradients(operator, case)
