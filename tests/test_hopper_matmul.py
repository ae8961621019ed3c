"""Products for Hopper (csrc/cuda/matmul.sm90.cu) on the emulator: bounds, schedules, free extents, layouts, and the
calls that are left to the portable kernels."""

from __future__ import annotations

from typing import Any

import ml_dtypes  # noqa: F401  (names bfloat16 for NumPy)
import numpy as np
import pytest

import harness
from emulated import SCHEDULES, Array, Schedule, floor, run_on, scheduled
from floors import call_id, calls
from hopper import CHECKED, call, switched, told
from mmkernels.contract import Case
from mmkernels.interop import device
from mmkernels.operator import OPERATORS, Operator
from mmkernels.verify import case_operands

MATMUL, LINEAR = OPERATORS["matmul"], OPERATORS["linear"]


@pytest.fixture(autouse=True)
def _hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    switched(monkeypatch, True)


def turn(x: Array) -> Array:
    """The same values, the last two extents exchanged in memory."""
    if x.ndim < 2:
        return x
    return np.swapaxes(np.ascontiguousarray(np.swapaxes(x, -1, -2)), -1, -2)


def case_of(extents: str, activation: str | None = None) -> tuple[Operator, Case]:
    """matmul by "S... M N K", linear by "S I O", in numbers."""
    numbers = tuple(map(int, extents.split()))
    attributes = {"activation": activation}
    if len(numbers) == 3:
        return LINEAR, Case(extents, {"S": numbers[:1], "I": numbers[1], "O": numbers[2]}, attributes, ("bias",))
    *batch, rows, columns, depth = numbers
    named = {"S": tuple(batch), "M": rows, "N": columns, "K": depth}
    return MATMUL, Case(extents, named, attributes, ("bias",))


def operands_of(operator: Operator, case: Case, dtype: str, turned: str = "") -> dict[str, Array]:
    operands = case_operands(operator.contract, case, dtype)
    return {name: turn(x) if name in turned else x for name, x in operands.items()}


# Two multiprocessors; tiles of 128 x 256, 128 x 128 and 64 x 128 have rings of 4, 6 and 8 stages of 64 products.
# extents, activation, dtype, operands whose memory is turned, tiles
CASES = {
    "one tile": ("5 24 40", None, "bfloat16", "", "64 x 128"),
    "laps of eight stages": ("40 1100 200", "relu", "float16", "", "64 x 128"),
    "laps of six stages": ("100 850 200", None, "bfloat16", "", "128 x 128"),
    "laps of four stages": ("260 330 520", "silu", "bfloat16", "", "128 x 256"),
    "one row": ("1 520 264", "gelu", "float16", "", "64 x 128"),
    "one product": ("9 1 24", None, "float16", "", "64 x 128"),
    "batches": ("3 2 40 72 136", None, "float16", "", "64 x 128"),
    "a turned": ("2 136 488 200", "tanh", "bfloat16", "a", "128 x 256"),
    "b turned": ("2 136 488 200", None, "float16", "b", "128 x 256"),
    "both turned": ("2 136 488 200", "sigmoid", "bfloat16", "ab", "128 x 256"),
    "both turned, small tiles": ("2 40 136 200", None, "float16", "ab", "64 x 128"),
    "a turned, middle tiles": ("1 128 256 72", None, "float16", "a", "128 x 128"),
    "ragged results": ("2 131 485 71", "leaky_relu", "bfloat16", "b", "128 x 256"),
    "ragged results, small tiles": ("4 60 9 130", "gelu", "float16", "", "64 x 128"),
    "two slices of batches": ("2 5 9 16400", "relu", "float16", "a", "64 x 128"),
}


