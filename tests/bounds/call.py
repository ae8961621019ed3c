"""What a bound sees of a call, and the depths of the arithmetic's sums."""

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
    storage: float = 0.0  # unit of rounding of the operands' type where it is narrower than what computes

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
