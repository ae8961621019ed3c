"""Regions of interest: semantics, orders of summation to the bit, odd boxes, levels, gradients."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import mmkernels as mmk
from mmkernels import autograd
from mmkernels.operator import OPERATORS
from mmkernels.ops.roi import ps_roi_align, ps_roi_pool, roi_align
from mmkernels.ops.roi_boxes import level_sides
from mmkernels.ops.roi_chosen import roi_pool
from mmkernels.ops.roi_levels import multi_scale_roi_align
from mmkernels.ops.roi_rotated import roi_align_rotated
from reference import roi as reference

Array = NDArray[Any]
LAYOUTS = ("contiguous", "channels last", "every second")


def laid_out(x: Array, layout: str) -> Array:
    """The same values in another order of memory."""
    if layout == "channels last":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    return np.repeat(x, 2, axis=3)[..., ::2] if layout == "every second" else x


def boxes_on(random: np.random.Generator, count: int, images: int, height: float, width: float) -> Array:
    """Boxes of all sizes around a map, some inverted, some on whole and half coordinates."""
    low, high = random.uniform(-4, 1, (2, count, 2)) * (width, height) / 2
    boxes = np.concatenate([random.integers(0, images, (count, 1)), low + np.array([width, height]) / 2, high], axis=1)
    boxes[:, 3:] = boxes[:, 1:3] + random.exponential(0.4, (count, 2)) * (width, height) - 0.5
    coarse = random.random(count) < 0.4
    boxes[coarse, 1:] = np.round(boxes[coarse, 1:] * 2) / 2
    return boxes


@st.composite
def calls(draw: st.DrawFn) -> tuple[np.random.Generator, tuple[int, ...], Array, tuple[int, int], dict[str, Any]]:
    """Random numbers, a map's shape, boxes in float64, bins and attributes."""
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    shape = (
        draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 16, 19, 32])), draw(st.integers(1, 12)),
        draw(st.integers(1, 12)),
    )  # fmt: skip
    scale = draw(st.sampled_from([1.0, 0.5, 0.3]))
    boxes = boxes_on(random, draw(st.integers(0, 6)), shape[0], shape[2] / scale, shape[3] / scale)
    attributes = {
        "spatial_scale": scale, "sampling_ratio": draw(st.sampled_from([-1, 0, 1, 2, 3, 9])),
        "aligned": draw(st.booleans()),
    }  # fmt: skip
    return random, shape, boxes, (draw(st.integers(1, 9)), draw(st.integers(1, 9))), attributes


@settings(max_examples=200, deadline=None)
@given(calls(), st.sampled_from(LAYOUTS))
def test_means_are_the_references(call: Any, layout: str) -> None:
    """In float64, where the reference rounds positions as we do; forward and gradient."""
    random, shape, boxes, bins, a = call
    x = laid_out(random.standard_normal(shape), layout)
    y = OPERATORS["roi_align"](x, boxes, output_size=bins, **a)
    np.testing.assert_allclose(y, reference.roi_align(x, boxes, output_size=bins, **a), rtol=0, atol=1e-13)
    gy = laid_out(random.standard_normal(y.shape), layout)
    plane = {"images": shape[0], "height": shape[2], "width": shape[3]}
    gx = OPERATORS["roi_align_grad"](gy, boxes, **plane, **a)
    np.testing.assert_allclose(gx, reference.roi_align_grad(gy, boxes, **plane, **a), rtol=0, atol=1e-12)


def fma(a: Any, b: Any, c: Any) -> Any:
    """One rounding: the product of two float32 is exact in the wider type, whose sum errs far below a float32's."""
    return (np.longdouble(a) * np.longdouble(b) + np.longdouble(c)).astype(np.float32)


def taps(samples: Array, extent: int) -> list[list[tuple[int, Any]]]:
    """The definition of the weights: gifts in the order of positions, then a division; none that is 0."""
    bins = []
    for bin_samples in samples:
        weights: dict[int, Any] = {}
        for position in np.sort(bin_samples):
            for element, gift in reference.interpolation(position, extent):
                weights[element] = np.float32(weights.get(element, np.float32(0)) + np.float32(gift))
        divided = {k: np.float32(w / np.float32(samples.shape[1])) for k, w in sorted(weights.items())}
        bins.append([(k, w) for k, w in divided.items() if w])
    return bins


