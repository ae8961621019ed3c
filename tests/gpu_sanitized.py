"""What compute-sanitizer watches: every operator's smallest cases on the real floor, as many as the time allows.

`compute-sanitizer --tool memcheck python tests/gpu_sanitized.py --seconds 30`. Every array has an allocation of its
own, so that what lies beyond an array is beyond its allocation. Cases come one of each operator, then the second of
each, and so on; results are compared with the CPU floor's too.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

import numpy as np

from floors import call_id, calls, check_found
from gpu_places import CuPyPlace, Place, places, run_in
from mmkernels.contract import Case
from mmkernels.operator import Operator
from mmkernels.verify import case_operands, run


def place() -> Place:
    """CuPy without its pool, else torch without its cache."""
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"  # read when torch first allocates
    chosen = places()[0]
    if isinstance(chosen, CuPyPlace):
        chosen.cupy.cuda.set_allocator(None)
    return chosen


def in_rounds() -> list[tuple[Operator, Case, str]]:
    """The smallest cases of each operator first, float32 and bfloat16 in turn."""
    queues: dict[tuple[str, str], list[tuple[int, tuple[Operator, Case, str]]]] = {}
    for call in calls("float32", "bfloat16"):
        operator, case, dtype = call
        size = sum(int(np.prod(x.shape)) for x in case_operands(operator.contract, case).values())
        queues.setdefault((operator.name, dtype), []).append((size, call))
    ordered = [sorted((e for e in queue if e[0]), key=lambda e: e[0]) for queue in queues.values()]
    longest = max(map(len, ordered))
    return [queue[i][1] for i in range(longest) for queue in ordered if i < len(queue)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    end = time.monotonic() + parser.parse_args().seconds
    where, done, wrong = place(), 0, 0
    todo: list[Any] = [c for c in in_rounds() if c[2] in where.dtypes]
    for operator, case, dtype in todo:
        if time.monotonic() > end:
            break
        operands = case_operands(operator.contract, case, dtype)
        try:
            found = run_in(where, operator, case, operands)
            check_found(operator, case, dtype, operands, found, run(operator, case, operands), "")
        except AssertionError as error:
            wrong += 1
            print(f"{call_id(operator, case, dtype)}: {error}")
        done += 1
    print(f"{done} of {len(todo)} calls ran, {wrong} gave wrong results")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
