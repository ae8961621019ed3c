"""Functions of each element, softmax along an axis and dropout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .. import arrays
from ..contract import Arg, Attr, Bound, Case, Contract, Operand, Out, Require
from ..operator import Operator
from .noise import keys_for

__all__ = [
    "dropout", "erf", "exp", "gelu", "leaky_relu", "log", "log_softmax", "relu", "sigmoid", "silu", "softmax", "sqrt",
    "tanh",
]  # fmt: skip

# ---- each element by itself -----------------------------------------------------------------------------------------

_CASES = (
    Case("plain", {"S": (2, 3, 4, 5)}),
    Case("long odd", {"S": (3, 1037)}),
    Case("one element", {"S": ()}),
    Case("empty", {"S": (2, 0, 3)}),
    Case("large", {"S": (2, 320, 64, 64)}, bench=True),
)
_SLOPE = Attr("negative_slope", "float", 0.01, doc="the factor of values that are not positive")
_APPROXIMATE = Attr("approximate", "choice", "none", choices=("none", "tanh"), doc="none: by the error function")


def _with(cases: Sequence[Case], attributes: Mapping[str, Any]) -> tuple[Case, ...]:
    """The cases, all but the first with these attributes."""
    return (cases[0], *(Case(c.name, c.extents, attributes, c.optional, c.bench) for c in cases[1:]))


def _unary(
    name: str, summary: str, vjp: str, bound: Bound, *, attributes: tuple[Attr, ...] = (),
    requires: tuple[Require, ...] = (), cases: tuple[Case, ...] = _CASES, domain: str = "normal", flops: int = 10,
    source: str = "",
) -> Contract:  # fmt: skip
    return Contract(
        name, summary,
        inputs=(Arg("x", "*S", domain=domain),), attributes=attributes, outputs=(Out("y", "*S"),), requires=requires,
        free=("S",), layout="x", flops=f"{flops}*prod(S)", bound=bound, vjp={"x": vjp}, cases=cases, source=source,
    )  # fmt: skip


def _slope(
    name: str, summary: str, of: str, vjp: Mapping[str, str], bound: Bound, *, attributes: tuple[Attr, ...] = (),
    requires: tuple[Require, ...] = (), cases: tuple[Case, ...] = _CASES, flops: int = 1,
) -> Contract:  # fmt: skip
    """A gradient: gy times a function of the operand or of the result, whichever ``of`` names."""
    return Contract(
        name, summary,
        inputs=(Arg(of, "*S"), Arg("gy", "*S")), attributes=attributes, outputs=(Out("gx", "*S"),), requires=requires,
        free=("S",), layout=of, flops=f"{flops}*prod(S)", bound=bound, vjp=vjp, cases=cases,
    )  # fmt: skip


# ulp: how far core/arith.h's functions may be off, as measured there; a slope adds the product with gy.
RELU = _unary("relu", "x > 0 ? x : 0; NaN stays.", "relu_grad(x, gy)", Bound("exact"), flops=1)
LEAKY_RELU = _unary(
    "leaky_relu", "x > 0 ? x : x * negative_slope.", "leaky_relu_grad(x, gy, negative_slope=negative_slope)",
    Bound("elementwise", ulp=1.0), attributes=(_SLOPE,), cases=_with(_CASES, {"negative_slope": 0.2}), flops=1,
    source="Maas et al., Rectifier nonlinearities improve neural network acoustic models, ICML 2013",
)  # fmt: skip
SIGMOID = _unary("sigmoid", "1 / (1 + exp(-x)).", "sigmoid_grad(y, gy)", Bound("elementwise", ulp=2.4))
TANH = _unary("tanh", "Hyperbolic tangent.", "tanh_grad(y, gy)", Bound("elementwise", ulp=1.34))
SILU = _unary(
    "silu", "x * sigmoid(x).", "silu_grad(x, gy)", Bound("elementwise", ulp=2.4),
    source="Elfwing et al., arXiv 1702.03118",
)  # fmt: skip
GELU = _unary(
    "gelu", "x times the normal distribution's cumulative function, or that by tanh.",
    "gelu_grad(x, gy, approximate=approximate)", Bound("cancelling", ulp=6.0), attributes=(_APPROXIMATE,),
    cases=_with(_CASES, {"approximate": "tanh"}), source="Hendrycks and Gimpel, arXiv 1606.08415",
)  # fmt: skip
EXP = _unary("exp", "Exponential function.", "mul(gy, y)", Bound("elementwise", ulp=1.0))
LOG = _unary("log", "Natural logarithm.", "div(gy, x)", Bound("elementwise", ulp=0.88), domain="positive")
SQRT = _unary("sqrt", "Square root.", "div(gy, mul(y, 2.0))", Bound("elementwise", ulp=0.5), domain="positive", flops=1)
ERF = _unary(
    "erf", "Error function.", "mul(mul(gy, 1.1283791670955126), exp(mul(mul(x, x), -1.0)))",
    Bound("elementwise", ulp=1.11),
)  # fmt: skip

RELU_GRAD = _slope(
    "relu_grad", "gy where x > 0 or NaN, else 0.", "x", {"x": "None", "gy": "relu_grad(x, ggx)"}, Bound("exact")
)
LEAKY_RELU_GRAD = _slope(
    "leaky_relu_grad", "x > 0 ? gy : gy * negative_slope.", "x",
    {"x": "None", "gy": "leaky_relu_grad(x, ggx, negative_slope=negative_slope)"},
    Bound("elementwise", ulp=1.0), attributes=(_SLOPE,), cases=_with(_CASES, {"negative_slope": 0.2}),
)  # fmt: skip
SIGMOID_GRAD = _slope(
    "sigmoid_grad", "gy * y * (1 - y), y being sigmoid's result.", "y",
    {"y": "mul(mul(ggx, gy), sub(1.0, mul(y, 2.0)))", "gy": "sigmoid_grad(y, ggx)"}, Bound("elementwise", ulp=1.5),
)  # fmt: skip
TANH_GRAD = _slope(
    "tanh_grad", "gy * (1 - y) * (1 + y), y being tanh's result.", "y",
    {"y": "mul(mul(ggx, gy), mul(y, -2.0))", "gy": "tanh_grad(y, ggx)"}, Bound("elementwise", ulp=2.0),
)  # fmt: skip
# With s = sigmoid(x), silu' = s (1 + x (1 - s)) and silu'' = s (1 - s) (2 - x tanh(x / 2)).
SILU_GRAD = _slope(
    "silu_grad", "gy times silu's slope at x.", "x",
    {
        "x": "sigmoid_grad(sigmoid(x), mul(mul(ggx, gy), sub(2.0, mul(x, tanh(mul(x, 0.5))))))",
        "gy": "silu_grad(x, ggx)",
    },
    Bound("cancelling", ulp=4.7), flops=12,
)  # fmt: skip
# gelu'' = phi(x) (2 - x^2). For the form by tanh: gelu = x s(u), u = 2 sqrt(2/pi) (x + 0.044715 x^3) = a x + b x^3, so
# gelu'' = s'(u) (2 u' + x u'' - x u'^2 tanh(u / 2)), where 2 u' + x u'' = 2 a + 12 b x^2.
_A, _B = 1.5957691216057308, 0.07135481627159165
_SQUARE = "mul(x, x)"
_U = f"mul(x, add(mul({_SQUARE}, {_B}), {_A}))"
_U1 = f"add(mul({_SQUARE}, {3 * _B}), {_A})"
_GELU_SECOND = f"mul(exp(mul({_SQUARE}, -0.5)), mul(sub(2.0, {_SQUARE}), 0.3989422804014327))"
_GELU_TANH_SECOND = (
    f"sigmoid_grad(sigmoid({_U}), sub(add(mul({_SQUARE}, {12 * _B}), {2 * _A}), "
    f"mul(mul(x, mul({_U1}, {_U1})), tanh(mul({_U}, 0.5)))))"
)
GELU_GRAD = _slope(
    "gelu_grad", "gy times gelu's slope at x.", "x",
    {
        "x": f"mul(mul(ggx, gy), {_GELU_SECOND} if approximate == 'none' else {_GELU_TANH_SECOND})",
        "gy": "gelu_grad(x, ggx, approximate=approximate)",
    },
    Bound("cancelling", ulp=4.7), attributes=(_APPROXIMATE,), cases=_with(_CASES, {"approximate": "tanh"}), flops=20,
)  # fmt: skip

# ---- along an axis --------------------------------------------------------------------------------------------------

_AXIS_CASES = (
    Case("rows", {"S": (5, 197)}, {"dim": 1}),
    Case("short rows", {"S": (3, 4, 7)}, {"dim": 2}),
    Case("channels", {"S": (2, 37, 3, 5)}, {"dim": 1}),
    Case("first axis", {"S": (20, 3)}, {"dim": 0}),
    Case("long", {"S": (2, 1500)}, {"dim": 1}),
    Case("empty", {"S": (0, 5)}, {"dim": 1}),
    Case("ViT-B attention", {"S": (18912, 197)}, {"dim": 1}, bench=True),
    Case("classes", {"S": (1576, 1000)}, {"dim": 1}, bench=True),
)
_DIM = Attr("dim", "int", doc="the axis")
_HAS_AXIS = Require("0 <= dim < len(S)", "dim is {dim}; expected an axis of {S}", broken={"dim": 9})


def _softmax(name: str, summary: str, vjp: str, bound: Bound) -> Contract:
    return Contract(
        name, summary,
        inputs=(Arg("x", "*S"),), attributes=(_DIM,), outputs=(Out("y", "*S"),), requires=(_HAS_AXIS,),
        lets={"D": "S[dim]"}, layout="x", flops="14*prod(S)", bound=bound, vjp={"x": vjp}, cases=_AXIS_CASES,
    )  # fmt: skip


def _softmax_grad(name: str, summary: str, vjp: Mapping[str, str], bound: Bound) -> Contract:
    return Contract(
        name, summary,
        inputs=(Arg("y", "*S"), Arg("gy", "*S")), attributes=(_DIM,), outputs=(Out("gx", "*S"),),
        requires=(_HAS_AXIS,), lets={"D": "S[dim]"}, layout="y", flops="4*prod(S)", bound=bound, vjp=vjp,
        cases=_AXIS_CASES,
    )  # fmt: skip


SOFTMAX = _softmax(
    "softmax", "exp(x - max) / sum(exp(x - max)) along an axis.", "softmax_grad(y, gy, dim=dim)",
    Bound("softmax", depth="D"),
)  # fmt: skip
LOG_SOFTMAX = _softmax(
    "log_softmax", "x - max - log(sum(exp(x - max))) along an axis.", "log_softmax_grad(y, gy, dim=dim)",
    Bound("log_softmax", depth="D"),
)  # fmt: skip
SOFTMAX_GRAD = _softmax_grad(
    "softmax_grad", "y * (gy - sum(gy * y)) along an axis.",
    {
        "y": "sub(mul(ggx, sub(gy, sum(mul(gy, y), dims=dim, keepdim=True))), "
        "mul(gy, sum(mul(ggx, y), dims=dim, keepdim=True)))",
        "gy": "softmax_grad(y, ggx, dim=dim)",
    },
    Bound("softmax_grad", depth="D"),
)  # fmt: skip
LOG_SOFTMAX_GRAD = _softmax_grad(
    "log_softmax_grad", "gy - exp(y) * sum(gy) along an axis.",
    {
        "y": "mul(mul(mul(exp(y), ggx), sum(gy, dims=dim, keepdim=True)), -1.0)",
        "gy": "sub(ggx, sum(mul(exp(y), ggx), dims=dim, keepdim=True))",
    },
    Bound("log_softmax_grad", depth="D"),
)  # fmt: skip


def _plain_dim(raw: dict[str, Any], operands: Mapping[str, Operand]) -> dict[str, Any]:
    """Negative axes count from the back."""
    dim, rank = raw["dim"], len(next(iter(operands.values())).shape)
    return {**raw, "dim": dim + rank if isinstance(dim, int) and -rank <= dim < 0 else dim}


# ---- dropout --------------------------------------------------------------------------------------------------------

DROPOUT = Contract(
    "dropout", "x / (1 - p) where the element's uniform value is at least p, else 0.",
    inputs=(Arg("x", "N *S"), Arg("keys", "N", "uint64", doc="one per sample")),
    attributes=(Attr("p", "float", 0.5, doc="the probability of dropping an element"),), outputs=(Out("y", "N *S"),),
    requires=(Require("0 <= p <= 1", "p is {p}; expected 0 <= p <= 1", broken={"p": 1.5}),),
    free=("N",), layout="x", flops="30*N*prod(S)", bound=Bound("elementwise", ulp=1.0),
    vjp={"x": "dropout(gy, keys, p=p)"},
    cases=(
        Case("plain", {"N": 3, "S": (5, 7, 3)}, {"p": 0.3}),
        Case("long", {"N": 2, "S": (1037,)}, {"p": 0.5}),
        Case("one element each", {"N": 5, "S": ()}),
        Case("nothing dropped", {"N": 2, "S": (33,)}, {"p": 0.0}),
        Case("everything dropped", {"N": 2, "S": (33,)}, {"p": 1.0}),
        Case("empty", {"N": 0, "S": (4,)}),
        Case("large", {"N": 2, "S": (320, 64, 64)}, bench=True),
    ),
    source="Srivastava et al., JMLR 15 (2014)",
)  # fmt: skip


_relu, _sigmoid, _tanh, _silu, _exp, _log, _sqrt, _erf = map(Operator, (RELU, SIGMOID, TANH, SILU, EXP, LOG, SQRT, ERF))
_leaky_relu, _gelu, _dropout = map(Operator, (LEAKY_RELU, GELU, DROPOUT))
for _contract in (RELU_GRAD, LEAKY_RELU_GRAD, SIGMOID_GRAD, TANH_GRAD, SILU_GRAD, GELU_GRAD):
    Operator(_contract)
_softmax_operator, _log_softmax_operator = Operator(SOFTMAX, _plain_dim), Operator(LOG_SOFTMAX, _plain_dim)
for _contract in (SOFTMAX_GRAD, LOG_SOFTMAX_GRAD):
    Operator(_contract, _plain_dim)


def relu(x: Any, *, out: Any = None) -> Any:
    """x where it is positive or NaN, else 0.

    x has any shape, float32 or float64; the result has x's. Raises ContractTypeError for other dtypes. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.relu(np.array([-1.0, 0.5]))
    array([0. , 0.5])
    """
    return _relu.call(x, out)


def leaky_relu(x: Any, negative_slope: float = 0.01, *, out: Any = None) -> Any:
    """x where it is positive, else x * negative_slope (Maas et al., ICML 2013); see relu. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.leaky_relu(np.array([-1.0, 0.5]), 0.1)
    array([-0.1,  0.5])
    """
    return _leaky_relu.call(x, negative_slope, out)


def sigmoid(x: Any, *, out: Any = None) -> Any:
    """1 / (1 + exp(-x)), accurate in both tails; see relu. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.sigmoid(np.array([0.0, np.inf]))
    array([0.5, 1. ])
    """
    return _sigmoid.call(x, out)


def tanh(x: Any, *, out: Any = None) -> Any:
    """Hyperbolic tangent; see relu. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.tanh(np.array([0.0, np.inf]))
    array([0., 1.])
    """
    return _tanh.call(x, out)


def silu(x: Any, *, out: Any = None) -> Any:
    """x * sigmoid(x) (Elfwing et al., arXiv 1702.03118); 0 at -inf; see relu. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.silu(np.array([0.0, np.inf]))
    array([ 0., inf])
    """
    return _silu.call(x, out)


def gelu(x: Any, approximate: Literal["none", "tanh"] = "none", *, out: Any = None) -> Any:
    """x times the cumulative normal distribution at x (Hendrycks and Gimpel, arXiv 1606.08415); see relu. Stable.

    ``approximate="tanh"`` is their x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2. Both are 0 at -inf. Raises
    ContractError for another ``approximate``.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.gelu(np.array([0.0, 1.0])).round(4)
    array([0.    , 0.8413])
    """
    return _gelu.call(x, approximate, out)


def exp(x: Any, *, out: Any = None) -> Any:
    """Exponential function; see relu. Provisional.

    >>> import numpy as np
    >>> from mmkernels.ops.activation import exp
    >>> exp(np.array([0.0, -np.inf]))
    array([1., 0.])
    """
    return _exp.call(x, out)


def log(x: Any, *, out: Any = None) -> Any:
    """Natural logarithm: -inf at 0, NaN below; see relu. Provisional.

    >>> import numpy as np
    >>> from mmkernels.ops.activation import log
    >>> log(np.array([1.0, 0.0]))
    array([  0., -inf])
    """
    return _log.call(x, out)


def sqrt(x: Any, *, out: Any = None) -> Any:
    """Square root, correctly rounded: NaN below 0; see relu. Provisional.

    >>> import numpy as np
    >>> from mmkernels.ops.activation import sqrt
    >>> sqrt(np.array([4.0, 2.25]))
    array([2. , 1.5])
    """
    return _sqrt.call(x, out)


def erf(x: Any, *, out: Any = None) -> Any:
    """Error function; see relu. Provisional.

    >>> import numpy as np
    >>> from mmkernels.ops.activation import erf
    >>> erf(np.array([0.0, np.inf]))
    array([0., 1.])
    """
    return _erf.call(x, out)


def softmax(x: Any, dim: int, *, out: Any = None) -> Any:
    """exp(x - max) / sum(exp(x - max)) along the axis ``dim``, which may count from the back.

    x has any shape of one extent or more, float32 or float64; the result has x's. A row of -inf gives NaN, as does one
    that holds a NaN or +inf. Raises ContractError for an axis that x does not have. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.softmax(np.array([[0.0, 0.0], [0.0, -np.inf]]), dim=-1)
    array([[0.5, 0.5],
           [1. , 0. ]])
    """
    return _softmax_operator.call(x, dim, out)


def log_softmax(x: Any, dim: int, *, out: Any = None) -> Any:
    """x - max - log(sum(exp(x - max))) along the axis ``dim``; see softmax. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.log_softmax(np.array([0.0, -np.inf]), dim=0)
    array([  0., -inf])
    """
    return _log_softmax_operator.call(x, dim, out)


def dropout(x: Any, p: float = 0.5, training: bool = True, *, seed: int | Sequence[int], out: Any = None) -> Any:
    """x / (1 - p) with probability 1 - p, else 0, for each element; x itself, copied, if not ``training``.

    x is (N, ...), float32 or float64. Element i of sample n depends on the sample's key and i alone: ``seed`` is one
    int, from which N keys are folded, or N keys. The gradient drops what the result dropped. Raises ContractError for
    p outside [0, 1]. Source: Srivastava et al., JMLR 15 (2014). Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> float(mmk.dropout(np.ones((2, 5)), 0.5, seed=1).max())
    2.0
    >>> mmk.dropout(np.ones(3), training=False, seed=1)
    array([1., 1., 1.])
    """
    shape: Any = getattr(x, "shape", ())
    like = x if arrays.library_of(x) else None  # what is no array, the operator refuses
    keys = keys_for(seed, int(shape[0]) if len(shape) else 0, like, "dropout")
    return _dropout.call(x, keys, p if training else 0.0, out)
