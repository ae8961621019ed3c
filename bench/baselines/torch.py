"""PyTorch where the tensors are: operator name -> call, from the contract's operands and plain attributes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

F = torch.nn.functional


def _conv(a: dict[str, Any], x: Any, w: Any, b: Any = None, r: Any = None) -> Any:
    before, after = a["padding"][::2], a["padding"][1::2]
    if before != after:  # a copy, as a caller of torch must make it
        x = F.pad(x, [n for side in reversed(list(zip(before, after, strict=True))) for n in side])
        before = (0,) * len(before)
    call = (F.conv1d, F.conv2d, F.conv3d)[len(before) - 1]
    y = call(x, w, b, a["stride"], before, a["dilation"], a["groups"])
    return ACTIVATIONS[a["activation"]](y if r is None else y + r)


def _conv_transpose(a: dict[str, Any], x: Any, w: Any, b: Any = None) -> Any:
    before, after = a["padding"][::2], a["padding"][1::2]
    if before != after:
        raise ValueError("asymmetric padding")
    call = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(before) - 1]
    y = call(x, w, b, a["stride"], before, a["output_padding"], a["groups"], a["dilation"])
    return ACTIVATIONS[a["activation"]](y)


def _of_rank(name: str, x: Any) -> Callable[..., Any]:
    return getattr(F, f"{name}{x.ndim - 2}d")


def _check_borders(a: dict[str, Any]) -> None:
    if a.get("padding_end") and tuple(a["padding_end"]) != tuple(a["padding"]):
        raise ValueError("asymmetric padding")


def _max_pool(a: dict[str, Any], x: Any) -> Any:
    _check_borders(a)
    pool = _of_rank("max_pool", x)
    return pool(x, a["kernel"], a["stride"], a["padding"], a["dilation"], a["ceil_mode"], a["return_indices"])


def _avg_pool(a: dict[str, Any], x: Any) -> Any:
    _check_borders(a)
    more = [] if x.ndim == 3 else [a["divisor_override"] or None]
    if max(a["dilation"]) > 1 or (a["divisor_override"] and not more):
        raise ValueError("torch has no such average")
    pool = _of_rank("avg_pool", x)
    return pool(x, a["kernel"], a["stride"], a["padding"], a["ceil_mode"], a["count_include_pad"], *more)


def _lp_pool(a: dict[str, Any], x: Any) -> Any:
    if any(a["padding"]) or any(a["padding_end"] or ()) or max(a["dilation"]) > 1:
        raise ValueError("torch has neither padding nor dilation here")
    return _of_rank("lp_pool", x)(x, a["norm_type"], a["kernel"], a["stride"], a["ceil_mode"])


def _stochastic_pool2d(a: dict[str, Any], x: Any, keys: Any) -> Any:
    """The paper's section 3, one operator after another: every window's elements and their running sums are stored."""
    if any(a["padding"]) or max(a["dilation"]) > 1 or a["ceil_mode"] or a["return_indices"]:
        raise ValueError("windows that overhang, or indices")
    weights = F.relu(x)
    for axis in range(2):
        weights = weights.unfold(2 + axis, a["kernel"][axis], a["stride"][axis])
    weights = weights.flatten(-2)
    if not a["training"]:
        return (weights * weights).sum(-1) / weights.sum(-1)
    running = weights.cumsum(-1)
    drawn = (running >= torch.rand(running.shape[:-1], device=x.device)[..., None] * running[..., -1:]).int().argmax(-1)
    return weights.gather(-1, drawn[..., None])[..., 0]


def _adaptive(kind: str) -> Callable[..., Any]:
    def call(a: dict[str, Any], x: Any) -> Any:
        more = [a["return_indices"]] if "return_indices" in a else []
        return _of_rank(f"adaptive_{kind}_pool", x)(x, a["output_size"], *more)

    return call


def _attention(a: dict[str, Any], q: Any, k: Any, v: Any, m: Any = None, b: Any = None) -> Any:
    return F.scaled_dot_product_attention(q, k, v, m, is_causal=a["causal"] == 1, scale=a["scale"])


def _group_norm(a: dict[str, Any], x: Any, w: Any = None, b: Any = None, scale: Any = None, shift: Any = None) -> Any:
    assert scale is None and shift is None
    y = F.group_norm(x, a["num_groups"], w, b, a["eps"])
    return F.silu(y) if a["activation"] == "silu" else y


def _batch_norm(a: dict[str, Any], x: Any, mean: Any, var: Any, w: Any = None, b: Any = None) -> Any:
    return ACTIVATIONS[a["activation"]](F.batch_norm(x, mean, var, w, b, False, 0.0, a["eps"]))


def _batch_norm_training(a: dict[str, Any], x: Any, mean: Any, var: Any, w: Any = None, b: Any = None) -> Any:
    """torch writes the running statistics where they are, which ours must not."""
    return ACTIVATIONS[a["activation"]](F.batch_norm(x, mean, var, w, b, True, a["momentum"], a["eps"]))


def _instance_norm(a: dict[str, Any], x: Any, w: Any = None, b: Any = None) -> Any:
    return ACTIVATIONS[a["activation"]](F.instance_norm(x, None, None, w, b, True, 0.0, a["eps"]))


def _local_response_norm(a: dict[str, Any], x: Any) -> Any:
    return F.local_response_norm(x, a["size"], a["alpha"], a["beta"], a["k"])


def _additive_attention(a: dict[str, Any], q: Any, k: Any, v: Any, weight: Any, mask: Any = None) -> Any:
    """Equations of arXiv 1409.0473, section A.1.2, as written: every pair's tanh is stored."""
    scores = torch.tanh(q.unsqueeze(-2) + k.unsqueeze(-3)) @ weight
    scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1) @ v


