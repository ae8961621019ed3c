"""The kernels of multimedia AI, with the same bits every time, for any array library.

>>> import numpy as np, mmkernels as mmk
>>> mmk.add(np.ones(3, np.float32), 1.0)
array([2., 2., 2.], dtype=float32)
"""

from . import _core, contract, ops
from .errors import BackendError, ContractError, ContractTypeError
from .ops.pointwise import add, div, mean, mul, sub, sum, where
from .settings import get_num_threads, plan, set_num_threads

__version__: str = _core.version
__arithmetic__: str = "1"
