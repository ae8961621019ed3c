"""Pooling by maxima, means and norms, adaptive and undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import mmkernels as mmk
from mmkernels.ops import pool

from .draws import Config, Random, normal, pair, size

F = torch.nn.functional


def pooling(random: Random) -> tuple[Any, tuple[int, int], tuple[int, int], tuple[int, int]]:
    kernel, stride = pair(random, 1, 4), pair(random, 1, 3)
    padding = (size(random, 0, kernel[0] // 2), size(random, 0, kernel[1] // 2))
    h, w = (size(random, k, 12) for k in kernel)
    return normal(random, size(random, 1, 2), size(random, 1, 4), h, w), kernel, stride, padding


def max_pool2d(random: Random) -> Config:
    x, kernel, stride, padding = pooling(random)
    dilation = (1, 1) if random.random() < 0.5 else tuple(
        1 if n + 2 * p < 2 * (k - 1) + 1 else 2 for n, p, k in zip(x.shape[2:], padding, kernel, strict=True))  # fmt: skip
    a = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": bool(random.integers(2)),
         "return_indices": True}  # fmt: skip
    return ([x], lambda x: mmk.max_pool2d(x, kernel, **a), lambda x: F.max_pool2d(x, kernel, **a),
            "max_pool2d", {"kernel": kernel, **a})  # fmt: skip


def avg_pool2d(random: Random) -> Config:
    x, kernel, stride, padding = pooling(random)
    divisor = None if random.random() < 0.7 else size(random, 1, 9)
    a = {"stride": stride, "padding": padding, "ceil_mode": bool(random.integers(2)),
         "count_include_pad": bool(random.integers(2)), "divisor_override": divisor}  # fmt: skip
    return ([x], lambda x: mmk.avg_pool2d(x, kernel, **a), lambda x: F.avg_pool2d(x, kernel, **a),
            "avg_pool2d", {"kernel": kernel, **a, "divisor_override": divisor or 0})  # fmt: skip


def volumes(random: Random, rank: int) -> tuple[Any, dict[str, Any]]:
    """An operand of one, two or three axes and windows that fit it."""
    axes = range(rank)
    kernel, stride = tuple(size(random, 1, 3) for _ in axes), tuple(size(random, 1, 3) for _ in axes)
    padding = tuple(size(random, 0, k // 2) for k in kernel)
    x = normal(random, size(random, 1, 2), size(random, 1, 3), *(size(random, k, 6) for k in kernel))
    return x, {"kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": bool(random.integers(2))}


def positional(a: dict[str, Any], *names: str) -> list[Any]:
    return [a[name] for name in names]


def max_pool(rank: int) -> Callable[[Random], Config]:
    def config(random: Random) -> Config:
        x, a = volumes(random, rank)
        a |= {"dilation": tuple(1 if n + 2 * p < 2 * (k - 1) + 1 else 2 for n, p, k in zip(
            x.shape[2:], a["padding"], a["kernel"], strict=True)), "return_indices": True}  # fmt: skip
        given = positional(a, "kernel", "stride", "padding", "dilation", "ceil_mode", "return_indices")
        name = f"max_pool{rank}d"
        return ([x], lambda x: getattr(pool, name)(x, *given), lambda x: getattr(F, name)(x, *given), name, a)

    return config


def avg_pool(rank: int) -> Callable[[Random], Config]:
    def config(random: Random) -> Config:
        x, a = volumes(random, rank)
        a |= {"count_include_pad": bool(random.integers(2))}
        given, name = positional(a, "kernel", "stride", "padding", "ceil_mode", "count_include_pad"), f"avg_pool{rank}d"
        return ([x], lambda x: getattr(pool, name)(x, *given), lambda x: getattr(F, name)(x, *given), name, a)

    return config


def adaptive(name: str, rank: int) -> Callable[[Random], Config]:
    def config(random: Random) -> Config:
        x, _ = volumes(random, rank)
        a: dict[str, Any] = {"output_size": tuple(size(random, 1, 5) for _ in range(rank))}
        if "max" in name:
            a["return_indices"] = True
        return ([x], lambda x: getattr(pool, name)(x, *a.values()), lambda x: getattr(F, name)(x, *a.values()), name, a)

    return config


def lp_pool(rank: int) -> Callable[[Random], Config]:
    """Positive operands, as torch takes no absolute values, and windows inside, as it scales those that overhang."""

    def config(random: Random) -> Config:
        x, a = volumes(random, rank)
        p = float(random.choice([1.0, 2.0, 3.0, 1.5]))
        a = {"kernel": a["kernel"], "stride": a["stride"], "norm_type": p}
        name = f"lp_pool{rank}d"
        given = (p, a["kernel"], list(a["stride"])) if rank > 1 else (p, *a["kernel"], *a["stride"])
        return ([np.abs(x) + np.float32(0.01)], lambda x: getattr(pool, name)(x, *given),
                lambda x: getattr(F, name)(x, *given), name, a)  # fmt: skip

    return config


def max_unpool(rank: int) -> Callable[[Random], Config]:
    """What a pooling of windows that lie apart chose, so that torch's gradient is that of its result."""

    def config(random: Random) -> Config:
        x, a = volumes(random, rank)
        kernel = a["kernel"]
        y, indices = getattr(F, f"max_pool{rank}d")(torch.from_numpy(x), kernel, return_indices=True)
        name = f"max_unpool{rank}d"
        return ([y.numpy(), indices.numpy()],
                lambda y, i: getattr(pool, name)(y, i, kernel, output_size=x.shape),
                lambda y, i: getattr(F, name)(y, i, kernel, output_size=x.shape), name, {"output_size": x.shape[2:]})  # fmt: skip

    return config


JUDGED: dict[str, Callable[[Random], Config]] = {
    "max_pool2d": max_pool2d, "avg_pool2d": avg_pool2d,
    "max_pool1d": max_pool(1), "max_pool3d": max_pool(3), "avg_pool1d": avg_pool(1), "avg_pool3d": avg_pool(3),
    **{f"lp_pool{rank}d": lp_pool(rank) for rank in (1, 2, 3)},
    **{f"max_unpool{rank}d": max_unpool(rank) for rank in (1, 2, 3)},
    **{f"adaptive_{kind}_pool{rank}d": adaptive(f"adaptive_{kind}_pool{rank}d", rank)
       for kind in ("avg", "max") for rank in (1, 2, 3)},
}  # fmt: skip