def regions_of(boxes: Array, bins: tuple[int, int], shape: tuple[int, ...], a: dict[str, Any]) -> Any:
    for r, (number, x1, y1, x2, y2) in enumerate(boxes):
        rows = taps(reference.positions(y1, y2, bins[0], *a.values()), shape[2])
        columns = taps(reference.positions(x1, x2, bins[1], *a.values()), shape[3])
        yield r, int(number), rows, columns


@settings(max_examples=20, deadline=None)
@given(calls())
def test_order_of_means_to_the_bit(call: Any) -> None:
    random, shape, boxes, bins, a = call
    boxes = boxes.astype(np.float32)
    x = random.standard_normal(shape).astype(np.float32)
    wanted = np.zeros((len(boxes), shape[1], *bins), np.float32)
    for r, n, rows, columns in regions_of(boxes, bins, shape, a):
        for p, q in itertools.product(*map(range, bins)):
            for h, row_weight in rows[p]:
                part = np.zeros(shape[1], np.float32)
                for w, weight in columns[q]:
                    part = fma(weight, x[n, :, h, w], part)
                if columns[q]:
                    wanted[r, :, p, q] = fma(row_weight, part, wanted[r, :, p, q])
    np.testing.assert_array_equal(OPERATORS["roi_align"](x, boxes, output_size=bins, **a), wanted)


@settings(max_examples=20, deadline=None)
@given(calls())
def test_order_of_gradients_to_the_bit(call: Any) -> None:
    random, shape, boxes, bins, a = call
    boxes = boxes.astype(np.float32)
    gy = random.standard_normal((len(boxes), shape[1], *bins)).astype(np.float32)
    wanted = np.zeros(shape, np.float32)
    for r, n, rows, columns in regions_of(boxes, bins, shape, a):
        for p in range(bins[0]):
            parts: dict[int, Array] = {}
            for q in range(bins[1]):
                for w, weight in columns[q]:
                    parts[w] = fma(weight, gy[r, :, p, q], parts.get(w, np.zeros(shape[1], np.float32)))
            for (h, weight), (w, part) in itertools.product(rows[p], parts.items()):
                wanted[n, :, h, w] = fma(weight, part, wanted[n, :, h, w])
    plane = {"images": shape[0], "height": shape[2], "width": shape[3]}
    np.testing.assert_array_equal(OPERATORS["roi_align_grad"](gy, boxes, **plane, **a), wanted)


@settings(max_examples=200, deadline=None)
@given(calls(), st.sampled_from(["float32", "float64"]), st.sampled_from(LAYOUTS))
def test_pooling_is_the_references(call: Any, dtype: str, layout: str) -> None:
    """Exact, ties and NaN included, with the elements that were chosen."""
    random, shape, boxes, bins, a = call
    x = random.integers(-3, 4, shape).astype(dtype)
    for value in (np.nan, np.inf, -np.inf, -0.0):
        x[random.random(shape) < 0.04] = value
    x, boxes = laid_out(x, layout), boxes.astype(dtype)
    wanted, chosen = reference.roi_pool(
        x, boxes, output_size=bins, spatial_scale=a["spatial_scale"], return_indices=True
    )
    y, indices = roi_pool(x, boxes, bins, a["spatial_scale"], return_indices=True)
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(indices, chosen)
    np.testing.assert_array_equal(roi_pool(x, boxes, bins, a["spatial_scale"]), wanted)
    gy = random.standard_normal(y.shape).astype(dtype)
    plane = {"images": shape[0], "height": shape[2], "width": shape[3]}
    gx = OPERATORS["roi_pool_grad"](gy, boxes, indices, **plane)
    np.testing.assert_array_equal(gx, reference.roi_pool_grad(gy, boxes, indices, **plane))
    back = OPERATORS["roi_pool_gather"](laid_out(x, layout), boxes, indices)
    np.testing.assert_array_equal(back, np.where(chosen < 0, 0, wanted))


