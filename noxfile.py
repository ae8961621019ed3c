"""The whole ritual: `nox -s lint tests`. Sessions build the package from this tree, as a user would."""

from pathlib import Path

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.reuse_existing_virtualenvs = True


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, style and types."""
    session.install(".[lint]")
    session.run("ruff", "format", "--check", "python", "tests", "noxfile.py")
    session.run("ruff", "check", "python", "tests", "noxfile.py")
    session.run("mypy", "--config-file", "pyproject.toml", "python/mmkernels")
    sources = [str(p) for p in Path("csrc").rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh")]
    session.run("clang-format", "--dry-run", "--Werror", *sources)


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite; `nox -s tests -- torch` adds PyTorch as judge."""
    extras = "test,test-torch" if "torch" in session.posargs else "test"
    session.install(f".[{extras}]")
    session.run("pytest", *[a for a in session.posargs if a != "torch"])


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, operator pages generated from the contracts, into site/."""
    session.install(".[docs]")
    session.run("python", "docs/generate.py")
    session.run("mkdocs", "build", "--strict")


@nox.session
def cuda(session: nox.Session) -> None:
    """The CUDA floor on the emulator, and what nvcc makes of its kernels."""
    session.install(".[test]")
    session.run("pytest", "tests/test_emulated.py", "tests/test_defects.py", "tests/test_conformance.py", "-s", "-q")
    session.run("python", "tests/resources.py")


@nox.session
def bench(session: nox.Session) -> None:
    """The public workloads on this machine: answers checked first, then times."""
    session.install(".[bench]")
    session.run("python", "bench/run.py", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Builds the wheel into dist/, for every architecture of a release where nvcc is found, and prints its size."""
    session.install("build")
    release = "-Ccmake.define.MMK_CUDA_ARCHITECTURES=80-real;86-real;89-real;90a-real;100"
    session.run("python", "-m", "build", "--wheel", release, env={"MMKERNELS_CUDA": "auto"})
    for path in sorted(Path("dist").glob("*.whl")):
        session.log(f"{path.name}: {path.stat().st_size / 2**20:.1f} MiB")
