"""Layers: parameters and the operators that use them, with PyTorch's names of classes, arguments and state keys.

Modules called with NumPy arrays infer and return arrays; called with ``autograd.Variable`` they record for training.

>>> import numpy as np
>>> from mmkernels import autograd, nn, optim
>>> model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).initialize(seed=0)
>>> x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
>>> y = np.array([[0], [1], [1], [0]], np.float32)
>>> optimizer = optim.Adam(model.parameters(), 0.05)
>>> for _ in range(200):
...     loss = nn.mse_loss(model(autograd.Variable(x)), y)
...     optimizer.zero_grad()
...     loss.backward()
...     optimizer.step()
>>> loss.item() < 0.01
True
"""

from .activation import GELU, Dropout, LeakyReLU, ReLU, Sigmoid, SiLU, Tanh
from .attention import SelfAttention2d
from .containers import Flatten, ModuleList, Sequential, Upsample
from .conv import Conv2d
from .embedding import Embedding
from .files import load, metadata, save
from .initial import key_of
from .linear import Linear
from .losses import cross_entropy, mse_loss
from .module import Module, Parameter, taped
from .norm import GroupNorm, LayerNorm
from .pool import AvgPool2d, MaxPool2d

__all__ = [
    "AvgPool2d",
    "Conv2d",
    "Dropout",
    "Embedding",
    "Flatten",
    "GELU",
    "GroupNorm",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "Parameter",
    "ReLU",
    "SelfAttention2d",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Tanh",
    "Upsample",
    "cross_entropy",
    "key_of",
    "load",
    "metadata",
    "mse_loss",
    "save",
    "taped",
]
