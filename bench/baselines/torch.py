"""PyTorch on the CPU: operator name -> call on tensors, from the contract's operands and plain attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

F = torch.nn.functional


def _conv2d(a: dict[str, Any], x: Any, w: Any, b: Any = None, r: Any = None) -> Any:
    top, bottom, left, right = a["padding"]
    assert (top, left) == (bottom, right) and r is None and a["activation"] is None
    return F.conv2d(x, w, b, a["stride"], (top, left), a["dilation"], a["groups"])


def _max_pool2d(a: dict[str, Any], x: Any) -> Any:
    return F.max_pool2d(x, a["kernel"], a["stride"], a["padding"], a["dilation"], a["ceil_mode"], a["return_indices"])


def _avg_pool2d(a: dict[str, Any], x: Any) -> Any:
    divisor = a["divisor_override"] or None
    return F.avg_pool2d(x, a["kernel"], a["stride"], a["padding"], a["ceil_mode"], a["count_include_pad"], divisor)


def _attention(a: dict[str, Any], q: Any, k: Any, v: Any, m: Any = None, b: Any = None) -> Any:
    return F.scaled_dot_product_attention(q, k, v, m, is_causal=a["causal"] == 1, scale=a["scale"])


def _group_norm(a: dict[str, Any], x: Any, w: Any = None, b: Any = None, scale: Any = None, shift: Any = None) -> Any:
    assert scale is None and shift is None
    y = F.group_norm(x, a["num_groups"], w, b, a["eps"])
    return F.silu(y) if a["activation"] == "silu" else y


CALLS: dict[str, Callable[..., Any]] = {
    "conv2d": _conv2d,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "attention": _attention,
    "group_norm": _group_norm,
    "layer_norm": lambda a, x, w=None, b=None: F.layer_norm(x, x.shape[x.ndim - a["axes"] :], w, b, a["eps"]),
    "softmax": lambda a, x: F.softmax(x, a["dim"]),
    "log_softmax": lambda a, x: F.log_softmax(x, a["dim"]),
    "matmul": lambda a, x, y, b=None: torch.matmul(x, y) if b is None else torch.matmul(x, y) + b,
    "linear": lambda a, x, w, b=None: F.linear(x, w, b),
    "relu": lambda a, x: F.relu(x),
    "silu": lambda a, x: F.silu(x),
    "sigmoid": lambda a, x: torch.sigmoid(x),
    "tanh": lambda a, x: torch.tanh(x),
    "gelu": lambda a, x: F.gelu(x, approximate=a["approximate"]),
    "add": lambda a, x, y: x + y,
    "mul": lambda a, x, y: x * y,
    "sum": lambda a, x: x.sum(a["dims"], keepdim=a["keepdim"]),
    "mean": lambda a, x: x.mean(a["dims"], keepdim=a["keepdim"]),
}
