"""Array libraries: who made an array, and the few movements of data that mmkernels leaves to that library.

Libraries are recognised by the name of a type's module, so none is imported before one of its arrays is seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "broadcast_to", "concat", "library_of", "matrix_transpose", "pad", "permute", "reshape", "shape_of", "slice_of",
    "unsigned", "zeros_like",
]  # fmt: skip


def library_of(x: Any) -> str:
    """ "numpy", "torch", "cupy", "jax", "tape" (mmkernels.autograd), the name that a type gives itself as
    ``__mmkernels_library__`` (see mmkernels.interop.device), or "" for what is no array."""
    if type(x) is not np.ndarray:
        named = getattr(type(x), "__mmkernels_library__", None)
        if named is not None:
            return str(named)
    if isinstance(x, (np.ndarray, np.generic)):
        return "numpy"
    module = type(x).__module__
    if module == "mmkernels.autograd":
        return "tape"
    root = module.partition(".")[0]
    if root in ("torch", "cupy") and hasattr(x, "shape"):
        return root
    if root in ("jax", "jaxlib") and hasattr(x, "shape"):
        return "jax"
    for base in type(x).__mro__[1:]:  # subclasses, such as torch.nn.Parameter's
        if base.__module__ == "torch" and base.__name__ == "Tensor":
            return "torch"
    return ""


def shape_of(x: Any) -> tuple[int, ...]:
    """The extents as plain integers."""
    return tuple(int(n) for n in x.shape)


def reshape(x: Any, shape: Sequence[int]) -> Any:
    """The same elements in logical order under other extents."""
    return x.reshape(tuple(shape))


def permute(x: Any, axes: Sequence[int]) -> Any:
    """Axis i of the result is axis axes[i] of x."""
    return x.permute(*axes) if library_of(x) == "torch" else x.transpose(tuple(axes))


def matrix_transpose(x: Any) -> Any:
    """x with its last two axes exchanged."""
    rank = len(x.shape)
    return permute(x, (*range(rank - 2), rank - 1, rank - 2))


def broadcast_to(x: Any, shape: Sequence[int]) -> Any:
    """x with its extents of 1 repeated."""
    library = library_of(x)
    if library == "tape":
        return x.broadcast_to(tuple(shape))
    return x.expand(*shape) if library == "torch" else np.broadcast_to(x, tuple(shape))


def slice_of(x: Any, axis: int, start: int, stop: int) -> Any:
    """x[..., start:stop, ...] along one axis."""
    return x[(slice(None),) * axis + (slice(start, stop),)]


def concat(parts: Sequence[Any], axis: int) -> Any:
    """The parts, one after another along an axis."""
    libraries = [library_of(p) for p in parts]
    if "tape" in libraries:
        return parts[libraries.index("tape")].concat(parts, axis)
    if libraries[0] == "torch":
        import torch

        return torch.cat(list(parts), dim=axis)
    return np.concatenate(parts, axis=axis)


def pad(x: Any, widths: Sequence[tuple[int, int]]) -> Any:
    """x with zeros around it: (before, after) per axis."""
    library = library_of(x)
    if library == "tape":
        return x.pad(widths)
    if library == "torch":
        import torch

        return torch.nn.functional.pad(x, [n for pair in reversed(list(widths)) for n in pair])
    return np.pad(x, widths)


def unsigned(x: Any) -> Any:
    """The same 64-bit integers modulo 2^64."""
    if library_of(x) == "torch":
        import torch

        return x.view(torch.uint64)
    return x.view(np.uint64)


def zeros_like(x: Any) -> Any:
    """Zeros of x's shape, dtype and library (off the tape)."""
    library = library_of(x)
    if library == "tape":
        return zeros_like(x.data)
    if library == "torch":
        import torch

        return torch.zeros_like(x)
    return np.zeros_like(x)


def off_tape(x: Any) -> Any:
    """The data alone of a Variable, a tensor without its graph: for results that have no gradient."""
    library = library_of(x)
    return x.data if library == "tape" else x.detach() if library == "torch" else x


def scalar_like(value: Any, dtype: Any, like: Any) -> Any:
    """A number as an array without extents, of the library that `like` is of."""
    if library_of(like) == "torch":
        import torch

        kind = dtype if isinstance(dtype, torch.dtype) else getattr(torch, str(dtype))
        return torch.full((), value, dtype=kind, device=like.device)  # a kernel, no copy: a graph can capture it
    return from_numpy(np.asarray(value, dtype=dtype), like)


def from_numpy(x: NDArray[Any], like: Any) -> Any:
    """x as an array of the library that `like` is of (on the tape: that its data is of), in the same memory."""
    library = "numpy" if like is None else library_of(like)
    if library == "tape":
        return from_numpy(x, like.data)
    if library == "numpy":
        return x
    if library == "torch":
        import torch

        tensor = torch.from_numpy(x if x.flags.writeable else x.copy())  # torch knows no read-only memory
        return tensor if like.device.type == "cpu" else tensor.to(like.device)
    from .interop import device

    return device.library(library or type(like).__name__).from_numpy(x, like)


def size_of(x: Any) -> int:
    """The number of elements."""
    return math.prod(shape_of(x))