@pytest.mark.parametrize("name", CASES)
def test_schedules(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the bound, always the same bits, by the tiles that are meant; and with the bits of mma.sync, whose order
    is the same (the emulator has one model of both; whether a device has, a device must say)."""
    extents, activation, dtype, turned, tiles = CASES[name]
    operator, case = case_of(extents, activation)
    operands = operands_of(operator, case, dtype, turned)
    module, first, ways = floor("_emulated"), None, told(monkeypatch)
    for schedule in SCHEDULES:
        with scheduled(module, schedule):
            found = run_on(module, operator, case, operands)
        first = first or found
        assert harness.same_bits(found, first), f"{schedule} gives other bits than {SCHEDULES[0]}"
    assert all(tiles in way and "wgmma" in way for way in ways), ways[0]
    harness.check_against_reference(operator, case, operands, dtype, found=first, bound="tensor_dot")
    switched(monkeypatch, False)
    assert harness.same_bits(call(operator, case, operands), first or ())
    assert "wgmma" not in ways[-1]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("schedule", [CHECKED, Schedule("reverse", late=False)], ids=str)
def test_checked(name: str, schedule: Schedule) -> None:
    """No race, nothing out of bounds, nothing read before it was delivered."""
    extents, activation, dtype, turned, _ = CASES[name]
    operator, case = case_of(extents, activation)
    operands = operands_of(operator, case, dtype, turned)
    module = floor("_emulated_check")
    with scheduled(module, schedule, check=True):
        run_on(module, operator, case, operands)


CONTRACTED = [c for c in calls("float16", "bfloat16") if c[0] in (MATMUL, LINEAR)]


@pytest.mark.parametrize(("operator", "case", "dtype"), CONTRACTED, ids=[call_id(*c) for c in CONTRACTED])
def test_contract(operator: Operator, case: Case, dtype: str) -> None:
    """The contracts' cases, among them broadcast batches, no rows and no products."""
    operands = case_operands(operator.contract, case, dtype)
    found = call(operator, case, operands, checked=True)
    harness.check_against_reference(operator, case, operands, dtype, found=found, bound="tensor_dot")


def test_free_extents() -> None:
    """Batches, rows and columns change no bit of the others' results, whichever tiles make them."""
    operator, case = case_of("3 150 280 200")
    x = operands_of(operator, case, "bfloat16")
    y = call(operator, case, x)[0]

    def part(batches: slice, rows: slice, columns: slice) -> Array:
        some = {"a": x["a"][batches, rows], "b": x["b"][batches, :, columns], "bias": x["bias"][columns]}
        return call(operator, case, {k: np.ascontiguousarray(v) for k, v in some.items()})[0]

    whole = slice(None)
    for batches, rows, columns in (
        (slice(1, 2), whole, whole),
        (whole, slice(3, 70), whole),
        (whole, whole, slice(40, 49)),
        (slice(2, 3), slice(149, 150), slice(279, 280)),
    ):
        assert harness.same_bits((part(batches, rows, columns),), (y[batches, rows, columns],))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_layouts(dtype: str) -> None:
    """Strides that tensor copies walk and strides that they do not, an odd first element, shared operands, batches of
    several strides: the same bits."""
    operator, case = case_of("2 3 70 72 136")
    x = operands_of(operator, case, dtype)
    wanted = call(operator, case, x)
    door = device.library(floor("_emulated").__name__)

    def same(given: dict[str, Any]) -> bool:
        return harness.same_bits(call(operator, case, given), wanted)

    for layout in (harness.fortran, harness.strided, harness.reversed_memory, turn):
        for first in (0, 1):
            assert same({n: door.place(layout(a), first) for n, a in x.items()}), (layout, first)
    # heads beside each other: rows of 64 + 72 elements, batches inside rows
    together = np.concatenate([x["a"], np.zeros_like(x["a"])], -1).transpose(0, 2, 1, 3).copy()
    assert same({**x, "a": door.place(together)[..., :136].transpose(0, 2, 1, 3)})
    for shape in ((1, 3, 70, 136), (2, 1, 70, 136), (1, 1, 70, 136), (70, 136)):
        shared = np.broadcast_to(x["a"][tuple(slice(n) for n in shape)] if len(shape) == 4 else x["a"][0, 0], shape)
        whole = np.ascontiguousarray(np.broadcast_to(shared, x["a"].shape))
        some = Case("", {**case.extents, "a": shape}, case.attributes, case.optional)
        given = {**x, "a": np.ascontiguousarray(shared)}
        assert harness.same_bits(call(operator, some, given), call(operator, case, {**x, "a": whole})), shape
        shared_b = np.ascontiguousarray(np.swapaxes(x["b"], 0, 1)[:1]) if shape == (1, 3, 70, 136) else x["b"][0, 0]
        given = {**x, "b": shared_b[:, :1] if shared_b.ndim == 4 else shared_b}
        assert harness.same_bits(
            call(operator, case, given),
            call(operator, case, {**x, "b": np.ascontiguousarray(np.broadcast_to(given["b"], x["b"].shape))}),
        )


@pytest.mark.parametrize("columns", [72, 69])
def test_out(columns: int) -> None:
    """A result at an odd address, or in a larger array, with the same bits and nothing beside it."""
    operator, case = case_of(f"2 70 {columns} 136")
    x = operands_of(operator, case, "float16")
    wanted = call(operator, case, x)
    door = device.library(floor("_emulated_check").__name__)
    odd = door.place(np.zeros((2, 70, columns), np.float16), 1)
    assert harness.same_bits(call(operator, case, x, checked=True, out=odd), wanted)
    larger = door.from_numpy(np.zeros((2, 72, columns + 5), np.float16), None)
    assert harness.same_bits(call(operator, case, x, checked=True, out=larger[:, 1:-1, 2:-3]), wanted)
    around = door.to_numpy(larger)
    around[:, 1:-1, 2:-3] = 0
    assert not around.any()


def test_not_finite() -> None:
    """A NaN or an infinity reaches exactly its row, or its column."""
    operator, case = case_of("1 130 136 72")
    x = operands_of(operator, case, "bfloat16")
    clean = call(operator, case, x)[0]
    x["a"][0, 129, 71] = np.nan
    x["b"][0, 3, 135] = np.inf
    y = call(operator, case, x)[0].astype(np.float32)
    assert np.isnan(y[0, 129]).all() and not np.isfinite(y[0, :, 135]).any()
    assert harness.same_bits((y[:, :129, :135].astype(clean.dtype),), (clean[:, :129, :135],))


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel runs where it is asked for: 16 bits and one product or more, however operands lie."""
    ways = told(monkeypatch)

    def ours(extents: str, dtype: str = "bfloat16", turned: str = "") -> bool:
        operator, case = case_of(extents)
        call(operator, case, operands_of(operator, case, dtype, turned))
        return "tensor copies and wgmma" in ways[-1]

    for extents in ("1 1 1", "7 19 5", "3 5 7 9", "300 64 300"):
        assert ours(extents) and ours(extents, "float16") and ours(extents, turned="abweight")
        assert not ours(extents, "float32")
    assert not ours("7 0 5")
    monkeypatch.setenv("MMK_CUDA_ARCH", "sm_80")
    assert not ours("7 64 5")
    switched(monkeypatch, False)
    assert not ours("7 64 5")
