"""Times of calls on a GPU (or, to try the programs without one, on the CPU): cold L2, host time kept out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Call = Callable[[], Any]


@dataclass(frozen=True)
class Times:
    """Milliseconds on the device; microseconds that the host needs for the call."""

    ms: tuple[float, ...]
    host_us: float

    @property
    def median(self) -> float:
        return statistics.median(self.ms)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = statistics.quantiles(self.ms, n=4)
        return low, high


@dataclass(frozen=True)
class Machine:
    """What times are compared with; a share of a limit is a share of these."""

    name: str
    driver: str
    copy_gb_per_s: float  # read + written, arrays of 1 GiB, by torch
    tflops: dict[str, float]  # torch's matrix product, 8192^3 in 16 bits, 4096^3 in float32 without TF32
    software: str
    event_us: float  # between two events with nothing in between; part of every time

    def __str__(self) -> str:
        rates = ", ".join(f"{dtype} {rate:.0f} TFLOP/s" for dtype, rate in self.tflops.items())
        return (
            f"{self.name}, driver {self.driver}, copy {self.copy_gb_per_s:.0f} GB/s, {rates}; "
            f"events alone {self.event_us:.1f} us"
        )


class Clock:
    """``rehearse`` takes the CPU and small sizes: times mean nothing then."""

    def __init__(self, rehearse: bool = False) -> None:
        self.rehearse = rehearse
        self.device = torch.device("cpu" if rehearse else "cuda:0")
        cache = 1 << 20 if rehearse else torch.cuda.get_device_properties(0).L2_cache_size
        self._flush = torch.empty(4 * cache, dtype=torch.uint8, device=self.device)

    def synchronize(self) -> None:
        if not self.rehearse:
            torch.cuda.synchronize()

    def measure(self, calls: dict[Any, Call], seconds: float, runs: int = 20) -> dict[Any, Times]:
        """Turn by turn, at least ``runs`` runs each (fewer of calls that take seconds), more while time is left. Before
        each the L2 is filled with other data; a wait on the device lets the host get ahead, so that its time does not
        count."""
        host = {label: self._host_seconds(call) for label, call in calls.items()}
        ms: dict[Any, list[float]] = {label: [] for label in calls}
        end = time.perf_counter() + seconds
        turns = 0
        while turns < runs or (time.perf_counter() < end and turns < 10 * runs):
            pairs = {label: self._queue(call, host[label]) for label, call in calls.items()}
            self.synchronize()
            for label, (start, stop) in pairs.items():
                ms[label].append(1e3 * (stop - start) if self.rehearse else start.elapsed_time(stop))
            turns += 1
            if turns >= 3 and time.perf_counter() > end + 3:
                break
        return {label: Times(tuple(ms[label]), 1e6 * host[label]) for label in calls}

    def _host_seconds(self, call: Call) -> float:
        """Median of three, after two calls that load, choose and allocate; of a call that takes a second, the third."""
        seconds: list[float] = []
        while len(seconds) < (3 if sum(seconds) > 1 else 5):
            self.synchronize()
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        self.synchronize()
        return statistics.median(seconds[2:])

    def _queue(self, call: Call, host_seconds: float) -> tuple[Any, Any]:
        self._flush.zero_()
        if self.rehearse:
            start = time.perf_counter()
            call()
            return start, time.perf_counter()
        torch.cuda._sleep(int(2e9 * min(2 * host_seconds + 20e-6, 5e-3)))  # about 2e9 cycles a second
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        return start, stop

    def machine(self) -> Machine:
        x = torch.ones(1 << (22 if self.rehearse else 28), dtype=torch.float32, device=self.device)
        y = torch.empty_like(x)
        copy = self.measure({0: lambda: y.copy_(x)}, 0.1)[0].median
        tflops = {}
        for dtype, n in (("bfloat16", 8192), ("float16", 8192), ("float32", 4096)):
            n = 256 if self.rehearse else n
            a = torch.randn(n, n, device=self.device).to(getattr(torch, dtype))
            tflops[dtype] = 2 * n**3 / self.measure({0: lambda a=a: a @ a}, 0.2)[0].median / 1e9
        nothing = self.measure({0: lambda: None}, 0.02)[0].median
        name = "rehearsal" if self.rehearse else torch.cuda.get_device_name(0)
        software = f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"
        return Machine(name, _driver(), 2 * x.nbytes / copy / 1e6, tflops, software, 1e3 * nothing)


def _driver() -> str:
    import subprocess

    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"