@settings(max_examples=200, deadline=None)
@given(calls(), st.booleans(), st.sampled_from(LAYOUTS))
def test_maxima_of_samples(call: Any, corners: bool, layout: str) -> None:
    random, shape, boxes, bins, a = call
    x = laid_out(random.standard_normal(shape), layout)
    a = {**a, "corners": corners}
    y, indices = OPERATORS["roi_align_max"](x, boxes, output_size=bins, return_indices=True, **a)
    wanted, chosen = reference.roi_align_max(x, boxes, output_size=bins, return_indices=True, **a)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-14)
    assert ((indices < 0) == (chosen < 0)).all()
    gathered = OPERATORS["roi_align_max_gather"](x, boxes, indices, **a)
    np.testing.assert_allclose(gathered, y, rtol=0, atol=1e-14)  # what was chosen has the value that was chosen
    gy = random.standard_normal(y.shape)
    plane = {"images": shape[0], "height": shape[2], "width": shape[3]}
    gx = OPERATORS["roi_align_max_grad"](gy, boxes, indices, **plane, **a)
    np.testing.assert_allclose(gx, reference.roi_align_max_grad(gy, boxes, indices, **plane, **a), rtol=0, atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(calls())
def test_position_sensitive(call: Any) -> None:
    random, shape, boxes, bins, a = call
    bins = (bins[0] % 3 + 1, bins[1] % 4 + 1)
    x = random.standard_normal((shape[0], shape[1] % 17 * bins[0] * bins[1], *shape[2:]))
    plane = {"images": shape[0], "height": shape[2], "width": shape[3]}
    sampled = {k: a[k] for k in ("spatial_scale", "sampling_ratio")}
    for name, kept in (("ps_roi_align", sampled), ("ps_roi_pool", {"spatial_scale": a["spatial_scale"]})):
        y = OPERATORS[name](x, boxes, output_size=bins, **kept)
        wanted = getattr(reference, name)(x, boxes, output_size=bins, **kept)
        np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-13)
        gy = random.standard_normal(y.shape)
        gx = OPERATORS[f"{name}_grad"](gy, boxes, **plane, **kept)
        np.testing.assert_allclose(np.sum(y * gy), np.sum(x * gx), rtol=0, atol=1e-10)


@settings(max_examples=200, deadline=None)
@given(calls(), st.booleans(), st.booleans(), st.sampled_from(LAYOUTS))
def test_rotated(call: Any, clockwise: bool, degrees: bool, layout: str) -> None:
    random, shape, boxes, bins, a = call
    x = laid_out(random.standard_normal(shape), layout)
    turned = np.concatenate([boxes, random.uniform(-200, 200, (len(boxes), 1)) * (1 if degrees else 0.02)], axis=1)
    a = {**a, "sampling_ratio": min(a["sampling_ratio"], 3), "clockwise": clockwise, "degrees": degrees}
    y = OPERATORS["roi_align_rotated"](x, turned, output_size=bins, **a)
    wanted = reference.roi_align_rotated(x, turned, output_size=bins, **a)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-12)
    gy = random.standard_normal(y.shape)
    plane = {"images": shape[0], "height": shape[2], "width": shape[3]}
    gx = OPERATORS["roi_align_rotated_grad"](gy, turned, **plane, **a)
    np.testing.assert_allclose(np.sum(y * gy), np.sum(x * gx), rtol=0, atol=1e-10)


# ---- by hand --------------------------------------------------------------------------------------------------------


def test_four_by_six_into_three_by_three() -> None:
    """Rows [0, 2), [1, 3), [2, 4) and columns [0, 2), [2, 4), [4, 6): the largest is each one's last."""
    x = np.arange(24.0).reshape(1, 1, 4, 6)
    y, indices = roi_pool(x, np.array([[0.0, 0.0, 0.0, 5.0, 3.0]]), 3, return_indices=True)
    assert y[0, 0].tolist() == [[7, 9, 11], [13, 15, 17], [19, 21, 23]]
    assert (indices == y).all()


