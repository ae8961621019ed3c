"""Planes in another size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

import mmkernels as mmk

from .draws import Config, Random, normal, pair, size

F = torch.nn.functional


def interpolate(random: Random) -> Config:
    x = normal(random, size(random, 1, 2), size(random, 1, 3), *pair(random, 1, 9))
    to = pair(random, 1, 20)
    return ([x], lambda x: mmk.interpolate(x, to), lambda x: F.interpolate(x, to), "interpolate",
            {"size": to, "mode": "nearest",
             "scale": tuple(float(np.float32(n) / np.float32(s)) for n, s in zip(x.shape[2:], to, strict=True))})  # fmt: skip


def bilinear(random: Random) -> Config:
    x = normal(random, size(random, 1, 2), size(random, 1, 3), *pair(random, 1, 9))
    align = [None, False, True][size(random, 0, 2)]
    if random.random() < 0.5:
        factor = tuple(float(max(random.uniform(0.4, 3.0), 1.01 / n)) for n in x.shape[2:])
        to, named = tuple(int(n * f) for n, f in zip(x.shape[2:], factor, strict=True)), {"scale_factor": factor}
        steps = tuple(1 / f for f in factor)
    else:
        to = pair(random, 1, 20)
        steps, named = tuple(n / m for n, m in zip(x.shape[2:], to, strict=True)), {"size": to}
    steps = tuple(1.0 if n == m else s for n, m, s in zip(x.shape[2:], to, steps, strict=True))
    if align:
        steps = tuple((n - 1) / (m - 1) if m > 1 else 0.0 for n, m in zip(x.shape[2:], to, strict=True))
    a = {**named, "mode": "bilinear", "align_corners": align}
    return ([x], lambda x: mmk.interpolate(x, **a), lambda x: F.interpolate(x, **a), "interpolate",
            {"size": to, "mode": "bilinear", "scale": steps, "align_corners": bool(align)})  # fmt: skip


JUDGED: dict[str, Callable[[Random], Config]] = {
    "interpolate": interpolate, "bilinear": bilinear,
}  # fmt: skip
