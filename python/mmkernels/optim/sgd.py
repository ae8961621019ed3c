"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..autograd import Variable
from .optimizer import Array, Optimizer, Rate

__all__ = ["SGD"]


class SGD(Optimizer):
    """v <- a v - e g, theta <- theta + v, with momentum a and learning rate e (Polyak 1964).

    The rate stands inside the velocity: after a change of the rate, steps already taken keep theirs (PyTorch's SGD
    multiplies the whole velocity by the new rate instead; with a constant rate the two are the same).
    ``weight_decay`` adds weight_decay * theta to the gradient. Stable.

    >>> import numpy as np
    >>> from mmkernels import nn, optim
    >>> theta = nn.Parameter(np.array([1.0], np.float32))
    >>> sgd = optim.SGD([theta], lr=0.5, momentum=0.5)
    >>> for _ in range(2):
    ...     theta.grad = np.array([1.0], np.float32)
    ...     sgd.step()  # v = -0.5, then -0.75
    >>> theta.data.tolist()
    [-0.25]
    """

    buffers = ("velocity",)

    def __init__(
        self, parameters: Iterable[Variable], lr: Rate = 0.01, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        self.momentum, self.weight_decay = momentum, weight_decay
        super().__init__(parameters, lr)

    def _update(self, theta: Array, g: Array, scratch: Array, *state: Array) -> None:
        (velocity,) = state
        if self.weight_decay:
            np.multiply(theta, self.weight_decay, out=scratch)
            scratch += g
            scratch *= self._rate
        else:
            np.multiply(g, self._rate, out=scratch)
        velocity *= self.momentum
        velocity -= scratch
        theta += velocity