def test_pooling_rounds_halves_away_from_zero() -> None:
    x = np.arange(36.0).reshape(1, 1, 6, 6)
    boxes = np.array([[0, 0.5, 1.5, 2.4, 2.5], [0, -0.5, -1.5, 0.4, 0.49]])
    y = roi_pool(x, boxes, 1)[:, 0, 0, 0]
    assert y.tolist() == [3 * 6 + 2, 0]  # elements 1..2 x 2..3; -1..0 x -2..0, of which one is on the map
    assert roi_pool(x, boxes * [1, 2, 2, 2, 2], 1, 0.5)[:, 0, 0, 0].tolist() == y.tolist()


def test_aligned_reads_what_the_box_covers() -> None:
    """On a ramp a mean is the value at the bin's centre: half an element back where boxes name borders."""
    x = np.broadcast_to(np.arange(20.0), (1, 2, 20, 20))
    box = np.array([[0.0, 4.0, 4.0, 10.0, 10.0]])
    assert roi_align(x, box, (1, 3), sampling_ratio=2, aligned=True)[0, 1].tolist() == [[4.5, 6.5, 8.5]]
    assert roi_align(x, box, (1, 3), sampling_ratio=2)[0, 1].tolist() == [[5.0, 7.0, 9.0]]


def test_regions_are_one_element_long_unless_aligned() -> None:
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    point = np.array([[0.0, 1.0, 1.0, 1.0, 1.0]])
    assert roi_align(x, point, 1).item() == (5 + 6 + 9 + 10) / 4
    assert roi_align(x, point, 1, aligned=True).item() == 0.0  # its length is 0: no sample is counted
    assert roi_align(x, point, 1, sampling_ratio=2, aligned=True).item() == (0 + 1 + 4 + 5) / 4


HALF = np.array([0, 0.5, 0.5, 0.5, 0.5])


def test_borders_of_the_map() -> None:
    """A sample counts up to one element beyond the first and the last one; what is further off is 0, and is counted."""
    x = np.array([[[[3.0, 5.0]]]])
    for position, value in ((-1.0, 3.0), (-1.001, 0.0), (0.5, 4.0), (1.5, 5.0), (2.0, 5.0), (2.001, 0.0)):
        box = np.array([[0.0, position, 0.0, position, 0.0]])
        assert roi_align(x, box + HALF, 1, 1.0, 1, True).item() == value
    assert roi_align(x, np.array([[0.0, -3.0, 0.0, 1.0, 1.0]]), 1, 1.0, 2, False).item() == 1.5  # -2 and 0


def test_modes() -> None:
    """A sample amid four elements: its maximum is their mean, the corners' maximum a quarter of the largest."""
    x = -np.array([[[[4.0, 8.0], [12.0, 16.0]]]])
    box = np.array([[0.0, 0.5, 0.5, 1.5, 1.5]])
    samples = {mode: roi_align(x, box, 1, 1.0, 1, True, mode=mode).item() for mode in ("avg", "max", "corner_max")}
    assert samples == {"avg": -10.0, "max": -10.0, "corner_max": -1.0}
    ramp = np.arange(16.0).reshape(1, 1, 4, 4)
    whole = np.array([[0.0, 0.0, 0.0, 4.0, 4.0]])
    assert roi_align(ramp, whole, 1, 1.0, 2, True, mode="max").item() == 2.5 + 4 * 2.5
    for words, aligned in (("half_pixel", True), ("output_half_pixel", False)):
        found = roi_align(ramp, whole, 2, 1.0, 2, not aligned, coordinates=words)
        assert np.array_equal(found, roi_align(ramp, whole, 2, 1.0, 2, aligned))


def test_a_sample_off_the_map_is_zero_among_maxima() -> None:
    x = np.full((1, 1, 3, 3), -2.0)
    box = np.array([[0.0, -6.0, 0.0, 2.0, 2.0]])
    y, indices = OPERATORS["roi_align_max"](
        x, box, output_size=(1, 1), sampling_ratio=2, aligned=True, return_indices=True
    )
    assert y.item() == 0 and indices.item() == 0
    assert roi_align(x, box, 1, 1.0, 2, True, mode="max").item() == 0


