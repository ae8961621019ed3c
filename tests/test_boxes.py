"""Boxes: overlaps in four kinds, conversions, offsets from anchors, grids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import mmkernels as mmk
from mmkernels import autograd
from mmkernels.anchors import anchor_boxes, grid_cells
from mmkernels.ops.boxes import box_area, box_convert, box_iou, clip_boxes, paired_box_iou
from mmkernels.ops.boxes_coding import box_decode, box_encode, distance_decode, yolo_grid_decode
from reference import boxes as reference

Array = NDArray[Any]
KINDS = ("iou", "giou", "diou", "ciou")
FORMS = ("xyxy", "xywh", "cxcywh")


def random_boxes(seed: int, shape: tuple[int, ...], dtype: str = "float64") -> Array:
    random = np.random.default_rng(seed)
    if seed % 2:  # few coordinates: ends that coincide, sides of 0
        low, sides = random.integers(-4, 5, (*shape, 2)), random.integers(0, 5, (*shape, 2))
    else:
        low, sides = random.normal(0, 20, (*shape, 2)), random.uniform(0, 40, (*shape, 2))
    return np.concatenate([low, low + sides], -1).astype(dtype)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 5), st.integers(0, 70), st.sampled_from(KINDS), st.booleans())
def test_overlaps_are_the_references(seed: int, n: int, m: int, kind: Any, transposed: bool) -> None:
    a, b = random_boxes(seed, (n,)), random_boxes(seed + 2, (m,))
    if transposed:  # columns of a matrix
        a, b = (np.ascontiguousarray(x.T).T for x in (a, b))
    found = box_iou(a, b, kind=kind, eps=1e-7)
    wanted = reference.box_iou(a[:, None], b[None], kind=kind, eps=1e-7)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    paired = paired_box_iou(a[:, None], b, kind=kind)
    np.testing.assert_array_equal(paired, found)


def test_overlaps_that_papers_state() -> None:
    """GIoU falls towards -1 as boxes part; DIoU and CIoU of equal boxes are 1; CIoU is DIoU where shapes agree."""
    a = np.array([[0.0, 0, 2, 2]])
    for kind in KINDS:
        assert box_iou(a, a, kind=kind)[0, 0] == 1
    apart = np.array([[4.0 * 10**k, 0, 4.0 * 10**k + 2, 2] for k in range(5)])
    giou = box_iou(a, apart, kind="giou")[0]
    assert giou[0] == pytest.approx(-1 / 3) and (np.diff(giou) < 0).all() and giou[-1] == pytest.approx(-1, abs=1e-3)
    assert box_iou(a, apart, kind="diou")[0, 0] == pytest.approx(-16 / 40)
    np.testing.assert_array_equal(box_iou(a, apart, kind="ciou"), box_iou(a, apart, kind="diou"))
    turn = 4 / np.pi**2 * (np.arctan(4) - np.arctan(1)) ** 2
    wide, square = np.array([[0.0, 0, 4, 1]]), np.array([[0.0, 0, 2, 2]])
    iou = 2 / 6
    distance = ((2 - 1) ** 2 + (0.5 - 1) ** 2) / (16 + 4)
    wanted = iou - distance - turn**2 / (1 - iou + turn)
    assert box_iou(wide, square, kind="ciou")[0, 0] == pytest.approx(wanted)


def test_overlaps_of_what_is_no_box() -> None:
    box, empty = np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 1, 1, 1]])
    inverted, nan = np.array([[2.0, 0, 0, 2]]), np.array([[0.0, np.nan, 2, 2]])
    assert box_iou(box, empty)[0, 0] == 0 and box_iou(box, inverted)[0, 0] == 0
    assert np.isnan(box_iou(empty, empty)[0, 0]) and box_iou(empty, empty, eps=1e-7)[0, 0] == 0
    for kind in KINDS:
        assert np.isnan(box_iou(box, nan, kind=kind)[0, 0]) and np.isnan(box_iou(nan, box, kind=kind)[0, 0])


@pytest.mark.parametrize("kind", KINDS[1:])
def test_losses_pull_boxes_together(kind: Any) -> None:
    """Plain descent on 1 - overlap brings boxes that start apart onto their targets; IoU has no gradient there."""
    truth = random_boxes(4, (20,)) + np.array([0, 0, 5, 5])
    boxes = truth[::-1] + np.array([60.0, -40.0, 70.0, -20.0])
    for rate in np.geomspace(400, 0.05, 1500):
        x = autograd.Variable(boxes, requires_grad=True)
        (g,) = autograd.grad(mmk.sum(paired_box_iou(x, truth, kind=kind)), [x])
        assert g is not None
        step = g.data / (np.abs(g.data).max(-1, keepdims=True) + 1e-12)
        boxes = boxes + np.minimum(rate, 2.0) * step
    assert paired_box_iou(boxes, truth).min() > 0.9


def test_a_tied_end_has_half_of_the_gradient() -> None:
    a = autograd.Variable(np.array([[0.0, 0, 2, 2]]), requires_grad=True)
    b = autograd.Variable(np.array([[0.0, 0, 2, 1]]), requires_grad=True)
    ga, gb = autograd.grad(mmk.sum(paired_box_iou(a, b, eps=0.0)), [a, b])
    assert ga is not None and gb is not None
    # i = 2, u = 4; only y2 differs: b's end is the intersection's
    common = (1 + 0.5) / 4  # of an area of intersection
    area = -0.5 / 4
    np.testing.assert_allclose(ga.data, [[-common / 2 - 2 * area, -common - 2 * area, common / 2 + 2 * area, 2 * area]])
    np.testing.assert_allclose(gb.data[0, 3], 2 * common + 2 * area)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(FORMS), st.sampled_from(FORMS), st.sampled_from(["float32", "float64"]))
def test_conversions_round_trip(seed: int, source: Any, target: Any, dtype: str) -> None:
    corners = random_boxes(seed, (3, 7), dtype)
    x = box_convert(corners, "xyxy", source)
    y = box_convert(x, source, target)
    assert y.dtype == x.dtype
    eps = 8 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(box_convert(y, target, "xyxy"), corners, rtol=0, atol=eps * 100)
    np.testing.assert_allclose(
        y, reference.box_convert(x, source=source, target=target, transposed=False), atol=eps * 100
    )


def test_infinities_survive_conversions() -> None:
    x = np.array([-np.inf, 0.0, np.inf, 3.0])
    assert box_convert(x, "xyxy", "xyxy").tolist() == x.tolist()
    assert box_convert(np.array([1.0, 2.0, np.inf, 4.0]), "xywh", "xyxy").tolist() == [1.0, 2.0, np.inf, 6.0]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]))
def test_decode_inverts_encode(seed: int, weights: tuple[float, ...]) -> None:
    grow = np.array([0.0, 0.0, 1.0, 1.0])
    boxes, anchors = random_boxes(seed, (9,)) + grow, random_boxes(seed + 2, (9,)) + grow
    deltas = box_encode(boxes, anchors, weights=weights)
    np.testing.assert_allclose(deltas, reference.box_encode(boxes, anchors, weights=weights), atol=1e-12)
    np.testing.assert_allclose(box_decode(deltas, anchors, weights=weights), boxes, atol=1e-11)


def test_decode_holds_logarithms() -> None:
    anchor = np.array([0.0, 0.0, 2.0, 2.0], np.float32)
    found = box_decode(np.array([0, 0, 100, np.log(3.0)], np.float32), anchor)
    np.testing.assert_allclose(found, [1 - 62.5, -2, 1 + 62.5, 4], rtol=1e-6)


def test_clipping_and_areas() -> None:
    x = np.array([[-5.0, -5.0, 20.0, 20.0], [1.0, np.nan, 3.0, -1.0]])
    np.testing.assert_array_equal(clip_boxes(x, (8, 10)), [[0, 0, 10, 8], [1, np.nan, 3, 0]])
    assert box_area(clip_boxes(x[:1], (8, 10))).tolist() == [80.0]
    v = autograd.Variable(x[:1], requires_grad=True)
    (g,) = autograd.grad(mmk.sum(box_area(clip_boxes(v, (30, 10)))), [v])
    assert g is not None and g.data.tolist() == [[0.0, 0.0, 0.0, 10.0]]


def test_anchors() -> None:
    """The nine of a region proposal network, as torchvision's AnchorGenerator gives them at the origin."""
    base = anchor_boxes((1, 1), 16, (32, 64, 128))
    assert base[[0, 3, 6]].tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    assert base.shape == (9, 4) and base.dtype == np.float32
    several = anchor_boxes((2, 3), (8, 16), (32,), (1.0,))
    assert several[:, :2].tolist() == [[x - 16, y - 16] for y in (0, 8) for x in (0, 16, 32)]
    middle = anchor_boxes((1, 2), 16, (10,), (1.0, 4.0), offset=0.5, rounded=False)
    assert middle.tolist() == [[3, 3, 13, 13], [5.5, -2, 10.5, 18], [19, 3, 29, 13], [21.5, -2, 26.5, 18]]
    assert anchor_boxes((0, 3), 16, (10,)).shape == (0, 4)
    for broken in ((1, -1), 16, (10,)), ((1, 1), 0, (10,)), ((1, 1), 16, (0,)):
        with pytest.raises(mmk.ContractError, match=r"^anchor_boxes: "):
            anchor_boxes(*broken)


