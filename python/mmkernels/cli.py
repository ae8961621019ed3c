"""The command line: ``mmkernels demo | info | verify``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, 1 for a fault that one line explains, 130 after Ctrl-C.

    >>> from mmkernels.cli import main
    >>> main(["info"])  # doctest: +ELLIPSIS
    mmkernels ...
    0
    """
    parser = argparse.ArgumentParser(
        prog="mmkernels", description="Kernels of multimedia AI, the same bits every time."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="learn handwritten digits here, offline, then draw new ones")
    demo.add_argument("--out", type=Path, default=Path("mmkernels-demo"), help="folder for results (%(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="fixes every bit of the result (%(default)s)")
    demo.add_argument(
        "--quick", action="store_true", help="a few seconds of training: everything runs, nothing is good"
    )
    commands.add_parser("info", help="versions, instruction sets, threads and devices")
    commands.add_parser("verify", help="check that this machine computes the published bits")
    given = parser.parse_args(arguments)
    if given.command == "info":
        return _info()
    if given.command == "verify":
        from . import verify

        return int(verify.main() or 0)
    return _demo(given.out, given.seed, given.quick)


def _demo(out: Path, seed: int, quick: bool) -> int:
    from .errors import BackendError

    try:
        from . import demo
        from .demo.report import show

        report = demo.run(out, seed, demo.QUICK if quick else demo.FULL)
    except BackendError as error:
        print(f"mmkernels: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        saved = "; run the same command again to go on" if (out / "checkpoint.safetensors").exists() else ""
        print(f"mmkernels: interrupted{saved}", file=sys.stderr)
        return 130
    show(report, out)
    return 0


def _info() -> int:
    import mmkernels as mmk

    from . import _core
    from .settings import get_num_threads

    compiled, found = _core.compiled_isas(), _core.available_isas()
    lines = {
        "arithmetic": mmk.__arithmetic__,
        "instruction sets": f"{', '.join(compiled)} compiled; {', '.join(found)} found; {_core.get_isa()} used",
        "threads": str(get_num_threads()),
        "CUDA": _cuda(),
    }
    print(f"mmkernels {mmk.__version__}")
    for name, text in lines.items():
        print(f"{name:18}{text}")
    return 0


def _cuda() -> str:
    from .errors import BackendError
    from .interop import device

    try:
        floor = device.cuda()
    except BackendError as error:
        return str(error)
    return ", ".join(f"{i}: {floor.device_name(i)}" for i in range(floor.device_count()))


if __name__ == "__main__":
    sys.exit(main())
