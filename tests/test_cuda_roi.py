"""Regions on the CUDA floor beyond the contracts' cases: tiles of bins and of elements, more regions than a block lists
at once, bins longer than tables, more bins than tables, channels in pieces of 16 bytes, boxes that are none."""

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
from test_emulated import check_floor

SCHEDULES = (Schedule(), Schedule("random", 1), Schedule("random", 2, late=False))
_PLANE = {"images": 2, "height": 37, "width": 35}
SHAPES: dict[str, tuple[str, dict[str, int], dict[str, Any]]] = {
    "tiles of bins": (
        "roi_align", {"N": 1, "C": 3, "H": 9, "W": 11, "R": 3}, {"output_size": (19, 35), "sampling_ratio": 2},
    ),
    "parts of channels": (
        "roi_align", {"N": 2, "C": 600, "H": 9, "W": 11, "R": 2}, {"output_size": (3, 3), "sampling_ratio": 2},
    ),
    "many samples": (
        "roi_align", {"N": 1, "C": 3, "H": 9, "W": 11, "R": 3}, {"output_size": (2, 2), "sampling_ratio": 17},
    ),
    "long bins": ("roi_align", {"N": 2, "C": 5, "H": 70, "W": 90, "R": 4}, {"output_size": (1, 2), "aligned": True}),
    "squares of elements": ("roi_align_grad", {"C": 9, "R": 12, "P": 3, "Q": 2}, {**_PLANE, "sampling_ratio": 2}),
    "many regions": ("roi_align_grad", {"C": 2, "R": 600, "P": 2, "Q": 2}, {**_PLANE, "sampling_ratio": 1}),
    "wide weights": ("roi_align_grad", {"C": 2, "R": 5, "P": 3, "Q": 90}, {**_PLANE, "aligned": True}),
    "many bins": ("roi_align_grad", {"C": 2, "R": 3, "P": 2, "Q": 300}, {**_PLANE, "sampling_ratio": 1}),
    "many bins of their own": (
        "ps_roi_align_grad", {"C": 1, "R": 3, "P": 1, "Q": 260},
        {"images": 1, "height": 5, "width": 6, "sampling_ratio": 1},
    ),
    "long bins of their own": ("ps_roi_pool", {"N": 1, "C": 6, "H": 80, "W": 75, "R": 3}, {"output_size": (1, 2)}),
    "bands": ("roi_pool_grad", {"C": 2, "R": 40, "P": 3, "Q": 5}, _PLANE),
    "bands of corners": ("roi_align_max_grad", {"C": 2, "R": 9, "P": 3, "Q": 2}, {**_PLANE, "sampling_ratio": 2}),
    "rotated bands": ("roi_align_rotated_grad", {"C": 2, "R": 35, "P": 2, "Q": 2}, {**_PLANE, "sampling_ratio": 2}),
}  # fmt: skip


def check(name: str, dtype: str, operands: dict[str, Array], operator_name: str, case: Case) -> None:
    operator = OPERATORS[operator_name]
    wanted = run(operator, case, operands)
    for schedule in SCHEDULES:
        check_floor("_emulated", operator, case, dtype, schedule, operands, wanted=wanted)
    check_floor("_emulated_check", operator, case, dtype, SCHEDULES[1], operands, check=True, wanted=wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str, dtype: str) -> None:
    operator, case = SHAPES[name][0], Case(name, *SHAPES[name][1:])
    check(name, dtype, case_operands(OPERATORS[operator].contract, case, dtype), operator, case)


