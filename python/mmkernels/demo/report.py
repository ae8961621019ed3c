"""What a run found, as short tables."""

from __future__ import annotations

from pathlib import Path

from .job import Report

__all__ = ["show"]


def show(report: Report, out: Path) -> None:
    """Prints where the time went and who reads the drawings as asked."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    times = Table(title="Time by kernel family", title_justify="left")
    for name in ("family", "calls", "seconds", "share"):
        times.add_column(name, justify="left" if name == "family" else "right")
    wall, inside = report.times.wall, 0.0
    for family, total in report.times.families().items():
        inside += total.seconds
        times.add_row(family, f"{total.calls:,}", f"{total.seconds:.2f}", f"{total.seconds / wall:.1%}")
    times.add_row("outside operators", "", f"{wall - inside:.2f}", f"{(wall - inside) / wall:.1%}")
    times.add_row("all", "", f"{wall:.2f}", "100.0%")
    console.print(times)

    shares = Table(title="Who reads what", title_justify="left")
    for name in ("classifier", "unseen real digits", "drawn digits, as asked"):
        shares.add_column(name, justify="left" if name == "classifier" else "right")
    shares.add_row("LeNet-5 (mmkernels)", f"{report.lenet_accuracy:.1%}", f"{report.lenet_reads:.1%}")
    shares.add_row("SVM (scikit-learn)", f"{report.svm_accuracy:.1%}", f"{report.svm_reads:.1%}")
    console.print(shares)
    names = "digits.png, process.gif, digits.npz, model.safetensors"
    console.print(f"{names} are in {out}", soft_wrap=True, highlight=False)
