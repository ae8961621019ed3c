"""Suppression: order, ties, thresholds, classes, values that are no boxes; the window against the whole; rotated boxes
against polygons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import mmkernels as mmk
from mmkernels import autograd
from mmkernels.operator import OPERATORS
from mmkernels.ops.boxes import box_iou
from mmkernels.ops.detect import batched_nms, box_iou_rotated, nms, nms_rotated, soft_nms
from reference import detect as reference

Array = NDArray[Any]
BOXES, SCORES = np.array([[0, 0, 10, 10], [1, 1, 10, 10]], np.float32), np.array([0.5, 0.75], np.float32)
THRESHOLDS = (0.0, 0.03, 0.1, 0.3, 0.5, 0.7, 0.95, 1.0)


def random_boxes(random: np.random.Generator, n: int, law: str, dtype: str) -> Array:
    """Corners of n boxes: "grid" has few coordinates, so that many overlaps are exactly some threshold."""
    if law == "grid":
        low, sides = random.integers(-6, 7, (n, 2)), random.integers(0, 6, (n, 2))
    elif law == "cloud":
        low, sides = random.normal(0, 40, (n, 2)), random.uniform(1, 60, (n, 2))
    elif law == "far":
        low, sides = random.integers(-3, 4, (n, 2)) * 1e8, random.uniform(1e7, 3e8, (n, 2))
    elif law == "tiny":
        low, sides = random.uniform(-1, 1, (n, 2)) * 1e-22, random.uniform(0, 1, (n, 2)) * 1e-22
    elif law == "one place":
        low, sides = np.zeros((n, 2)), np.full((n, 2), 7.0)
    else:
        assert law == "scales"  # sides of every size, side by side
        low, sides = random.normal(0, 30, (n, 2)), np.exp(random.uniform(-8, 8, (n, 2)))
    return np.concatenate([low, low + sides], 1).astype(dtype)


def spoil(random: np.random.Generator, x: Array, share: float) -> Array:
    """Some NaN, infinite, inverted and empty sides."""
    y = x.copy()
    for value in (np.nan, np.inf, -np.inf, 0.0, -5.0):
        y[random.random(x.shape) < share] = value
    return y


def check(boxes: Array, scores: Array, t: float, most: int, least: float = -np.inf, classes: Any = None) -> Array:
    """The keep list is the reference's, computed in the same type; returns it."""
    attributes = {"iou_threshold": t, "max_output": most, "score_threshold": least}
    keep, count = OPERATORS["nms"](boxes, scores, classes, **attributes)
    wanted, number = reference.nms(boxes, scores, classes, **attributes)
    np.testing.assert_array_equal(keep, wanted)
    assert count == number and keep.dtype == np.int64
    return keep[: int(count)]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 10**6), st.one_of(st.integers(0, 80), st.sampled_from([63, 64, 65, 127, 128, 129])),
    st.sampled_from(["grid", "cloud", "far", "tiny", "one place", "scales"]), st.sampled_from(THRESHOLDS),
    st.sampled_from(["float32", "float64"]), st.booleans(), st.sampled_from([-np.inf, -0.25, 0.0, 0.5]),
    st.sampled_from([0, 1, 5, 200]),
)  # fmt: skip
def test_nms_is_the_references(
    seed: int, n: int, law: str, t: float, dtype: str, batched: bool, least: float, most: int
) -> None:
    random = np.random.default_rng(seed)
    boxes = random_boxes(random, n, law, dtype)
    scores = random.integers(-3, 4, n).astype(dtype) / 4 if seed % 2 else random.normal(size=n).astype(dtype)
    if seed % 3 == 0:
        boxes, scores = spoil(random, boxes, 0.02), spoil(random, scores, 0.05)
    classes = random.integers(-(2**40), 2**40, 3)[random.integers(0, 3, n)] if batched else None
    check(boxes, scores, t, most, least, classes)


@pytest.mark.parametrize("law", ["grid", "cloud", "far", "tiny", "one place", "scales"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_window_misses_nobody(law: str, dtype: str) -> None:
    """From 256 boxes on a kept box looks only at those whose x is near enough."""
    for seed, n in enumerate((256, 300, 777, 1500)):
        random = np.random.default_rng(seed)
        boxes = random_boxes(random, n, law, dtype)
        if seed == 1:
            boxes = spoil(random, boxes, 0.01)
        scores = random.random(n).astype(dtype)
        for t in (0.04, 0.051, 0.3, 0.5, 0.75, 1.0):
            check(boxes, scores, t, n)
        check(boxes, scores, 0.5, n, classes=(np.arange(n) % 2).astype(np.int32))


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 4096, 5000])
def test_equal_scores_keep_their_order(n: int) -> None:
    random = np.random.default_rng(n)
    kept = check(random_boxes(random, n, "cloud", "float32"), np.full(n, 0.5, np.float32), 0.3, n)
    assert (np.diff(kept) > 0).all()
    same = check(random_boxes(random, n, "one place", "float32"), np.ones(n, np.float32), 0.3, n)
    assert same.tolist() == [0][:n]


