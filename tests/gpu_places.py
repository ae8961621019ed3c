"""Where the GPU tests put their arrays: CuPy's and torch's memory on the device.

MMK_GPU=1: CuPy and torch on the device, those of the two that are installed.
MMK_GPU=rehearse: what can be run without one: the emulator's memory (tests/emulated.py) and, where torch is installed,
torch on the CPU. It shows that the tests are right, not that the kernels are.

`python tests/gpu_places.py` prints how many results of float32 have the published bits on the device.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from mmkernels import verify
from mmkernels.contract import Case
from mmkernels.operator import Operator
from mmkernels.verify import TABLE, run

Array = NDArray[Any]
MODE = os.environ.get("MMK_GPU", "1")
REHEARSAL = MODE == "rehearse"
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Image:
    """An array of any strides as the memory that it walks over, so that it can be laid out so anywhere."""

    memory: Array  # one-dimensional
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    offset: int  # of the first element


def image_of(x: Array, lead: int = 0) -> Image:
    """``lead`` elements come before the first: 1 gives addresses that are multiples of nothing but the element."""
    x = np.asarray(x)
    size = x.itemsize
    strides = tuple(s // size for s in x.strides)
    walks = [(n - 1) * s for n, s in zip(x.shape, strides, strict=True)] if x.size else []
    low, high = sum(w for w in walks if w < 0), sum(w for w in walks if w > 0) + bool(x.size)
    start = x.__array_interface__["data"][0] if x.dtype != BFLOAT16 else x.ctypes.data
    raw = (ctypes.c_char * ((high - low) * size)).from_address(start + low * size) if x.size else b""
    inside = np.frombuffer(bytes(raw), x.dtype)
    memory = np.concatenate([np.ones(lead, x.dtype), inside, np.ones(1, x.dtype)])  # never empty
    return Image(memory, x.shape, strides, lead - low)


class Place(Protocol):
    """Memory that operands can be put in. ``name`` is the library as mmkernels calls it."""

    name: str
    dtypes: tuple[str, ...]
    negative_strides: bool

    def put(self, image: Image) -> Any:
        """The array, laid out as the image says."""

    def get(self, y: Any) -> Array:
        """A copy on the host, contiguous."""

    def strides(self, y: Any) -> tuple[int, ...]:
        """In elements."""


class CuPyPlace:
    name = "cupy"
    negative_strides = True

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy
        wide = () if int(cupy.__version__.split(".")[0]) < 14 else ("bfloat16",)  # CuPy 14 knows ml_dtypes.bfloat16
        self.dtypes: tuple[str, ...] = ("float32", "float64", "float16", *wide)

    def put(self, image: Image) -> Any:
        bits = self.cupy.asarray(image.memory.view(np.uint8))
        size = image.memory.itemsize
        at = bits.data + image.offset * size
        strides = tuple(s * size for s in image.strides)
        return self.cupy.ndarray(image.shape, image.memory.dtype, at, strides)

    def get(self, y: Any) -> Array:
        if y.dtype.name != "bfloat16":
            return np.array(self.cupy.asnumpy(y), order="C")
        bits = self.cupy.ndarray(y.shape, np.uint16, y.data, y.strides)  # moved as integers: no arithmetic of CuPy's
        return np.array(self.cupy.asnumpy(bits), order="C").view(BFLOAT16)

    def strides(self, y: Any) -> tuple[int, ...]:
        return tuple(s // y.itemsize for s in y.strides)


class TorchPlace:
    name = "torch"
    negative_strides = False

    def __init__(self, device: str) -> None:
        import torch

        self.torch, self.device = torch, device
        wide = () if device == "cpu" else ("bfloat16",)  # the torch door takes bfloat16 on the device alone
        self.dtypes: tuple[str, ...] = ("float32", "float64", "float16", *wide)

    def put(self, image: Image) -> Any:
        wide = image.memory.dtype == BFLOAT16
        flat = self.torch.from_numpy(image.memory.view(np.int16) if wide else image.memory.copy()).to(self.device)
        flat = flat.view(self.torch.bfloat16) if wide else flat
        return self.torch.as_strided(flat, image.shape, image.strides, image.offset)

    def get(self, y: Any) -> Array:
        host = y.detach().cpu().contiguous()
        if host.dtype == self.torch.bfloat16:
            return np.array(host.view(self.torch.int16).numpy()).view(BFLOAT16)
        return np.array(host.numpy())

    def strides(self, y: Any) -> tuple[int, ...]:
        return tuple(y.stride())


class EmulatedPlace:
    dtypes = ("float32", "float64", "float16", "bfloat16")
    negative_strides = True

    def __init__(self, module: str = "_emulated") -> None:
        from emulated import floor
        from mmkernels.interop import device

        self.name = floor(module).__name__
        self.door = device.library(self.name)

    def put(self, image: Image) -> Any:
        flat = self.door.from_numpy(image.memory, None)[image.offset :]
        size = image.memory.itemsize
        return np.lib.stride_tricks.as_strided(
            flat, image.shape, tuple(s * size for s in image.strides), subok=True, writeable=True
        )

    def get(self, y: Any) -> Array:
        return np.array(self.door.to_numpy(y), order="C")

    def strides(self, y: Any) -> tuple[int, ...]:
        return tuple(s // y.itemsize for s in y.strides)


@functools.cache
def places() -> tuple[Place, ...]:
    """All that this machine has; at least one, or the run is an error."""
    found: list[Place] = []
    if REHEARSAL:
        if importlib.util.find_spec("torch"):
            found.append(TorchPlace("cpu"))
        if os.environ.get("MMK_REHEARSE", "emulated") == "emulated":
            found.append(EmulatedPlace())
    else:
        if importlib.util.find_spec("cupy"):
            found.append(CuPyPlace())
        if importlib.util.find_spec("torch"):
            found.append(TorchPlace("cuda:0"))
    if not found:
        raise RuntimeError("MMK_GPU=1 needs CuPy or torch")
    return tuple(found)


def synchronize() -> None:
    """Waits for all that was queued; raises what went wrong there."""
    for place in places():
        if isinstance(place, CuPyPlace):
            place.cupy.cuda.Device().synchronize()
        if isinstance(place, TorchPlace):
            place.torch.cuda.synchronize()


def put_all(place: Place, operands: Mapping[str, Array], lead: int = 0) -> dict[str, Any]:
    return {name: place.put(image_of(x, lead)) for name, x in operands.items()}


def run_in(place: Place, operator: Operator, case: Case, operands: Mapping[str, Array]) -> tuple[Array, ...]:
    """The operator's results from operands put into a place, back on the host."""
    return tuple(place.get(y) for y in run(operator, case, put_all(place, operands)))


def hashes(place: Place) -> dict[str, str]:
    """mmkernels.verify.hashes() on the floor that serves a place."""
    return verify.hashes(lambda x: place.put(image_of(x)), place.get)


def main() -> int:
    published: dict[str, str] = json.loads(TABLE.read_text())["hashes"]
    bad = 0
    for place in places():
        found = hashes(place)
        differing = sorted(k for k in found.keys() | published.keys() if found.get(k) != published.get(k))
        for key in differing:
            print(f"{place.name}: {key} is {found.get(key)}; the table has {published.get(key)}")
        print(f"{place.name}: {len(found) - len(differing)} of {len(published)} results have the published bits")
        bad += len(differing)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
