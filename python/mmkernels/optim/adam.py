"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from ..autograd import Variable
from .optimizer import Array, Optimizer, Rate

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1).

        m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) g^2
        theta <- theta - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)

    ``weight_decay`` adds weight_decay * theta to the gradient. The powers of b1 and b2 are products, multiplied once
    per step, so no pow enters. Stable.

    >>> import numpy as np
    >>> from mmkernels import nn, optim
    >>> theta = nn.Parameter(np.array([1.0], np.float32))
    >>> adam = optim.Adam([theta], lr=0.25, eps=0.0)
    >>> theta.grad = np.array([3.0], np.float32)
    >>> adam.step()  # the first step has the length of the rate
    >>> theta.data.tolist()
    [0.75]
    """

    buffers = ("first_moment", "second_moment")
    decoupled = False

    def __init__(
        self,
        parameters: Iterable[Variable],
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self._powers = (0, 1.0, 1.0)
        super().__init__(parameters, lr)

    def _prepare(self, rate: float) -> None:
        step, first, second = self._powers if self._powers[0] <= self.steps else (0, 1.0, 1.0)
        while step <= self.steps:
            step, first, second = step + 1, first * self.betas[0], second * self.betas[1]
        self._powers = step, first, second
        self._rate = rate
        self._length = rate / (1.0 - first)
        self._root = 1.0 / math.sqrt(1.0 - second)

    def _update(self, theta: Array, g: Array, scratch: Array, *state: Array) -> None:
        m, v = state
        b1, b2 = self.betas
        if self.weight_decay and self.decoupled:
            theta *= 1.0 - self._rate * self.weight_decay
        elif self.weight_decay:
            g = g + theta * self.weight_decay
        m *= b1
        np.multiply(g, 1.0 - b1, out=scratch)
        m += scratch
        v *= b2
        np.multiply(g, g, out=scratch)
        scratch *= 1.0 - b2
        v += scratch
        np.sqrt(v, out=scratch)
        scratch *= self._root
        scratch += self.eps
        np.divide(m, scratch, out=scratch)
        scratch *= self._length
        theta -= scratch


class AdamW(Adam):
    """Adam with decoupled weight decay: theta <- (1 - lr weight_decay) theta first (Loshchilov and Hutter 2019).

    >>> import numpy as np
    >>> from mmkernels import nn, optim
    >>> theta = nn.Parameter(np.array([1.0], np.float32))
    >>> adam = optim.AdamW([theta], lr=0.5, weight_decay=0.5)
    >>> theta.grad = np.zeros(1, np.float32)
    >>> adam.step()
    >>> theta.data.tolist()
    [0.75]
    """

    decoupled = True

    def __init__(
        self,
        parameters: Iterable[Variable],
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay)