PIXELS: dict[str, tuple[str, dict[str, int], dict[str, Any]]] = {
    "means": ("roi_align", {"N": 2, "C": 24, "H": 9, "W": 7, "R": 5}, {"output_size": (3, 2), "sampling_ratio": 2}),
    "shares": ("roi_align_grad", {"C": 24, "R": 5, "P": 3, "Q": 2}, {"images": 2, "height": 9, "width": 7}),
    "maxima": ("roi_pool", {"N": 2, "C": 16, "H": 9, "W": 7, "R": 5}, {"output_size": (3, 2), "return_indices": True}),
    "rotated": ("roi_align_rotated", {"N": 2, "C": 16, "H": 9, "W": 7, "R": 5}, {"output_size": (3, 2)}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", PIXELS)
def test_pixels(name: str, dtype: str) -> None:
    operator, case = PIXELS[name][0], Case(name, *PIXELS[name][1:])
    operands = case_operands(OPERATORS[operator].contract, case, dtype)
    check(name, dtype, {n: harness.channels_last(x) for n, x in operands.items()}, operator, case)


FORWARD = ("roi_align", "roi_align_max", "roi_pool", "ps_roi_align", "ps_roi_pool", "roi_align_rotated")


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, -1.0, 2.0, 1e30, -1e30])
@pytest.mark.parametrize("name", FORWARD)
def test_images_that_are_none(name: str, number: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros, and nothing is read; the other regions are as they were. MMK_CHECK_VALUES raises."""
    operator = OPERATORS[name]
    case = Case("none", {"N": 2, "C": 6, "H": 9, "W": 7, "R": 3}, {"output_size": (3, 2)})
    operands = case_operands(operator.contract, case, "float32")
    (wanted,) = run(operator, case, operands)
    spoilt = {**operands, "boxes": operands["boxes"].copy()}
    spoilt["boxes"][1, 0] = number
    module = floor("_emulated_check")
    with scheduled(module, SCHEDULES[1], True):
        (found,) = run_on(module, operator, case, spoilt)
    assert (found[1] == 0).all() and np.array_equal(found[[0, 2]], wanted[[0, 2]])
    monkeypatch.setenv("MMK_CHECK_VALUES", "1")
    with pytest.raises(ValueError, match=rf"{name}: boxes.flat\[{operands['boxes'].shape[1]}\] is"):
        run_on(module, operator, case, spoilt)


@pytest.mark.parametrize("name", ["roi_align_grad", "roi_align_max_grad", "roi_pool_grad", "roi_align_rotated_grad"])
def test_gradients_of_images_that_are_none(name: str) -> None:
    operator = OPERATORS[name]
    case = Case("none", {"C": 3, "R": 3, "P": 2, "Q": 2}, {"images": 2, "height": 9, "width": 7})
    operands = case_operands(operator.contract, case, "float32")
    spoilt = {**operands, "boxes": operands["boxes"].copy(), "gy": operands["gy"].copy()}
    spoilt["boxes"][1, 0] = np.nan
    operands["gy"][1] = 0
    module = floor("_emulated_check")
    with scheduled(module, SCHEDULES[1], True):
        (found,) = run_on(module, operator, case, spoilt)
    assert np.array_equal(found, run(operator, case, operands)[0])


ODD = np.array([
    [0, np.nan, 1, 3, 4], [0, 1, np.inf, 3, 4], [0, -np.inf, 1, np.inf, 4], [0, -1e30, -1e30, 1e30, 1e30],
    [0, -3e38, 0, 3e38, 5], [0, -1e9, -1e9, 1e9, 1e9], [0, 5, 5, 1, 1], [0, 2, 2, 2, 2], [0, -9, -9, -5, -5],
    [0, 40, 40, 50, 50], [0.9, 1, 1, 4, 4], [-0.5, 1, 1, 4, 4], [0, 1e-44, 1e-44, 3, 3],
], np.float32)  # fmt: skip


@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("name", FORWARD[:-1])
def test_odd_boxes(name: str, aligned: bool, sampling: int) -> None:
    """Both floors give the same, whatever a box is."""
    operator = OPERATORS[name]
    known = {a.name for a in operator.contract.attributes}
    attributes = {"output_size": (2, 3), "aligned": aligned, "sampling_ratio": sampling, "spatial_scale": 1.5}
    case = Case(
        "odd", {"N": 1, "C": 6, "H": 8, "W": 6, "R": len(ODD)}, {k: v for k, v in attributes.items() if k in known}
    )
    operands = {**case_operands(operator.contract, case, "float32"), "boxes": ODD}
    wanted = run(operator, case, operands)
    check_floor("_emulated_check", operator, case, "float32", SCHEDULES[1], operands, check=True, wanted=wanted)
    assert np.isfinite(wanted[0]).all()
