"""The examples of the public documentation run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

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
