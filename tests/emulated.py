"""The CUDA floor on the emulator: builds it, gives it arrays in memory of its own, and sets how it schedules.

`python tests/emulated.py OPERATOR CASE [DTYPE]` runs one case under every schedule, then under the checker.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pybind11
from numpy.typing import NDArray

from mmkernels.contract import Case, Operand
from mmkernels.interop import device
from mmkernels.operator import Operator
from mmkernels.verify import run

ROOT = Path(__file__).parents[1]
Array = NDArray[Any]


@dataclass(frozen=True)
class Schedule:
    """How threads and blocks take turns, and when asynchronous copies happen."""

    order: str = "in_order"
    seed: int = 1
    late: bool = True
    preempt: int = 0

    def __str__(self) -> str:
        return f"{self.order}{self.seed if self.order == 'random' else ''}-{'late' if self.late else 'early'}"


SCHEDULES = tuple(
    Schedule(order, seed, late)
    for order, seed in (("in_order", 1), ("reverse", 1), ("random", 1), ("random", 2), ("random", 3))
    for late in (True, False)
)


@functools.cache
def build() -> Path:
    """The folder with the emulated modules, built by CMake where they are older than their sources."""
    folder = Path(os.environ.get("MMK_EMULATED", ROOT / "build" / "emulated"))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:  # several test processes, one build
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "CMakeCache.txt").exists():
            ninja = ["-G", "Ninja"] if shutil.which("ninja") else []
            command = [
                "cmake", "-S", str(ROOT), "-B", str(folder), *ninja, "-DCMAKE_BUILD_TYPE=Release", "-DMMK_EMULATOR=ON",
                "-DSKBUILD_PROJECT_VERSION=0", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
                f"-DPython_EXECUTABLE={sys.executable}",
            ]  # fmt: skip
            _shell(command)
        _shell(["cmake", "--build", str(folder), "--parallel", str(os.cpu_count() or 1)])
    return folder


def _shell(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-8000:]}")


@functools.cache
def floor(name: str) -> ModuleType:
    """The module "_emulated" or "_emulated_check"."""
    path = build() / (name + sysconfig.get_config_var("EXT_SUFFIX"))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_LAZY)  # one family's kernels can be tried before the others are written
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.setdlopenflags(flags)
    device.add_library(name, Emulated(module))
    return module


class DeviceArray(np.ndarray[Any, Any]):
    """An array in a floor's memory. Host code may take it apart and move it, as a device library would; it may not
    compute with it."""

    __array_ufunc__ = None
    __mmkernels_library__ = ""

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is np.broadcast_to:
            return function._implementation(*args, **kwargs, subok=True)
        door = device.library(type(self).__mmkernels_library__)
        plain = [[_host(x) for x in a] if isinstance(a, (list, tuple)) else _host(a) for a in args]
        return door.from_numpy(function(*plain, **kwargs), self)

    def reshape(self, *shape: Any, **kwargs: Any) -> Any:
        """In place where NumPy can, else as a copy in the floor's memory."""
        y = super().reshape(*shape, **kwargs)
        if not self.size or np.may_share_memory(_host(self), _host(y)):
            return y
        return device.library(type(self).__mmkernels_library__).from_numpy(_host(y), self)


def _host(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, np.ndarray) else x