def test_heads() -> None:
    cells = grid_cells((2, 3), (4, 8), dtype="float64")
    assert cells[[0, 1, 5]].tolist() == [[0, 0, 8, 4], [8, 0, 16, 4], [16, 4, 24, 8]]
    np.testing.assert_array_equal(distance_decode(np.full((6, 4), 0.5), cells), cells)
    random = np.random.default_rng(0)
    x = random.random((2, 7, 5, 13))
    boxes, scores = yolo_grid_decode(x, 2, (70, 50))
    wanted_boxes, wanted_scores = reference.yolo_grid_decode(x, B=2, height=70.0, width=50.0)
    np.testing.assert_allclose(boxes, wanted_boxes, atol=1e-12)
    np.testing.assert_array_equal(scores, wanted_scores)
    with pytest.raises(mmk.ContractError, match="B is 3; expected 1 or more, 5 numbers each of D = 13"):
        yolo_grid_decode(x, 3)


@pytest.mark.parametrize("boxes", [np.zeros(4), np.zeros((2, 3, 4)), np.zeros((2, 5))])
def test_pairs_want_two_lists(boxes: Array) -> None:
    with pytest.raises(mmk.ContractError, match=r"^box_iou: boxes"):
        box_iou(boxes, np.zeros((3, 4)))
    with pytest.raises(mmk.ContractTypeError, match="boxes1 is a list"):
        box_iou([[0.0, 0, 1, 1]], np.zeros((3, 4)))


