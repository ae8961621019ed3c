"""Convolutions of one, two and three axes, transposed and not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import mmkernels.ops.conv

from .draws import Config, Random, maybe, normal, size

F = torch.nn.functional


def convolution(dims: int, transposed: bool = False) -> Callable[[Random], Config]:
    name = f"conv{'_transpose' if transposed else ''}{dims}d"
    most = {1: 40, 2: 11, 3: 6}[dims]

    def config(random: Random) -> Config:
        groups = int(random.choice([1, 1, 2, 3]))
        c, k = groups * size(random, 1, 5), groups * size(random, 1, 6)
        kernel, dilation, stride, padding = (
            tuple(size(random, low, high) for _ in range(dims)) for low, high in ((1, 4), (1, 2), (1, 3), (0, 3))
        )
        a: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        reach = [d * (r - 1) + 1 for r, d in zip(kernel, dilation, strict=True)]
        if transposed:
            a["output_padding"] = tuple(size(random, 0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True))
            least = [  # of x, so that the result has an element
                1 + max(0, -(-(1 + 2 * p - r - more) // s))
                for r, s, p, more in zip(reach, stride, padding, a["output_padding"], strict=True)
            ]
        else:
            least = [max(1, r - 2 * p) for r, p in zip(reach, padding, strict=True)]
        x = normal(random, size(random, 1, 3), c, *(size(random, n, max(n, most)) for n in least))
        weight = normal(random, *((c, k // groups) if transposed else (k, c // groups)), *kernel)
        ours, theirs = getattr(mmkernels.ops.conv, name), getattr(F, name)
        plain = {**a, "padding": tuple(p for side in padding for p in (side, side))}
        return ([x, weight, maybe(random, normal(random, k))], lambda x, w, b: ours(x, w, b, **a),
                lambda x, w, b: theirs(x, w, b, **a), name, plain)  # fmt: skip

    return config


JUDGED: dict[str, Callable[[Random], Config]] = {
    **{f"conv{n}d": convolution(n) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": convolution(n, transposed=True) for n in (1, 2, 3)},
}  # fmt: skip