class Emulated:
    """mmkernels.interop.device.Library for arrays in an emulated floor's memory."""

    def __init__(self, module: ModuleType) -> None:
        self.floor = module
        self.type = type("DeviceArray", (DeviceArray,), {"__mmkernels_library__": module.__name__})

    def see(self, x: Any) -> Operand:
        return Operand(x.shape, tuple(s // x.dtype.itemsize for s in x.strides), x.dtype.name)

    def address(self, x: Any) -> int:
        return int(x.__array_interface__["data"][0]) if x.dtype.name != "bfloat16" else int(x.ctypes.data)

    def device(self, x: Any) -> int:
        return 0

    def stream(self, device: int) -> int:
        return 0

    def empty(self, wanted: Operand, device: int) -> Any:
        dtype = np.dtype(wanted.dtype)
        size = int(np.prod(wanted.shape)) * dtype.itemsize
        memory = Memory(self.floor, size)
        buffer = (ctypes.c_char * max(size, 1)).from_address(memory.address)
        raw = np.frombuffer(buffer, np.uint8)[:size].view(self.type)
        raw.memory = memory
        y = np.lib.stride_tricks.as_strided(
            raw.view(dtype), wanted.shape, tuple(s * dtype.itemsize for s in wanted.strides), subok=True
        )
        y.memory = memory
        return y

    def from_numpy(self, x: Array, like: Any) -> Any:
        """A copy with x's strides where x is dense in some order, so that layouts are told from each other."""
        x = _host(x)
        strides = tuple(s // x.dtype.itemsize for s in np.empty_like(x).strides)
        y = self.empty(Operand(x.shape, strides, x.dtype.name), 0)
        if x.size:
            _host(y)[...] = x
            self.floor.mark_written(self.address(y), x.nbytes)
        return y

    def to_numpy(self, x: Any) -> Array:
        return np.array(_host(x))

    def place(self, x: Array, first: int = 0) -> Any:
        """A copy with exactly x's strides, `first` elements into its memory; gaps between elements are NaN."""
        walks = [(n - 1) * s for n, s in zip(x.shape, x.strides, strict=True)] if x.size else []
        below, above = -sum(w for w in walks if w < 0), sum(w for w in walks if w > 0)
        size = x.dtype.itemsize
        count = (below + above) // size + 1 + first
        whole = self.empty(Operand((count,), (1,), x.dtype.name), 0)
        y = np.lib.stride_tricks.as_strided(whole[below // size + first :], x.shape, x.strides, subok=True)
        _host(y)[...] = x
        self.floor.mark_written(self.address(y) - below, below + above + size if x.size else 0)
        return y


class Memory:
    """One allocation; released with the last array that lies in it."""

    def __init__(self, module: ModuleType, size: int) -> None:
        self.release = module.release
        self.address = module.allocate(max(size, 1))

    def __del__(self) -> None:
        self.release(self.address)


def _keep_memory(self: Any, parent: Any) -> None:
    self.memory = getattr(parent, "memory", None)


DeviceArray.__array_finalize__ = _keep_memory  # type: ignore[method-assign]


@contextmanager
def scheduled(module: ModuleType, schedule: Schedule, check: bool = False) -> Iterator[None]:
    """Within it, the floor's launches are scheduled so; reports that nobody raised are an error."""
    module.take_reports()
    module.configure(schedule.order, schedule.seed, schedule.late, schedule.preempt, check)
    yield
    reports = module.take_reports()
    assert not reports, "\n".join(reports)


def run_on(
    module: ModuleType, operator: Operator, case: Case, operands: Mapping[str, Array], out: Any = None
) -> tuple[Array, ...]:
    """The operator's results by the floor, back on the host; operands that are there already stay as they are."""
    door = device.library(module.__name__)
    here = {n: x if isinstance(x, DeviceArray) else door.from_numpy(x, None) for n, x in operands.items()}
    return tuple(door.to_numpy(y) for y in run(operator, case, here, out))


def defect_id(name: str) -> int:
    """Fowler, Noll and Vo's hash of a planted defect's name (csrc/cuda/launch.cuh)."""
    value = 0xCBF29CE484222325
    for c in name.encode():
        value = (value ^ c) * 0x100000001B3 % 2**64
    return value


if __name__ == "__main__":
    import ml_dtypes  # noqa: F401

    from mmkernels.operator import OPERATORS
    from mmkernels.verify import case_operands
    from test_emulated import check_floor

    chosen = OPERATORS[sys.argv[1]]
    one = next(c for c in chosen.contract.cases if c.name == sys.argv[2])
    dtype = sys.argv[3] if len(sys.argv) > 3 else "float32"
    values = case_operands(chosen.contract, one, dtype)
    for each in SCHEDULES:
        check_floor("_emulated", chosen, one, dtype, each, values)
        print(each, "agrees")
    check_floor("_emulated_check", chosen, one, dtype, Schedule("random"), values, check=True)
    print("nothing is reported")
