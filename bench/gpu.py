"""Times every family on this machine's GPU, float32, float16 and bfloat16, against the best that is installed.

`python bench/gpu.py [OPERATOR ...] [--only REGEX] [--dtypes LIST] [--quick] [--budget S] [--results FOLDER]`

The answer comes first: the results' last part along a free extent must have the CPU floor's bits (tensor cores: be
within four roundings of the storage type, in the norm). A row that fails is not timed, and the exit status says so.
Times are medians of CUDA events around one call with a cold L2; the spread is the distance of the quartiles. Shares
are of what was measured here: copying 1 GiB, and torch's matrix product of the row's dtype. A ratio above 1 says that
we are faster than the best peer. `--rehearse` runs all of it on the CPU in small, to try the program.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import cases
import numpy as np
import torch
from baselines.cuda import LAYOUTS, channels_last, peers
from baselines.torch import NOT_COMPARED
from clock import Clock, Machine
from report import Row, cells, load, save, show, summary, write

import harness
from mmkernels.contract import WIDE
from mmkernels.operator import OPERATORS
from mmkernels.profile import family_of
from mmkernels.verify import run

UNITS = 4  # roundings of the storage type that tensor cores' results may be off, in the norm
PEER_ERROR = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2}  # a peer beyond it computes something else


class WrongAnswerError(Exception):
    pass


def on_device(x: Any, device: torch.device) -> Any:
    if x is None:
        return None
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(x).to(device)


def on_host(y: Any) -> Any:
    import ml_dtypes

    y = y.detach().cpu().contiguous()
    return y.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if y.dtype == torch.bfloat16 else y.numpy()


def check(workload: cases.Workload, dtype: str, operands: dict[str, Any], results: Sequence[Any]) -> str:
    """ "bits", or how many roundings the results are off where tensor cores made them; raises WrongAnswerError."""
    contract = workload.operator.contract
    part = cases.part_of(workload, operands)
    wanted = run(workload.operator, part.case, part.operands)
    found = tuple(on_host(part.of_result(y, out.shape)) for y, out in zip(results, contract.outputs, strict=False))
    if harness.same_bits(found, wanted):
        return "bits"
    errors = [relative_error(y, w) for y, w in zip(found, wanted, strict=True)]
    if dtype in WIDE and contract.tensor_cores:
        off = max(errors) / harness.unit_of(dtype)
        if off <= UNITS:  # NaN is not
            return f"{off:.1f} u"
    raise WrongAnswerError(f"wrong: relative error {max(errors):.1e}")


def relative_error(y: Any, w: Any) -> float:
    if y.shape != w.shape:
        return math.nan
    exact = w.astype(np.float64)
    size = float(np.linalg.norm(exact))
    return float(np.linalg.norm(y.astype(np.float64) - exact)) / size if size else float(np.abs(y).max(initial=0) > 0)


def distance(y: Any, w: Any) -> float:
    """As relative_error, on the device."""
    if y.shape != w.shape:
        return math.nan
    return float((y.float() - w.float()).norm() / w.float().norm().clamp_min(1e-30))


def usable(workload: cases.Workload, dtype: str, calls: dict[str, Any], results: Sequence[Any]) -> tuple[Any, str]:
    """The peers that run and compute the same, and a note about the others."""
    good, notes = {}, []
    for label, call in calls.items():
        try:
            found = call()
        except Exception as error:
            notes.append(f"{label}: {str(error).splitlines()[0][:60] if str(error) else type(error).__name__}")
            continue
        if workload.operator.name not in NOT_COMPARED:
            found = found if isinstance(found, (tuple, list)) else (found,)
            errors = [distance(y, w) for y, w in zip(found, results, strict=False) if w.is_floating_point()]
            if not all(e <= PEER_ERROR[dtype] for e in errors):
                notes.append(f"{label}: another result ({max(errors):.1e})")
                continue
        good[label] = call
    return good, "; ".join(notes)


def measure(workload: cases.Workload, dtype: str, clock: Clock, machine: Machine, seconds: float, runs: int) -> Row:
    operator = workload.operator
    row = Row(workload.name, family_of(operator.name), dtype)
    operands = cases.operands_of(workload, dtype)
    given = [on_device(operands.get(a.name), clock.device) for a in operator.contract.inputs]
    attributes = harness.plain_attributes(operator, workload.case)

    def ours(tensors: Sequence[Any]) -> Any:
        arguments = operator.arguments(*tensors, **attributes)
        return lambda: operator.call(*arguments)

    mine = {"": ours(given)}
    if operator.name in LAYOUTS:
        mine["channels-last"] = ours([channels_last(t) for t in given])
    results: Sequence[Any] = ()
    for call in mine.values():
        found = call()
        results = found if isinstance(found, tuple) else (found,)
        try:
            row.answer = check(workload, dtype, operands, results)
        except WrongAnswerError as error:
            row.answer = str(error)
            return row
    try:
        theirs, row.note = usable(workload, dtype, peers(operator.name, attributes, given), results)
    except Exception as error:  # a peer that cannot be set up, or is not installed
        theirs, row.note = {}, (str(error).splitlines() or [type(error).__name__])[0]
    calls = {**{("ours", k): c for k, c in mine.items()}, **{("peer", k): c for k, c in theirs.items()}}
    times = clock.measure(calls, seconds, runs)
    (_, row.layout), best = min(((k, t) for k, t in times.items() if k[0] == "ours"), key=lambda e: e[1].median)
    row.ours_ms, (row.ours_low, row.ours_high), row.runs = best.median, best.quartiles, len(best.ms)
    row.host_us = best.host_us
    others = [(t.median, k[1]) for k, t in times.items() if k[0] == "peer"]
    if others:
        row.peer_ms, row.peer = min(others)
        row.ratio = row.peer_ms / row.ours_ms
    flops, moved = cases.cost(workload, operands, results)
    row.gb_per_s, row.tflops = moved / row.ours_ms / 1e6, flops / row.ours_ms / 1e9
    row.copy_share = row.gb_per_s / machine.copy_gb_per_s
    row.matrix_share = row.tflops / machine.tflops[dtype]
    return row


def in_turns(workloads: Sequence[cases.Workload]) -> list[cases.Workload]:
    """One of each family, then the next of each. In a family operators' first workloads come before their others, and
    operators before their gradients."""
    registered, seen, ranks = list(OPERATORS), Counter[str](), []
    for workload in workloads:
        name = workload.operator.name
        ranks.append((seen[name], name.endswith(("_grad", "_snap")), registered.index(name)))
        seen[name] += 1
    turns, entries = Counter[str](), []
    for i in sorted(range(len(workloads)), key=ranks.__getitem__):
        family = family_of(workloads[i].operator.name)
        entries.append((turns[family], family, workloads[i]))
        turns[family] += 1
    return [workload for *_, workload in sorted(entries, key=lambda entry: entry[:2])]


def chosen(options: argparse.Namespace) -> list[tuple[cases.Workload, str]]:
    """What to measure, the most telling first: budgets end. A workload of each family, those that fill a GPU, all
    others, family by family in turns; float16 last."""
    names = options.operators
    public = [*cases.public_workloads(names, large=True)]
    published = [*cases.public_workloads(names)]
    large = [w for w in public if w not in published]
    rest = in_turns([*cases.contract_workloads(names), *published])
    known = {family_of(w.operator.name) for w in large}
    first = list({family_of(w.operator.name): w for w in reversed(rest)}.values())[::-1]
    first = [w for w in first if family_of(w.operator.name) not in known]
    workloads = [*first, *large, *(w for w in rest if w not in first)]
    if options.only:
        workloads = [w for w in workloads if re.search(options.only, w.name)]
    if options.quick:
        workloads = [w for i, w in enumerate(workloads) if [v.operator for v in workloads[:i]].count(w.operator) < 2]
    result = []
    for workload in workloads:
        types = {t for a in workload.operator.contract.inputs for t in workload.operator.contract.types.get(a.type, ())}
        for dtype in options.dtypes.split(","):
            if dtype in types or (dtype == "float32" and "float32" not in types):  # integers alone: once
                result.append((workload, dtype))
    return sorted(result, key=lambda pair: pair[1] == "float16")  # it behaves as bfloat16 does


def healthy(clock: Clock) -> bool:
    try:
        clock.synchronize()
    except Exception:
        return False
    return True


def restart(rows: Sequence[Row], budget: float) -> None:
    """A kernel that faults leaves a process that can compute nothing more: a fresh one goes on with the next row."""
    path = Path(tempfile.gettempdir()) / f"mmkernels-bench-{os.getpid()}.json"
    save(path, rows)
    print("the device's context is lost; starting again behind this row", flush=True)
    arguments = [*sys.argv, "--resume", str(path), "--budget", f"{max(budget, 0):.0f}"]  # the last of an option counts
    os.execv(sys.executable, [sys.executable, *arguments])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operators", nargs="*")
    parser.add_argument("--only", metavar="REGEX", help="workloads whose name it is found in")
    parser.add_argument("--dtypes", default="bfloat16,float32,float16")
    parser.add_argument("--quick", action="store_true", help="two workloads of each operator, float32 and bfloat16")
    parser.add_argument("--budget", type=float, default=300.0, metavar="S", help="seconds for all rows")
    parser.add_argument("--seconds", type=float, default=0.15, help="measuring one row, less where the budget is short")
    parser.add_argument("--runs", type=int, default=20, help="of each call, at least; two or more")
    parser.add_argument("--results", type=Path, help="the folder for <gpu>.csv and <gpu>.md")
    parser.add_argument("--resume", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU: shows that the program works")
    options = parser.parse_args()
    options.runs = max(options.runs, 2)  # quartiles
    if options.quick:
        options.dtypes = "bfloat16,float32"
    if options.rehearse:
        options.dtypes = ",".join(d for d in options.dtypes.split(",") if d != "bfloat16")
    if not options.rehearse and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device")
    torch.backends.cudnn.benchmark = True  # the peer's best algorithm
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # float32 means float32
    end = time.monotonic() + options.budget
    rows = load(options.resume) if options.resume else []
    missing: list[str] = []
    with torch.no_grad():
        clock = Clock(options.rehearse)
        machine = clock.machine()
        print(machine, flush=True)
        todo = chosen(options)
        for i, (workload, dtype) in enumerate(todo[len(rows) :], len(rows)):
            left = end - time.monotonic()
            if left <= 0:
                missing = [f"{w.name} {d}" for w, d in todo[i:]]
                break
            share = max(left / (len(todo) - i) / 4, 0.02)  # the check and the first calls take most of a row's time
            try:
                row = measure(workload, dtype, clock, machine, min(options.seconds, share), options.runs)
            except Exception as error:  # one operator's failure is a row, not the end
                text = str(error).splitlines()[0] if str(error) else ""
                row = Row(workload.name, family_of(workload.operator.name), dtype, f"failed: {text[:100] or error!r}")
            rows.append(row)
            print(f"[{i + 1}/{len(todo)}] " + "  ".join(c for c in cells(row) if c), flush=True)
            if options.results and i % 20 == 19:
                write(options.results, machine, rows, [])
            if math.isnan(row.ours_ms) and not healthy(clock):
                restart(rows, end - time.monotonic())
    if options.results:
        write(options.results, machine, rows, missing)
    show(rows)
    print("\n".join(summary(rows)))
    bad = [r for r in rows if math.isnan(r.ours_ms)]
    for row in bad:
        print(f"{row.workload} {row.dtype}: {row.answer}")
    print(f"{len(rows) - len(bad)} of {len(todo)} rows measured, {len(bad)} failed, {len(missing)} not reached")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
