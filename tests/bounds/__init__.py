"""How far a result may be from the exact one: a function per algorithm, named by Bound.kind in the contracts.

Each derives a bound per element from the operands, by the usual first-order analysis: u is the unit roundoff, a sum of
depth d has an error of at most d * u * (sum of the absolute terms). Products of u are dropped and covered by the 1.01
in `allowed`. Nothing here is fitted to what the kernels happen to give.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

import numpy as np

from .call import Array, Call, as_tuple

__all__ = ["Array", "Call", "allowed", "as_tuple"]


def kind_of(name: str) -> Callable[[Call], list[Array]]:
    """The function of this name, in whichever module of this package it is."""
    for module in pkgutil.iter_modules(__path__):
        found = getattr(importlib.import_module(f"{__name__}.{module.name}"), name, None)
        if found is not None:
            return found  # type: ignore[no-any-return]
    raise LookupError(f"no bound is called {name}")


def allowed(kind: str, call: Call, tiny: float) -> list[Array]:
    """The bound of this kind; `tiny` is the smallest subnormal of the results' dtype, which roundings may cost."""
    with np.errstate(all="ignore"):
        return [1.01 * b + 2 * tiny for b in kind_of(kind)(call)]
