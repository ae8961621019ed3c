"""The house's own laws: every family on every floor, floors that know only what they may."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mmkernels as mmk
from mmkernels import _core
from mmkernels.contract import Contract
from mmkernels.operator import OPERATORS
from mmkernels.profile import family_of

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "csrc"
FAMILIES = sorted(p.stem for p in (SOURCES / "ops").glob("*.h"))


@pytest.mark.parametrize("family", FAMILIES)
def test_family_has_every_floor(family: str) -> None:
    for place in (
        SOURCES / "bind" / f"{family}.cpp",
        SOURCES / "cpu" / f"{family}.cpp",
        SOURCES / "cuda" / f"{family}.cu",
        ROOT / "python" / "mmkernels" / "ops" / f"{family}.py",
        ROOT / "tests" / "reference" / f"{family}.py",
        ROOT / "tests" / f"test_{family}.py",
    ):
        assert place.is_file(), f"{family} has no {place.relative_to(ROOT)}"


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_operator_has_a_cuda_floor(name: str) -> None:
    kernels = "".join(p.read_text() for p in (SOURCES / "cuda").glob(f"{family_of(name)}*.cu"))
    assert re.search(rf"\bvoid {name}\(const [\w:]+& \w+, Context& \w+\) \{{", kernels), f"no cuda::{name}"


def test_every_python_family_is_compiled() -> None:
    """A family's further modules are called <family>_<concept>."""
    modules = {p.stem for p in (ROOT / "python" / "mmkernels" / "ops").glob("*.py")} - {"__init__"}
    assert {m.partition("_")[0] for m in modules} == set(FAMILIES) <= modules


@pytest.mark.parametrize("family", FAMILIES)
def test_header_comment(family: str) -> None:
    text = (SOURCES / "ops" / f"{family}.h").read_text()
    comment = "\n".join(line for line in text.splitlines() if line.startswith("//"))
    for word in ("Computes", "Shapes", "Types", "Limits", "Algorithm", "Order"):
        assert re.search(rf"^// {word}\b", comment, re.M), f"csrc/ops/{family}.h does not say {word}"


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_binding_spells_the_contract(name: str) -> None:
    """Every field of the compiled struct is an operand, a result, an attribute or a computed extent."""
    contract = OPERATORS[name].contract
    fields = _core.operator_fields()[name]
    known = {
        **{a.name: "tensor" for a in contract.inputs},
        **{o.name: "tensor" for o in contract.outputs},
    }
    for field, (kind, _) in fields.items():
        if kind == "tensor":
            assert known.get(field) == "tensor", f"{name}.{field} is no operand of the contract"
        else:
            assert field in {a.name for a in contract.attributes} | set(contract.lets), f"{name}.{field}"
    assert set(known) <= set(fields), f"{name}: the struct lacks {set(known) - set(fields)}"
    for a in contract.attributes:
        if a.kind in ("float", "floats") and a.name in fields:
            assert fields[a.name][0] == "real", f"{name}.{a.name} would lose its fraction"


def test_every_contract_is_bound() -> None:
    stated = {
        v.name
        for path in (ROOT / "python" / "mmkernels" / "ops").glob("[!_]*.py")
        for v in vars(importlib.import_module(f"mmkernels.ops.{path.stem}")).values()
        if isinstance(v, Contract)
    }
    assert stated == set(OPERATORS) == set(_core.operator_fields())


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_contract_is_complete(name: str) -> None:
    contract = OPERATORS[name].contract
    assert contract.summary.endswith(".") and contract.cases and contract.markdown()
    assert len({c.name for c in contract.cases}) == len(contract.cases)


def includes(path: Path) -> set[str]:
    return set(re.findall(r'#include ["<]([^">]+)[">]', path.read_text()))


def test_floors_know_only_what_they_may() -> None:
    for path in SOURCES.rglob("*"):
        if path.suffix not in (".h", ".cpp", ".cu", ".cuh"):
            continue
        if path.parent.name != "bind":
            assert not [i for i in includes(path) if i.startswith(("pybind11", "Python", "torch", "numpy"))], path
        if path.parent.name == "ops":
            assert not [i for i in includes(path) if "cpu/" in i or "bind/" in i or "cuda/" in i], path
        if path.parent.name == "cuda":
            assert not [i for i in includes(path) if "cpu/" in i or "bind/" in i], path
            if path.name != "ptx.cuh":
                assert "asm" not in re.findall(r"\w+", re.sub(r"//.*", "", path.read_text())), f"{path}: PTX"
                assert not [i for i in includes(path) if i.startswith(("cub", "cutlass", "cudnn", "thrust"))], path
        if path.parent.name == "simt":
            assert not [i for i in includes(path) if "core/" in i or "cuda/" in i], path


@pytest.mark.skipif(shutil.which("nm") is None or shutil.which("g++") is None, reason="needs a compiler and nm")
@pytest.mark.parametrize("family", FAMILIES)
def test_no_weak_symbol_is_shared_between_instruction_sets(family: str, tmp_path: Path) -> None:
    """A weak symbol of an AVX2 object that another object also has may be the one the linker keeps for all."""
    for source in sorted((SOURCES / "cpu").glob(f"{family}*.cpp")):
        target = tmp_path / f"{source.name}.o"
        command = ["g++", "-std=c++20", "-O1", "-fno-gnu-unique", "-fvisibility=hidden", "-DMMK_ISA=avx2", "-w"]
        subprocess.run([*command, "-march=x86-64-v3", "-c", str(source), "-o", str(target)], check=True)
        listing = subprocess.run(
            ["nm", "-C", "--defined-only", str(target)], check=True, capture_output=True, text=True
        ).stdout
        weak = [
            line
            for line in listing.splitlines()
            if re.match(r"\S+ [WVu] ", line) and not re.search(r"avx2|__gxx_personality", line)
        ]
        assert not weak, f"{source.name}: {weak[:5]}"


def test_import_is_light() -> None:
    """Nothing but NumPy is imported, no thread is started."""
    code = (
        "import sys, threading, mmkernels; "
        "print(threading.active_count(), {'torch', 'sklearn', 'PIL', 'tqdm', 'rich', 'safetensors'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.split(maxsplit=1) == ["1", "set()\n"]


def test_public_names_have_examples() -> None:
    for name, value in vars(mmk).items():
        if callable(value) and not name.startswith("_") and not isinstance(value, type):
            assert value.__doc__ and ">>>" in value.__doc__, f"mmkernels.{name} shows no example"


def test_public_signatures() -> None:
    """Names, order and defaults of the public functions, as other code relies on them."""
    import inspect

    for name, value in vars(mmk).items():
        if inspect.isfunction(value) and value.__module__.startswith("mmkernels.ops.") and not name.startswith("_"):
            parameters = inspect.signature(value).parameters
            if "out" in parameters:
                assert parameters["out"].kind is inspect.Parameter.KEYWORD_ONLY
