"""Further activations as layers, and local response normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..autograd import Variable
from ..ops import activation_rectifiers as functions
from ..ops.activation_channels import local_response_norm, prelu
from .initial import constant, parameter
from .module import Module, taped

__all__ = [
    "CELU", "ELU", "Hardsigmoid", "Hardswish", "Hardtanh", "LocalResponseNorm", "Mish", "PReLU", "QuickGELU", "ReLU6",
    "SELU", "Softplus",
]  # fmt: skip


class _Function(Module):
    """A function of each element."""

    function: Callable[..., Any]

    def __init__(self, *numbers: float) -> None:
        self.numbers = numbers

    def forward(self, x: Any) -> Any:
        """Element by element."""
        return type(self).function(x, *self.numbers)

    def describe(self) -> str:
        """The numbers."""
        return ", ".join(map(str, self.numbers))


class _Plain(_Function):
    def __init__(self) -> None:
        super().__init__()


class ReLU6(_Plain):
    """min(max(x, 0), 6).

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.ReLU6()(np.array([-1, 2, 8], np.float32)).tolist()
    [0.0, 2.0, 6.0]
    """

    function = staticmethod(functions.relu6)


class Hardsigmoid(_Plain):
    """min(max(x + 3, 0), 6) / 6 (Howard et al. 2019)."""

    function = staticmethod(functions.hardsigmoid)


class Hardswish(_Plain):
    """x * min(max(x + 3, 0), 6) / 6 (Howard et al. 2019)."""

    function = staticmethod(functions.hardswish)


class Mish(_Plain):
    """x * tanh(log(1 + exp(x))) (Misra 2019)."""

    function = staticmethod(functions.mish)


class QuickGELU(_Plain):
    """x * sigmoid(1.702 x), as in CLIP (Hendrycks and Gimpel 2016)."""

    function = staticmethod(functions.quick_gelu)


class SELU(_Plain):
    """1.0507 * elu(x, 1.6733) (Klambauer et al. 2017)."""

    function = staticmethod(functions.selu)


class ELU(_Function):
    """x where positive, else alpha * (exp(x) - 1) (Clevert et al. 2016)."""

    function = staticmethod(functions.elu)

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha)


class CELU(_Function):
    """x where positive, else alpha * (exp(x / alpha) - 1) (Barron 2017)."""

    function = staticmethod(functions.celu)

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha)


class Hardtanh(_Function):
    """min(max(x, min_val), max_val)."""

    function = staticmethod(functions.hardtanh)

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        super().__init__(min_val, max_val)


class Softplus(_Function):
    """log(1 + exp(beta x)) / beta, or x where beta x > threshold."""

    function = staticmethod(functions.softplus)

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__(beta, threshold)


class PReLU(Module):
    """x where positive, else ``weight`` * x, one for each channel or one for all (He et al. 2015); see mmkernels.prelu.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.PReLU()(np.array([[-4, 2]], np.float32)).tolist()
    [[-1.0, 2.0]]
    """

    weight: Variable

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        parameter(self, "weight", (num_parameters,), constant(init))

    def forward(self, x: Any) -> Any:
        """x (N, C, *S) to the same shape."""
        (weight,) = taped(x, self.weight)
        return prelu(x, weight)


class LocalResponseNorm(Module):
    """Divides by a power of neighbouring channels' mean square, as in AlexNet; see mmkernels.local_response_norm.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.LocalResponseNorm(5)(np.zeros((1, 8, 2, 2), np.float32)).shape
    (1, 8, 2, 2)
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        self.arguments = (size, alpha, beta, k)

    def forward(self, x: Any) -> Any:
        """x (N, C, *S) to the same shape."""
        return local_response_norm(x, *self.arguments)

    def describe(self) -> str:
        """size, alpha, beta and k."""
        return ", ".join(map(str, self.arguments))
