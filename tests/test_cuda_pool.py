"""Pooling and resampling on the CUDA floor beyond the contracts' cases: channels-last operands in whole pieces of 16
bytes, planes of several bands, elements that many windows chose, indices that lie outside."""

from __future__ import annotations

from typing import Any

import ml_dtypes  # noqa: F401  (names bfloat16 for NumPy)
import numpy as np
import pytest

import harness
from emulated import Array, Schedule, floor, run_on, scheduled
from mmkernels.contract import Case
from mmkernels.operator import OPERATORS
from mmkernels.verify import case_operands, run
from test_emulated import check_floor, differences

SCHEDULES = (Schedule(), Schedule("random", 1), Schedule("random", 2, late=False))
DTYPES = ("float32", "float64", "float16", "bfloat16")
_THREE = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}
_FIVE = {"kernel": (5, 4), "stride": (1, 3), "padding": (2, 1)}
PIXELS: dict[str, tuple[str, dict[str, int], dict[str, Any]]] = {
    "max, nine taps": ("max_pool2d", {"N": 2, "C": 16, "H": 7, "W": 9}, {**_THREE, "return_indices": True}),
    "max, many taps": ("max_pool2d", {"N": 1, "C": 24, "H": 7, "W": 9}, {**_FIVE, "return_indices": True}),
    "average, nine taps": ("avg_pool2d", {"N": 2, "C": 16, "H": 7, "W": 9}, _THREE),
    "average, many taps": ("avg_pool2d", {"N": 1, "C": 24, "H": 7, "W": 9}, {**_FIVE, "count_include_pad": False}),
    "average, overlapping": ("avg_pool2d_grad", {"N": 2, "C": 16, "P": 4, "Q": 5}, {"height": 7, "width": 9, **_THREE}),
    "average, apart": (
        "avg_pool2d_grad", {"N": 1, "C": 24, "P": 3, "Q": 4},
        {"height": 7, "width": 9, "kernel": (2, 2), "stride": (2, 2)},
    ),
    "scatter": ("max_pool2d_grad", {"N": 2, "C": 16, "P": 4, "Q": 5}, {"height": 7, "width": 9}),
    "volumes, maximum": (
        "max_pool3d", {"N": 2, "C": 16, "D": 3, "H": 4, "W": 5},
        {"kernel": (2, 2, 3), "stride": (1, 2, 1), "padding": (1, 0, 1), "return_indices": True},
    ),
    "volumes, average": (
        "avg_pool3d", {"N": 1, "C": 24, "D": 3, "H": 4, "W": 5}, {"kernel": (2, 1, 3), "stride": (1, 2, 1)},
    ),
    "volumes, average, gradient": (
        "avg_pool_grad", {"N": 2, "C": 16, "P": (2, 3)},
        {"size": (5, 7), "kernel": (2, 3), "stride": (2, 2), "padding": (0, 1), "dilation": (2, 1)},
    ),
    "adaptive": ("adaptive_avg_pool2d", {"N": 2, "C": 16, "H": 7, "W": 5}, {"output_size": (3, 4)}),
    "adaptive, maximum": (
        "adaptive_max_pool2d", {"N": 1, "C": 24, "H": 7, "W": 5}, {"output_size": (3, 2), "return_indices": True},
    ),
    "adaptive, gradient": ("adaptive_avg_pool_grad", {"N": 2, "C": 16, "P": (3, 4)}, {"size": (7, 5)}),
    "norm": ("lp_pool2d", {"N": 2, "C": 16, "H": 7, "W": 9}, {**_THREE, "norm_type": 3.0}),
    "norm, gradient": (
        "lp_pool_grad", {"N": 2, "C": 16, "S": (7, 9), "P": (4, 5)}, {**_THREE, "dilation": (1, 1), "norm_type": 2.0},
    ),
    "drawn": ("stochastic_pool2d", {"N": 2, "C": 16, "H": 7, "W": 9}, {**_THREE, "return_indices": True}),
    "expected": ("stochastic_pool2d", {"N": 1, "C": 24, "H": 7, "W": 9}, {**_THREE, "training": False}),
    "unpool": ("max_unpool2d", {"N": 2, "C": 16, "P": 4, "Q": 5}, {"output_size": (8, 9)}),
    "gather": ("max_pool2d_gather", {"N": 2, "C": 16, "P": 4, "Q": 5, "H": 7, "W": 9}, {}),
    "nearest": ("interpolate", {"N": 2, "C": 16, "H": 3, "W": 5}, {"size": (7, 10), "scale": (3 / 7, 0.5)}),
    "nearest, gradient": (
        "interpolate_grad", {"N": 2, "C": 16, "P": 7, "Q": 10}, {"height": 3, "width": 5, "scale": (3 / 7, 0.5)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PIXELS)
def test_pixels(name: str, dtype: str) -> None:
    operator, case = OPERATORS[PIXELS[name][0]], Case(name, *PIXELS[name][1:])
    operands = {n: harness.channels_last(x) for n, x in case_operands(operator.contract, case, dtype).items()}
    wanted = run(operator, case, operands)
    for schedule in SCHEDULES:
        check_floor("_emulated", operator, case, dtype, schedule, operands, wanted=wanted)
    check_floor("_emulated_check", operator, case, dtype, SCHEDULES[1], operands, check=True, wanted=wanted)


PLANES: dict[str, tuple[str, dict[str, int], dict[str, Any]]] = {
    "max, strips": ("max_pool2d", {"N": 1, "C": 3, "H": 21, "W": 18}, {**_THREE, "return_indices": True}),
    "max, strips apart": ("max_pool2d", {"N": 2, "C": 2, "H": 19, "W": 16}, {"kernel": (2, 2), "stride": (2, 2)}),
    "average, strips": (
        "avg_pool2d", {"N": 2, "C": 3, "H": 10, "W": 18},
        {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1), "divisor_override": 7},
    ),
    "average, planes": ("avg_pool2d", {"N": 3, "C": 13, "H": 9, "W": 8}, {"kernel": (9, 8), "stride": (1, 1)}),
    "average, pairs": (
        "avg_pool2d_grad", {"N": 2, "C": 3, "P": 5, "Q": 8},
        {"height": 9, "width": 16, "kernel": (2, 2), "stride": (2, 2), "ceil_mode": True, "count_include_pad": False},
    ),
    "average, pairs and a line": (
        "avg_pool2d_grad", {"N": 1, "C": 3, "P": 4, "Q": 8},
        {"height": 9, "width": 16, "kernel": (2, 2), "stride": (2, 2)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PLANES)
def test_planes(name: str, dtype: str) -> None:
    operator, case = OPERATORS[PLANES[name][0]], Case(name, *PLANES[name][1:])
    operands = case_operands(operator.contract, case, dtype)
    wanted = run(operator, case, operands)
    for schedule in SCHEDULES:
        check_floor("_emulated", operator, case, dtype, schedule, operands, wanted=wanted)
    check_floor("_emulated_check", operator, case, dtype, SCHEDULES[1], operands, check=True, wanted=wanted)


def scattered(kind: str, windows: tuple[int, int], size: int, channels: int) -> Array:
    rng = np.random.default_rng(5)
    shape = (2, channels, *windows)
    indices = {
        "anywhere": rng.integers(-1, size, shape),
        "one element": np.full(shape, size // 2),
        "few elements": rng.integers(size - 3, size, shape),
        "outside": rng.integers(-5, size + 5, shape) * rng.choice(np.array([1, 2**40]), shape),
    }[kind]
    return indices.astype(np.int64)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, harness.channels_last])
@pytest.mark.parametrize("kind", ["anywhere", "one element", "few elements", "outside"])
def test_scatter(kind: str, layout: Any, dtype: str) -> None:
    """Several bands of 512 elements and runs of 128 windows; what windows choose is added in their order."""
    operator = OPERATORS["max_pool2d_grad"]
    case = Case(kind, {"N": 2, "C": 3, "P": 13, "Q": 23}, {"height": 31, "width": 37})
    operands = {"gy": case_operands(operator.contract, case, dtype)["gy"]}
    operands["indices"] = scattered(kind, (13, 23), 31 * 37, 3)
    # values outside are refused on the CPU; the reference says what they give
    inside = {**operands, "indices": np.where((operands["indices"] < 0) | (operands["indices"] >= 31 * 37), -1,
                                              operands["indices"])}  # fmt: skip
    wanted = run(operator, case, inside)
    for schedule in SCHEDULES:
        module = floor("_emulated_check" if schedule.seed == 2 else "_emulated")
        with scheduled(module, schedule, schedule.seed == 2):
            found = run_on(module, operator, case, {n: layout(x) for n, x in operands.items()})
        assert harness.same_bits(found, wanted), f"{differences(operator, found, wanted)}, {schedule}"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["max_unpool2d", "max_unpool_grad"])
@pytest.mark.parametrize("kind", ["anywhere", "one element", "few elements", "outside"])
def test_unpool(kind: str, name: str, dtype: str) -> None:
    """Several bands of 512 elements and runs of 128 windows; the last window that chose an element has it."""
    operator = OPERATORS[name]
    if name == "max_unpool2d":
        case = Case(kind, {"N": 2, "C": 3, "P": 13, "Q": 23}, {"output_size": (31, 37)})
    else:
        case = Case(kind, {"N": 2, "C": 3, "S": (31, 37), "P": (13, 23)})
    operands = case_operands(operator.contract, case, dtype)
    indices = scattered(kind, (13, 23), 31 * 37, 3)
    inside = {**operands, "indices": np.where((indices < 0) | (indices >= 31 * 37), -1, indices)}
    wanted = run(operator, case, inside)
    for schedule in SCHEDULES:
        module = floor("_emulated_check" if schedule.seed == 2 else "_emulated")
        with scheduled(module, schedule, schedule.seed == 2):
            found = run_on(module, operator, case, {**operands, "indices": indices})
        assert harness.same_bits(found, wanted), f"{differences(operator, found, wanted)}, {schedule}"


@pytest.mark.parametrize("layout", [np.ascontiguousarray, harness.channels_last])
def test_gather_outside(layout: Any) -> None:
    operator = OPERATORS["max_pool2d_gather"]
    case = Case("outside", {"N": 2, "C": 3, "P": 5, "Q": 4, "H": 6, "W": 7}, {})
    operands = case_operands(operator.contract, case, "float32")
    indices = scattered("outside", (5, 4), 42, 3)
    lines = np.concatenate([operands["ggx"].reshape(2, 3, 42), np.zeros((2, 3, 1), np.float32)], axis=2)
    wanted = np.take_along_axis(lines, np.where((indices < 0) | (indices >= 42), 42, indices).reshape(2, 3, 20), 2)
    module = floor("_emulated_check")
    with scheduled(module, SCHEDULES[1], True):
        found = run_on(module, operator, case, {"ggx": layout(operands["ggx"]), "indices": layout(indices)})
    assert (found[0].reshape(2, 3, 20) == wanted).all()
