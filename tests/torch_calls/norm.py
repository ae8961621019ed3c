"""Normalizations over groups, layers, instances and batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import mmkernels as mmk
from mmkernels.ops.norm import instance_norm as instance_norm_
from mmkernels.ops.norm import rms_norm as rms_norm_
from mmkernels.ops.norm_batch import batch_norm as batch_norm_

from .draws import Config, Random, maybe, normal, size

F = torch.nn.functional


def group_norm(random: Random) -> Config:
    groups = size(random, 1, 4)
    c = groups * size(random, 1, 4)
    x = normal(random, size(random, 1, 3), c, *(size(random, 1, 7) for _ in range(size(random, 1, 3))))
    ones = torch.ones(c, dtype=torch.float64)  # torch's own backward fails for a bias without a weight
    if x[0].size // groups < 2:
        x = np.repeat(x, 2, axis=2)
    return ([x, maybe(random, normal(random, c)), maybe(random, normal(random, c))],
            lambda x, w, b: mmk.group_norm(x, groups, w, b), lambda x, w, b: F.group_norm(x, groups, ones if w is None and b is not None else w, b),
            "group_norm", {"num_groups": groups, "eps": 1e-5, "activation": None})  # fmt: skip


def layer_norm(random: Random) -> Config:
    shape = [size(random, 1, 6) for _ in range(size(random, 1, 3))] + [size(random, 2, 40)]
    axes = size(random, 1, len(shape))
    x = normal(random, *shape)
    return ([x, maybe(random, normal(random, *shape[-axes:])), maybe(random, normal(random, *shape[-axes:]))],
            lambda x, w, b: mmk.layer_norm(x, shape[-axes:], w, b), lambda x, w, b: F.layer_norm(x, shape[-axes:], w, b),
            "layer_norm", {"axes": axes, "eps": 1e-5})  # fmt: skip


def rms_norm(random: Random) -> Config:
    shape = [size(random, 1, 6) for _ in range(size(random, 0, 3))] + [size(random, 2, 40)]
    axes = size(random, 1, len(shape))
    eps = None if random.random() < 0.3 else 1e-5
    return ([normal(random, *shape), maybe(random, normal(random, *shape[-axes:]))],
            lambda x, w: rms_norm_(x, shape[-axes:], w, eps), lambda x, w: F.rms_norm(x, shape[-axes:], w, eps),
            "rms_norm", {"axes": axes, "eps": 2.0**-52 if eps is None else eps})  # fmt: skip


def instance_norm(random: Random) -> Config:
    c, spatial = size(random, 1, 5), [size(random, 1, 7) for _ in range(size(random, 1, 3))]
    spatial[0] += math.prod(spatial) == 1
    weight = maybe(random, normal(random, c))
    bias = None if weight is None else maybe(random, normal(random, c))  # torch's backward fails for a bias alone
    return ([normal(random, size(random, 1, 3), c, *spatial), weight, bias],
            lambda x, w, b: instance_norm_(x, None, None, w, b),
            lambda x, w, b: F.instance_norm(x, weight=w, bias=b), "instance_norm", {"eps": 1e-5, "activation": None})  # fmt: skip


def batch_norm(training: bool) -> Callable[[Random], Config]:
    def config(random: Random) -> Config:
        n, c = size(random, 1, 70) if random.random() < 0.2 else size(random, 1, 4), size(random, 1, 20)
        x = normal(random, n, c, *(size(random, 1, 9) for _ in range(size(random, 0, 3)))) + np.float32(0.5)
        if training and x[:, 0].size == 1:
            x = np.repeat(x, 2, axis=0)
        running = [normal(random, c), np.abs(normal(random, c)) + np.float32(0.1)]
        if training and random.random() < 0.3:
            running = [None, None]
        weight, bias = maybe(random, normal(random, c)), maybe(random, normal(random, c))
        ones = torch.ones(c, dtype=torch.float64)  # torch's own backward fails for a bias without a weight
        momentum = float(random.choice([0.1, 0.01, 1.0]))

        def theirs(x: Any, mean: Any, var: Any, w: Any, b: Any) -> Any:
            """With the statistics that torch leaves behind, and those that its backward keeps."""
            old = [None if r is None else r.detach().clone() for r in (mean, var)]
            w = ones if w is None and b is not None else w
            y = F.batch_norm(x, old[0], old[1], w, b, training, momentum, 1e-5)
            if not training:
                return y
            _, kept, rstd = torch.native_batch_norm(x.detach(), None, None, None, None, True, 0.0, 1e-5)
            if old[0] is None:
                dims = (0, *range(2, x.ndim))
                old = [kept, x.detach().var(dims)]
            return y, *old, kept, rstd

        operator = "batch_norm_training" if training else "batch_norm"
        attributes = {"eps": 1e-5, "activation": None, **({"momentum": momentum} if training else {})}
        return ([x, *running, weight, bias],
                lambda x, m, v, w, b: batch_norm_(x, *(r if r is None else r.detach() for r in (m, v)), w, b, training,
                                                  momentum), theirs, operator, attributes)  # fmt: skip

    return config


JUDGED: dict[str, Callable[[Random], Config]] = {
    "group_norm": group_norm, "layer_norm": layer_norm, "batch_norm": batch_norm(False),
    "batch_norm training": batch_norm(True), "instance_norm": instance_norm, "rms_norm": rms_norm,
}  # fmt: skip