def test_position_sensitive_pooling_leaves_the_last_line_alone() -> None:
    """torchvision's forward; its backward deals out to the last row and column too, ours does not."""
    x = np.zeros((1, 1, 4, 4))
    x[0, 0, 3], x[0, 0, :, 3] = 1, 1
    box = np.array([[0.0, 0.0, 0.0, 4.0, 4.0]])
    assert ps_roi_pool(x, box, 1).item() == 0
    gx = OPERATORS["ps_roi_pool_grad"](np.ones((1, 1, 1, 1)), box, images=1, height=4, width=4)
    assert np.array_equal(gx[0, 0] > 0, x[0, 0] == 0)
    assert ps_roi_pool(x, np.array([[0.0, 9.0, 9.0, 13.0, 13.0]]), 1).item() == 0  # no element: 0, not NaN


@pytest.mark.parametrize("call", [
    lambda x, boxes: roi_align(x, boxes, 2, aligned=True), lambda x, boxes: roi_align(x, boxes, 2, mode="max"),
    lambda x, boxes: roi_pool(x, boxes, 2), lambda x, boxes: ps_roi_align(x, boxes, 2),
    lambda x, boxes: ps_roi_pool(x, boxes, 2),
])  # fmt: skip
def test_odd_boxes(call: Any) -> None:
    """Zeros where a box is not finite; never a long wait, a NaN or an access outside."""
    x = np.random.default_rng(3).uniform(1, 2, (1, 4, 7, 9)).astype(np.float32)
    nan, inf = np.nan, np.inf
    none = np.array([[0, nan, 1, 3, 4], [0, 1, nan, 3, 4], [0, 1, 1, inf, 4], [0, -inf, -inf, inf, inf],
                     [0, -3e38, 1, 3e38, 4], [0, 1, 1, 3, nan]], np.float32)  # fmt: skip
    assert not call(x, none).any()
    odd = np.array([[0, -1e30, -1e30, 1e30, 1e30], [0, -1e9, -1e9, 1e9, 1e9], [0, 1e9, 1, 2e9, 4], [0, 6, 5, 2, 1],
                    [0, 2, 2, 2, 2], [0, 1e-44, 1e-44, 1e-43, 1e-43]], np.float32)  # fmt: skip
    start = time.perf_counter()
    assert np.isfinite(call(x, odd)).all() and time.perf_counter() - start < 2
    assert not call(x[:, :, :0], odd).any()


def test_enormous_boxes_are_the_means_of_their_samples() -> None:
    """Passing over samples off the map gives what visiting them gives."""
    x = np.random.default_rng(1).standard_normal((1, 2, 5, 6))
    boxes = np.array([[0, -3000.0, -20000.0, 5000.0, 10000.0], [0, -1e5, -1e5, 1e5, 1e5]])
    for size in (1, 3):
        a = {"spatial_scale": 1.0, "sampling_ratio": -1, "aligned": True}
        wanted = reference.roi_align(x, boxes, output_size=(size, size), **a)
        np.testing.assert_allclose(roi_align(x, boxes, size, aligned=True), wanted, rtol=1e-12, atol=0)


def test_images_by_their_number() -> None:
    """A fraction is cut off; what is no image is refused, and the message tells where."""
    x = np.arange(8.0).reshape(2, 1, 2, 2)
    for number, image in ((0.9, 0), (-0.9, 0), (1.5, 1)):
        box = np.array([[number, 0.0, 0.0, 2.0, 2.0]])
        assert np.array_equal(roi_align(x, box, 2, aligned=True)[0], x[image])
    for number in (2.0, -1.0, np.nan, np.inf, 1e30):
        with pytest.raises(mmk.ContractError, match=r"^roi_align: boxes.flat\[5\] is .*; expected 0 <= value < N = 2"):
            roi_align(x, np.array([[0.0] * 5, [number, 0.0, 0.0, 2.0, 2.0]]), 2)