def test_tables_refuse_what_they_cannot_hold() -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"feature_size": 3}, {"feature_size": (2.5, 1)}, {"feature_size": (1, 2**62)}, {"feature_size": (-1, 2)},
        {"stride": 0}, {"stride": (1, None)}, {"stride": 2**70}, {"dtype": "int32"}, {"dtype": 5}, {"like": (1,)},
        {"sizes": "a"}, {"sizes": (float("nan"),)}, {"aspect_ratios": (0.0,)}, {"offset": [1]}, {"rounded": [1, 2]},
    )  # fmt: skip
    for more in wrong:
        arguments = {"feature_size": (1, 2), "stride": 8, "sizes": (4.0,), **more}
        with pytest.raises(
            (mmk.ContractError, mmk.ContractTypeError), match=rf"^anchor_boxes: {next(iter(more))} is .*;"
        ):
            anchor_boxes(**arguments)
        if not more.keys() & {"sizes", "aspect_ratios", "offset", "rounded"}:
            del arguments["sizes"]
            with pytest.raises(
                (mmk.ContractError, mmk.ContractTypeError), match=rf"^grid_cells: {next(iter(more))} is .*;"
            ):
                grid_cells(**arguments)
    size: Any = np.array([1, 2])
    assert np.array_equal(anchor_boxes(size, np.int64(8), np.array([4.0])), anchor_boxes((1, 2), 8, (4.0,)))


