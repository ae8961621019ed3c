"""Suppression on the CUDA floor where the contract's cases do not go: thousands of ties, chunks that all strike each
other, several merges of the sort, results that stop in the middle of a chunk."""

from __future__ import annotations

from typing import Any

import ml_dtypes  # noqa: F401  (names bfloat16 for NumPy)
import numpy as np
import pytest

from emulated import Schedule, floor, run_on, scheduled
from mmkernels.contract import Case
from mmkernels.interop import device
from mmkernels.operator import OPERATORS
from mmkernels.ops.detect import nms, soft_nms
from mmkernels.verify import run
from test_detect import random_boxes


def check(boxes: Any, scores: Any, most: int, classes: Any = None, name: str = "nms", **more: Any) -> None:
    """Both floors' results, to the bit."""
    operator = OPERATORS[name]
    case = Case("", {}, {"iou_threshold": 0.4, "max_output": most, **more})
    operands = {"boxes": boxes, "scores": scores} | ({} if classes is None else {"classes": classes})
    module = floor("_emulated")
    with scheduled(module, Schedule("random", 5)):
        found = run_on(module, operator, case, operands)
    for y, wanted in zip(found, run(operator, case, operands), strict=True):
        np.testing.assert_array_equal(y, wanted)


@pytest.mark.parametrize("n", [1023, 1024, 1025, 2100, 4097])
@pytest.mark.parametrize("law", ["one place", "grid", "cloud"])
def test_thousands_of_ties(n: int, law: str) -> None:
    random = np.random.default_rng(n)
    boxes = random_boxes(random, n, law, "float32")
    check(boxes, np.full(n, 0.25, np.float32), n)
    check(boxes, random.integers(0, 3, n).astype(np.float32), n // 3, random.integers(0, 4, n).astype(np.int32))


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_types(dtype: str) -> None:
    random = np.random.default_rng(7)
    boxes, scores = random_boxes(random, 1500, "cloud", "float32").astype(dtype), random.normal(size=1500).astype(dtype)
    scores[::97] = np.nan
    check(boxes, scores, 1200, score_threshold=-1.0)
    check(boxes[:200], np.abs(scores[:200]), 150, name="soft_nms")


def test_the_walk_ends_where_the_caller_says() -> None:
    """The count is the caller's number, inside a group of 32, at its end, and in a later chunk."""
    random = np.random.default_rng(2)
    corners = np.arange(1300, dtype=np.float32)[:, None] * 10 + np.array([0, 0, 5, 5], np.float32)
    scores = random.random(1300).astype(np.float32)
    for most in (0, 1, 31, 32, 33, 1023, 1024, 1025, 1300, 1301):
        check(corners, scores, most)


def test_public_functions_take_device_arrays() -> None:
    random = np.random.default_rng(3)
    boxes, scores = random_boxes(random, 90, "cloud", "float32"), random.random(90).astype(np.float32)
    floor("_emulated")
    door = device.library("_emulated")
    there = [door.from_numpy(x, None) for x in (boxes, scores)]
    np.testing.assert_array_equal(door.to_numpy(nms(*there, 0.3)), nms(boxes, scores, 0.3))
    for y, wanted in zip(soft_nms(*there), soft_nms(boxes, scores), strict=True):
        np.testing.assert_array_equal(door.to_numpy(y), wanted)
