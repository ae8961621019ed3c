"""attention's kernel for Hopper (csrc/cuda/attention.sm90.cu) on the emulator: bounds, schedules, free extents, values
that are not finite, and the calls that it leaves to the portable kernels."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

import harness
from emulated import SCHEDULES, Array, Schedule, floor, run_on, scheduled
from hopper import CHECKED, switched, told
from mmkernels.contract import Case
from mmkernels.interop import device
from mmkernels.operator import OPERATORS
from mmkernels.verify import case_operands

ATTENTION = OPERATORS["attention"]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@pytest.fixture(autouse=True)
def _hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    switched(monkeypatch, True)


def case_of(extents: str, causal: int = 0, scale: float | None = None) -> Case:
    """A case from "B H Hkv Sq Sk D Dv" in numbers."""
    named = dict(zip(("B", "H", "Hkv", "Sq", "Sk", "D", "Dv"), map(int, extents.split()), strict=True))
    attributes = {"causal": causal, "scale": scale or 1 / math.sqrt(named["D"])}
    return Case(extents, {**named, "B": (named["B"],)}, attributes, ())


def attend(operands: dict[str, Array], causal: int, checked: bool = False) -> tuple[Array, ...]:
    depth = operands["q"].shape[3]
    case = Case("", {}, {"causal": causal, "scale": 1 / math.sqrt(depth)}, ())
    module = floor("_emulated_check" if checked else "_emulated")
    with scheduled(module, CHECKED if checked else Schedule(), checked):
        return run_on(module, ATTENTION, case, operands)


# Kernels of 64, 128 and 256 columns have 4, 2 and 2 stages of 128, 128 and 64 keys, and blocks of 128 queries; without
# a triangle each of two blocks does every other piece of work.
CASES = {
    "one tile": (case_of("1 1 1 5 7 8 8"), "bfloat16"),
    "laps of four stages": (case_of("1 2 1 130 700 64 64"), "float16"),
    "several pieces of work": (case_of("2 3 3 300 150 40 40"), "bfloat16"),
    "laps of two stages": (case_of("1 1 1 70 600 128 72"), "bfloat16"),
    "depth less than columns": (case_of("1 2 2 140 260 24 128", 1), "float16"),
    "256 columns": (case_of("1 1 1 65 330 200 256"), "float16"),
    "256 columns, top-left": (case_of("1 2 1 150 200 256 136", 1), "bfloat16"),
    "top-left": (case_of("2 2 1 300 300 64 64", 1), "bfloat16"),
    "top-left, more queries": (case_of("1 1 1 300 90 16 8", 1), "float16"),
    "bottom-right": (case_of("1 2 1 200 333 128 72", 2), "bfloat16"),
    "bottom-right, rows without keys": (case_of("1 2 1 333 140 40 128", 2), "float16"),
    "one query": (case_of("1 2 1 1 400 128 128", 2), "bfloat16"),
    "a scale that makes one key win": (case_of("1 1 1 64 300 64 64", scale=30.0), "bfloat16"),
}


@pytest.mark.parametrize("name", CASES)
def test_schedules(name: str) -> None:
    """Within the bound, and always the same bits."""
    case, dtype = CASES[name]
    operands = case_operands(ATTENTION.contract, case, dtype)
    module, first = floor("_emulated"), None
    for schedule in SCHEDULES:
        with scheduled(module, schedule):
            found = run_on(module, ATTENTION, case, operands)
        first = first or found
        assert harness.same_bits(found, first), f"{schedule} gives other bits than {SCHEDULES[0]}"
    harness.check_against_reference(ATTENTION, case, operands, dtype, found=first, bound="tensor_attention")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("schedule", [CHECKED, Schedule("reverse", late=False)], ids=str)
def test_checked(name: str, schedule: Schedule) -> None:
    """No race, nothing out of bounds, nothing read before it was delivered."""
    case, dtype = CASES[name]
    operands = case_operands(ATTENTION.contract, case, dtype)
    module = floor("_emulated_check")
    with scheduled(module, schedule, check=True):
        run_on(module, ATTENTION, case, operands)


def operands_of(extents: str, dtype: str = "bfloat16") -> dict[str, Array]:
    return case_operands(ATTENTION.contract, case_of(extents), dtype)


@pytest.mark.parametrize("causal", [0, 1, 2])
def test_free_extents(causal: int) -> None:
    """B, H and Sq change no bit of the others' results, nor do keys that a row does not see."""
    x = operands_of("2 4 2 200 320 64 64")
    q, k, v = x["q"], x["k"], x["v"]
    y, lse = attend(x, causal)
    assert harness.same_bits(attend({"q": q[1:], "k": k[1:], "v": v[1:]}, causal), (y[1:], lse[1:]))
    assert harness.same_bits(attend({"q": q[:, 2:3], "k": k[:, 1:], "v": v[:, 1:]}, causal), (y[:, 2:3], lse[:, 2:3]))
    for rows in (slice(0, 70), slice(131, 200)):
        if causal == 0 or (causal == 1 and rows.start == 0):
            seen = {"q": q[:, :, rows], "k": k, "v": v}
        elif causal == 2:
            keys = 320 - 200 + rows.stop
            seen = {"q": q[:, :, rows], "k": k[:, :, :keys], "v": v[:, :, :keys]}
        else:
            continue
        assert harness.same_bits(attend(seen, causal), (y[:, :, rows], lse[:, :, rows])), rows
    if causal == 1:
        assert harness.same_bits(attend({"q": q, "k": k[:, :, :201], "v": v[:, :, :201]}, causal), (y, lse))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("width", "causal"), [(64, 1), (128, 2), (256, 1)])