def test_weights_are_four_numbers() -> None:
    b, weights = np.ones((1, 4)), np.array([1.0, 2.0, 3.0, 4.0])
    assert np.array_equal(mmk.box_decode(b, b, weights=weights), mmk.box_decode(b, b, weights=tuple(weights)))  # type: ignore[arg-type]
    bad: Any
    for bad in (1.0, None, (1.0,), object()):
        for call in (mmk.box_encode, mmk.box_decode):
            with pytest.raises(mmk.ContractTypeError, match=rf"^{call.__name__}: weights is .*; expected four numbers"):
                call(b, b, weights=bad)


def test_tables_and_grids_go_where_they_are_told() -> None:
    for make in (lambda **o: mmk.grid_cells((2, 3), 8, **o), lambda **o: mmk.anchor_boxes((2, 3), 8, (16, 32), **o)):
        wanted = make()
        out = np.full((4, len(wanted)), np.nan, np.float32).T
        assert make(out=out) is out and (out == wanted).all()
        with pytest.raises(mmk.ContractError, match=rf"out\.shape is \(1, 4\); expected \({len(wanted)}, 4\)"):
            make(out=np.empty((1, 4), np.float32))
        with pytest.raises(mmk.ContractTypeError, match=r"out\.dtype is float64; expected float32"):
            make(out=np.empty(wanted.shape))
        with pytest.raises(mmk.ContractTypeError, match="out is a list; expected an array"):
            make(out=[0.0])
        with pytest.raises(mmk.ContractError, match="out is read-only"):
            make(out=np.broadcast_to(np.float32(0), wanted.shape))
    x = np.random.default_rng(0).random((2, 2, 3, 12)).astype(np.float32)
    boxes, scores = mmk.yolo_grid_decode(x, 2)
    out = np.empty_like(boxes), np.empty_like(scores)
    assert mmk.yolo_grid_decode(x, 2, out=out)[1] is out[1] and (out[0] == boxes).all() and (out[1] == scores).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_overlaps_are_those_of_other_operators(kind: str) -> None:
    """What second derivatives go through gives the operator's own gradients: ties, apart, inside, without sides."""
    random = np.random.default_rng(3)
    corners = random.integers(0, 4, (2, 400, 2)).astype(np.float64)
    boxes1, boxes2 = np.concatenate([corners, corners + random.integers(-1, 4, (2, 400, 2))], -1)
    boxes2[:40] = boxes1[:40]
    gy = random.standard_normal(400)
    found = []
    for graph in (False, True):
        variables = [autograd.Variable(b, requires_grad=True) for b in (boxes1, boxes2)]
        y = paired_box_iou(*variables, kind=kind, eps=1e-3)  # type: ignore[arg-type]
        weights = autograd.Variable(gy, requires_grad=True) if graph else gy
        found.append([g.data for g in autograd.grad(y, variables, weights, create_graph=graph) if g is not None])
    for fused, composed in zip(*found, strict=True):
        np.testing.assert_allclose(composed, fused, rtol=1e-12, atol=1e-12)


def test_ciou_has_second_derivatives() -> None:
    """Against differences of the first: all with all, so that gradients are summed over what was broadcast."""
    random = np.random.default_rng(4)
    low = random.uniform(0, 3, (5, 2))
    first, second = (np.concatenate([low + 0.1 * k, low + random.uniform(1, 4, (5, 2))], 1) for k in (0, 1))
    direction, weight = random.standard_normal((5, 4)), random.standard_normal((5, 5))

    def gradient(boxes: Array, graph: bool) -> tuple[Any, Any]:
        x = autograd.Variable(boxes, requires_grad=True)
        (g,) = autograd.grad(box_iou(x, second, kind="ciou", eps=1e-7), [x], weight, create_graph=graph)
        assert g is not None
        return x, g

    x, g = gradient(first, True)
    (found,) = autograd.grad(mmk.sum(mmk.mul(g, direction)), [x])
    assert found is not None
    for at in np.ndindex(5, 4):
        step = np.zeros((5, 4))
        step[at] = 1e-6
        apart = gradient(first + step, False)[1].data - gradient(first - step, False)[1].data
        np.testing.assert_allclose(found.data[at], (apart * direction).sum() / 2e-6, rtol=1e-5, atol=1e-6)
