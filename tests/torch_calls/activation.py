"""Activations, of each number alone and along an axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import mmkernels as mmk
from mmkernels.ops import activation_rectifiers
from mmkernels.ops.activation_channels import local_response_norm as local_response_norm_
from mmkernels.ops.activation_channels import prelu as prelu_

from .draws import Config, Random, normal, size

F = torch.nn.functional


def prelu(random: Random) -> Config:
    c = size(random, 1, 9)
    x = normal(random, size(random, 1, 4), c, *(size(random, 1, 9) for _ in range(size(random, 0, 3))))
    return [x, normal(random, c if random.random() < 0.7 else 1)], prelu_, F.prelu, "prelu", {}


def local_response_norm(random: Random) -> Config:
    x = normal(random, size(random, 1, 3), size(random, 1, 9), *(size(random, 1, 6) for _ in range(size(random, 1, 3))))
    a = {"size": size(random, 1, 7), "alpha": float(random.choice([1e-4, 0.02, 1.0])),
         "beta": float(random.choice([0.75, 0.5, 1.0, 0.6])), "k": float(random.choice([1.0, 2.0]))}  # fmt: skip
    return ([x], lambda x: local_response_norm_(x, **a), lambda x: F.local_response_norm(x, **a),
            "local_response_norm", a)  # fmt: skip


def formed(name: str, operator: str | None = None, **named: tuple[Any, ...]) -> Callable[[Random], Config]:
    """An activation with attributes, each of which is drawn from a few."""

    def config(random: Random) -> Config:
        a = {k: v[int(random.integers(len(v)))] for k, v in named.items()}
        alpha = a.get("alpha", 1.0)
        plain = {"celu": {"alpha": alpha, "scale": 1.0, "input_scale": 1 / alpha},
                 "elu": {"alpha": alpha, "scale": 1.0, "input_scale": 1.0},
                 "selu": {"alpha": 1.6732632423543772, "scale": 1.0507009873554805, "input_scale": 1.0}}.get(name, a)  # fmt: skip
        ours = getattr(activation_rectifiers, name)
        if name == "hardsigmoid":  # torch's own backward multiplies float64 by a float32 sixth
            return [any_shape(random)], ours, lambda x: F.relu6(x + 3) / 6, name, plain
        return (
            [any_shape(random)],
            lambda x: ours(x, **a),
            lambda x: getattr(F, name)(x, **a),
            operator or name,
            plain,
        )

    return config


def any_shape(random: Random) -> Any:
    return np.asarray(3 * normal(random, *(size(random, 1, 6) for _ in range(size(random, 0, 4)))), np.float32)


def unary(name: str, **attributes: Any) -> Callable[[Random], Config]:
    def config(random: Random) -> Config:
        return ([any_shape(random)], lambda x: getattr(mmk, name)(x, **attributes),
                lambda x: getattr(F if hasattr(F, name) else torch, name)(x, **attributes), name, attributes)  # fmt: skip

    return config


def soft(name: str) -> Callable[[Random], Config]:
    def config(random: Random) -> Config:
        x = 3 * normal(random, *(size(random, 1, 8) for _ in range(size(random, 1, 4))))
        dim = size(random, 0, x.ndim - 1)
        return ([x], lambda x: getattr(mmk, name)(x, dim), lambda x: getattr(F, name)(x, dim), name, {"dim": dim})

    return config


JUDGED: dict[str, Callable[[Random], Config]] = {
    "softmax": soft("softmax"), "log_softmax": soft("log_softmax"),
    "relu": unary("relu"), "leaky_relu": unary("leaky_relu", negative_slope=0.2), "sigmoid": unary("sigmoid"),
    "tanh": unary("tanh"), "silu": unary("silu"), "gelu": unary("gelu", approximate="none"),
    "gelu tanh": unary("gelu", approximate="tanh"), "prelu": prelu, "local_response_norm": local_response_norm,
    "relu6": formed("relu6"), "hardtanh": formed("hardtanh", min_val=(-1.0, -2.0), max_val=(1.0, 0.5)),
    "hardsigmoid": formed("hardsigmoid"), "hardswish": formed("hardswish"), "mish": formed("mish"),
    "softplus": formed("softplus", beta=(1.0, 0.5, 3.0), threshold=(20.0, 2.0)), "selu": formed("selu", "elu"),
    "elu": formed("elu", alpha=(1.0, 0.5)), "celu": formed("celu", "elu", alpha=(1.0, 0.5)),
}  # fmt: skip
