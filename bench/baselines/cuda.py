"""Every way to make a call on a GPU with PyTorch and torchvision, so that the best of them is the peer.

``peers(name, attributes, tensors)`` gives calls by label. Gradients are torch's backward kernels alone: where they need
a graph, it is recorded once and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from .torch import ACTIVATIONS, CALLS

F = torch.nn.functional
aten = torch.ops.aten
Call = Callable[[], Any]
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def channels_last(x: Any) -> Any:
    return x.contiguous(memory_format=torch.channels_last) if x is not None and x.ndim == 4 else x


def _conv2d(a: dict[str, Any], x: Any, w: Any, b: Any = None, r: Any = None) -> Any:
    top, bottom, left, right = a["padding"]
    if (top, left) != (bottom, right):
        raise ValueError("asymmetric padding")
    y = F.conv2d(x, w, b, a["stride"], (top, left), a["dilation"], a["groups"])
    return ACTIVATIONS[a["activation"]](y if r is None else y + r)


def _convolution_backward(a: dict[str, Any], gy: Any, x: Any, w: Any, mask: list[bool]) -> Any:
    top, bottom, left, right = a["padding"]
    if (top, left) != (bottom, right):
        raise ValueError("asymmetric padding")
    found = aten.convolution_backward(
        gy, x, w, None, list(a["stride"]), [top, left], list(a["dilation"]), False, [0, 0], a["groups"], mask
    )
    return found[0] if mask[0] else found[1]


def _input_grad(a: dict[str, Any], gy: Any, w: Any) -> Any:
    channels = w.shape[1] * a["groups"]
    x = torch.empty(gy.shape[0], channels, a["height"], a["width"], dtype=gy.dtype, device=gy.device)
    if gy.is_contiguous(memory_format=torch.channels_last):
        x = channels_last(x)
    return _convolution_backward(a, gy, x, w, [True, False, False])


def _weight_grad(a: dict[str, Any], x: Any, gy: Any) -> Any:
    shape = (gy.shape[1], x.shape[1] // a["groups"], *a["kernel"])
    w = torch.empty(shape, dtype=x.dtype, device=x.device)
    return _convolution_backward(a, gy, x, w, [False, True, False])


def _layouts(call: Callable[..., Any], a: dict[str, Any], tensors: Sequence[Any]) -> dict[str, Call]:
    """As it is, and channels-last; what converts is not measured."""
    other = [channels_last(t) for t in tensors]
    return {
        "cudnn": lambda: call(a, *tensors),
        "cudnn channels-last": lambda: call(a, *other),
    }


def _backends(call: Call) -> dict[str, Call]:
    def by(backend: Any) -> Call:
        def run() -> Any:
            with sdpa_kernel(backend):
                return call()

        return run

    return {label: by(backend) for label, backend in BACKENDS.items()}


def _attention(a: dict[str, Any], q: Any, k: Any, v: Any, mask: Any = None, bias: Any = None) -> dict[str, Call]:
    if bias is not None or a["causal"] not in (0, 1):
        return {}
    few = k.shape[1] != q.shape[1]
    return _backends(
        lambda: F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=a["causal"] == 1, scale=a["scale"], enable_gqa=few
        )
    )


def _backward(forward: Call, inputs: Sequence[Any], gradient: Any) -> Call:
    """The backward pass alone, through a graph that is kept."""
    with torch.enable_grad():
        y = forward()
    return lambda: torch.autograd.grad(y, inputs, gradient, retain_graph=True)


def _attention_grad(
    a: dict[str, Any], q: Any, k: Any, v: Any, y: Any, lse: Any, gy: Any, *rest: Any
) -> dict[str, Call]:
    if any(r is not None for r in rest) or a["causal"] not in (0, 1):
        return {}
    inputs = [t.detach().clone().requires_grad_(True) for t in (q, k, v)]
    found: dict[str, Call] = {}
    for label, forward in _attention(a, *inputs).items():
        try:
            found[label] = _backward(forward, inputs, gy)
        except RuntimeError:  # this backend does not serve the shape
            continue
    return found


def _group_norm_grad(a: dict[str, Any], x: Any, gy: Any, w: Any = None) -> dict[str, Call]:
    x = x.detach().clone().requires_grad_(True)
    w = (torch.ones_like(x[0, :, 0, 0]) if w is None else w.detach().clone()).requires_grad_(True)
    b = torch.zeros_like(w).requires_grad_(True)
    return {"torch": _backward(lambda: F.group_norm(x, a["num_groups"], w, b, a["eps"]), (x, w, b), gy)}


def _layer_norm_grad(a: dict[str, Any], x: Any, gy: Any, w: Any = None) -> dict[str, Call]:
    shape = tuple(x.shape[x.ndim - a["axes"] :])
    x = x.detach().clone().requires_grad_(True)
    w = (torch.ones(shape, dtype=x.dtype, device=x.device) if w is None else w.detach().clone()).requires_grad_(True)
    b = torch.zeros_like(w).requires_grad_(True)
    return {"torch": _backward(lambda: F.layer_norm(x, shape, w, b, a["eps"]), (x, w, b), gy)}


def _max_pool_grad(a: dict[str, Any], gy: Any, indices: Any) -> dict[str, Call]:
    n, c = gy.shape[:2]
    at = indices.clamp_min(0).reshape(n, c, -1)  # ours takes -1 for an empty window; torch's assertion ends the process
    shape = (n, c, a["height"] * a["width"])

    def run() -> Any:
        gx = torch.zeros(shape, dtype=gy.dtype, device=gy.device)
        return gx.scatter_add_(2, at, gy.reshape(n, c, -1)).reshape(n, c, a["height"], a["width"])

    return {"scatter_add": run}


def _avg_pool_grad(a: dict[str, Any], gy: Any) -> Any:
    x = torch.empty(*gy.shape[:2], a["height"], a["width"], dtype=gy.dtype, device=gy.device)
    return aten.avg_pool2d_backward(
        gy, x, list(a["kernel"]), list(a["stride"]), list(a["padding"]), a["ceil_mode"], a["count_include_pad"],
        a["divisor_override"] or None,
    )  # fmt: skip


def _interpolate_grad(a: dict[str, Any], gy: Any) -> Any:
    if a["mode"] != "nearest":
        raise ValueError("only the nearest mode's gradient is compared")
    size = [*gy.shape[:2], a["height"], a["width"]]
    return aten.upsample_nearest2d_backward(gy, list(gy.shape[2:]), size)


def _roi(name: str) -> Callable[..., Any]:
    def call(a: dict[str, Any], x: Any, boxes: Any) -> Any:
        import torchvision

        known = {k: a[k] for k in ("output_size", "spatial_scale", "sampling_ratio", "aligned") if k in a}
        return getattr(torchvision.ops, name)(x, boxes, **known)

    return call


def _nms(a: dict[str, Any], boxes: Any, scores: Any) -> Any:
    import torchvision

    return torchvision.ops.nms(boxes, scores, a["iou_threshold"])


# One way each, by the operands in the contract's order.
SINGLE: dict[str, tuple[str, Callable[..., Any]]] = {
    "relu_grad": ("torch", lambda a, x, gy: aten.threshold_backward(gy, x, 0)),
    "leaky_relu_grad": ("torch", lambda a, x, gy: aten.leaky_relu_backward(gy, x, a["negative_slope"], False)),
    "sigmoid_grad": ("torch", lambda a, y, gy: aten.sigmoid_backward(gy, y)),
    "tanh_grad": ("torch", lambda a, y, gy: aten.tanh_backward(gy, y)),
    "silu_grad": ("torch", lambda a, x, gy: aten.silu_backward(gy, x)),
    "gelu_grad": ("torch", lambda a, x, gy: aten.gelu_backward(gy, x, approximate=a["approximate"])),
    "softmax_grad": ("torch", lambda a, y, gy: aten._softmax_backward_data(gy, y, a["dim"], y.dtype)),
    "log_softmax_grad": ("torch", lambda a, y, gy: aten._log_softmax_backward_data(gy, y, a["dim"], y.dtype)),
    "embedding_grad": ("torch", lambda a, i, gy: aten.embedding_dense_backward(gy, i, a["rows"], -1, False)),
    "avg_pool2d_grad": ("torch", _avg_pool_grad),
    "interpolate_grad": ("torch", _interpolate_grad),
    "roi_align": ("torchvision", _roi("roi_align")),
    "roi_pool": ("torchvision", _roi("roi_pool")),
    "nms": ("torchvision", _nms),
}
LAYOUTS: dict[str, Callable[..., Any]] = {
    "conv2d": _conv2d, "conv2d_input_grad": _input_grad, "conv2d_weight_grad": _weight_grad,
}  # fmt: skip
SEVERAL: dict[str, Callable[..., dict[str, Call]]] = {
    "attention": _attention, "attention_grad": _attention_grad, "group_norm_grad": _group_norm_grad,
    "layer_norm_grad": _layer_norm_grad, "max_pool2d_grad": _max_pool_grad,
}  # fmt: skip


def peers(name: str, attributes: dict[str, Any], tensors: Sequence[Any]) -> dict[str, Call]:
    """Calls by label; none where torch has no such operator. They may raise when called."""
    tensors = list(tensors)
    while tensors and tensors[-1] is None:
        tensors.pop()
    if name in SEVERAL:
        return SEVERAL[name](attributes, *tensors)
    if name in LAYOUTS:
        return _layouts(LAYOUTS[name], attributes, tensors)
    if name in SINGLE:
        label, call = SINGLE[name]
        return {label: lambda: call(attributes, *tensors)}
    if name in CALLS:
        return {"torch": lambda: CALLS[name](attributes, *tensors)}
    return {}
