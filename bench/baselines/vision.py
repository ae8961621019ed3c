"""Peers for boxes, regions and deformed samples: torchvision where it has the operator, else formulas in eager torch.

As baselines/cuda.py: calls by label from the contract's operands and plain attributes. torchvision's kernels of regions
take no bfloat16, and 16 bits only for boxes and map alike; its autocast computes in float32 and rounds, which is what
is called for 16 bits, with boxes as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

F = torch.nn.functional
Call = Callable[[], Any]


def backward(forward: Call, inputs: Sequence[Any], gradient: Any) -> Call:
    """The backward pass alone, through a graph that is kept."""
    with torch.enable_grad():
        y = forward()
    return lambda: torch.autograd.grad(y, inputs, gradient, retain_graph=True)


def leaf(x: Any) -> Any:
    return x.detach().clone().requires_grad_(True)


def torchvision_ops() -> Any:
    import torchvision

    return torchvision.ops


# ---- regions of interest --------------------------------------------------------------------------------------------

_KNOWN = ("output_size", "spatial_scale", "sampling_ratio", "aligned")


def _wide(call: Callable[[Any], Any], x: Any) -> Any:
    return call(x) if x.dtype in (torch.float32, torch.float64) else call(x.float()).to(x.dtype)


def _region(name: str, a: dict[str, Any], x: Any, boxes: Any) -> Any:
    known = {k: a[k] for k in _KNOWN if k in a}
    boxes = boxes.float() if x.dtype != torch.float64 else boxes
    return _wide(lambda m: getattr(torchvision_ops(), name)(m, boxes, **known), x)


def _regions(name: str) -> Callable[..., dict[str, Call]]:
    return lambda a, x, boxes: {"torchvision": lambda: _region(name, a, x, boxes)}


def _regions_grad(name: str, sensitive: bool = False) -> Callable[..., dict[str, Call]]:
    def calls(a: dict[str, Any], gy: Any, boxes: Any, indices: Any = None) -> dict[str, Call]:
        bins = tuple(gy.shape[2:])
        channels = gy.shape[1] * (math.prod(bins) if sensitive else 1)
        x = torch.zeros(a["images"], channels, a["height"], a["width"], dtype=gy.dtype, device=gy.device)
        x.requires_grad_(True)
        forward = {"spatial_scale": 1.0, **a, "output_size": bins}
        return {"torchvision": backward(lambda: _region(name, forward, x, boxes), [x], gy)}

    return calls


def _roi_pool_grad(a: dict[str, Any], gy: Any, boxes: Any, indices: Any) -> dict[str, Call]:
    torchvision_ops()  # loads its kernels
    kernel, boxes, chosen = torch.ops.torchvision._roi_pool_backward, boxes.to(gy.dtype), indices.to(torch.int32)
    extents = (*gy.shape[2:], a["images"], gy.shape[1], a["height"], a["width"])
    return {"torchvision": lambda: kernel(gy, boxes, chosen, 1.0, *extents)}


def _levels(a: dict[str, Any], maps: Sequence[Any], boxes: Any) -> Any:
    """As torchvision's MultiScaleRoIAlign: a call for each level and its boxes."""
    side = ((boxes[:, 3] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 2])).sqrt()
    level = torch.bucketize(side, torch.tensor(a["sides"], dtype=side.dtype, device=side.device), right=True)
    y = torch.zeros(len(boxes), maps[0].shape[1], *a["output_size"], dtype=maps[0].dtype, device=boxes.device)
    rest = {k: a[k] for k in ("output_size", "sampling_ratio", "aligned") if k in a}
    for k, x in enumerate(maps):
        at = torch.nonzero(level == k)[:, 0]
        y = y.index_put((at,), _region("roi_align", {**rest, "spatial_scale": a["spatial_scales"][k]}, x, boxes[at]))
    return y


def _multi_scale(a: dict[str, Any], *tensors: Any) -> dict[str, Call]:
    maps, boxes = [x for x in tensors[:-1] if x is not None], tensors[-1]
    return {"torchvision by level": lambda: _levels(a, maps, boxes)}


def _multi_scale_grad(a: dict[str, Any], gy: Any, boxes: Any) -> dict[str, Call]:
    maps = [
        torch.zeros(a["images"], gy.shape[1], h, w, dtype=gy.dtype, device=gy.device, requires_grad=True)
        for h, w in zip(a["heights"], a["widths"], strict=True)
    ]
    forward = {**a, "output_size": tuple(gy.shape[2:])}
    return {"torchvision by level": backward(lambda: _levels(forward, maps, boxes), maps, gy)}


# ---- boxes ----------------------------------------------------------------------------------------------------------


