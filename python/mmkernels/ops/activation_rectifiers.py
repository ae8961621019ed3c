"""Activations of each element that no other operator fuses: clamped lines, and curves that tend to them."""

from __future__ import annotations

from typing import Any

from ..contract import Attr, Bound, Require, number
from ..errors import ContractError
from ..operator import Operator
from .activation import _CASES, _slope, _unary, _with

__all__ = [
    "celu", "elu", "hardsigmoid", "hardswish", "hardtanh", "mish", "quick_gelu", "relu6", "selu", "softplus",
]  # fmt: skip

_HOWARD = "Howard et al., arXiv 1905.02244"

RELU6 = _unary(
    "relu6", "min(max(x, 0), 6); NaN stays.", "relu6_grad(x, gy)", Bound("exact"), flops=2,
    source="Krizhevsky, Convolutional deep belief networks on CIFAR-10, 2010",
)  # fmt: skip
RELU6_GRAD = _slope(
    "relu6_grad", "gy where 0 < x < 6 or NaN, else 0.", "x", {"x": "None", "gy": "relu6_grad(x, ggx)"}, Bound("exact")
)

_MINIMUM, _MAXIMUM = (
    Attr("min_val", "float", -1.0, doc="the least value"),
    Attr("max_val", "float", 1.0, doc="the most"),
)
_ORDERED = Require("min_val <= max_val", "min_val is {min_val}, max_val is {max_val}; expected them in order",
                   broken={"min_val": 2.0})  # fmt: skip
_CLAMPED = _with(_CASES, {"min_val": -0.75, "max_val": 0.5})
HARDTANH = _unary(
    "hardtanh", "min(max(x, min_val), max_val); NaN stays.", "hardtanh_grad(x, gy, min_val=min_val, max_val=max_val)",
    Bound("elementwise", ulp=0.5), attributes=(_MINIMUM, _MAXIMUM), requires=(_ORDERED,), cases=_CLAMPED, flops=2,
)  # fmt: skip
HARDTANH_GRAD = _slope(
    "hardtanh_grad", "gy where min_val < x < max_val or NaN, else 0.", "x",
    {"x": "None", "gy": "hardtanh_grad(x, ggx, min_val=min_val, max_val=max_val)"}, Bound("exact"),
    attributes=(_MINIMUM, _MAXIMUM), requires=(_ORDERED,), cases=_CLAMPED,
)  # fmt: skip

HARDSIGMOID = _unary(
    "hardsigmoid", "min(max(x + 3, 0), 6) / 6.", "hardsigmoid_grad(x, gy)", Bound("elementwise", ulp=1.0), flops=4,
    source=_HOWARD,
)  # fmt: skip
HARDSIGMOID_GRAD = _slope(
    "hardsigmoid_grad", "gy / 6 where -3 < x < 3 or NaN, else 0.", "x",
    {"x": "None", "gy": "hardsigmoid_grad(x, ggx)"}, Bound("elementwise", ulp=0.5),
)  # fmt: skip
HARDSWISH = _unary(
    "hardswish", "x * hardsigmoid(x).", "hardswish_grad(x, gy)", Bound("elementwise", ulp=1.5), flops=5, source=_HOWARD
)
HARDSWISH_GRAD = _slope(
    "hardswish_grad", "gy times 0 below -3, 1 above 3, x / 3 + 1/2 between.", "x",
    {"x": "mul(hardsigmoid_grad(x, mul(ggx, gy)), 2.0)", "gy": "hardswish_grad(x, ggx)"},
    Bound("cancelling", ulp=1.5), flops=3,
)  # fmt: skip

MISH = _unary(
    "mish", "x * tanh(log(1 + exp(x))).", "mish_grad(x, gy)", Bound("elementwise", ulp=4.5), flops=20,
    source="Misra, arXiv 1908.08681",
)  # fmt: skip
# With t = tanh(softplus(x)), s = sigmoid(x): mish' = t + x t', t' = s (1 - t^2), mish'' = t' (2 + x (1 - s - 2 t s)).
_T, _S = "tanh(softplus(x))", "sigmoid(x)"
_T1 = f"mul({_S}, sub(1.0, mul({_T}, {_T})))"
MISH_GRAD = _slope(
    "mish_grad", "gy times mish's slope at x.", "x",
    {
        "x": f"mul(mul(mul(ggx, gy), {_T1}), "
        f"add(mul(x, sub(sub(1.0, {_S}), mul(mul({_T}, {_S}), 2.0))), 2.0))",
        "gy": "mish_grad(x, ggx)",
    },
    Bound("cancelling", ulp=6.0), flops=25,
)  # fmt: skip