def _column(coefficients: Any, k: int, rank: int) -> Any:
    return coefficients[:, k].reshape(-1, *(1,) * (rank - 1))


def _diffusion_step(
    a: dict[str, Any], x: Any, y0: Any, y1: Any = None, y2: Any = None, coefficients: Any = None, *rest: Any
) -> Any:
    """The formulas as a scheduler in eager torch evaluates them: one operator after another."""
    history, (noise, keys, mask, known) = rest[:4], (*rest[4:8], None, None, None, None)[:4]
    assert y2 is mask is known is None and not any(h is not None for h in history)
    g1, p, q, lo, hi, c_x, c_x0, c_y, s = (_column(coefficients, k, x.ndim) for k in (0, 2, 3, 4, 5, 6, 7, 8, 13))
    y = y0 if y1 is None else y0 + g1 * (y1 - y0)
    x0 = torch.clamp(p * x + q * y, lo, hi)
    x_next = c_x * x + c_x0 * x0 + c_y * y
    if keys is not None:
        noise = torch.randn_like(x)
    return x_next if noise is None else x_next + s * noise


def _add_noise(a: dict[str, Any], x: Any, noise: Any, alpha: Any, sigma: Any) -> Any:
    level = (-1, *(1,) * (x.ndim - 1))
    return alpha.reshape(level) * x + sigma.reshape(level) * noise


def _linear(a: dict[str, Any], x: Any, w: Any, b: Any = None) -> Any:
    y = F.linear(x, w, b)
    return ACTIVATIONS[a["activation"]](y)


def _matmul(a: dict[str, Any], x: Any, y: Any, b: Any = None) -> Any:
    z = torch.matmul(x, y) if b is None else torch.matmul(x, y) + b
    return ACTIVATIONS[a["activation"]](z)


def _interpolate(a: dict[str, Any], x: Any) -> Any:
    if a["mode"] == "nearest":
        return F.interpolate(x, size=tuple(a["size"]), mode="nearest")
    return F.interpolate(x, size=tuple(a["size"]), mode="bilinear", align_corners=a["align_corners"])


def _fourier_features(a: dict[str, Any], t: Any, frequencies: Any) -> Any:
    angle = 2 * torch.pi * t[:, None] * frequencies[None]
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)


def _sinusoidal_features(a: dict[str, Any], t: Any) -> Any:
    half = a["dim"] // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device) / (half - a["shift"])
    angle = t[:, None].float() * torch.exp(-math.log(a["max_period"]) * steps)
    parts = [torch.sin(angle), torch.cos(angle)]
    return torch.cat(parts if a["order"] == "sin-cos" else parts[::-1], dim=1).to(t.dtype)


