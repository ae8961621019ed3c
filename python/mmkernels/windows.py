"""What callers may write for the sizes, steps and borders of windows, as plain tuples of integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .errors import ContractError

__all__ = ["borders", "listed", "per_dimension"]

_DIMENSIONS = {1: "", 2: ", or two for rows and columns", 3: ", or three for depth, rows and columns"}
_BORDERS = {
    1: "(width,), ((left, right),)",
    2: "(height, width), ((top, bottom), (left, right))",
    3: "(depth, height, width), ((front, back), (top, bottom), (left, right))",
}


def listed(value: Any) -> Any:
    """An array of numbers as a list; anything else as it is.

    >>> import numpy as np
    >>> listed(np.array([1, 2])), listed((1, 2))
    ([1, 2], (1, 2))
    """
    return value.tolist() if hasattr(value, "tolist") else value


def per_dimension(value: Any, name: str, dims: int) -> tuple[Any, ...]:
    """One int for all dimensions, or one for each.

    >>> per_dimension(2, "stride", 3), per_dimension([1, 2], "stride", 2)
    ((2, 2, 2), (1, 2))
    """
    if isinstance(value, (tuple, list)):
        if len(value) == dims:
            return tuple(value)
        raise ContractError(f"{name} is {value!r}; expected one integer{_DIMENSIONS[dims]}")
    return (value,) * dims


def borders(padding: Any, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> tuple[Any, ...]:
    """Any form of padding as numbers before and after, a dimension after another. The odd element of "same" goes to
    the end.

    >>> borders("same", (3, 4), (1, 1), (1, 1)), borders((1, 2), (3, 3), (1, 1), (1, 1))
    ((1, 1, 1, 2), (1, 1, 2, 2))
    """
    dims = len(stride)
    if isinstance(padding, str):
        if padding == "valid":
            return (0,) * (2 * dims)
        if padding != "same":
            raise ContractError(f"padding is {padding!r}; expected 'same', 'valid' or numbers")
        if any(s != 1 for s in stride):
            raise ContractError(f"padding is 'same' and stride is {tuple(stride)}; expected stride 1")
        spare = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple(side for n in spare for side in (n // 2, n - n // 2))
    if not isinstance(padding, (tuple, list)):
        return (padding,) * (2 * dims)
    flat: list[Any] = []
    for side in padding:
        flat.extend(side if isinstance(side, (tuple, list)) else (side,))
    nested = [len(side) for side in padding if isinstance(side, (tuple, list))]
    if len(padding) == dims and not nested:
        return tuple(side for side in flat for _ in range(2))
    if (len(padding) == 2 * dims and not nested) or (len(padding) == dims and nested == [2] * dims):
        return tuple(flat)
    raise ContractError(f"padding is {padding!r}; expected one integer, {_BORDERS[dims]}, 'same' or 'valid'")