QUICK_GELU = _unary(
    "quick_gelu", "x * sigmoid(1.702 x).", "quick_gelu_grad(x, gy)", Bound("cancelling", ulp=3.5),
    source="Hendrycks and Gimpel, arXiv 1606.08415",
)  # fmt: skip
_U = "mul(x, 1.702)"
QUICK_GELU_GRAD = _slope(
    "quick_gelu_grad", "gy times quick_gelu's slope at x, which is silu's at 1.702 x.", "x",
    {
        "x": f"mul(sigmoid_grad(sigmoid({_U}), mul(mul(ggx, gy), sub(2.0, mul({_U}, tanh(mul({_U}, 0.5)))))), 1.702)",
        "gy": "quick_gelu_grad(x, ggx)",
    },
    Bound("cancelling", ulp=6.0), flops=13,
)  # fmt: skip

_BETA = Attr("beta", "float", 1.0, doc="the factor of x")
_THRESHOLD = Attr("threshold", "float", 20.0, doc="above it, as beta x, the result is x")
_NOT_ZERO = Require("beta != 0", "beta is {beta}; expected another number than 0", broken={"beta": 0.0})
_SOFT = _with(_CASES, {"beta": 1.5, "threshold": 2.5})
SOFTPLUS = _unary(
    "softplus", "log(1 + exp(beta x)) / beta, or x where beta x > threshold.",
    "softplus_grad(x, gy, beta=beta, threshold=threshold)", Bound("cancelling", ulp=6.0),
    attributes=(_BETA, _THRESHOLD), requires=(_NOT_ZERO,), cases=_SOFT, flops=20,
    source="Dugas et al., Incorporating second-order functional knowledge, NIPS 2000",
)  # fmt: skip
SOFTPLUS_GRAD = _slope(
    "softplus_grad", "gy * sigmoid(beta x), or gy where beta x > threshold.", "x",
    {
        "x": "where(greater(mul(x, beta), threshold), 0.0, "
        "sigmoid_grad(sigmoid(mul(x, beta)), mul(mul(ggx, gy), beta)))",
        "gy": "softplus_grad(x, ggx, beta=beta, threshold=threshold)",
    },
    Bound("cancelling", ulp=4.5), attributes=(_BETA, _THRESHOLD), requires=(_NOT_ZERO,), cases=_SOFT, flops=12,
)  # fmt: skip

_ELU_ATTRIBUTES = (
    Attr("alpha", "float", 1.0, doc="minus the limit below"), Attr("scale", "float", 1.0, doc="of the result"),
    Attr("input_scale", "float", 1.0, doc="of x where it is not positive"),
)  # fmt: skip
_SAME = "alpha=alpha, scale=scale, input_scale=input_scale"
_ELU_CASES = _with(_CASES, {"alpha": 1.25, "scale": 1.5, "input_scale": 0.75})
ELU = _unary(
    "elu", "scale * (x > 0 ? x : alpha * (exp(input_scale x) - 1)).", f"elu_grad(x, gy, {_SAME})",
    Bound("elementwise", ulp=5.5), attributes=_ELU_ATTRIBUTES, cases=_ELU_CASES, flops=20,
    source="Clevert et al., arXiv 1511.07289; celu: Barron, arXiv 1704.07483; selu: Klambauer et al., arXiv 1706.02515",
)  # fmt: skip
ELU_GRAD = _slope(
    "elu_grad", "gy * scale * (x > 0 ? 1 : alpha * input_scale * exp(input_scale x)).", "x",
    {
        "x": f"where(greater(x, 0.0), 0.0, mul(elu_grad(x, mul(ggx, gy), {_SAME}), input_scale))",
        "gy": f"elu_grad(x, ggx, {_SAME})",
    },
    Bound("cancelling", ulp=6.0), attributes=_ELU_ATTRIBUTES, cases=_ELU_CASES, flops=12,
)  # fmt: skip