def test_what_has_no_weight_takes_no_part() -> None:
    """A sample on an element reads that one alone; a NaN beside it, or behind the map's end, poisons nothing."""
    x = np.full((1, 1, 3, 3), np.nan)
    x[0, 0, 1, 1] = 7
    assert roi_align(x, np.array([[0.0, 1.5, 1.5, 1.5, 1.5]]), 1, 1.0, 1, True).item() == 7
    assert roi_align(x, np.array([[0.0, 1.5, 1.5, 1.5, 1.5]]), 1, 1.0, 1, True, mode="max").item() == 7
    x[:] = np.inf
    x[0, 0, 2, 2] = 5
    assert roi_align(x, np.array([[0.0, 2.9, 2.9, 2.9, 2.9]]), 1, 1.0, 1, True).item() == 5


def test_nan_is_a_maximum() -> None:
    x = np.array([[[[1.0, np.nan, 3.0, np.nan]]]])
    y, indices = roi_pool(x, np.array([[0.0, 0.0, 0.0, 3.0, 0.0]]), 1, return_indices=True)
    assert np.isnan(y).all() and indices.item() == 1
    x[...] = -np.inf
    y, indices = roi_pool(x, np.array([[0.0, 1.0, 0.0, 3.0, 0.0]]), 1, return_indices=True)
    assert y.item() == -np.inf and indices.item() == 1


# ---- rotation and levels --------------------------------------------------------------------------------------------


def test_rotation_directions() -> None:
    """A quarter turn from x towards -y: what stood on the right of a bin's row now stands above it."""
    x = np.zeros((1, 1, 9, 9))
    x[0, 0, 1, 4] = 1  # above the centre
    box = np.array([[0.0, 4.0, 4.0, 6.0, 2.0, np.pi / 2]])
    found = roi_align_rotated(x, box, (1, 3), 1.0, 4, False)[0, 0, 0]
    assert np.argmax(found) == 2 and found[0] == 0
    other = roi_align_rotated(x, box, (1, 3), 1.0, 4, False, True)[0, 0, 0]
    assert np.argmax(other) == 0 and other[2] == 0
    in_degrees = roi_align_rotated(x, box * [1, 1, 1, 1, 1, 180 / np.pi], (1, 3), 1.0, 4, False, degrees=True)
    np.testing.assert_allclose(in_degrees[0, 0, 0], found, atol=1e-12)


@pytest.mark.parametrize("aligned", [False, True])
def test_no_rotation_is_roi_align(aligned: bool) -> None:
    """Of boxes that are long enough for both rules: a shorter one grows about its centre, or from its corner."""
    random = np.random.default_rng(8)
    x = random.standard_normal((2, 5, 9, 11))
    number, centre = random.integers(0, 2, (6, 1)), random.uniform(0, 16, (6, 2))
    half = random.uniform(1, 8, (6, 2))
    turned = np.concatenate([number, centre, 2 * half, np.zeros((6, 1))], axis=1)
    corners = np.concatenate([number, centre - half, centre + half], axis=1)
    found = roi_align_rotated(x, turned, (3, 2), 0.5, 2, aligned)
    np.testing.assert_allclose(found, roi_align(x, corners, (3, 2), 0.5, 2, aligned), rtol=0, atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([224.0, 100.0]), st.integers(3, 5), st.integers(2, 4))
def test_levels(seed: int, canonical: float, level: int, first: int) -> None:
    """floor(k0 + log2(sqrt(area) / s0) + 1e-6), clamped to the levels that there are."""
    random = np.random.default_rng(seed)
    scales = [2.0 ** -(first + k) for k in range(4)]
    sides = level_sides("multi_scale_roi_align", scales, canonical, level)
    lengths = np.exp(random.uniform(0, 8, (50, 2)))
    lengths[::7] = canonical * 2.0 ** random.integers(-4, 3, (8, 1))
    boxes = np.concatenate([np.zeros((50, 3)), lengths], axis=1)
    area = lengths[:, 0] * lengths[:, 1]
    wanted = np.clip(np.floor(level + np.log2(np.sqrt(area) / canonical) + 1e-6), first, first + 3) - first
    assert reference.levels_of(boxes, sides).tolist() == wanted.astype(int).tolist()