ACTIVATIONS: dict[str | None, Callable[[Any], Any]] = {
    None: lambda y: y,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
# A peer's results differ from ours where values are drawn, and where bench cases give a gradient's operands that no
# forward pass has made, or where the peer's list of indices has another length. Of several values for one element
# max_unpool2d keeps the last, torch's kernel any; torchvision's ps_roi_pool deals gradients out to the map's last row.
NOT_COMPARED = {
    "philox_normal", "philox_uniform", "dropout", "diffusion_step", "attention_grad", "additive_attention_grad",
    "max_pool2d_grad", "max_unpool2d", "nms", "ps_roi_pool_grad", "stochastic_pool2d",
}  # fmt: skip
CALLS: dict[str, Callable[..., Any]] = {
    **{f"conv{dims}d": _conv for dims in (1, 2, 3)},
    **{f"conv_transpose{dims}d": _conv_transpose for dims in (1, 2, 3)},
    **{f"max_pool{dims}d": _max_pool for dims in (1, 2, 3)},
    **{f"avg_pool{dims}d": _avg_pool for dims in (1, 2, 3)},
    **{f"lp_pool{dims}d": _lp_pool for dims in (1, 2, 3)},
    **{f"adaptive_{kind}_pool{dims}d": _adaptive(kind) for kind in ("avg", "max") for dims in (1, 2, 3)},
    "stochastic_pool2d": _stochastic_pool2d,
    "additive_attention": _additive_attention,
    "batch_norm": _batch_norm,
    "batch_norm_training": _batch_norm_training,
    "instance_norm": _instance_norm,
    "local_response_norm": _local_response_norm,
    "rms_norm": lambda a, x, w=None: F.rms_norm(x, x.shape[x.ndim - a["axes"] :], w, a["eps"]),
    "prelu": lambda a, x, w: F.prelu(x, w),
    "relu6": lambda a, x: F.relu6(x),
    "hardtanh": lambda a, x: F.hardtanh(x, a["min_val"], a["max_val"]),
    "hardsigmoid": lambda a, x: F.hardsigmoid(x),
    "hardswish": lambda a, x: F.hardswish(x),
    "mish": lambda a, x: F.mish(x),
    "quick_gelu": lambda a, x: x * torch.sigmoid(1.702 * x),
    "softplus": lambda a, x: F.softplus(x, a["beta"], a["threshold"]),
    "elu": lambda a, x: torch.ops.aten.elu(x, a["alpha"], a["scale"], a["input_scale"]),
    "attention": _attention,
    "group_norm": _group_norm,
    "layer_norm": lambda a, x, w=None, b=None: F.layer_norm(x, x.shape[x.ndim - a["axes"] :], w, b, a["eps"]),
    "softmax": lambda a, x: F.softmax(x, a["dim"]),
    "log_softmax": lambda a, x: F.log_softmax(x, a["dim"]),
    "matmul": _matmul,
    "linear": _linear,
    "relu": lambda a, x: F.relu(x),
    "silu": lambda a, x: F.silu(x),
    "sigmoid": lambda a, x: torch.sigmoid(x),
    "tanh": lambda a, x: torch.tanh(x),
    "gelu": lambda a, x: F.gelu(x, approximate=a["approximate"]),
    "leaky_relu": lambda a, x: F.leaky_relu(x, a["negative_slope"]),
    "exp": lambda a, x: torch.exp(x),
    "log": lambda a, x: torch.log(x),
    "sqrt": lambda a, x: torch.sqrt(x),
    "erf": lambda a, x: torch.erf(x),
    "dropout": lambda a, x, keys: F.dropout(x, a["p"]),
    "add": lambda a, x, y: x + y,
    "sub": lambda a, x, y: x - y,
    "div": lambda a, x, y: x / y,
    "where": lambda a, condition, x, y: torch.where(condition, x, y),
    "add_noise": _add_noise,
    "diffusion_step": _diffusion_step,
    "philox_normal": lambda a, keys: torch.randn(len(keys), *a["extents"], device=keys.device),
    "philox_uniform": lambda a, keys: torch.rand(len(keys), *a["extents"], device=keys.device),
    "embedding": lambda a, indices, w: F.embedding(indices, w),
    "interpolate": _interpolate,
    "fourier_features": _fourier_features,
    "sinusoidal_features": _sinusoidal_features,
    "mul": lambda a, x, y: x * y,
    "sum": lambda a, x: x.sum(a["dims"], keepdim=a["keepdim"]),
    "mean": lambda a, x: x.mean(a["dims"], keepdim=a["keepdim"]),
}
