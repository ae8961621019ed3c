"""The CuPy door: arrays in, arrays out, on CuPy's current stream, in memory of CuPy's pool.

Imported when an operator first meets a CuPy array, so CuPy is imported already.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import cupy
import numpy as np
from numpy.typing import NDArray

from ..contract import Operand
from ..errors import ContractTypeError

__all__ = ["CuPy"]


class CuPy:
    """mmkernels.interop.device.Library for CuPy."""

    def __init__(self, floor: ModuleType) -> None:
        self.floor = floor
        self._bfloat16: Any = None  # the dtype, from the first array that has it

    def see(self, x: Any) -> Operand:
        """Shape, strides in elements, dtype name."""
        size, name = x.dtype.itemsize, x.dtype.name
        if name == "bfloat16":
            self._bfloat16 = x.dtype
        return Operand(x.shape, tuple(s // size for s in x.strides), name)

    def address(self, x: Any) -> int:
        """Of the first element."""
        return int(x.data.ptr)

    def device(self, x: Any) -> int:
        """The number of the device."""
        return int(x.device.id)

    def stream(self, device: int) -> int:
        """The current stream's handle."""
        with cupy.cuda.Device(device):
            return int(cupy.cuda.get_current_stream().ptr)

    def empty(self, wanted: Operand, device: int) -> Any:
        """A new array from CuPy's pool."""
        dtype = self._bfloat16 if wanted.dtype == "bfloat16" else np.dtype(wanted.dtype)
        if dtype is None:
            raise ContractTypeError("bfloat16 results need a bfloat16 operand that says what the dtype is")
        with cupy.cuda.Device(device):
            if not wanted.shape:
                return cupy.empty((), dtype)
            memory = cupy.cuda.alloc(max(1, int(np.prod(wanted.shape)) * dtype.itemsize))
            strides = tuple(s * dtype.itemsize for s in wanted.strides)
            return cupy.ndarray(wanted.shape, dtype, memory, strides)

    def from_numpy(self, x: NDArray[Any], like: Any) -> Any:
        """A copy on the device of `like`."""
        with cupy.cuda.Device(like.device.id):
            return cupy.asarray(x)

    def to_numpy(self, x: Any) -> NDArray[Any]:
        """A copy on the host."""
        return cupy.asnumpy(x)  # type: ignore[no-any-return]