def overlap(kind: str, eps: float, a: Any, b: Any) -> Any:
    """The papers' formulas, one operator after another; a weight that is differentiated too."""
    side_a, side_b = (a[..., 2:] - a[..., :2]).clamp(min=0), (b[..., 2:] - b[..., :2]).clamp(min=0)
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    common = (high - low).clamp(min=0).prod(-1)
    union = side_a.prod(-1) + side_b.prod(-1) - common
    iou = common / (union + eps)
    if kind == "iou":
        return iou
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0)
    if kind == "giou":
        around = hull.prod(-1)
        return iou - (around - union) / (around + eps)
    centres = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    y = iou - (centres**2).sum(-1) / ((hull**2).sum(-1) + eps)
    if kind == "diou":
        return y
    turn = torch.atan2(side_a[..., 0], side_a[..., 1]) - torch.atan2(side_b[..., 0], side_b[..., 1])
    aspect = 4 / torch.pi**2 * turn**2
    return y - aspect * aspect / (1 - iou + aspect + eps)


_PAIRS = {"iou": "box_iou", "giou": "generalized_box_iou", "diou": "distance_box_iou", "ciou": "complete_box_iou"}


def _box_iou(a: dict[str, Any], boxes1: Any, boxes2: Any) -> dict[str, Call]:
    kind, eps = a["kind"], a["eps"]
    calls: dict[str, Call] = {"eager": lambda: overlap(kind, eps, boxes1, boxes2)}
    if boxes1.ndim == 3 and boxes1.shape[1] == boxes2.shape[0] == 1:
        rows, columns = boxes1[:, 0], boxes2[0]
        calls["torchvision"] = lambda: getattr(torchvision_ops(), _PAIRS[kind])(rows, columns)
    elif boxes1.shape == boxes2.shape and kind != "iou":
        name = _PAIRS[kind] + "_loss"
        calls["torchvision"] = lambda: 1 - getattr(torchvision_ops(), name)(boxes1, boxes2, eps=eps)
    return calls


def _box_iou_grad(a: dict[str, Any], gy: Any, boxes1: Any, boxes2: Any) -> dict[str, Call]:
    pair = [leaf(boxes1.expand(*gy.shape, 4)), leaf(boxes2.expand(*gy.shape, 4))]
    return {"eager": backward(lambda: overlap(a["kind"], a["eps"], *pair), pair, gy)}


def _box_convert(a: dict[str, Any], x: Any) -> dict[str, Call]:
    if a["transposed"]:
        return {}
    return {"torchvision": lambda: torchvision_ops().box_convert(x, a["source"], a["target"])}


def _centres(x: Any) -> tuple[Any, Any]:
    return (x[..., :2] + x[..., 2:]) / 2, x[..., 2:] - x[..., :2]


def _encode(a: dict[str, Any], boxes: Any, anchors: Any) -> Any:
    (centre, side), (from_centre, from_side) = _centres(boxes), _centres(anchors)
    wx, wy, ww, wh = a["weights"]
    move, growth = (centre - from_centre) / from_side, torch.log(side / from_side)
    return torch.stack([wx * move[..., 0], wy * move[..., 1], ww * growth[..., 0], wh * growth[..., 1]], -1)


def _decode(a: dict[str, Any], deltas: Any, anchors: Any) -> Any:
    centre, side = _centres(anchors)
    dx, dy, dw, dh = (deltas[..., i] / w for i, w in enumerate(a["weights"]))
    centre = centre + torch.stack([dx, dy], -1) * side
    half = torch.exp(torch.stack([dw, dh], -1).clamp(max=a["log_clip"])) * side / 2
    return torch.cat([centre - half, centre + half], -1)


def _decode_grad(a: dict[str, Any], gboxes: Any, deltas: Any, anchors: Any) -> dict[str, Call]:
    pair = [leaf(deltas), leaf(anchors)]
    return {"eager": backward(lambda: _decode(a, *pair), pair, gboxes)}


def _distances(a: dict[str, Any], distances: Any, cells: Any) -> Any:
    centre, side = _centres(cells)
    return torch.cat([centre - distances[..., :2] * side, centre + distances[..., 2:] * side], -1)


def _nms(a: dict[str, Any], boxes: Any, scores: Any, classes: Any = None) -> Any:
    """What a detector calls: those of a good score, suppression, the first of those that are kept."""
    ops, least = torchvision_ops(), a["score_threshold"]
    if least > -math.inf:
        good = scores > least
        boxes, scores, classes = boxes[good], scores[good], None if classes is None else classes[good]
    if classes is None:
        kept = ops.nms(boxes, scores, a["iou_threshold"])
    else:
        kept = ops.batched_nms(boxes, scores, classes, a["iou_threshold"])
    return kept[: a["max_output"]]


