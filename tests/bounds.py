"""How far a result may be from the exact one: a function per algorithm, named by Bound.kind in the contracts.

Each derives a bound per element from the operands, by the usual first-order analysis: u is the unit roundoff, a sum of
depth d has an error of at most d * u * (sum of the absolute terms). Products of u are dropped and covered by the 1.01
in `allowed`. Nothing here is fitted to what the kernels happen to give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass
class Call:
    """One call as a bound sees it: exact operands and results in float64 or wider, and the reference to ask again."""

    operands: Sequence[Array | None]
    attributes: Mapping[str, Any]
    names: Mapping[str, Any]
    reference: Callable[..., Any]
    results: Sequence[Array]
    unit: float
    depth: int
    ulp: float

    def magnitude(self, **changed: Any) -> list[Array]:
        """The reference on absolute operands: the sum of the absolute terms, where the result is a sum of products."""
        absolute = [o if o is None or o.dtype.kind not in "f" else np.abs(o) for o in self.operands]
        return as_tuple(self.reference(*absolute, **{**self.attributes, **changed}))


def as_tuple(result: Any) -> list[Array]:
    return list(result) if isinstance(result, tuple) else [result]


def long_sum_depth(count: int) -> int:
    """Additions on the longest path of the long sum: 8 in a chunk, the tree, 4 for the lanes."""
    return 8 + (math.ceil(math.log2(max(1, count / 128))) + 1) + 4


def dot_depth(count: int) -> int:
    """Roundings on the longest path of a chunked dot product: a chunk's chain, the chunks, bias and residual."""
    return min(256, count) + math.ceil(count / 256) + 2


def exact(call: Call) -> list[Array]:
    return [np.zeros(np.shape(y)) for y in call.results]


def elementwise(call: Call) -> list[Array]:
    return [2 * call.ulp * call.unit * np.abs(y) for y in call.results]


def sum(call: Call) -> list[Array]:
    depth = long_sum_depth(call.depth) * call.unit
    return [
        depth * m + 2 * call.ulp * call.unit * np.abs(y) for m, y in zip(call.magnitude(), call.results, strict=True)
    ]


def dot(call: Call) -> list[Array]:
    """Chunked products; a fused activation passes errors on with a slope of at most 1.13 (GELU's)."""
    fused = call.attributes.get("activation") is not None
    terms = call.magnitude(activation=None) if fused else call.magnitude()
    scale = (1.13 if fused else 1.0) * dot_depth(call.depth) * call.unit
    return [scale * m + 2 * call.ulp * call.unit * np.abs(y) for m, y in zip(terms, call.results, strict=True)]


def chain(call: Call) -> list[Array]:
    """Terms added one after another: depth of them at most."""
    scale, rounding = call.depth * call.unit, 2 * call.ulp * call.unit
    return [scale * np.abs(m) + rounding * np.abs(y) for m, y in zip(call.magnitude(), call.results, strict=True)]


def allowed(kind: str, call: Call, tiny: float) -> list[Array]:
    """The bound of this kind; `tiny` is the smallest subnormal of the results' dtype, which roundings may cost."""
    with np.errstate(all="ignore"):
        return [1.01 * b + 2 * tiny for b in globals()[kind](call)]
