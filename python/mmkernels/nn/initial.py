"""First values of parameters: PyTorch's distributions, drawn from Philox with ``+ - * / sqrt`` alone on the host.

A layer states a recipe per parameter; ``draw`` follows it with the key of (seed, name), so the bits depend on nothing
else: neither on the order in which layers are made nor on the machine.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..autograd import Variable

if TYPE_CHECKING:
    from .module import Module

__all__ = ["Recipe", "constant", "draw", "key_of", "normal", "parameter", "uniform"]

_MASK = (1 << 64) - 1
_made = itertools.count()


class Recipe(NamedTuple):
    """How a parameter is drawn: "uniform" in [-scale, scale), "normal" times scale, or the constant ``scale``."""

    kind: str
    scale: float


def uniform(fan_in: int) -> Recipe:
    """Uniform within 1 / sqrt(fan_in): PyTorch's default of convolutions and linear layers, weights and biases."""
    return Recipe("uniform", 1.0 / math.sqrt(fan_in) if fan_in else 0.0)


def normal(scale: float = 1.0) -> Recipe:
    """Normal with this standard deviation."""
    return Recipe("normal", scale)


def constant(value: float) -> Recipe:
    """The same value everywhere."""
    return Recipe("constant", value)


def parameter(module: Module, name: str, shape: Sequence[int], recipe: Recipe) -> None:
    """Gives a module a float32 parameter and remembers its recipe."""
    p = Variable(np.empty(tuple(shape), np.float32), requires_grad=True)
    vars(module).setdefault("_recipes", {})[name] = recipe
    setattr(module, name, p)
    # Two layers made with equal shapes must differ, or they would stay equal in training.
    draw(module, name, p, next(_made) if recipe.kind != "constant" else 0, name)


def draw(module: Module, name: str, p: Variable, seed: int, full_name: str) -> None:
    """Fills a parameter by its recipe, if it has one, keyed by (seed, full name)."""
    recipe = vars(module).get("_recipes", {}).get(name)
    if recipe is None:
        return
    if recipe.kind == "constant":
        p.data[...] = recipe.scale
        return
    from ..ops.noise import philox_normal, philox_uniform

    keys = np.array([key_of(seed, full_name)], np.uint64)
    if recipe.kind == "normal":
        p.data[...] = (philox_normal((1, p.data.size), seed=keys) * np.float32(recipe.scale)).reshape(p.shape)
    else:
        unit = philox_uniform((1, p.data.size), seed=keys)
        p.data[...] = ((unit * np.float32(2) - np.float32(1)) * np.float32(recipe.scale)).reshape(p.shape)


def key_of(seed: int, *path: str | int) -> int:
    """A Philox key for a purpose: the seed with words and numbers folded in, one after another.

    Words stand for their 64-bit FNV-1a hash.

    >>> from mmkernels.nn import key_of
    >>> key_of(7, "noise", 0) != key_of(7, "noise", 1) != key_of(7, "shuffle", 1)
    True
    """
    from ..ops.noise import philox_fold_in

    key = seed & _MASK
    for part in path:
        data = _hash(part) if isinstance(part, str) else part & _MASK
        key = int(philox_fold_in(np.array([key], np.uint64), np.array([data], np.uint64))[0])
    return key


def _hash(text: str) -> int:
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & _MASK
    return value
