"""Attention's CUDA kernels where the contract's small cases do not reach: tiles of every head dimension, several
blocks, ragged edges, many short sequences, heads read where they lie, and what tensor cores must keep too."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes  # noqa: F401  (names bfloat16 for NumPy)
import numpy as np
import pytest

import harness
from emulated import Array, Schedule, floor, run_on, scheduled
from mmkernels.contract import Case
from mmkernels.interop import device
from mmkernels.operator import OPERATORS
from mmkernels.verify import case_operands, run
from test_emulated import check_floor

ATTENTION, GRAD, BIAS_GRAD = (OPERATORS[n] for n in ("attention", "attention_grad", "attention_bias_grad"))
NAMES = ("B", "H", "Hkv", "Sq", "Sk", "D", "Dv")


def case_of(extents: str, *optional: str, causal: int = 0, **others: Any) -> Case:
    found = dict(zip(NAMES, map(int, extents.split()), strict=True))
    attributes = {"causal": causal, "scale": 1 / math.sqrt(found["D"])}
    attributes |= {n: others.pop(n) for n in ("window", "softcap") if n in others}
    return Case(extents, {**found, "B": (found["B"],), "W": 5, **others}, attributes, optional)


def forward_and_gradients(case: Case, dtype: str) -> list[tuple[Any, dict[str, Array]]]:
    """(operator, operands) of a case, the gradients' y and lse being the CPU floor's."""
    operands = case_operands(ATTENTION.contract, case, dtype)
    y, lse = run(ATTENTION, case, operands)
    more = case_operands(GRAD.contract, case, dtype)
    given = {**operands, "y": y, "lse": lse, "gy": more["gy"], **({"glse": more["glse"]} if "glse" in more else {})}
    return [(ATTENTION, operands), (GRAD, given), (BIAS_GRAD, given)]


# Every padded head dimension, both sides of a tile's edge, triangles, groups, broadcast and whole masks and biases.
CASES = [
    case_of("1 2 1 70 67 16 32", causal=1),
    case_of("1 2 2 33 130 64 40", causal=2),
    case_of("1 1 1 130 65 64 64", "mask", "bias", mask=(1, 1, 130, 65), bias=(1, 1, 1, 65)),
    case_of("1 3 1 37 70 96 80", "bias", "glse", causal=1),
    case_of("1 1 1 140 71 128 128", causal=2),
    case_of("1 2 1 20 33 104 128", "mask", mask=(1, 1, 1, 33)),
    case_of("1 1 1 66 70 256 160", causal=1),
    case_of("2 2 2 16 16 40 40"),
    case_of("3 2 1 17 31 72 128", "mask", causal=2),
    case_of("1 2 1 150 210 64 64", causal=2, window=(20, -1)),
    case_of("2 2 1 70 150 32 40", "offset", "sink", causal=1, window=(40, 3)),
    case_of("3 2 2 90 140 128 96", "key_lengths", "query_lengths", "sink", causal=2),
    case_of("3 1 1 40 100 200 64", "key_lengths", "query_lengths", "offset", "mask", window=(9, 30)),
]  # fmt: skip


SCALAR_CASES = [
    case_of("1 2 1 70 300 24 40", "slopes", "table", "sink", "bias", causal=2, window=(150, -1), softcap=1.5, W=41),
    case_of("2 2 1 30 40 300 20", "table", "key_lengths", "query_lengths", "offset", softcap=0.7),
    case_of("1 1 1 130 150 140 136", "slopes", causal=1, softcap=2.0),
    case_of("1 2 1 70 140 136 72", "bias", "glse", causal=2, bias=(1, 2, 1, 140)),
    case_of("2 2 1 49 131 20 130", "mask", causal=1),
    case_of("5 3 3 16 16 40 40"),
    case_of("3 4 2 9 31 300 24", "mask", "bias", causal=2),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_tensor_cores(case: Case, dtype: str) -> None:
    """Within bounds, the same in two orders; and nothing for the checker to report."""
    for operator, operands in forward_and_gradients(case, dtype):
        first = check_floor("_emulated", operator, case, dtype, Schedule("random", 3), operands)
        again = check_floor("_emulated", operator, case, dtype, Schedule("reverse", 1, False), operands)
        assert harness.same_bits(again, first)
        if dtype == "float16":
            check_floor("_emulated_check", operator, case, dtype, Schedule("random", 5), operands, check=True)


@pytest.mark.parametrize("case", SCALAR_CASES, ids=lambda c: c.name)
def test_scalar(case: Case) -> None:
    for operator, operands in forward_and_gradients(case, "float32"):
        check_floor("_emulated", operator, case, "float32", Schedule("random", 3), operands)


def on_floor(operator: Any, case: Case, operands: dict[str, Array]) -> tuple[Array, ...]:
    module = floor("_emulated")
    with scheduled(module, Schedule("random", 2)):
        return run_on(module, operator, case, operands)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("extents", ["1 2 2 70 70 32 32", "2 1 1 20 20 40 64"])
def test_nothing_behind_a_mask_matters(extents: str, dtype: str) -> None:
    """Keys, values, and queries that see nothing, may hold NaN and infinities: the other bits stay as they were."""
    case = case_of(extents, "mask")
    for operator, operands in forward_and_gradients(case, dtype):
        operands["mask"][:, :, :, 5] = operands["mask"][:, :, 9] = False
        operands["mask"][:, :, 11, 7], operands["mask"][:, :, 12, 7], operands["mask"][:, :, 11, 8] = True, False, False
        if "lse" in operands:
            operands["lse"][:, :, 9] = -np.inf
        clean = on_floor(operator, case, operands)
        spoilt = {n: x.copy() for n, x in operands.items()}
        spoilt["k"][:, :, 5, 3], spoilt["v"][:, :, 5, 1], spoilt["v"][:, :, 5, 2] = np.nan, -np.inf, np.nan
        spoilt["q"][:, :, 9, 0] = np.inf
        if "gy" in spoilt:
            spoilt["gy"][:, :, 9, 4] = np.nan
        assert harness.same_bits(on_floor(operator, case, spoilt), clean), operator.name
        assert all(np.isfinite(y.astype(np.float64)[:, :, 10]).all() for y in clean)
        # what is seen shows
        spoilt["v"][:, :, 7, 6] = np.nan
        y = on_floor(operator, case, spoilt)[0]
        if operator is ATTENTION:
            assert np.isnan(y[:, :, 11, 6]).all()
            assert (y[:, :, 12] == clean[0][:, :, 12]).all()
            assert (y[:, :, 11, :6] == clean[0][:, :, 11, :6]).all()
        if operator is GRAD:
            spoilt["gy"][:, :, 11, 4] = np.nan
            _, gk, gv = on_floor(operator, case, spoilt)
            assert np.isnan(gv[:, :, 7, 4]).all() and np.isnan(gk[:, :, 7]).all()
            assert (gv[:, :, 8] == clean[2][:, :, 8]).all() and (gk[:, :, 8] == clean[1][:, :, 8]).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("d", [40, 128, 200])
def test_decode_gives_the_bits_of_prefill(d: int, dtype: str) -> None:
    """A row's bits depend on its query and the keys it sees: not on the other rows, nor on how many keys there are,
    nor on whether a warp takes the sequence alone."""
    whole = case_of(f"1 2 1 75 75 {d} {d}", causal=1)
    operands = case_operands(ATTENTION.contract, whole, dtype)
    y, lse = on_floor(ATTENTION, whole, operands)
    for first, last in ((0, 1), (0, 20), (30, 32), (31, 33), (63, 65), (74, 75)):
        part = {"q": operands["q"][:, :, first:last], **{n: operands[n][:, :, :last] for n in "kv"}}
        case = case_of(f"1 2 1 {last - first} {last} {d} {d}", causal=2)
        found = on_floor(ATTENTION, case, part)
        assert harness.same_bits(found, (y[:, :, first:last], lse[:, :, first:last])), (first, last)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("d", [64, 256])
def test_decode_under_a_window_and_a_sink(d: int, dtype: str) -> None:
    """The same with the cache at full length and positions in device memory; one item ahead of the other."""
    whole = case_of(f"2 2 1 75 75 {d} {d}", "sink", causal=1, window=(40, -1))
    operands = case_operands(ATTENTION.contract, whole, dtype)
    y, lse = on_floor(ATTENTION, whole, operands)
    for first, last in ((0, 1), (0, 20), (41, 42), (63, 66), (74, 75)):
        offset = np.array([first, first], np.int32)
        part = {**operands, "q": operands["q"][:, :, first:last], "offset": offset}
        case = case_of(f"2 2 1 {last - first} 75 {d} {d}", "sink", "offset", causal=1, window=(40, -1))
        found = on_floor(ATTENTION, case, part)
        assert harness.same_bits(found, (y[:, :, first:last], lse[:, :, first:last])), (first, last)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("depth", [64, 20])
def test_packed_over_several_tiles(depth: int, dtype: str) -> None:
    """Each sequence gives the bits that it gives alone; what no sequence covers is cleared."""
    forward, backward = OPERATORS["attention_packed"], OPERATORS["attention_packed_grad"]
    starts = np.array([2, 72, 72, 140]), np.array([0, 75, 130, 260])
    extents = {"N": 4, "Tq": 143, "Tk": 262, "H": 2, "Hkv": 1, "D": depth, "Dv": depth}
    attributes = {"causal": 2, "scale": 0.3, "window": (90, -1)}
    case = Case("packed", extents, attributes)
    operands = {**case_operands(forward.contract, case, dtype), "query_starts": starts[0], "key_starts": starts[1]}
    y, lse = check_floor("_emulated", forward, case, dtype, Schedule("random", 3), operands)
    more = {**operands, "y": y, "lse": lse, "gy": case_operands(backward.contract, case, dtype)["gy"]}
    gradients = check_floor("_emulated", backward, case, dtype, Schedule("random", 4), more)
    check_floor("_emulated_check", backward, case, dtype, Schedule("random", 5), more, check=True)
    for i in range(3):
        rows, keys = (slice(int(s[i]), int(s[i + 1])) for s in starts)

        def of(x: Array, rows: slice) -> Array:
            return np.ascontiguousarray(np.moveaxis(x[rows], 1, 0)[None])

        own = {n: of(operands[n], rows if n == "q" else keys) for n in "qkv"}
        alone = on_floor(ATTENTION, Case("alone", {}, attributes), own)
        assert harness.same_bits(alone, (of(y, rows), lse[None, :, rows]))
        own |= {"y": alone[0], "lse": alone[1], "gy": of(more["gy"], rows)}
        back = on_floor(GRAD, Case("alone", {}, attributes), own)
        places = (rows, keys, keys)
        assert harness.same_bits(back, tuple(of(g, at) for g, at in zip(gradients, places, strict=True)))
    assert not y[:2].any() and not y[140:].any() and np.isneginf(lse[:, :2]).all() and not gradients[1][260:].any()


def test_attention_over_time_is_read_where_it_lies() -> None:
    """(B, T, rows, columns, H, D) as a view of four batch extents, results likewise, without scratch."""
    door = device.library(floor("_emulated").__name__)
    case = Case(
        "video", {"B": (2, 3, 2), "H": 2, "Hkv": 2, "Sq": 40, "Sk": 40, "D": 8, "Dv": 8}, {"causal": 1, "scale": 0.3}
    )
    for dtype in ("float32", "float16"):
        operands = case_operands(ATTENTION.contract, case, dtype)
        wanted = on_floor(ATTENTION, case, operands)
        order, back = (0, 4, 1, 2, 3, 5), (0, 2, 3, 4, 1, 5)
        views = {n: np.ascontiguousarray(x.transpose(order)).transpose(back) for n, x in operands.items()}
        assert harness.same_bits(on_floor(ATTENTION, case, {n: door.place(x) for n, x in views.items()}), wanted)


def test_more_sequences_than_a_grid_is_high() -> None:
    """66,000 of them, with the heads of (B, S, H, D) read where they lie."""
    dtype = "float32"
    case = case_of("33000 2 2 2 3 8 8")
    operands = case_operands(ATTENTION.contract, case, dtype)
    door = device.library(floor("_emulated").__name__)
    inside = {n: np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for n, x in operands.items()}
    y, lse = on_floor(ATTENTION, case, {n: door.place(x) for n, x in inside.items()})
    assert harness.same_bits((y, lse), run(ATTENTION, case, operands))
