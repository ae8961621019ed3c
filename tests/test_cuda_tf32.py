"""Products of TF32 on the CUDA floor that the contracts' cases do not reach: several tiles, operands along k and along
rows, whole pieces of 16 bytes and none, long sums in slices, images of both layouts; and what the cases cannot say: one
batch gives the bits of another, and the rounding is that of the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import harness
from emulated import Array, Schedule, floor, run_on, scheduled
from mmkernels.contract import Case
from mmkernels.operator import OPERATORS
from mmkernels.ops.conv_contracts import cases_of, transposed_case
from mmkernels.verify import case_operands, run
from reference.tf32 import rounded
from test_cuda_matmul import transposed
from test_emulated import check_floor

# name: operator, extents, which operands are stored transposed
PRODUCTS = {
    "small tiles": ("linear", {"S": (72,), "I": 80, "O": 56}, ()),
    "b along its rows": ("matmul", {"S": (2,), "M": 70, "N": 72, "K": 44}, ()),
    "a along its rows": ("matmul", {"S": (), "M": 68, "N": 76, "K": 39}, ("a",)),
    "both transposed": ("matmul", {"S": (3,), "M": 36, "N": 20, "K": 40}, ("a", "b")),
    "large tiles": ("matmul", {"S": (), "M": 260, "N": 264, "K": 36}, ()),
    "large tiles, b along k": ("matmul", {"S": (), "M": 260, "N": 264, "K": 36}, ("b",)),
    "large tiles, packed": ("matmul", {"S": (), "M": 259, "N": 257, "K": 35}, ()),
    "element by element": ("matmul", {"S": (2,), "M": 17, "N": 19, "K": 23}, ("b",)),
    "one row": ("linear", {"S": (), "I": 524, "O": 44}, ()),
    "slices": ("matmul", {"S": (), "M": 3, "N": 8, "K": 16391}, ()),
    "one product": ("matmul", {"S": (), "M": 8, "N": 8, "K": 1}, ()),
}  # fmt: skip
SCHEDULES = (Schedule(), Schedule("random", 1), Schedule("random", 2, late=False))


def product(name: str) -> tuple[Any, Case, dict[str, Array]]:
    operator_name, extents, turned = PRODUCTS[name]
    attributes = {"activation": "gelu", "algorithm": "tf32"}
    operator, case = OPERATORS[operator_name], Case(name, extents, attributes, ("bias",))
    operands = case_operands(operator.contract, case, "float32")
    return operator, case, {n: transposed(x) if n in turned else x for n, x in operands.items()}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    operator, case, operands = product(name)
    wanted, first = run(operator, case, operands), None
    for schedule in SCHEDULES:
        found = check_floor("_emulated", operator, case, "float32", schedule, operands, wanted=wanted)
        first = first or found
        assert harness.same_bits(found, first)


@pytest.mark.parametrize("name", ["small tiles", "b along its rows", "a along its rows", "element by element"])
def test_products_checked(name: str) -> None:
    operator, case, operands = product(name)
    check_floor("_emulated_check", operator, case, "float32", Schedule("random", 3), operands, check=True)


@pytest.mark.parametrize("extent", [72, 71])
def test_batches(extent: int) -> None:
    """A row has the same bits alone, among few and among many, by small tiles, large ones, or element by element."""
    operator = OPERATORS["linear"]

    def rows(count: int, operands: dict[str, Array]) -> Array:
        part = {**operands, "x": np.ascontiguousarray(operands["x"][:count])}
        case = Case("rows", {"S": (count,), "I": extent, "O": 200}, {"algorithm": "tf32"}, ("bias",))
        return check_floor("_emulated", operator, case, "float32", Schedule(), part)[0]

    case = Case("rows", {"S": (300,), "I": extent, "O": 200}, {}, ("bias",))
    operands = case_operands(operator.contract, case, "float32")
    whole = rows(300, operands)
    for count in (1, 16, 65):
        assert harness.same_bits((rows(count, operands),), (whole[:count],))


def test_rounding_on_the_device() -> None:
    """To the nearest, ties away from zero, as on the CPU, where a sum has one product; infinities and NaN too."""
    bits = np.random.default_rng(5).integers(0, 2**32, 4096, np.uint64).astype(np.uint32)
    x = bits.view(np.float32)
    x[:4] = np.float32([1 + 2.0**-11, -1 - 2.0**-11, 2.0**-137, np.inf])
    x = np.where(np.abs(x) < 2.0**-120, np.float32(1.5), x)  # products of subnormals may be cut off
    operator, case = OPERATORS["matmul"], Case("one", {"S": (), "M": 4096, "N": 1, "K": 1}, {"algorithm": "tf32"})
    with scheduled(floor("_emulated"), Schedule()):
        found = run_on(floor("_emulated"), operator, case, {"a": x[:, None], "b": np.ones((1, 1), np.float32)})[0]
    assert np.array_equal(found[:, 0], rounded(x), equal_nan=True)


CONVOLUTIONS = {
    f"{operator}: {name}": (operator, case)
    for name, args, kwargs in (
        ("several tiles", ((2, 40, 9, 8), (3, 3), 72), {"padding": (1, 1, 1, 1), "activation": "silu",
                                                        "optional": ("bias", "residual")}),
        ("stride 2", ((2, 24, 11, 10), (3, 3), 40), {"stride": (2, 2), "padding": (1, 1, 1, 1), "optional": ("bias",)}),
        ("groups", ((1, 36, 6, 7), (3, 3), 34), {"groups": 2, "padding": (0, 1, 1, 0), "dilation": (1, 2)}),
        ("1 x 1", ((3, 72, 5, 4), (1, 1), 136), {"optional": ("bias",), "activation": "relu"}),
        ("stem", ((1, 3, 12, 14), (7, 7), 24), {"stride": (2, 2), "padding": (3, 3, 3, 3), "optional": ("bias",)}),
    )
    for operator, case in zip(
        ("conv2d", "conv2d_input_grad", "conv2d_weight_grad"), cases_of(name, *args, algorithm="tf32", **kwargs),
        strict=True)
} | {
    "conv_transpose2d: stride 2": ("conv_transpose2d", transposed_case(
        "stride 2", (2, 20, 5, 6), (4, 4), 24, stride=(2, 2), padding=(1, 1, 1, 1), algorithm="tf32")),
    "conv1d: long": ("conv1d", cases_of("long", (1, 20, 300), (3,), 24, stride=(2,), padding=(4, 0),
                                        algorithm="tf32")[0]),
    "conv3d: lines": ("conv3d", cases_of("lines", (2, 24, 7, 4, 5), (3, 1, 1), 40, padding=(2, 0, 0, 0, 0, 0),
                                         algorithm="tf32", optional=("residual",))[0]),
}  # fmt: skip


@pytest.mark.parametrize("layout", [None, harness.channels_last], ids=["planes", "channels last"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str, layout: Any) -> None:
    operator, case = OPERATORS[CONVOLUTIONS[name][0]], CONVOLUTIONS[name][1]
    operands = case_operands(operator.contract, case, "float32")
    if layout:
        operands = {n: layout(x) for n, x in operands.items()}
    wanted = run(operator, case, operands)
    found = [check_floor("_emulated", operator, case, "float32", s, operands, wanted=wanted) for s in SCHEDULES]
    assert all(harness.same_bits(f, found[0]) for f in found)
    # On tensor cores some sum is cut off where the CPU rounds; a group of three outputs does not use them.
    assert harness.same_bits(found[0], wanted) == (name == "conv2d_input_grad: stem")


@pytest.mark.parametrize("name", ["conv2d: stride 2", "conv2d_input_grad: groups", "conv2d_weight_grad: groups"])
def test_convolutions_checked(name: str) -> None:
    operator, case = OPERATORS[CONVOLUTIONS[name][0]], CONVOLUTIONS[name][1]
    operands = case_operands(operator.contract, case, "float32")
    check_floor("_emulated_check", operator, case, "float32", Schedule("random", 5), operands, check=True)


def test_a_sample_in_any_batch() -> None:
    operator = OPERATORS["conv2d"]
    case = CONVOLUTIONS["conv2d: stride 2"][1]
    operands = case_operands(operator.contract, case, "float32")
    both = check_floor("_emulated", operator, case, "float32", Schedule(), operands)[0]
    single = Case("one", {**case.extents, "N": 1}, case.attributes, case.optional)
    for n in range(2):
        part = {**operands, "x": operands["x"][n : n + 1].copy()}
        assert harness.same_bits(
            check_floor("_emulated", operator, single, "float32", Schedule(), part), (both[n : n + 1],)
        )


def test_weights_that_are_not_finite() -> None:
    """A border's zero times an infinite weight is NaN in conv2d; in the input gradient such taps take no part, and the
    sum is that of rounded factors."""
    for name in ("conv2d: several tiles", "conv2d_input_grad: several tiles"):
        operator, case = OPERATORS[CONVOLUTIONS[name][0]], CONVOLUTIONS[name][1]
        operands = case_operands(operator.contract, case, "float32")
        operands["weight"][0, 0, 0, 0] = np.inf
        wanted = run(operator, case, operands)
        assert np.isnan(wanted[0]).any() == (operator.name == "conv2d")
        check_floor("_emulated", operator, case, "float32", Schedule(), operands, wanted=wanted)
