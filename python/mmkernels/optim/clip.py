"""Limits on gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..autograd import Variable
from ..ops.pointwise import mul
from ..ops.pointwise import sum as total

__all__ = ["clip_grad_norm"]


def clip_grad_norm(parameters: Iterable[Variable], max_norm: float) -> float:
    """Scales all gradients so that their common Euclidean norm is at most max_norm; returns the norm before.

    The sums are mmkernels', so the bits are the same on every machine. A norm that is not finite changes nothing.

    >>> import numpy as np
    >>> from mmkernels import nn, optim
    >>> theta = nn.Parameter(np.zeros(2, np.float32))
    >>> theta.grad = np.array([3.0, 4.0], np.float32)
    >>> optim.clip_grad_norm([theta], 0.5), theta.grad.tolist()
    (5.0, [0.30000001192092896, 0.4000000059604645])
    """
    with_gradient = [p for p in parameters if p.grad is not None]
    squares = 0.0
    for p in with_gradient:
        squares += float(total(mul(p.grad, p.grad)))
    norm = math.sqrt(squares)
    if norm > max_norm and math.isfinite(norm):
        for p in with_gradient:
            p.grad = mul(p.grad, max_norm / norm)
    return norm