def test_an_overlap_of_exactly_the_threshold_stays() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)
    scores = np.array([0.9, 0.8], np.float32)
    assert nms(boxes, scores, 0.5).tolist() == [0, 1]
    assert nms(boxes, scores, float(np.nextafter(np.float32(0.5), np.float32(0)))).tolist() == [0]
    for tenths in range(1, 10):  # thresholds that no binary number is
        boxes[1, 3] = tenths
        assert nms(boxes, scores, tenths / 10).tolist() == [0, 1]


def test_the_order_of_scores() -> None:
    """Falling; -0 is +0; infinities are scores; NaN comes last, in the order of indices."""
    boxes = np.arange(8, dtype=np.float64)[:, None] * 10 + np.array([0.0, 0.0, 5.0, 5.0])
    scores = np.array([np.nan, -0.0, 0.0, np.inf, -np.inf, 1.0, np.nan, 0.0])
    assert nms(boxes, scores, 0.5).tolist() == [3, 5, 1, 2, 7, 4, 0, 6]
    assert nms(boxes, scores, 0.5, score_threshold=0.0).tolist() == [3, 5]


def test_what_is_no_box_neither_drops_nor_is_dropped() -> None:
    good = [0.0, 0.0, 10.0, 10.0]
    for bad in ([np.nan, 0, 10, 10], [0, 0, np.inf, 10], [-np.inf, -np.inf, np.inf, np.inf], [10, 0, 0, 10],
                [10, 10, 0, 0], [5, 5, 5, 9], [0, 0, 3e38, 3e38]):  # fmt: skip
        boxes = np.array([good, bad, bad, good], np.float32)
        assert nms(boxes, np.array([4, 3, 2, 1], np.float32), 0.0).tolist() == [0, 1, 2]


def test_classes_never_meet_wherever_they_lie() -> None:
    """Shifted coordinates would lose digits at 1e8, and overlap each other below 0."""
    random = np.random.default_rng(3)
    for law in ("far", "cloud"):
        boxes, scores = random_boxes(random, 900, law, "float32"), random.random(900).astype(np.float32)
        idxs = random.integers(-2, 5, 900)
        kept = batched_nms(boxes, scores, idxs, 0.4)
        alone = [np.flatnonzero(idxs == c)[nms(boxes[idxs == c], scores[idxs == c], 0.4)] for c in np.unique(idxs)]
        np.testing.assert_array_equal(np.sort(kept), np.sort(np.concatenate(alone)))
        assert (np.diff(scores[kept]) <= 0).all()


def test_a_fixed_length() -> None:
    boxes, scores = np.array([[0.0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]]), np.array([0.3, 0.2, 0.1])
    for most, wanted in ((5, [0, 2, -1, -1, -1]), (1, [0]), (0, [])):
        keep, count = nms(boxes, scores, 0.5, max_output_size=most)
        assert keep.tolist() == wanted and int(count) == min(most, 2) and count.shape == ()
    variable = autograd.Variable(boxes, requires_grad=True)
    assert nms(variable, autograd.Variable(scores), 0.5).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"boxes": np.zeros((3, 5))}, "boxes"),
        ({"scores": np.zeros(2)}, "scores.shape"),
        ({"scores": np.zeros(3, np.float32)}, "scores.dtype"),
        ({"iou_threshold": 1.5}, "iou_threshold is 1.5; expected a number from 0 to 1"),
        ({"iou_threshold": np.nan}, "iou_threshold is nan"),
        ({"max_output_size": -2}, "max_output is -2"),
        ({"boxes": [1]}, "boxes is a list"),
    ],
)
def test_bad_calls_are_refused(broken: dict[str, Any], message: str) -> None:
    arguments = {"boxes": np.zeros((3, 4)), "scores": np.zeros(3), "iou_threshold": 0.5, **broken}
    with pytest.raises((mmk.ContractError, mmk.ContractTypeError), match=f"^nms: .*{message}"):
        nms(**arguments)


