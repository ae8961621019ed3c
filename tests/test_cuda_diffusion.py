"""Diffusion steps on the CUDA floor beyond the contract's cases: one launch for every layout that is the same in all
operands, masks in whole pieces of 16 bytes, samples that a thread visits more than once."""

from __future__ import annotations

from typing import Any

import ml_dtypes  # noqa: F401  (names bfloat16 for NumPy)
import numpy as np
import pytest

import harness
from emulated import Schedule, floor, scheduled
from mmkernels.contract import Case
from mmkernels.interop import device
from mmkernels.operator import OPERATORS
from mmkernels.ops.diffusion import diffusion_step
from mmkernels.verify import case_operands, run
from test_emulated import check_floor

_EVERYTHING = ("y1", "y2", "keys", "h1", "h2", "h3", "h4", "mask", "known")
# name: extents, attributes, optional operands, whether they are channels-last
CALLS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...], bool]] = {
    "mask of pixels": (
        {"N": 2, "S": (4, 4, 8), "mask": (2, 1, 4, 8)}, {"return_history": True}, _EVERYTHING, False,
    ),
    "mask of channels": ({"N": 2, "S": (3, 4, 8), "mask": (1, 3, 1, 1)}, {}, ("mask", "known", "noise"), False),
    "noise, channels last": ({"N": 2, "S": (3, 5, 6), "coefficients": (1, 20)}, {}, ("y1", "keys"), True),
    "mask, channels last": ({"N": 2, "S": (8, 2, 4), "mask": (1, 1, 2, 4)}, {}, ("keys", "mask", "known"), True),
    "memory order": ({"N": 2, "S": (8, 2, 4)}, {"return_history": True}, ("y1", "h1", "noise"), True),
    "many points": ({"N": 700, "S": (2,), "coefficients": (1, 20)}, {}, ("keys",), False),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", CALLS)
def test_steps(name: str, dtype: str) -> None:
    extents, attributes, optional, last = CALLS[name]
    operator, case = OPERATORS["diffusion_step"], Case(name, extents, attributes, ("coefficients", *optional))
    operands = case_operands(operator.contract, case, dtype)
    if last:
        operands = {n: harness.channels_last(x) if n != "mask" else x for n, x in operands.items()}
    wanted = run(operator, case, operands)
    for schedule in (Schedule(), Schedule("random", 1)):
        before = floor("_emulated").counts()[0]
        found = check_floor("_emulated", operator, case, dtype, schedule, operands, wanted=wanted)
        assert harness.same_bits(found, wanted)
        assert floor("_emulated").counts()[0] == before + 1, "one launch a step"
    check_floor("_emulated_check", operator, case, dtype, Schedule("random", 2), operands, check=True, wanted=wanted)


@pytest.mark.parametrize("name", ["diffusion_step", "add_noise"])
def test_large(name: str) -> None:
    """More elements than the emulated device has threads for: each makes several packs."""
    extents = {"N": 3, "S": (70001,)} if name == "add_noise" else {"N": 3, "S": (50000,)}
    operator, case = OPERATORS[name], Case("large", extents, {}, ("coefficients", "keys"))
    operands = case_operands(operator.contract, case, "float32")
    wanted = run(operator, case, operands)
    check_floor("_emulated", operator, case, "float32", Schedule(), operands, wanted=wanted)


def test_noise_of_many_samples() -> None:
    """Samples share blocks; each has its own key."""
    operator = OPERATORS["philox_normal"]
    case = Case("many", {"N": 999}, {"extents": (5,), "offset": 7})
    operands = {"keys": np.arange(999, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)}
    wanted = run(operator, case, operands)
    for schedule in (Schedule(), Schedule("reverse")):
        check_floor("_emulated", operator, case, "float32", schedule, operands, wanted=wanted)


def test_a_step_outside_the_table_gives_zeros() -> None:
    """Nothing is waited for, so nobody can be told; MMK_CHECK_VALUES=1 tells (tests/test_device.py)."""
    module = floor("_emulated_check")
    door = device.library(module.__name__)
    with scheduled(module, Schedule(), check=True):
        for shape in ((4, 3, 5), (4, 16)):
            arrays = [np.random.default_rng(i).standard_normal(shape).astype(np.float32) for i in range(2)]
            x, y = (door.from_numpy(a, None) for a in arrays)
            table = np.random.default_rng(2).standard_normal((3, 20)).astype(np.float32)
            step = np.array([2, -1, 3, 0])
            found = diffusion_step(x, y, door.from_numpy(table, None), seed=3, step=door.from_numpy(step, None))
            inside = np.array([2, 0, 0, 0])
            wanted = diffusion_step(*arrays, table, seed=3, step=inside)
            wanted[[1, 2]] = 0
            np.testing.assert_array_equal(door.to_numpy(found), wanted)
        assert module.take_reports() == []
