"""What configurations are drawn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Random = np.random.Generator
# (operand arrays, our function, torch's function, contract's name, plain attributes)
Config = tuple[list[Any], Callable[..., Any], Callable[..., Any], str, dict[str, Any]]


def normal(random: Random, *shape: int) -> Any:
    return random.standard_normal(shape).astype(np.float32)


def maybe(random: Random, x: Any) -> Any:
    return x if random.random() < 0.6 else None


def size(random: Random, low: int, high: int) -> int:
    return int(random.integers(low, high + 1))


def pair(random: Random, low: int, high: int) -> tuple[int, int]:
    return size(random, low, high), size(random, low, high)
