"""ONNX operators in terms of public functions: attributes and inputs of a node in, its outputs out.

Nothing is computed here but what ONNX leaves to its runner: automatic padding, the shape of heads, who is batched. Each
function is named as its operator and is found by that name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import mmkernels as mmk

Array = NDArray[Any]
Outputs = Sequence[Any]


@dataclass(frozen=True)
class Node:
    """A node's attributes, its inputs (None where absent) and the names of its outputs ("" where not wanted)."""

    attributes: dict[str, Any]
    inputs: tuple[Any, ...]
    outputs: tuple[str, ...]

    def get(self, name: str, default: Any = None) -> Any:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def input(self, position: int) -> Any:
        return self.inputs[position] if position < len(self.inputs) else None

    def wants(self, position: int) -> bool:
        return position < len(self.outputs) and self.outputs[position] != ""


def run(operator: str, node: Node) -> Outputs:
    """The node's outputs in order."""
    return globals()[operator](node)  # type: ignore[no-any-return]


def _ranked(name: str, rank: int) -> Any:
    return getattr(mmk, f"{name}{rank}d")


@dataclass(frozen=True)
class _Windows:
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]


def _windows(node: Node, extents: Sequence[int], kernel: Sequence[int]) -> _Windows:
    """ONNX's windows: pads are all beginnings, then all ends; SAME puts ceil(extent / stride) windows."""
    rank = len(extents)
    stride = tuple(node.get("strides", [1] * rank))
    dilation = tuple(node.get("dilations", [1] * rank))
    mode = node.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        padding = []
        for n, k, s, d in zip(extents, kernel, stride, dilation, strict=True):
            total = max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
            less, more = total // 2, total - total // 2
            padding.append((less, more) if mode == "SAME_UPPER" else (more, less))
    else:
        pads = node.get("pads", [0] * 2 * rank)
        padding = list(zip(pads[:rank], pads[rank:], strict=True))
    return _Windows(tuple(kernel), stride, dilation, tuple(padding))


# ---- convolution ----------------------------------------------------------------------------------------------------


def Conv(node: Node) -> Outputs:
    x, weight, bias = (node.input(i) for i in range(3))
    w = _windows(node, x.shape[2:], weight.shape[2:])
    conv = _ranked("conv", x.ndim - 2)
    return [conv(x, weight, bias, w.stride, w.padding, w.dilation, node.get("group", 1))]