def pyramid(random: np.random.Generator, dtype: str = "float64") -> tuple[list[Array], Array, list[float]]:
    maps = [random.standard_normal((2, 17, 64 >> k, 48 >> k)).astype(dtype) for k in range(4)]
    sizes = np.exp(random.uniform(3, 7, (30, 1)) + random.uniform(-0.5, 0.5, (30, 2)))
    start = random.uniform(-10, 200, (30, 2))
    boxes = np.concatenate([random.integers(0, 2, (30, 1)), start, start + sizes], axis=1).astype(dtype)
    return maps, boxes, [1 / 4, 1 / 8, 1 / 16, 1 / 32]


def test_levels_in_one_call() -> None:
    """Each box has the bits of roi_align on its own level's map, and every map its own gradient."""
    maps, boxes, scales = pyramid(np.random.default_rng(0), "float32")
    levels = reference.levels_of(boxes, level_sides("", scales, 224, 4))
    assert set(levels) == {0, 1, 2, 3}
    y = multi_scale_roi_align(maps, boxes, 7, scales)
    for r, k in enumerate(levels):
        assert np.array_equal(y[r : r + 1], roi_align(maps[k], boxes[r : r + 1], 7, scales[k], 2))
    one = multi_scale_roi_align(maps[:1], boxes, 7, scales[:1])
    assert np.array_equal(one, roi_align(maps[0], boxes, 7, scales[0], 2))
    variables = [autograd.Variable(x, requires_grad=True) for x in maps]
    total = mmk.sum(mmk.mul(multi_scale_roi_align(variables, boxes, 7, scales), y))
    gradients = autograd.grad(total, variables)
    for k, g in enumerate(gradients):
        mine = levels == k
        wanted = OPERATORS["roi_align_grad"](
            y[mine], boxes[mine], images=2, height=maps[k].shape[2], width=maps[k].shape[3], spatial_scale=scales[k],
            sampling_ratio=2,
        )  # fmt: skip
        assert g is not None and np.array_equal(g.data, wanted)


def test_level_of_odd_boxes() -> None:
    """A box of negative area, whose side is no number, is of the first level; an endless one of the last, and empty."""
    maps = [np.full((1, 1, 32 >> k, 32 >> k), k + 1.0) for k in range(3)]
    boxes = np.array([[0, 5.0, 1.0, 1.0, 5.0], [0, 0, 0, np.inf, 9], [0, 0, 0, np.nan, 9], [0, 0, 0, 1e5, 1e5]])
    y = multi_scale_roi_align(maps, boxes, 1, [1.0, 0.5, 0.25], canonical_scale=8, canonical_level=1)
    assert y[0].item() == 1 and not y[1:3].any() and np.isfinite(y).all()


@pytest.mark.parametrize("scales", [[0.25, 0.25], [0.25, 0.0625], [0.3, 0.15], [0.0, 0.0], [math.nan, 0.5]])
def test_scales_that_are_no_pyramid(scales: list[float]) -> None:
    with pytest.raises(mmk.ContractError, match=r"^multi_scale_roi_align: spatial_scales is"):
        multi_scale_roi_align([np.zeros((1, 1, 4, 4))] * 2, np.zeros((0, 5)), 2, scales)


# ---- what callers may pass ------------------------------------------------------------------------------------------


def test_boxes_by_image() -> None:
    random = np.random.default_rng(2)
    x = random.standard_normal((3, 2, 8, 8)).astype(np.float32)
    parts = [random.uniform(0, 8, (n, 4)).astype(np.float32) for n in (2, 0, 3)]
    whole = np.concatenate([np.repeat([0.0, 2.0], (2, 3))[:, None], np.concatenate(parts)], axis=1).astype(np.float32)
    assert np.array_equal(roi_align(x, parts, 3), roi_align(x, whole, 3))
    assert np.array_equal(roi_pool(x, tuple(parts), 3), roi_pool(x, whole, 3))
    assert roi_align(x, [], 3).shape == (0, 2, 3, 3)
    with pytest.raises(mmk.ContractError, match=r"boxes\[1\] is \(3, 5\); expected an array of \(L, 4\)"):
        roi_align(x, [parts[0], np.zeros((3, 5), np.float32)], 3)
    with pytest.raises(mmk.ContractError, match=r"boxes\[0\] is a int"):
        roi_align(x, [3], 3)


