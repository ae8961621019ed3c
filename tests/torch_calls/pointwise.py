"""Arithmetic that broadcasts, and sums along axes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

import mmkernels as mmk

from .draws import Config, Random, normal, size


def binary(name: str) -> Callable[[Random], Config]:
    def config(random: Random) -> Config:
        shape = [size(random, 1, 5) for _ in range(size(random, 1, 4))]
        other = [1 if random.random() < 0.3 else n for n in shape][size(random, 0, len(shape) - 1) :]
        b = normal(random, *other)
        return (
            [normal(random, *shape), np.sign(b) * (np.abs(b) + 0.5)],
            getattr(mmk, name),
            getattr(torch, name),
            name,
            {},
        )

    return config


def reduction(name: str) -> Callable[[Random], Config]:
    def config(random: Random) -> Config:
        x = normal(random, *(size(random, 1, 40) for _ in range(size(random, 1, 3))))
        dims = tuple(sorted(random.choice(x.ndim, size(random, 1, x.ndim), replace=False).tolist()))
        keep = bool(random.integers(2))
        return ([x], lambda x: getattr(mmk, name)(x, dims, keep), lambda x: getattr(torch, name)(x, dims, keep),
                name, {"dims": dims, "keepdim": keep})  # fmt: skip

    return config


JUDGED: dict[str, Callable[[Random], Config]] = {
    "add": binary("add"), "sub": binary("sub"), "mul": binary("mul"), "div": binary("div"),
    "sum": reduction("sum"), "mean": reduction("mean"),
}  # fmt: skip
