"""Times the contracts' bench cases: the answer is checked first, peers that are installed run in the same process.

`python bench/run.py [OPERATOR ...] [--seconds S]` prints, per case, the median time, its spread, the rate, the share of
the measured copy bandwidth for the bytes that the contract counts, and the ratio to the peer (above 1: we are faster).
Ours and the peer's turns are interleaved, with a pause before each so that spinning workers of one do not slow the
other.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import cases
import machine
import numpy as np

import bounds
import harness
from mmkernels.contract import Case
from mmkernels.operator import Operator
from mmkernels.verify import case_operands, run


def peer_call(name: str, attributes: dict[str, Any], operands: list[Any]) -> Callable[[], Any] | None:
    """The peer's call, or None where it is not installed or has no such operator."""
    try:
        import torch

        calls = importlib.import_module("baselines.torch").CALLS
    except ImportError:
        return None
    if name not in calls:
        return None
    torch.set_num_threads(OPERATORS_THREADS)
    tensors = [None if o is None else torch.from_numpy(o) for o in operands]
    while tensors and tensors[-1] is None:
        tensors.pop()
    return lambda: calls[name](attributes, *tensors)


OPERATORS_THREADS = machine.mmk.get_num_threads()


def turn(call: Callable[[], Any], seconds: float) -> float:
    """Median time of one call in a turn of about `seconds`."""
    time.sleep(0.05)
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def check(operator: Operator, case: Case, operands: dict[str, Any]) -> None:
    """Against the reference in float64; where rounding decides on a bin's end or a pixel, against it in float32, whose
    steps are the definition's."""
    try:
        harness.check_against_reference(operator, case, operands, "float32")
    except AssertionError:
        given = [operands.get(a.name) for a in operator.contract.inputs]
        reference = harness.reference_of(operator.name)
        found = reference(*given, **harness.plain_attributes(operator, case))
        wanted = [np.asarray(y).astype(np.float64) if harness.is_float(y) else y for y in bounds.as_tuple(found)]
        harness.check_against_reference(operator, case, operands, "float32", wanted=wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operators", nargs="*")
    parser.add_argument("--seconds", type=float, default=0.2, help="length of one turn; five are taken")
    parser.add_argument("--public", action="store_true", help="the public workloads too")
    options = parser.parse_args()
    here = machine.measure()
    print(here)
    print(f"{'case':44} {'ms':>9} {'spread':>7} {'GFLOP/s':>8} {'copy %':>7} {'torch ms':>9} {'ratio':>6}")
    workloads = [*cases.contract_workloads(options.operators)]
    if options.public:
        workloads += cases.public_workloads(options.operators)
    for workload in workloads:
        operator, case = workload.operator, workload.case
        operands = case_operands(operator.contract, case)
        check(operator, case, operands)
        given = [operands.get(a.name) for a in operator.contract.inputs]
        attributes = harness.plain_attributes(operator, case)
        arguments = operator.arguments(*given, **attributes)
        flops, moved = cases.cost(workload, operands, run(operator, case, operands))
        peer = peer_call(operator.name, attributes, given)
        ours, theirs = [], []
        for _ in range(5):
            ours.append(turn(lambda a=arguments, o=operator: o.call(*a), options.seconds))  # type: ignore[misc]
            if peer:
                theirs.append(turn(peer, options.seconds))
        mine = statistics.median(ours)
        spread = (max(ours) - min(ours)) / mine
        other = (
            f"{1e3 * statistics.median(theirs):9.3f} {statistics.median(np.divide(theirs, ours)):6.2f}" if peer else ""
        )
        print(
            f"{workload.name:44} {1e3 * mine:9.3f} {spread:6.0%} {flops / mine / 1e9:8.1f} "
            f"{moved / mine / 1e9 / here.copy_gb_per_s:7.0%} {other}",
            flush=True,
        )


if __name__ == "__main__":
    main()
