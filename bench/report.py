"""Rows of results: as lines, as a table, as a file to compute with and one to read."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from clock import Machine


@dataclass
class Row:
    """A line of the results; times in milliseconds."""

    workload: str
    family: str
    dtype: str
    answer: str = ""
    ours_ms: float = math.nan
    ours_low: float = math.nan  # quartiles
    ours_high: float = math.nan
    runs: int = 0
    layout: str = ""
    host_us: float = math.nan
    peer: str = ""
    peer_ms: float = math.nan
    ratio: float = math.nan
    gb_per_s: float = math.nan
    copy_share: float = math.nan
    tflops: float = math.nan
    matrix_share: float = math.nan
    note: str = ""  # about peers that did not take part


HEAD = ("workload", "dtype", "answer", "ours ms", "spread", "best peer ms", "peer", "ratio", "GB/s", "copy", "TFLOP/s",
        "matrix")  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    if math.isnan(row.ours_ms):
        return (row.workload, row.dtype, row.answer, *("",) * 9)
    spread = (row.ours_high - row.ours_low) / row.ours_ms
    peer = ("", "", "") if math.isnan(row.ratio) else (f"{row.peer_ms:.4f}", row.peer, f"{row.ratio:.2f}")
    name = f"{row.workload}, {row.layout}" if row.layout else row.workload
    return (name, row.dtype, row.answer, f"{row.ours_ms:.4f}", f"{spread:.0%}", *peer, f"{row.gb_per_s:.0f}",
            f"{row.copy_share:.0%}", f"{row.tflops:.1f}", f"{row.matrix_share:.0%}")  # fmt: skip


def summary(rows: Sequence[Row]) -> list[str]:
    """The geometric mean of the ratios, by family and dtype."""
    lines = []
    for family in sorted({r.family for r in rows}):
        parts = []
        for dtype in ("float32", "float16", "bfloat16"):
            logs = [math.log(r.ratio) for r in rows if (r.family, r.dtype) == (family, dtype) and r.ratio > 0]
            if logs:
                parts.append(f"{dtype} {math.exp(sum(logs) / len(logs)):.2f} ({len(logs)})")
        lines.append(f"{family}: {', '.join(parts) or 'no peer'}")
    return lines


def write(folder: Path, machine: Machine, rows: Sequence[Row], missing: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^a-z0-9]+", "-", machine.name.lower()).strip("-")
    with (folder / f"{stem}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        writer.writeheader()
        for row in rows:
            values = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(row).items()}
            writer.writerow({k: "" if v == "nan" else v for k, v in values.items()})
    lines = [f"# {machine.name}", "", f"{machine}; {machine.software}.", ""]
    lines += ["Ratio: the best peer's time over ours, above 1 we are faster. Geometric means (rows):", ""]
    lines += [f"- {line}" for line in summary(rows)]
    lines += ["", "| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    if missing:
        more = f", and {len(missing) - 30} more" if len(missing) > 30 else ""
        lines += ["", f"Not measured for want of time: {', '.join(missing[:30])}{more}."]
    (folder / f"{stem}.md").write_text("\n".join(lines) + "\n")


def show(rows: Sequence[Row]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        return  # the lines printed on the way say the same
    table = Table(*HEAD)
    for row in rows:
        table.add_row(*cells(row))
    Console(width=170).print(table)


def save(path: Path, rows: Sequence[Row]) -> None:
    path.write_text(json.dumps([asdict(row) for row in rows]))


def load(path: Path) -> list[Row]:
    return [Row(**row) for row in json.loads(path.read_text())]
