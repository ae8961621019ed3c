"""Rows of a table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

import mmkernels as mmk

from .draws import Config, Random, normal, size

F = torch.nn.functional


def embedding(random: Random) -> Config:
    rows, width = size(random, 1, 20), size(random, 1, 20)
    indices = random.integers(0, rows, [size(random, 1, 5) for _ in range(size(random, 0, 3))])
    return [np.asarray(indices), normal(random, rows, width)], mmk.embedding, F.embedding, "embedding", {}


JUDGED: dict[str, Callable[[Random], Config]] = {
    "embedding": embedding,
}  # fmt: skip