def test_boxes_beside_sixteen_bits() -> None:
    random = np.random.default_rng(2)
    x = random.standard_normal((1, 3, 8, 8)).astype(np.float16)
    boxes = np.array([[0, 1.5, 1.25, 6, 7]], np.float32)
    wanted = roi_align(x.astype(np.float32), boxes, 3).astype(np.float16)
    assert np.array_equal(roi_align(x, boxes, 3), wanted)
    assert np.array_equal(roi_align(x, boxes.astype(np.float16), 3), wanted)
    assert np.array_equal(roi_align(x, [boxes[:, 1:].astype(np.float16)], 3), wanted)
    with pytest.raises(mmk.ContractTypeError, match=r"boxes.dtype is float64; expected float32"):
        roi_align(x, boxes.astype(np.float64), 3)


def test_boxes_have_no_gradient() -> None:
    """None, as in torchvision, whether or not they ask for it."""
    x = autograd.Variable(np.ones((1, 1, 4, 4)), requires_grad=True)
    boxes = autograd.Variable(np.array([[0.0, 0.0, 0.0, 3.0, 3.0]]), requires_grad=True)
    for y in (roi_align(x, boxes, 2), roi_pool(x, boxes, 2), roi_align(x, boxes, 2, mode="max")):
        gx, gboxes = autograd.grad(mmk.sum(y), [x, boxes])
        assert gx is not None and gx.data.sum() == 4 and gboxes is None


def test_names() -> None:
    x, boxes = np.zeros((1, 1, 4, 4)), np.zeros((1, 5))
    with pytest.raises(mmk.ContractError, match="mode is 'mean'; expected one of 'avg', 'max', 'corner_max'"):
        roi_align(x, boxes, 2, mode="mean")  # type: ignore[arg-type]
    with pytest.raises(mmk.ContractError, match="coordinates is 'asymmetric'; expected one of 'half_pixel', "):
        roi_align(x, boxes, 2, coordinates="asymmetric")  # type: ignore[arg-type]
    with pytest.raises(mmk.ContractError, match=r"ps_roi_align: x.shape\[1\] is 1; expected a multiple of"):
        ps_roi_align(x, boxes, 2)
    with pytest.raises(mmk.ContractError, match="6 maps and 6 scales; expected 1 to 5 of each"):
        multi_scale_roi_align([x] * 6, boxes, 2, [1.0] * 6)


def test_arguments_of_the_wrong_kind() -> None:
    """Each is told by its name, and nothing else is raised."""
    x, scales, bad = np.ones((1, 1, 4, 4), np.float32), (0.25, 0.125), np.array([1, 2])
    boxes = np.zeros((1, 5), np.float32)
    wrong: tuple[tuple[Any, str], ...] = (
        (lambda: multi_scale_roi_align(3, boxes, 1, scales), "xs is a int"),  # type: ignore[arg-type]
        (lambda: multi_scale_roi_align([x, x], boxes, 1, 0.25), "spatial_scales is a float"),  # type: ignore[arg-type]
        (lambda: multi_scale_roi_align([x, x], boxes, 1, ("a", 1)), "spatial_scales is"),  # type: ignore[arg-type]
        (lambda: multi_scale_roi_align([x, x], boxes, 1, scales, canonical_level=10**9), "canonical_level is"),
        (lambda: multi_scale_roi_align([x, x], boxes, 1, scales, canonical_level=math.inf), "canonical_level is"),  # type: ignore[arg-type]
        (lambda: multi_scale_roi_align([x, x], boxes, 1, scales, canonical_scale=math.nan), "canonical_scale is"),
        (lambda: roi_align(x, boxes, 1, mode=bad), "mode is"),  # type: ignore[arg-type]
        (lambda: roi_align(x, boxes, 1, coordinates=bad), "coordinates is"),  # type: ignore[arg-type]
        (lambda: roi_align(x, [np.zeros((1, 4), "datetime64[s]")], 1), r"boxes\[0\].dtype is datetime64"),
        (lambda: roi_align(1.5, [boxes[:, 1:]], 1), "x is a float; expected an array"),
    )
    for call, message in wrong:
        with pytest.raises((mmk.ContractError, mmk.ContractTypeError), match=rf"^(multi_scale_)?roi_align: {message}"):
            call()