_relu6, _hardtanh, _hardsigmoid, _hardswish = map(Operator, (RELU6, HARDTANH, HARDSIGMOID, HARDSWISH))
_mish, _quick_gelu, _softplus, _elu = map(Operator, (MISH, QUICK_GELU, SOFTPLUS, ELU))
for _contract in (RELU6_GRAD, HARDTANH_GRAD, HARDSIGMOID_GRAD, HARDSWISH_GRAD, MISH_GRAD, QUICK_GELU_GRAD,
                  SOFTPLUS_GRAD, ELU_GRAD):  # fmt: skip
    Operator(_contract)


def relu6(x: Any, *, out: Any = None) -> Any:
    """min(max(x, 0), 6); NaN stays.

    x has any shape and one of the float dtypes; the result has x's. Raises ContractTypeError for other dtypes.
    Gradients of any order; at 0 and 6 the slope is 0. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.relu6(np.array([-1.0, 0.5, 7.0]))
    array([0. , 0.5, 6. ])
    """
    return _relu6.call(x, out)


def hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0, *, out: Any = None) -> Any:
    """min(max(x, min_val), max_val); see relu6. Raises ContractError if min_val > max_val. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.hardtanh(np.array([-2.0, 0.5]))
    array([-1. ,  0.5])
    """
    return _hardtanh.call(x, min_val, max_val, out)


def hardsigmoid(x: Any, *, out: Any = None) -> Any:
    """min(max(x + 3, 0), 6) / 6 (Howard et al., arXiv 1905.02244); see relu6. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.hardsigmoid(np.array([-4.0, 0.0, 1.5]))
    array([0.  , 0.5 , 0.75])
    """
    return _hardsigmoid.call(x, out)


def hardswish(x: Any, *, out: Any = None) -> Any:
    """x * hardsigmoid(x) (Howard et al., arXiv 1905.02244); 0 at -inf; see relu6. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.hardswish(np.array([-4.0, 1.5, 4.0]))
    array([0.   , 1.125, 4.   ])
    """
    return _hardswish.call(x, out)


def mish(x: Any, *, out: Any = None) -> Any:
    """x * tanh(log(1 + exp(x))) (Misra, arXiv 1908.08681); 0 at -inf; see relu6. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.mish(np.array([0.0, 1.0])).round(4)
    array([0.    , 0.8651])
    """
    return _mish.call(x, out)


def quick_gelu(x: Any, *, out: Any = None) -> Any:
    """x * sigmoid(1.702 x), CLIP's approximation of gelu (Hendrycks and Gimpel, arXiv 1606.08415); see relu6. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.quick_gelu(np.array([0.0, 1.0])).round(4)
    array([0.    , 0.8458])
    """
    return _quick_gelu.call(x, out)


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0, *, out: Any = None) -> Any:
    """log(1 + exp(beta x)) / beta, or x where beta x > threshold; see relu6. Raises ContractError if beta is 0. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.softplus(np.array([0.0, 30.0])).round(4)
    array([ 0.6931, 30.    ])
    """
    return _softplus.call(x, beta, threshold, out)


def elu(x: Any, alpha: float = 1.0, *, out: Any = None) -> Any:
    """x where it is positive, else alpha * (exp(x) - 1) (Clevert et al., arXiv 1511.07289); see relu6. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.elu(np.array([1.0, -np.inf]), alpha=0.5)
    array([ 1. , -0.5])
    """
    return _elu.call(x, alpha, 1.0, 1.0, out)


def celu(x: Any, alpha: float = 1.0, *, out: Any = None) -> Any:
    """x where it is positive, else alpha * (exp(x / alpha) - 1) (Barron, arXiv 1704.07483); see relu6. Stable.

    Raises ContractError if alpha is 0.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.celu(np.array([1.0, -np.inf]), alpha=0.5)
    array([ 1. , -0.5])
    """
    factor = number("float", alpha, f"celu: alpha is {alpha!r}")
    if factor == 0:
        raise ContractError(f"celu: alpha is {alpha}; expected another number than 0")
    return _elu.call(x, factor, 1.0, 1.0 / factor, out)


def selu(x: Any, *, out: Any = None) -> Any:
    """1.0507 * elu(x, 1.6733): mean 0 and variance 1 are kept (Klambauer et al., arXiv 1706.02515); see relu6. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.selu(np.array([1.0, -1.0])).round(4)
    array([ 1.0507, -1.1113])
    """
    return _elu.call(x, 1.6732632423543772, 1.0507009873554805, 1.0, out)