def ConvTranspose(node: Node) -> Outputs:
    x, weight, bias = (node.input(i) for i in range(3))
    rank = x.ndim - 2
    kernel = weight.shape[2:]
    stride = tuple(node.get("strides", [1] * rank))
    dilation = tuple(node.get("dilations", [1] * rank))
    more = tuple(node.get("output_padding", [0] * rank))
    pads = node.get("pads", [0] * 2 * rank)
    padding = list(zip(pads[:rank], pads[rank:], strict=True))
    mode, shape = node.get("auto_pad", "NOTSET"), node.get("output_shape")
    if shape is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        shape = [n * s for n, s in zip(x.shape[2:], stride, strict=True)]
    if shape is not None:  # pads follow from the shape; one too many goes to the beginning unless SAME_UPPER
        spans = [
            (n - 1) * s + (k - 1) * d + 1 + o
            for n, s, k, d, o in zip(x.shape[2:], stride, kernel, dilation, more, strict=True)
        ]
        totals = [max(span - n, 0) for span, n in zip(spans, shape, strict=True)]
        # a wanted shape beyond the span is more of the output's padding
        more = tuple(o + max(n - span, 0) for o, n, span in zip(more, shape, spans, strict=True))
        padding = [(t // 2, t - t // 2) if mode == "SAME_UPPER" else (t - t // 2, t // 2) for t in totals]
    conv = _ranked("conv_transpose", rank)
    return [conv(x, weight, bias, stride, padding, more, node.get("group", 1), dilation)]


def DeformConv(node: Node) -> Outputs:
    x, weight, offset, bias, mask = (node.input(i) for i in range(5))
    w = _windows(node, x.shape[2:], weight.shape[2:])
    assert node.get("group", 1) * weight.shape[1] == x.shape[1]
    (top, bottom), (left, right) = w.padding
    assert top == bottom and left == right
    return [mmk.deform_conv2d(x, offset, weight, bias, w.stride, (top, left), w.dilation, mask)]


# ---- pooling --------------------------------------------------------------------------------------------------------


def MaxPool(node: Node) -> Outputs:
    (x,) = node.inputs
    w = _windows(node, x.shape[2:], node.get("kernel_shape"))
    pool = _ranked("max_pool", x.ndim - 2)
    floating = x.astype(np.float32) if x.dtype.kind in "iu" else x  # 8 bits: exact
    y, indices = pool(
        floating, w.kernel, w.stride, w.padding, w.dilation, bool(node.get("ceil_mode", 0)), return_indices=True
    )
    y = y.astype(x.dtype)
    if not node.wants(1):
        return [y]
    if node.get("storage_order", 0) == 1:  # column-major inside a plane
        height, width = x.shape[2:]
        indices = indices % width * height + indices // width
    planes = np.arange(math.prod(x.shape[:2])).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
    return [y, indices + planes * math.prod(x.shape[2:])]


def AveragePool(node: Node) -> Outputs:
    (x,) = node.inputs
    w = _windows(node, x.shape[2:], node.get("kernel_shape"))
    pool = _ranked("avg_pool", x.ndim - 2)
    ceil, count = bool(node.get("ceil_mode", 0)), bool(node.get("count_include_pad", 0))
    return [pool(x, w.kernel, w.stride, w.padding, ceil, count, dilation=w.dilation)]


def LpPool(node: Node) -> Outputs:
    (x,) = node.inputs
    w = _windows(node, x.shape[2:], node.get("kernel_shape"))
    pool = _ranked("lp_pool", x.ndim - 2)
    ceil = bool(node.get("ceil_mode", 0))
    return [pool(x, node.get("p", 2), w.kernel, w.stride, ceil, padding=w.padding, dilation=w.dilation)]


def GlobalAveragePool(node: Node) -> Outputs:
    (x,) = node.inputs
    return [_ranked("adaptive_avg_pool", x.ndim - 2)(x, (1,) * (x.ndim - 2))]


def GlobalMaxPool(node: Node) -> Outputs:
    (x,) = node.inputs
    return [_ranked("adaptive_max_pool", x.ndim - 2)(x, (1,) * (x.ndim - 2))]


def MaxUnpool(node: Node) -> Outputs:
    x, indices, shape = (node.input(i) for i in range(3))
    kernel = node.get("kernel_shape")
    w = _windows(node, x.shape[2:], kernel)
    extents = [
        (n - 1) * s - a - b + k for n, s, (a, b), k in zip(x.shape[2:], w.stride, w.padding, kernel, strict=True)
    ]
    # ONNX counts over all planes of the plain result, and lets the wanted shape go on behind it
    planes = np.arange(math.prod(x.shape[:2])).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
    inside = indices - planes * math.prod(extents)
    unpool = _ranked("max_unpool", x.ndim - 2)
    y = unpool(x, inside, tuple(kernel), w.stride, tuple(a for a, _ in w.padding), tuple(extents))
    if shape is not None:
        y = np.pad(y, [(0, n - m) for n, m in zip(shape, y.shape, strict=True)])
    return [y]


# ---- regions and boxes ----------------------------------------------------------------------------------------------


def RoiAlign(node: Node) -> Outputs:
    x, rois, images = node.inputs
    boxes = np.concatenate((images[:, None].astype(x.dtype), rois), axis=1)
    size = node.get("output_height", 1), node.get("output_width", 1)
    aligned = node.get("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    mode = {"avg": "avg", "max": "corner_max"}[node.get("mode", "avg")]
    ratio = node.get("sampling_ratio", 0)
    return [mmk.roi_align(x, boxes, size, node.get("spatial_scale", 1.0), ratio, aligned, mode=mode)]


def NonMaxSuppression(node: Node) -> Outputs:
    boxes, scores, count, overlap, least = (node.input(i) for i in range(5))
    if node.get("center_point_box", 0):
        boxes = mmk.box_convert(boxes, "cxcywh", "xyxy")
    else:  # any two opposite corners, y first
        first, second = boxes[..., :2], boxes[..., 2:]
        boxes = np.concatenate((np.minimum(first, second), np.maximum(first, second)), axis=-1)
    rows = []
    for image in range(scores.shape[0]):
        for category in range(scores.shape[1]):
            s = scores[image, category]
            candidates = np.flatnonzero(s > least[0]) if least is not None else np.arange(s.size)
            threshold = float(overlap[0]) if overlap is not None else 0.0
            keep = mmk.nms(boxes[image][candidates], s[candidates], threshold)[
                : int(count[0]) if count is not None else 0
            ]
            rows += [(image, category, int(candidates[i])) for i in keep]
    return [np.array(rows, np.int64).reshape(-1, 3)]


# ---- normalisation, activation, products ----------------------------------------------------------------------------


def _axis(node: Node, rank: int) -> int:
    return node.get("axis", -1) % rank  # type: ignore[no-any-return]


def LayerNormalization(node: Node) -> Outputs:
    x, weight, bias = (node.input(i) for i in range(3))
    axis, eps = _axis(node, x.ndim), node.get("epsilon", 1e-5)
    y = mmk.layer_norm(x, x.shape[axis:], weight, bias, eps)
    mean = mmk.mean(x, tuple(range(axis, x.ndim)), keepdim=True)
    centred = mmk.sub(x, mean)
    variance = mmk.mean(mmk.mul(centred, centred), tuple(range(axis, x.ndim)), keepdim=True)
    return [y, mean, mmk.div(1.0, mmk.sqrt(mmk.add(variance, eps)))]


def RMSNormalization(node: Node) -> Outputs:
    x, weight = (node.input(i) for i in range(2))
    return [mmk.rms_norm(x, x.shape[_axis(node, x.ndim) :], weight, node.get("epsilon", 1e-5))]


def GroupNormalization(node: Node) -> Outputs:
    x, weight, bias = node.inputs
    return [mmk.group_norm(x, node.get("num_groups"), weight, bias, node.get("epsilon", 1e-5))]


def InstanceNormalization(node: Node) -> Outputs:
    x, weight, bias = node.inputs
    return [mmk.instance_norm(x, weight=weight, bias=bias, eps=node.get("epsilon", 1e-5))]


def BatchNormalization(node: Node) -> Outputs:
    x, weight, bias, mean, variance = node.inputs
    eps = node.get("epsilon", 1e-5)
    if not node.get("training_mode", 0):
        return [mmk.batch_norm(x, mean, variance, weight, bias, eps=eps)]
    # ONNX's momentum is the share of the old statistics, its new variance that of the population
    y, new_mean, new_variance = mmk.batch_norm(
        x, mean, variance, weight, bias, training=True, momentum=1 - node.get("momentum", 0.9), eps=eps
    )
    count = x.size // x.shape[1]
    share = 1 - node.get("momentum", 0.9)
    of_batch = mmk.div(mmk.sub(new_variance, mmk.mul(variance, 1 - share)), share)  # n / (n - 1) times the population's
    corrected = mmk.add(mmk.mul(variance, 1 - share), mmk.mul(of_batch, share * (count - 1) / count))
    return [y, new_mean, corrected]


def Softmax(node: Node) -> Outputs:
    (x,) = node.inputs
    return [mmk.softmax(x, _axis(node, x.ndim))]


def LogSoftmax(node: Node) -> Outputs:
    (x,) = node.inputs
    return [mmk.log_softmax(x, _axis(node, x.ndim))]


def Gelu(node: Node) -> Outputs:
    return [mmk.gelu(node.inputs[0], node.get("approximate", "none"))]


def MatMul(node: Node) -> Outputs:
    return [mmk.matmul(*node.inputs)]


# ---- attention ------------------------------------------------------------------------------------------------------


def _heads(x: Array, count: int | None) -> Array:
    """(B, S, H * D) as (B, H, S, D), where it lies."""
    if x.ndim == 4:
        return x
    assert count is not None
    return x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3)


def _hiding(mask: Array | None, q: Array, keys: int) -> tuple[Array | None, Array | None]:
    """A mask and a bias of four extents; a short one hides the keys that it does not reach."""
    if mask is None:
        return None, None
    boolean = mask.dtype == np.bool_
    missing = keys - mask.shape[-1]
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    mask = np.pad(mask, [(0, 0)] * 3 + [(0, missing)], constant_values=False if boolean else -np.inf)
    return (mask, None) if boolean else (None, mask.astype(q.dtype))


def Attention(node: Node) -> Outputs:
    q, k, v, mask, past_key, past_value, lengths = (node.input(i) for i in range(7))
    flat = q.ndim == 3
    q, k, v = (_heads(x, node.get(f"{who}_num_heads")) for x, who in ((q, "q"), (k, "kv"), (v, "kv")))
    if past_key is not None:
        k, v = np.concatenate((past_key, k), axis=2), np.concatenate((past_value, v), axis=2)
    keys, queries = k.shape[2], q.shape[2]
    mask, bias = _hiding(mask, q, keys)
    window = node.get("left_window_size", -1), node.get("right_window_size", -1)
    options: dict[str, Any] = {
        "bias": bias,
        "causal": bool(node.get("is_causal", 0)),
        "scale": node.get("scale"),
        "softcap": node.get("softcap") or None,
        "window": None if window == (-1, -1) else window,
        "key_lengths": lengths,
        "offset": lengths - queries if lengths is not None else past_key.shape[2] if past_key is not None else None,
    }
    y = mmk.attention(q, k, v, mask, **options)
    if flat:
        y = y.transpose(0, 2, 1, 3).reshape(y.shape[0], queries, -1)
    scores = _scores(node, q, k, mask, options) if node.wants(3) else None
    return [y, k, v, scores]


def _scores(node: Node, q: Array, k: Array, mask: Array | None, options: dict[str, Any]) -> Any:
    """What the fourth output shows: 0 scaled products, 1 after softcap, 2 with what hides added, 3 probabilities."""
    mode = node.get("qk_matmul_output_mode", 0)
    if mode == 3:
        return mmk.attention_weights(q, k, mask, **options)
    scale = options["scale"] if options["scale"] is not None else 1 / math.sqrt(q.shape[-1])
    repeated = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
    scores = mmk.mul(mmk.matmul(q, repeated.transpose(0, 1, 3, 2)), scale)
    cap = options["softcap"]
    if mode >= 1 and cap:
        scores = mmk.mul(mmk.tanh(mmk.div(scores, cap)), cap)
    if mode == 2:
        hidden = np.zeros((1, 1, *scores.shape[2:]), scores.dtype)
        if options["causal"]:
            positions = np.arange(scores.shape[2])[:, None] + np.asarray(options["offset"] or 0).reshape(-1, 1, 1, 1)
            hidden = np.where(np.arange(scores.shape[3]) <= positions, hidden, -np.inf).astype(scores.dtype)
        for more in (options["bias"], None if mask is None else np.where(mask, 0, -np.inf).astype(scores.dtype)):
            hidden = hidden if more is None else hidden + more
        scores = mmk.add(scores, hidden)
    return scores