# ---- soft suppression -----------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(0, 50), st.sampled_from(["grid", "cloud", "one place", "scales"]),
    st.sampled_from(["linear", "gaussian"]), st.sampled_from([0.0, 0.3, 0.6]), st.sampled_from([0.05, 0.5, 2.0]),
    st.sampled_from([0.0, 0.001, 0.3]),
)  # fmt: skip
def test_soft_is_the_references(seed: int, n: int, law: str, method: str, t: float, sigma: float, least: float) -> None:
    """In float64, where orders cannot turn on a rounding; equal scores first come first."""
    random = np.random.default_rng(seed)
    boxes, scores = random_boxes(random, n, law, "float64"), random.integers(1, 9, n) / 8 + 0.03 * random.random(n)
    if seed % 3 == 0:
        boxes = spoil(random, boxes, 0.02)
    attributes = {"method": method, "iou_threshold": t, "sigma": sigma, "score_threshold": least, "max_output": n}
    keep, decayed, count = OPERATORS["soft_nms"](boxes, scores, **attributes)
    wanted, wanted_scores, number = reference.soft_nms(boxes, scores, **attributes)
    assert count == number
    np.testing.assert_array_equal(keep, wanted)
    np.testing.assert_allclose(decayed, wanted_scores, rtol=1e-12, atol=1e-300)


def test_soft_leaves_more_than_hard() -> None:
    random = np.random.default_rng(0)
    boxes, scores = random_boxes(random, 60, "cloud", "float32"), random.random(60).astype(np.float32)
    keep, decayed = soft_nms(boxes, scores, score_threshold=0.0)
    assert set(nms(boxes, scores, 0.3).tolist()) <= set(keep.tolist())
    assert (np.diff(decayed) <= 0).all() and (decayed <= scores[keep]).all()
    nan = np.array([np.nan, 0.5, -np.inf], np.float32)
    assert soft_nms(boxes[:3], nan, score_threshold=-np.inf)[0].tolist() == [1]


# ---- rotated boxes --------------------------------------------------------------------------------------------------


def random_rotated(random: np.random.Generator, n: int, law: str) -> Array:
    if law == "grid":  # corners and edges that coincide
        quarter = random.integers(-4, 5, n) * (np.pi / 4)
        return np.column_stack([random.integers(-4, 5, (n, 2)), random.integers(0, 5, (n, 2)), quarter])
    if law == "thin":
        sides = np.exp(random.uniform(-6, 3, (n, 2)))
        return np.column_stack([random.normal(0, 3, (n, 2)), sides, random.uniform(-9, 9, n)])
    return np.column_stack([random.normal(0, 3, (n, 2)), random.uniform(0, 6, (n, 2)), random.uniform(-9, 9, n)])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["grid", "thin", "cloud"]), st.sampled_from(["float32", "float64"]))
def test_rotated_overlaps_are_those_of_polygons(seed: int, law: str, dtype: str) -> None:
    random = np.random.default_rng(seed)
    a, b = (random_rotated(random, n, law).astype(dtype) for n in (4, 19))
    found = box_iou_rotated(a, b)
    wanted = reference.box_iou_rotated(a.astype(np.float64), b.astype(np.float64), angle_scale=1.0)
    assert (np.isnan(found) == np.isnan(wanted)).all()
    # corners are off by a few units of the boxes' size, an area by that times a circumference
    extent = np.add.outer(a[:, 2] + a[:, 3], b[:, 2] + b[:, 3]).astype(np.float64)
    union = np.maximum.outer(a[:, 2] * a[:, 3], b[:, 2] * b[:, 3])  # at least
    limit = 40 * float(np.finfo(dtype).eps) * (extent**2 + union)
    assert (np.abs(found - wanted) * union <= limit)[~np.isnan(wanted)].all()


def test_rotated_boxes_that_are_upright() -> None:
    """Any multiple of a right angle, in either unit and either sense."""
    random = np.random.default_rng(1)
    corners = random_boxes(random, 40, "cloud", "float64")
    centres, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    for turns in range(-2, 3):
        wide = sides if turns % 2 == 0 else sides[:, ::-1]
        boxes = np.column_stack([centres, wide, np.full(40, 90.0 * turns)])
        for clockwise in (True, False):
            found = box_iou_rotated(boxes, boxes, degrees=True, clockwise=clockwise)
            np.testing.assert_allclose(found, box_iou(corners, corners), atol=1e-13)
    scores = random.random(40)
    assert nms_rotated(boxes, scores, 0.3, degrees=True).tolist() == nms(corners, scores, 0.3).tolist()


