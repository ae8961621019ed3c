"""Products of matrices."""

from __future__ import annotations

from collections.abc import Callable

import torch

import mmkernels as mmk

from .draws import Config, Random, maybe, normal, size

F = torch.nn.functional


def matmul(random: Random) -> Config:
    m, k, n = size(random, 1, 20), size(random, 0, 300), size(random, 1, 40)
    batch = [size(random, 1, 3) for _ in range(size(random, 0, 2))]
    other = [1 if random.random() < 0.3 else s for s in batch]
    return [normal(random, *batch, m, k), normal(random, *other, k, n)], mmk.matmul, torch.matmul, "matmul", {}


def linear(random: Random) -> Config:
    i, o = size(random, 1, 300), size(random, 1, 40)
    x = normal(random, *(size(random, 1, 5) for _ in range(size(random, 0, 3))), i)
    return [x, normal(random, o, i), maybe(random, normal(random, o))], mmk.linear, F.linear, "linear", {}


JUDGED: dict[str, Callable[[Random], Config]] = {
    "matmul": matmul, "linear": linear,
}  # fmt: skip
