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
from .batch import BatchNorm1d, BatchNorm2d, BatchNorm3d, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from .containers import Flatten, ModuleList, Sequential, Upsample
from .conv import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from .embedding import Embedding
from .files import load, metadata, save
from .initial import key_of
from .linear import Linear
from .losses import cross_entropy, mse_loss
from .module import Module, Parameter, taped
from .norm import GroupNorm, LayerNorm, RMSNorm
from .pool import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, LPPool2d, MaxPool2d, MaxUnpool2d
from .rectifiers import (
    CELU,
    ELU,
    SELU,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LocalResponseNorm,
    Mish,
    PReLU,
    QuickGELU,
    ReLU6,
    Softplus,
)

__all__ = [
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "CELU",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Dropout",
    "ELU",
    "Embedding",
    "Flatten",
    "GELU",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LPPool2d",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "MaxPool2d",
    "Mish",
    "MaxUnpool2d",
    "Module",
    "ModuleList",
    "PReLU",
    "Parameter",
    "QuickGELU",
    "RMSNorm",
    "ReLU",
    "ReLU6",
    "SELU",
    "SelfAttention2d",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softplus",
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
