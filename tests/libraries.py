"""Builds .cu files of the tests: with g++ against the emulator, or with nvcc for the device (MMK_GPU=1)."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "wrappers"
ON_DEVICE = os.environ.get("MMK_GPU") == "1"
COMPILER = [os.environ.get("CXX", "g++"), "-std=c++20", "-fPIC", "-g1", "-ffp-contract=off", "-fvisibility=hidden"]
COMPILER += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
if platform.machine() == "x86_64":
    COMPILER += ["-march=x86-64-v3"]  # fma as one instruction
KERNELS = ["-O2", "-DMMK_ISA=cuda", "-DMMK_DEVICE", "-x", "c++"]
# The compiler calls the runtime before every access; no sanitizer's library is linked.
CHECKED = ["-fsanitize=thread", "-fsanitize=bounds,alignment", "--param", "tsan-instrument-func-entry-exit=0"]


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def key(*parts: object) -> str:
    headers = [p for folder in ("simt", "cuda") for p in sorted((ROOT / "csrc" / folder).glob("*.*h"))]
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in headers))
    for part in parts:
        digest.update(part.read_bytes() if isinstance(part, Path) else repr(part).encode())
    return digest.hexdigest()[:24]


def compiled(source: Path, flags: list[str]) -> Path:
    """The object file of this text with these flags, built once."""
    target = CACHE / f"{source.stem}-{key(source, COMPILER, flags)}.o"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.o")
        run([*COMPILER, *flags, "-c", str(source), "-o", str(partial)])
        partial.rename(target)
    return target


def emulated(source: Path, checked: bool = False, runtime: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The file's kernels with the emulator, checked or not; `runtime` are further flags for the scheduler."""
    flags = [*KERNELS, *(CHECKED if checked else [])]
    parts = sorted((ROOT / "csrc" / "simt").glob("*.cpp"))
    jobs = [(source, flags)] + [(p, ["-O3", *(runtime if p.stem == "scheduler" else ())]) for p in parts]
    with ThreadPoolExecutor(2) as pool:
        objects = [str(o) for o in pool.map(lambda job: compiled(*job), jobs)]
    library = CACHE / f"{source.stem}-{key(*map(str, objects))}.so"
    if not library.exists():
        run([COMPILER[0], "-shared", *objects, "-o", str(library), "-ldl"])
    return ctypes.CDLL(str(library))


def on_device(source: Path) -> ctypes.CDLL:
    """The file's kernels for the machine's GPU."""
    target = CACHE / f"{source.stem}-{key(source, 'nvcc')}.so"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        architecture = ["-gencode", "arch=compute_90a,code=sm_90a", "--fmad=false"]
        run(["nvcc", "-std=c++20", *architecture, "-Xcompiler", "-fPIC", "-shared", str(source), "-o", str(target)])
    return ctypes.CDLL(str(target))


def device_messages(source: Path, architecture: str) -> str:
    """What nvcc and ptxas say of the file; they must accept it."""
    target = CACHE / f"{source.stem}-{key(source, architecture)}.txt"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        code = ["-gencode", f"arch=compute_{architecture},code=sm_{architecture}"]
        command = ["nvcc", "-std=c++20", "--fmad=false", *code, "-cubin", str(source), "-o", str(target) + ".cubin"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        target.write_text(done.stdout + done.stderr)
    return target.read_text()
