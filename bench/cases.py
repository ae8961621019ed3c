"""What is measured, stated once for every machine: bench cases of the contracts, public workloads, and their cost."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "tests")]

import numpy as np
from workloads import LARGE, PUBLIC

import harness
from mmkernels.contract import Case, evaluate
from mmkernels.operator import OPERATORS, Operator
from mmkernels.verify import case_operands, random_values


@dataclass(frozen=True)
class Workload:
    name: str
    operator: Operator
    case: Case


def contract_workloads(names: Sequence[str] = ()) -> Iterator[Workload]:
    """The bench cases of the named operators, or of all."""
    for name in names or sorted(OPERATORS):
        operator = OPERATORS[name]
        for case in operator.contract.cases:
            if case.bench:
                yield Workload(f"{name} {case.name}", operator, case)


def public_workloads(names: Sequence[str] = (), large: bool = False) -> Iterator[Workload]:
    """The public workloads whose operator exists; those that fill a GPU too, if ``large``."""
    for name, operator, case in (*(LARGE if large else ()), *PUBLIC):
        if operator in OPERATORS and (not names or operator in names):
            yield Workload(name, OPERATORS[operator], case)


_PERIOD = 65537  # a prime, so that rows of usual lengths differ


def operands_of(workload: Workload, dtype: str = "float32") -> dict[str, Any]:
    """The case's operands; long ones repeat 65537 values, since drawing them all takes longer than measuring. Boxes
    are drawn one by one: repeated they would begin in the middle of another, and suppress each other."""

    def tiled(argument: Any, kind: str, shape: tuple[int, ...], names: Mapping[str, Any], key: int) -> Any:
        if int(np.prod(shape)) <= _PERIOD or argument.columns or argument.domain == "boxes":
            x = random_values(argument, kind, shape, names, key)
            if argument.column == 0 and shape[-1] == 5:  # an image's number and corners, which may be inverted
                x[:, 1:] = np.concatenate([np.minimum(x[:, 1:3], x[:, 3:]), np.maximum(x[:, 1:3], x[:, 3:])], 1)
            return x
        return np.resize(random_values(argument, kind, (_PERIOD,), names, key), shape)

    return case_operands(workload.operator.contract, workload.case, dtype, tiled)


def cost(workload: Workload, operands: Mapping[str, Any], results: Sequence[Any]) -> tuple[float, float]:
    """Floating-point operations and bytes moved, as the contract counts them; the bytes are each operand's and
    result's once where it says nothing."""
    operator = workload.operator
    given = tuple(operands.get(a.name) for a in operator.contract.inputs)
    names = operator.names(given, tuple(harness.plain_attributes(operator, workload.case).values()))
    flops = float(evaluate(operator.contract.flops, names))
    if operator.contract.moves is not None:
        return flops, float(evaluate(operator.contract.moves, names))
    return flops, float(sum(x.nbytes for x in operands.values()) + sum(y.nbytes for y in results))


@dataclass(frozen=True)
class Part:
    """The same call on the last index of its first free extent: small enough for another judge."""

    case: Case
    operands: dict[str, Any]
    extent: tuple[str, slice, int] | None

    def of_result(self, y: Any, shape: str) -> Any:
        """What belongs to it of a result of the whole call."""
        return harness.slice_extent(y, shape, *self.extent) if self.extent else y


def part_of(workload: Workload, operands: Mapping[str, Any]) -> Part:
    """The whole call, where no extent is free."""
    contract, case = workload.operator.contract, workload.case
    for extent in contract.free:
        n = case.extents.get(extent)
        n = (n[0] if n else 1) if isinstance(n, tuple) else n
        if n is None or n < 2:
            continue
        last = (extent, slice(n - 1, n), n)
        small = {a.name: harness.slice_extent(operands[a.name], a.shape, *last)
                 for a in contract.inputs if a.name in operands}  # fmt: skip
        return Part(replace(case, extents={k: v for k, v in case.extents.items() if k not in operands}), small, last)
    return Part(case, dict(operands), None)
