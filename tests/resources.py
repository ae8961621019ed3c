"""Compiles every CUDA file for sm_80 and sm_90a and looks at what came out: registers, shared memory and spills of each
kernel, and whether the code keeps to the arithmetic. Needs nvcc, not a GPU.

`python tests/resources.py` prints the table and fails on a spill to local memory, on a Hopper product that the
assembler had to serialise, and on an approximate or flushing instruction for float32.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

KERNELS = Path(__file__).parents[1] / "csrc" / "cuda"
ARCHITECTURES = {"sm_80": "arch=compute_80,code=sm_80", "sm_90a": "arch=compute_90a,code=sm_90a"}
FLAGS = ["-std=c++20", "-O3", "--fmad=false", "--expt-relaxed-constexpr", "-DMMK_ISA=cuda", "-DMMK_DEVICE"]
# What the arithmetic forbids in float32: approximate or flushing instructions, and the division that is not rounded.
FORBIDDEN = re.compile(r"^\s*\S*(?:\.approx|\.ftz)\S*\.f32\b|^\s*div\.full\.f32", re.MULTILINE)
# Kernels that may spill, with the reason.
MAY_SPILL: dict[str, str] = {}


def compile_one(source: Path, architecture: str) -> tuple[Path, str, str, str]:
    """(file, architecture, what the assembler says, the PTX)."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "nvcc", *FLAGS, "-gencode", ARCHITECTURES[architecture], "-Xptxas=-v", "-cubin", "--keep", "--keep-dir",
            folder, "-diag-suppress=177,186", str(source), "-o", f"{folder}/out.cubin",
        ]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{source.name} does not compile for {architecture}:\n{done.stdout}")
        return source, architecture, done.stdout, "".join(p.read_text() for p in Path(folder).glob("*.ptx"))


def kernels_of(log: str) -> list[tuple[str, int, int, int, int]]:
    """(kernel, registers, shared bytes, stack bytes, spilled bytes) of each kernel that the assembler tells of."""
    found = []
    for entry in log.split("Compiling entry function '")[1:]:
        name = entry.split("'")[0]
        stack, stores, loads, registers, shared = (
            int(match.group(1)) if (match := re.search(rf"{pattern}", entry)) else 0
            for pattern in (
                r"(\d+) bytes stack frame", r"(\d+) bytes spill stores", r"(\d+) bytes spill loads",
                r"Used (\d+) registers", r"(\d+) bytes smem",
            )
        )  # fmt: skip
        found.append((name, registers, shared, stack, max(stores, loads)))
    return found


def forbidden(ptx: str) -> set[str]:
    """Instructions that the arithmetic forbids, in kernels that compute in float32; float64's libm may use them."""
    kernels = (k for k in ptx.split(".entry ")[1:] if ".f64" not in k)
    return {instruction.strip() for kernel in kernels for instruction in FORBIDDEN.findall(kernel)}


def demangle(names: list[str]) -> list[str]:
    """Readable names, the project's namespaces left out."""
    tool = shutil.which("cu++filt") or shutil.which("c++filt")
    if not tool or not names:
        return names
    text = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    short = [re.sub(r"\(.*", "", line.replace("(anonymous namespace)::", "").replace("mmk::cuda::", "")) for line in
             text.replace("void ", "").splitlines()]  # fmt: skip
    return [re.sub(r"mmk::", "", s) for s in short]


def main() -> int:
    """Prints the table; returns how many kernels break a rule."""
    jobs = [(s, a) for s in sorted(KERNELS.glob("*.cu")) for a in ARCHITECTURES]
    bad = 0
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda job: compile_one(*job), jobs))
    print(f"{'file':24} {'for':7} {'registers':>9} {'shared':>7} {'stack':>6} {'spills':>6}  kernel")
    for source, architecture, log, ptx in results:
        kernels = kernels_of(log)
        for name, (_, registers, shared, stack, spills) in zip(demangle([k[0] for k in kernels]), kernels, strict=True):
            wrong = spills > 0 and name.split("<")[0] not in MAY_SPILL
            bad += wrong
            print(
                f"{source.name:24} {architecture:7} {registers:9} {shared:7} {stack:6} {spills:6}  {name}"
                f"{'  SPILLS' if wrong else ''}"
            )
        for serialised in re.findall(r".*C75\d\d.*", log):
            print(f"{source.name} {architecture}: {serialised.strip()}")
            bad += 1
        for instruction in sorted(forbidden(ptx)):
            print(f"{source.name} {architecture}: {instruction} is not of the arithmetic")
            bad += 1
    return bad


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
