"""Where the time goes: seconds and calls per operator and family.

>>> import numpy as np, mmkernels as mmk
>>> from mmkernels.profile import profile
>>> with profile() as times:
...     _ = mmk.add(np.ones(3), 1.0)
>>> times.operators["add"].calls, times.families()["pointwise"].calls
(1, 1)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from .operator import OPERATORS, Operator

__all__ = ["Times", "Total", "family_of", "profile"]


@dataclass
class Total:
    """Seconds inside an operator's compiled entry, and how often it was called."""

    seconds: float = 0.0
    calls: int = 0


@dataclass
class Times:
    """What profile() measures: totals by operator name; ``wall`` is the whole time under the context manager."""

    operators: dict[str, Total] = field(default_factory=dict)
    wall: float = 0.0

    def families(self) -> dict[str, Total]:
        """Totals by family, the longest first."""
        result: dict[str, Total] = {}
        for name, total in self.operators.items():
            family = result.setdefault(family_of(name), Total())
            family.seconds += total.seconds
            family.calls += total.calls
        return dict(sorted(result.items(), key=lambda item: -item[1].seconds))


def family_of(operator: str) -> str:
    """The family that an operator belongs to: the module of mmkernels.ops that states its contract, up to a "_".

    Raises KeyError for an unknown name.

    >>> from mmkernels.profile import family_of
    >>> family_of("silu_grad")
    'activation'
    """
    contract = OPERATORS[operator].contract
    prefix = f"{__package__}.ops."
    for name, module in list(sys.modules.items()):
        if name.startswith(prefix) and any(value is contract for value in vars(module).values()):
            return name.removeprefix(prefix).partition("_")[0]  # norm_batch is a room of norm
    raise KeyError(operator)


@contextmanager
def profile() -> Iterator[Times]:
    """Measures every operator called within it, at about half a microsecond a call.

    A call on Variables reaches the compiled entry through the tape; only the entry's own time counts. Threads of the
    caller's that run operators at the same time are counted together.
    """
    times = Times()
    inner = 0  # entries that have returned: one that called others is no kernel itself

    def timed(operator: Operator, call: Callable[..., Any]) -> Callable[..., Any]:
        total = times.operators[operator.name] = Total()

        def entry(*arguments: Any) -> Any:
            nonlocal inner
            before = inner
            start = perf_counter()
            result = call(*arguments)
            seconds = perf_counter() - start
            if inner == before:
                total.seconds += seconds
                total.calls += 1
            inner += 1
            return result

        return entry

    bare = {operator: operator.call for operator in OPERATORS.values()}
    start = perf_counter()
    for operator, call in bare.items():
        operator.call = timed(operator, call)
    try:
        yield times
    finally:
        for operator, call in bare.items():
            operator.call = call
        times.wall = perf_counter() - start
        times.operators = {name: total for name, total in times.operators.items() if total.calls}