def test_the_sense_of_the_angle() -> None:
    """Clockwise as seen in a picture: x turns towards y, which points down."""
    long, probe = np.array([[0.0, 0, 10, 1, 45]]), np.array([[3.0, 3, 1, 1, 0]])
    assert box_iou_rotated(long, probe, degrees=True)[0, 0] > 0.05
    assert box_iou_rotated(long, probe, degrees=True, clockwise=False)[0, 0] == 0


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60), st.sampled_from([0.05, 0.3, 0.6]), st.booleans())
def test_rotated_nms_is_the_references(seed: int, n: int, t: float, batched: bool) -> None:
    random = np.random.default_rng(seed)
    boxes, scores = random_rotated(random, n, "cloud"), random.integers(0, 9, n) / 8
    classes = random.integers(0, 2, n) if batched else None
    found = nms_rotated(boxes, scores, t, idxs=classes)
    wanted, count = reference.nms_rotated(
        boxes, scores, classes, iou_threshold=t, max_output=n, score_threshold=-np.inf, angle_scale=1.0
    )
    assert found.tolist() == wanted[: int(count)].tolist()


def test_rotated_boxes_that_are_none() -> None:
    good = np.array([[0.0, 0, 4, 2, 0.3]])
    for i in range(5):
        for value in (np.nan, np.inf):
            bad = good.copy()
            bad[0, i] = value
            assert np.isnan(box_iou_rotated(good, bad)).all() and np.isnan(box_iou_rotated(bad, good)).all()
    assert box_iou_rotated(good, good)[0, 0] == pytest.approx(1, abs=1e-15)
    assert box_iou_rotated(good, good * [1, 1, -1, 1, 1])[0, 0] == 0


def test_directions_are_true_or_false() -> None:
    boxes, scores = np.ones((2, 5), np.float32), np.ones(2, np.float32)
    bad: Any = np.array([1, 2])
    for name in ("degrees", "clockwise"):
        with pytest.raises(mmk.ContractTypeError, match=rf"^box_iou_rotated: {name} is .*; expected True or False"):
            box_iou_rotated(boxes, boxes, **{name: bad})
        with pytest.raises(mmk.ContractTypeError, match=rf"^nms_rotated: {name} is .*; expected True or False"):
            nms_rotated(boxes, scores, 0.5, **{name: bad})


def test_results_of_a_fixed_length_go_where_they_are_told() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]], np.float32)
    turned, scores, classes = (
        np.pad(boxes, ((0, 0), (0, 1))),
        np.array([0.8, 0.9, 0.7], np.float32),
        np.array([0, 0, 1]),
    )
    calls: list[Callable[..., Any]] = [
        lambda **options: nms(boxes, scores, 0.5, **options),
        lambda **options: batched_nms(boxes, scores, classes, 0.5, **options),
        lambda **options: nms_rotated(turned, scores, 0.5, **options),
        lambda **options: soft_nms(boxes, scores, 0.5, **options),
    ]
    for call in calls:
        wanted = call(max_output_size=4)
        out = tuple(np.full_like(x, 7) for x in wanted)
        found = call(max_output_size=4, out=out)
        for x, y, w in zip(found, out, wanted, strict=True):
            assert x is y and (y == w).all()
        with pytest.raises(mmk.ContractTypeError, match="out= was given; expected max_output_size too"):
            call(out=out)
        with pytest.raises(mmk.ContractError, match=r"out\[0\].shape is \(4,\); expected \(5,\)"):
            call(max_output_size=5, out=out)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_nms(BOXES, SCORES, 1.5), "soft_nms: iou_threshold is 1.5; expected a number from 0 to 1"),
        (lambda: soft_nms(BOXES, SCORES, np.nan), "soft_nms: iou_threshold is nan; expected a number from 0 to 1"),
        (lambda: soft_nms(BOXES, SCORES, method="gaussian", sigma=1e-50), "soft_nms: sigma is 1e-50; expected"),
        (lambda: soft_nms(BOXES, SCORES, sigma=np.inf), "soft_nms: sigma is inf; expected"),
        (lambda: soft_nms(BOXES, SCORES, max_output_size=-1), "soft_nms: max_output is -1"),
        (lambda: nms(BOXES, SCORES, -0.1), "nms: iou_threshold is -0.1; expected a number from 0 to 1"),
        (lambda: nms(BOXES, SCORES, 0.5, score_threshold=np.nan), "nms: score_threshold is NaN; expected a number"),
        (lambda: mmk.box_iou(BOXES, BOXES, eps=np.inf), "box_iou: eps is inf; expected a finite number, at least 0"),
        (lambda: mmk.box_encode(BOXES, BOXES, weights=(1, np.nan, 1, 1)), "box_encode: weights is"),
        (lambda: mmk.box_decode(BOXES, BOXES, log_clip=np.nan), "box_decode: log_clip is nan; expected a number"),
    ],
)
def test_numbers_that_have_no_meaning_are_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(mmk.ContractError) as caught:
        call()
    assert str(caught.value).startswith(message)
