"""What two floors owe each other: the calls that both must answer, and how their answers may differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes  # noqa: F401  (names bfloat16 for NumPy)
import numpy as np
from numpy.typing import NDArray

import harness
from mmkernels.contract import Case
from mmkernels.operator import OPERATORS, Operator

Array = NDArray[Any]


def dtypes_of(operator: Operator) -> list[str]:
    """The float types that an operator has a form in; operators on integers alone are run once."""
    contract = operator.contract
    types = {t for a in (*contract.inputs, *contract.outputs) for t in contract.types.get(a.type, (a.type,))}
    return [t for t in ("float32", "float64", "float16", "bfloat16") if t in types] or ["float32"]


def calls(*dtypes: str) -> list[tuple[Operator, Case, str]]:
    """Every operator, small case and dtype (of those named)."""
    return [
        (operator, case, dtype)
        for _, operator in sorted(OPERATORS.items())
        for case in operator.contract.cases
        if not case.bench
        for dtype in dtypes_of(operator)
        if (not dtypes or dtype in dtypes) and operator.contract.serves(case.attributes, dtype)
    ]


def call_id(operator: Operator, case: Case, dtype: str) -> str:
    return f"{dtype}-{operator.name}-{case.name}"


def check_found(
    operator: Operator,
    case: Case,
    dtype: str,
    operands: Mapping[str, Array],
    found: tuple[Array, ...],
    wanted: tuple[Array, ...],
    where: str,
) -> None:
    """The CPU floor's bits, but for tensor cores and float64, which are held to bounds."""
    if harness.same_bits(found, wanted):
        return
    if operator.contract.on_tensor_cores(case.attributes, dtype):
        kind = "tensor_" + operator.contract.bound.kind
        harness.check_against_reference(operator, case, operands, dtype, found=found, bound=kind)
    elif dtype == "float64":  # libm on a device is not the host's
        harness.check_against_reference(operator, case, operands, dtype, found=found)
    else:
        raise AssertionError(f"{differences(operator, found, wanted)}\n{where}")


def differences(operator: Operator, found: tuple[Array, ...], wanted: tuple[Array, ...]) -> str:
    """Where two floors' results first differ."""
    lines = []
    for out, y, w in zip(operator.contract.outputs, found, wanted, strict=False):
        if y.shape != w.shape or y.dtype != w.dtype:
            lines.append(f"{out.name} is {y.dtype}{y.shape}, wanted {w.dtype}{w.shape}")
            continue
        size = y.dtype.itemsize
        bits = [np.ascontiguousarray(harness.canonical(z)).view(f"u{size}") for z in (y, w)]
        differ = np.argwhere(bits[0] != bits[1])
        if len(differ):
            at = tuple(differ[0])
            lines.append(f"{out.name}: {len(differ)} of {y.size} differ, first {at}: {y[at]!r}, wanted {w[at]!r}")
    return "; ".join(lines)
