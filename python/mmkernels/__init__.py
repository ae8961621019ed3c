"""The kernels of multimedia AI, with the same bits every time, for any array library.

>>> import numpy as np, mmkernels as mmk
>>> mmk.add(np.ones(3, np.float32), 1.0)
array([2., 2., 2.], dtype=float32)
"""

from . import _core, contract, ops
from .errors import BackendError, ContractError, ContractTypeError
from .ops.activation import (
    dropout,
    exp,
    gelu,
    leaky_relu,
    log,
    log_softmax,
    relu,
    sigmoid,
    silu,
    softmax,
    sqrt,
    tanh,
)
from .ops.attention import attention
from .ops.conv import conv2d
from .ops.diffusion import add_noise, diffusion_step
from .ops.embed import embedding, fourier_features, sinusoidal_features
from .ops.matmul import linear, matmul
from .ops.noise import philox_normal, philox_uniform
from .ops.norm import group_norm, layer_norm
from .ops.pointwise import add, div, mean, mul, sub, sum, where  # noqa: A004
from .ops.pool import avg_pool2d, max_pool2d
from .ops.resample import interpolate
from .settings import get_num_threads, plan, set_num_threads

__version__: str = _core.version
__arithmetic__: str = "1"
