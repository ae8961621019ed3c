"""What this machine can do, measured: the limits that times are compared with."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mmkernels as mmk
from mmkernels import _core


@dataclass(frozen=True)
class Machine:
    processor: str
    threads: int
    isa: str
    copy_gb_per_s: float  # read + written, all threads, arrays of 64 MiB

    def __str__(self) -> str:
        return f"{self.processor}, {self.threads} threads, {self.isa}, copy {self.copy_gb_per_s:.0f} GB/s"


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def measure() -> Machine:
    x, y = np.ones(1 << 24, np.float32), np.empty(1 << 24, np.float32)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        mmk.mul(x, 1.0, out=y)
        times.append(time.perf_counter() - start)
    return Machine(processor(), mmk.get_num_threads(), _core.get_isa(), 2 * x.nbytes / min(times) / 1e9)
