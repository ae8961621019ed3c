"""Switches: threads, and what a call would do."""

from __future__ import annotations

from typing import Any

from . import _core
from .errors import ContractError, ContractTypeError
from .operator import OPERATORS

__all__ = ["get_num_threads", "plan", "set_num_threads"]


def set_num_threads(n: int) -> None:
    """Lets operators use at most n threads from now on; no bit of any result depends on it.

    >>> import mmkernels as mmk
    >>> mmk.set_num_threads(2); mmk.get_num_threads()
    2
    """
    if isinstance(n, bool) or not isinstance(n, int):
        raise ContractTypeError(f"set_num_threads: n is {n!r}; expected an integer")
    if not 1 <= n <= 1024:
        raise ContractError(f"set_num_threads: n is {n}; expected 1 <= n <= 1024")
    _core.set_num_threads(n)


def get_num_threads() -> int:
    """The most threads that an operator uses: MMK_NUM_THREADS, or the processors that this process may use.

    >>> import mmkernels as mmk
    >>> mmk.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def plan(operator: str, *operands: Any, **attributes: Any) -> str:
    """Tells which variant of an operator runs for these operands, why, and how much scratch memory it takes.

    Runs the operator once, on arrays of any library; where it runs as several operators, each has a line. MMK_LOG=1
    prints the same line for every new signature. Raises what the operator raises.

    >>> import numpy as np, mmkernels as mmk
    >>> print(mmk.plan("add", np.ones(3), np.ones(3)))  # doctest: +ELLIPSIS
    add: ..., plain (the only one), ... threads at most, scratch 0 bytes
    """
    if not isinstance(operator, str) or operator not in OPERATORS:
        raise ContractError(f"plan: operator is {operator!r}; expected one of {', '.join(sorted(OPERATORS))}")
    entry = OPERATORS[operator]
    return entry.describe(*entry.arguments(*operands, **attributes))
