"""The examples of the public documentation run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import mmkernels

MODULES = ["mmkernels"] + [
    m.name
    for m in pkgutil.walk_packages(mmkernels.__path__, "mmkernels.")
    if not m.name.startswith(("mmkernels.interop.", "mmkernels._core"))
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    result = doctest.testmod(module)
    assert result.failed == 0


def test_readme(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's Python runs, and prints what its comments say."""
    text = (Path(__file__).resolve().parent.parent / "README.md").read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(block, names)
    printed = capsys.readouterr().out
    assert "(8, 16, 32, 32) True\n" in printed and "(16, 3, 3, 3)\n" in printed