def test_hidden_values_poison_nothing(width: int, causal: int, poison: float, dtype: str) -> None:
    """A value reaches exactly the rows that see its key, in its own column; the others keep their bits."""
    x = operands_of(f"1 2 1 150 150 {width} {width}", dtype)
    clean, _ = attend(x, causal)
    places = [(33, 5), (34, 5), (120, width - 1), (149, 0)]
    for key, column in places:
        x["v"][0, 0, key, column] = poison
    x["v"][0, 0, 70, 8] = -poison
    found, lse = attend(x, causal, checked=width == 64)
    assert np.isfinite(lse).all()
    wanted = clean.astype(np.float64)
    for key, column in places:
        wanted[:, :, key:, column] = poison
    wanted[:, :, 70:, 8] = -poison
    assert harness.same_bits(found, wanted.astype(found.dtype))


def test_nan_is_seen() -> None:
    """A NaN in a query or a key reaches exactly the rows that see it."""
    x = operands_of("1 1 1 200 200 64 64")
    x["q"][0, 0, 7, 3] = np.nan
    x["k"][0, 0, 140, 9] = np.nan
    y, lse = attend(x, 1)
    wanted = (np.arange(200) == 7) | (np.arange(200) >= 140)
    assert np.array_equal(np.isnan(y[0, 0].astype(np.float32)).all(1), wanted)
    assert np.array_equal(np.isnan(y[0, 0].astype(np.float32)).any(1), wanted)
    assert np.array_equal(np.isnan(lse[0, 0]), wanted)


def test_rows_without_keys() -> None:
    """0 and -inf, whatever the query holds."""
    x = operands_of("1 1 1 300 100 64 64")
    x["q"][0, 0, :200] = np.nan
    y, lse = attend(x, 2)
    assert not y[0, 0, :200].any() and (lse[0, 0, :200] == -np.inf).all()
    assert np.isfinite(lse[0, 0, 200:]).all()


def test_layouts() -> None:
    """Heads beside each other, one array for q, k and v, and strides that no tensor copy walks: the same bits."""
    x = operands_of("2 2 2 70 70 64 64")
    wanted = attend(x, 1)
    door = device.library(floor("_emulated").__name__)
    together = np.stack([x[n].transpose(0, 2, 1, 3) for n in "qkv"], 2)  # (B, S, 3, H, D)
    packed = {n: door.place(together[:, :, i].transpose(0, 2, 1, 3)) for i, n in enumerate("qkv")}
    assert harness.same_bits(attend(packed, 1), wanted)
    for layout in (harness.fortran, harness.strided, harness.reversed_memory):
        assert harness.same_bits(attend({n: door.place(layout(a), 1) for n, a in x.items()}, 1), wanted)


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel runs where it is asked for: 16-bit operands, head dimensions that tensor copies can walk, no mask, no
    bias. Nothing that decides is a free extent."""
    ways = told(monkeypatch)

    def ours(extents: str, dtype: str = "bfloat16", scale: float = 1.0, hidden_by: str = "") -> bool:
        x = operands_of(extents, dtype)
        if hidden_by:
            x[hidden_by] = np.ones((1, 1, 1, x["k"].shape[2]), bool if hidden_by == "mask" else x["q"].dtype)
        case = Case("", {}, {"causal": 1, "scale": scale}, (hidden_by,) if hidden_by else ())
        run_on(floor("_emulated"), ATTENTION, case, x)
        return "tensor copies and wgmma" in ways[-1]

    for extents in ("1 1 1 5 7 8 8", "3 4 2 1 200 64 64", "1 1 1 140 1 256 136"):
        assert ours(extents) and ours(extents, "float16")
        assert not ours(extents, hidden_by="mask") and not ours(extents, hidden_by="bias")
        assert not ours(extents, "float32") and not ours(extents, scale=-1.0)
    assert not ours("1 1 1 5 7 9 8") and not ours("1 1 1 5 7 8 264")
    monkeypatch.setenv("MMK_CUDA_ARCH", "sm_80")
    assert not ours("1 1 1 5 7 8 8")
    monkeypatch.delenv("MMK_CUDA_ARCH")
    assert not ours("1 1 1 5 7 8 8")
