"""Every way to make a call on a GPU with PyTorch and torchvision, so that the best of them is the peer.

``peers(name, attributes, tensors)`` gives calls by label. Gradients are torch's backward kernels alone: where they need
a graph, it is recorded once and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from .torch import CALLS
from .vision import VISION, backward, leaf

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
    if x is None or x.ndim not in (4, 5):
        return x
    return x.contiguous(memory_format=_LAST[x.ndim])


_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def _convolution_backward(a: dict[str, Any], gy: Any, x: Any, w: Any, mask: list[bool]) -> Any:
    before, after = list(a["padding"][::2]), list(a["padding"][1::2])
    inside: Any = ...
    if before != after:  # a copy with its borders, as a caller of torch must make it; gx is a part of its gradient
        x = F.pad(x, [n for side in reversed(list(zip(before, after, strict=True))) for n in side])
        borders = zip(x.shape[2:], before, after, strict=True)
        inside = (..., *(slice(first, n - last) for n, first, last in borders))
        before = [0] * len(before)
    found = aten.convolution_backward(
        gy, x, w, None, list(a["stride"]), before, list(a["dilation"]), False, [0] * len(before), a["groups"], mask
    )
    return found[0][inside] if mask[0] else found[1]


def _input_grad(a: dict[str, Any], gy: Any, w: Any) -> Any:
    sizes = [a[name] for name in ("depth", "height", "width") if name in a]
    x = torch.empty(gy.shape[0], w.shape[1] * a["groups"], *sizes, dtype=gy.dtype, device=gy.device)
    if gy.ndim > 3 and gy.is_contiguous(memory_format=_LAST[gy.ndim]):
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


def _attention_grad(
    a: dict[str, Any], q: Any, k: Any, v: Any, y: Any, lse: Any, gy: Any, *rest: Any
) -> dict[str, Call]:
    if any(r is not None for r in rest) or a["causal"] not in (0, 1):
        return {}
    inputs = [t.detach().clone().requires_grad_(True) for t in (q, k, v)]
    found: dict[str, Call] = {}
    for label, forward in _attention(a, *inputs).items():
        try:
            found[label] = backward(forward, inputs, gy)
        except RuntimeError:  # this backend does not serve the shape
            continue
    return found


def _group_norm_grad(a: dict[str, Any], x: Any, gy: Any, w: Any = None) -> dict[str, Call]:
    x = x.detach().clone().requires_grad_(True)
    w = (torch.ones_like(x[0, :, 0, 0]) if w is None else w.detach().clone()).requires_grad_(True)
    b = torch.zeros_like(w).requires_grad_(True)
    return {"torch": backward(lambda: F.group_norm(x, a["num_groups"], w, b, a["eps"]), (x, w, b), gy)}


def _layer_norm_grad(a: dict[str, Any], x: Any, gy: Any, w: Any = None) -> dict[str, Call]:
    shape = tuple(x.shape[x.ndim - a["axes"] :])
    x = x.detach().clone().requires_grad_(True)
    w = (torch.ones(shape, dtype=x.dtype, device=x.device) if w is None else w.detach().clone()).requires_grad_(True)
    b = torch.zeros_like(w).requires_grad_(True)
    return {"torch": backward(lambda: F.layer_norm(x, shape, w, b, a["eps"]), (x, w, b), gy)}


def _through(name: str) -> Callable[..., dict[str, Call]]:
    """The gradients of x and of what gy is followed by, through torch's own graph of the operator `name`."""

    def calls(a: dict[str, Any], x: Any, gy: Any, *parameters: Any) -> dict[str, Call]:
        inputs = [leaf(t) for t in (x, *parameters)]
        return {"torch": backward(lambda: CALLS[name](a, *inputs), inputs, gy)}

    return calls


def _additive_attention_grad(
    a: dict[str, Any], q: Any, k: Any, v: Any, weight: Any, y: Any, lse: Any, gy: Any, mask: Any = None
) -> dict[str, Call]:
    inputs = [leaf(t) for t in (q, k, v, weight)]
    return {"torch": backward(lambda: CALLS["additive_attention"](a, *inputs, mask), inputs, gy)}


def _batch_norm_training(a: dict[str, Any], x: Any, mean: Any = None, var: Any = None, *rest: Any) -> dict[str, Call]:
    running = [None if t is None else t.clone() for t in (mean, var)]  # torch writes them
    return {"torch": lambda: CALLS["batch_norm_training"](a, x, *running, *rest)}


def _batch_norm_grad(
    a: dict[str, Any], x: Any, gy: Any, mean: Any, rstd: Any, w: Any = None, *rest: Any
) -> dict[str, Call]:
    if rest or a["frozen"]:
        return {}
    kernel = aten.native_batch_norm_backward
    return {"torch": lambda: kernel(gy, x, w, None, None, mean, rstd, True, 0.0, [True, True, True])}


def _max_unpool(a: dict[str, Any], x: Any, indices: Any) -> dict[str, Call]:
    at = indices.clamp_min(0)  # torch's assertion of an index ends the process
    return {"torch": lambda: aten.max_unpool2d(x, at, list(a["output_size"]))}


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
    size = [*gy.shape[:2], a["height"], a["width"]]
    if a["mode"] == "bilinear":
        return aten.upsample_bilinear2d_backward(gy, list(gy.shape[2:]), size, a["align_corners"])
    return aten.upsample_nearest2d_backward(gy, list(gy.shape[2:]), size)


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
    "relu6_grad": ("torch", lambda a, x, gy: aten.hardtanh_backward(gy, x, 0.0, 6.0)),
    "hardtanh_grad": ("torch", lambda a, x, gy: aten.hardtanh_backward(gy, x, a["min_val"], a["max_val"])),
    "hardsigmoid_grad": ("torch", lambda a, x, gy: aten.hardsigmoid_backward(gy, x)),
    "hardswish_grad": ("torch", lambda a, x, gy: aten.hardswish_backward(gy, x)),
    "mish_grad": ("torch", lambda a, x, gy: aten.mish_backward(gy, x)),
    "softplus_grad": ("torch", lambda a, x, gy: aten.softplus_backward(gy, x, a["beta"], a["threshold"])),
    "elu_grad": (
        "torch",
        lambda a, x, gy: aten.elu_backward(gy, a["alpha"], a["scale"], a["input_scale"], False, x),
    ),
}
LAYOUTS: dict[str, Callable[..., Any]] = {
    **{f"conv{dims}d": CALLS[f"conv{dims}d"] for dims in (1, 2, 3)},
    **{f"conv_transpose{dims}d": CALLS[f"conv_transpose{dims}d"] for dims in (1, 2, 3)},
    **{f"conv{dims}d_input_grad": _input_grad for dims in (1, 2, 3)},
    **{f"conv{dims}d_weight_grad": _weight_grad for dims in (1, 2, 3)},
}
SEVERAL: dict[str, Callable[..., dict[str, Call]]] = {
    "attention": _attention, "attention_grad": _attention_grad, "group_norm_grad": _group_norm_grad,
    "layer_norm_grad": _layer_norm_grad, "max_pool2d_grad": _max_pool_grad, "max_unpool2d": _max_unpool,
    "additive_attention_grad": _additive_attention_grad, "batch_norm_grad": _batch_norm_grad,
    "batch_norm_training": _batch_norm_training,
    **{f"{name}_grad": _through(name) for name in ("rms_norm", "local_response_norm", "prelu", "quick_gelu")},
    **VISION,
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
