"""Tiles of the CUDA floor's products that the contracts' cases do not reach: several tiles, whole pieces of 16 bytes in
both directions, few rows, long sums in slices, operands that begin between two pieces."""

from __future__ import annotations

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

# name: operator, extents, attributes, which operands are stored transposed
CALLS = {
    "large tiles": ("matmul", {"S": (), "M": 132, "N": 136, "K": 72}, {"activation": "silu"}, ()),
    "large tiles, transposed": ("matmul", {"S": (), "M": 136, "N": 136, "K": 40}, {}, ("a", "b")),
    "small tiles": ("linear", {"S": (72,), "I": 80, "O": 56}, {"activation": "relu"}, ()),
    "small tiles, transposed": ("matmul", {"S": (3,), "M": 72, "N": 24, "K": 48}, {}, ("a",)),
    "ragged chunks": ("matmul", {"S": (2,), "M": 24, "N": 8, "K": 264}, {}, ("a", "b")),
    "few rows": ("linear", {"S": (3,), "I": 520, "O": 72}, {"activation": "gelu"}, ()),
    "few rows, transposed": ("matmul", {"S": (), "M": 8, "N": 40, "K": 264}, {}, ("b",)),
    "one row": ("linear", {"S": (), "I": 2088, "O": 296}, {}, ()),
    "several rounds of chunks": ("matmul", {"S": (2,), "M": 17, "N": 3, "K": 2310}, {}, ()),
    "ragged large tiles": ("matmul", {"S": (), "M": 131, "N": 133, "K": 71}, {}, ("b",)),
    "slices": ("matmul", {"S": (), "M": 3, "N": 8, "K": 16391}, {"activation": "relu"}, ()),
    "one product": ("matmul", {"S": (), "M": 8, "N": 8, "K": 1}, {}, ()),
}  # fmt: skip


def transposed(x: Array) -> Array:
    return np.swapaxes(np.ascontiguousarray(np.swapaxes(x, -1, -2)), -1, -2)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", CALLS)
def test_tiles(name: str, dtype: str) -> None:
    operator_name, extents, attributes, turned = CALLS[name]
    operator, case = OPERATORS[operator_name], Case(name, extents, attributes, ("bias",))
    operands = case_operands(operator.contract, case, dtype)
    for operand in turned:
        operands[operand] = transposed(operands[operand])
    wanted = run(operator, case, operands)
    schedules = (Schedule(), Schedule("random", 1), Schedule("random", 2, late=False))
    first = None
    for schedule in schedules:
        found = check_floor("_emulated", operator, case, dtype, schedule, operands, wanted=wanted)
        first = first or found
        assert harness.same_bits(found, first)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", ["small tiles, transposed", "few rows", "few rows, transposed"])
def test_checked(name: str, dtype: str) -> None:
    operator_name, extents, attributes, turned = CALLS[name]
    operator, case = OPERATORS[operator_name], Case(name, extents, attributes, ("bias",))
    operands = case_operands(operator.contract, case, dtype)
    for operand in turned:
        operands[operand] = transposed(operands[operand])
    check_floor("_emulated_check", operator, case, dtype, Schedule("random", 3), operands, check=True)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_slices(dtype: str) -> None:
    """Views that begin one element late, with strides that no 16 bytes divide, and the result in the same place."""
    operator = OPERATORS["matmul"]
    case = Case("slices", {"S": (2,), "M": 9, "N": 17, "K": 31}, {}, ())
    operands = case_operands(operator.contract, case, dtype)
    padded = {name: np.pad(x, ((0, 0), (1, 0), (1, 2))) for name, x in operands.items()}
    module = floor("_emulated_check")
    door = device.library(module.__name__)
    views = {name: door.from_numpy(x, None)[:, 1:, 1:-2] for name, x in padded.items()}
    out = door.from_numpy(np.zeros((2, 10, 20), operands["a"].dtype), None)[:, 1:, 2:19]
    with scheduled(module, Schedule("random", 4), True):
        found = run_on(module, operator, case, views, out)
    dense = check_floor("_emulated", operator, case, dtype, Schedule(), operands)
    assert harness.same_bits(found, dense)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_free_extents(dtype: str) -> None:
    """A row has the same bits alone, among few and among many, whichever tile makes it."""
    operator = OPERATORS["linear"]
    case = Case("rows", {"S": (130,), "I": 72, "O": 264}, {}, ("bias",))
    operands = case_operands(operator.contract, case, dtype)
    whole = check_floor("_emulated", operator, case, dtype, Schedule(), operands)[0]
    for rows in (1, 16, 40):
        part = {**operands, "x": np.ascontiguousarray(operands["x"][:rows])}
        few = Case("rows", {"S": (rows,), "I": 72, "O": 264}, {}, ("bias",))
        assert harness.same_bits(check_floor("_emulated", operator, few, dtype, Schedule(), part), (whole[:rows],))
    # element by element: an extent that no piece divides, its last products being zeros
    ragged = {name: x[..., :71].copy() if x.ndim > 1 else x for name, x in operands.items()}
    zeros = {name: np.pad(x, ((0, 0), (0, 1))) if x.ndim > 1 else x for name, x in ragged.items()}
    odd = Case("rows", {"S": (130,), "I": 71, "O": 264}, {}, ("bias",))
    assert harness.same_bits(
        check_floor("_emulated", operator, odd, dtype, Schedule(), ragged),
        check_floor("_emulated", operator, case, dtype, Schedule(), zeros),
    )