# ---- deformed samples -----------------------------------------------------------------------------------------------


def _deform_conv2d(a: dict[str, Any], x: Any, offset: Any, weight: Any, bias: Any = None, mask: Any = None) -> Any:
    before, after = a["padding"][::2], a["padding"][1::2]
    if before != after or a["activation"] is not None:
        raise ValueError("asymmetric padding, or an activation")
    rest = {"stride": a["stride"], "padding": before, "dilation": a["dilation"], "mask": mask}
    return torchvision_ops().deform_conv2d(x, offset, weight, bias, **rest)


def _sampled_attention(a: dict[str, Any], value: Any, locations: Any, weights: Any) -> Any:
    """Deformable DETR's formula (arXiv 2010.04159, equation 3) by grid_sample, level after level."""
    shapes = list(zip(a["spatial_shapes"][::2], a["spatial_shapes"][1::2], strict=True))
    (batch, _, heads, channels), (queries, levels, points) = value.shape, (locations.shape[i] for i in (1, 3, 4))
    found = []
    for k, (part, (h, w)) in enumerate(zip(value.split([h * w for h, w in shapes], 1), shapes, strict=True)):
        plane = part.permute(0, 2, 3, 1).reshape(batch * heads, channels, h, w)
        at = (2 * locations[:, :, :, k] - 1).transpose(1, 2).flatten(0, 1)
        found.append(F.grid_sample(plane, at, mode="bilinear", padding_mode="zeros", align_corners=False))
    factor = weights.transpose(1, 2).reshape(batch * heads, 1, queries, levels * points)
    y = (torch.stack(found, -2).flatten(-2) * factor).sum(-1)
    return y.reshape(batch, heads * channels, queries).transpose(1, 2)


def _sampled_grad(*wanted: int) -> Callable[..., dict[str, Call]]:
    def calls(a: dict[str, Any], value: Any, locations: Any, weights: Any, gy: Any) -> dict[str, Call]:
        given = [value, locations.to(value.dtype), weights]
        given = [leaf(t) if i in wanted else t for i, t in enumerate(given)]
        return {"grid_sample": backward(lambda: _sampled_attention(a, *given), [given[i] for i in wanted], gy)}

    return calls


def _value_grad(a: dict[str, Any], gy: Any, locations: Any, weights: Any) -> dict[str, Call]:
    pixels = sum(h * w for h, w in zip(a["spatial_shapes"][::2], a["spatial_shapes"][1::2], strict=True))
    batch, _, heads = weights.shape[:3]
    value = torch.zeros(batch, pixels, heads, gy.shape[-1] // heads, dtype=gy.dtype, device=gy.device)
    return _sampled_grad(0)(a, value, locations, weights, gy)


def _weights_grad(a: dict[str, Any], value: Any, locations: Any, gy: Any) -> dict[str, Call]:
    return _sampled_grad(2)(a, value, locations, torch.ones_like(locations[..., 0], dtype=value.dtype), gy)


def _one(label: str, call: Callable[..., Any]) -> Callable[..., dict[str, Call]]:
    return lambda a, *tensors: {label: lambda: call(a, *tensors)}


# The gradients of torchvision's deform_conv2d come all together from one kernel call, ours one by one: not compared.
VISION: dict[str, Callable[..., dict[str, Call]]] = {
    **{name: _regions(name) for name in ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")},
    "roi_align_grad": _regions_grad("roi_align"),
    "roi_pool_grad": _roi_pool_grad,
    "ps_roi_align_grad": _regions_grad("ps_roi_align", sensitive=True),
    "ps_roi_pool_grad": _regions_grad("ps_roi_pool", sensitive=True),
    "multi_scale_roi_align": _multi_scale,
    "multi_scale_roi_align_grad": _multi_scale_grad,
    "box_iou": _box_iou,
    "box_iou_grad": _box_iou_grad,
    "box_convert": _box_convert,
    "box_area": _one("torchvision", lambda a, x: torchvision_ops().box_area(x)),
    "clip_boxes": _one("torchvision", lambda a, x: torchvision_ops().clip_boxes_to_image(x, (a["height"], a["width"]))),
    "box_encode": _one("eager", _encode),
    "box_decode": _one("eager", _decode),
    "box_decode_grad": _decode_grad,
    "distance_decode": _one("eager", _distances),
    "nms": _one("torchvision", _nms),
    "deform_conv2d": _one("torchvision", _deform_conv2d),
    "ms_deform_attention": _one("grid_sample", _sampled_attention),
    "ms_deform_attention_value_grad": _value_grad,
    "ms_deform_attention_points_grad": _sampled_grad(1, 2),
    "ms_deform_attention_weights_grad": _weights_grad,
}
