"""The published bits: the table covers everything, this machine gives it, and a difference is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import mmkernels as mmk
from mmkernels import _core, verify
from mmkernels.operator import OPERATORS
from reference import noise


def test_table_is_complete() -> None:
    table = json.loads(verify.TABLE.read_text())
    cases = {
        f"{name}/{case.name}"
        for name, operator in OPERATORS.items()
        for case in operator.contract.cases
        if not case.bench and not operator.contract.on_tensor_cores(case.attributes, "float32")
    }
    assert set(table["hashes"]) == cases
    assert table["arithmetic"] == mmk.__arithmetic__


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    code = verify.main()
    told = capsys.readouterr().out
    assert code == 0, told
    assert len(told.splitlines()) == len(_core.available_isas())


def test_a_difference_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = json.loads(verify.TABLE.read_text())
    table["hashes"]["add/plain"] = "0" * 16
    changed = tmp_path / "hashes.json"
    changed.write_text(json.dumps(table))
    monkeypatch.setattr(verify, "TABLE", changed)
    assert verify.main() == 1
    assert "add/plain is" in capsys.readouterr().out


def test_digest_sees_bits_shapes_and_dtypes_but_not_nan_payloads() -> None:
    x = np.array([1.0, np.nan], np.float32)
    other_nan = x.copy()
    other_nan.view(np.uint32)[1] |= 1
    assert verify.digest((x,)) == verify.digest((other_nan,))
    changed = x.copy()
    changed.view(np.uint32)[0] ^= 1
    for y in (changed, x[None], x.astype(np.float64), np.array([-1.0, np.nan], np.float32)):
        assert verify.digest((x,)) != verify.digest((y,))
    assert verify.digest((np.zeros(1, np.float32),)) != verify.digest((-np.zeros(1, np.float32),))


def test_operands_come_from_philox() -> None:
    counters = np.zeros((3, 4), np.uint32)
    counters[:, 0] = range(3)
    key = np.full((3, 2), (7, 0), np.uint32)
    np.testing.assert_array_equal(verify.random_words(7, 12), noise.philox4x32(counters, key).reshape(-1))
