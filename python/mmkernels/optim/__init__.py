"""Optimisers: parameters move in place, by correctly rounded arithmetic in a stated order, so training repeats bits.

>>> import numpy as np
>>> from mmkernels import autograd, nn, optim
>>> theta = nn.Parameter(np.array([3.0], np.float32))
>>> optimizer = optim.SGD([theta], lr=optim.LinearDecay(0.2, 0.002, tau=50), momentum=0.5)
>>> for _ in range(50):
...     optimizer.zero_grad()
...     nn.mse_loss(theta, np.array([1.0], np.float32)).backward()
...     optimizer.step()
>>> abs(theta.data.item() - 1.0) < 1e-3
True
"""

from .adam import Adam, AdamW
from .average import EMA
from .clip import clip_grad_norm
from .optimizer import Optimizer
from .rates import CosineDecay, LinearDecay, StepDecay, WarmUp
from .sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CosineDecay",
    "EMA",
    "LinearDecay",
    "Optimizer",
    "StepDecay",
    "WarmUp",
    "clip_grad_norm",
]
