"""Activations that know which channel an element is of: prelu and local response normalisation."""

from __future__ import annotations

from typing import Any

from .. import arrays
from ..contract import Arg, Attr, Bound, Case, Contract, Out, Require
from ..errors import ContractError
from ..operator import Operator

__all__ = ["local_response_norm", "prelu"]

_LETS = {"M": "N * prod(S)"}
_PRELU_CASES = (
    Case("plain", {"N": 2, "C": 5, "S": (5, 7)}),
    Case("one slope", {"N": 2, "C": 6, "S": (4, 8), "weight": (1,)}),
    Case("no spatial extent", {"N": 8, "C": 37, "S": ()}),
    Case("several segments", {"N": 3, "C": 2, "S": (31, 35)}),
    Case("many samples", {"N": 150, "C": 19, "S": (2,)}),
    Case("empty", {"N": 2, "C": 3, "S": (0, 4)}),
    Case("large", {"N": 8, "C": 64, "S": (56, 56)}, bench=True),
)
PRELU = Contract(
    "prelu", "x > 0 ? x : x * weight, a slope for each channel.",
    inputs=(Arg("x", "N C *S"), Arg("weight", "C", broadcast=("C",))), outputs=(Out("y", "N C *S"),),
    free=("N", "C"), layout="x", flops="N*C*prod(S)", bound=Bound("elementwise", ulp=0.5),
    vjp={"x weight": "prelu_grad(x, gy, weight)"}, cases=_PRELU_CASES, source="He et al., arXiv 1502.01852",
)  # fmt: skip


def _prelu_grad_unfused(o: Any) -> Any:
    weight, positive = o.reshape(o.weight, (-1, *(1 for _ in o.S))), o.greater(o.x, 0.0)
    products = o.where(positive, 0.0, o.mul(o.x, o.gy))
    gx = o.where(positive, o.gy, o.mul(o.gy, weight))
    return gx, o.sum(products, dims=(0, *range(2, 2 + len(o.S))))


PRELU_GRAD = Contract(
    "prelu_grad", "Gradients of prelu, that of the slopes for each channel, also where one slope serves all.",
    inputs=(Arg("x", "N C *S"), Arg("gy", "N C *S"), Arg("weight", "C", broadcast=("C",))), lets=_LETS,
    outputs=(Out("gx", "N C *S"), Out("gweight", "C")),
    layout="x", flops="3*N*C*prod(S)", bound=Bound("prelu_grad", depth="M"), composition=_prelu_grad_unfused,
    cases=_PRELU_CASES,
)  # fmt: skip

_RESPONSE = (
    Attr("size", "int", doc="how many neighbouring channels take part"),
    Attr("alpha", "float", 1e-4, doc="the factor of their mean square"),
    Attr("beta", "float", 0.75, doc="the exponent"), Attr("k", "float", 1.0, doc="what is added to the mean square"),
)  # fmt: skip
_RESPONSE_REQUIRES = (
    Require("size >= 1", "size is {size}; expected 1 or more", broken={"size": 0}),
    Require("len(S) >= 1", "x has 2 extents; expected N, C and 1 or more", broken={"S": ()}),
)
_RESPONSE_CASES = (
    Case("AlexNet", {"N": 2, "C": 12, "S": (5, 7)}, {"size": 5, "alpha": 0.02, "k": 2.0}),
    Case("even, square root", {"N": 1, "C": 9, "S": (37,)}, {"size": 4, "alpha": 0.5, "beta": 0.5}),
    Case("more than the channels", {"N": 2, "C": 3, "S": (2, 3, 3)}, {"size": 9, "alpha": 1.0, "beta": 1.0}),
    Case("another power", {"N": 1, "C": 6, "S": (4, 9)}, {"size": 3, "alpha": 0.5, "beta": 0.6, "k": 1.5}),
    Case("one channel", {"N": 1, "C": 5, "S": (3,)}, {"size": 1, "alpha": 1.0}),
    Case("empty", {"N": 2, "C": 3, "S": (0, 4)}, {"size": 5}),
    Case("large", {"N": 8, "C": 96, "S": (55, 55)}, {"size": 5, "k": 2.0}, bench=True),
)
_SAME = "size=size, alpha=alpha, beta=beta, k=k"
LOCAL_RESPONSE_NORM = Contract(
    "local_response_norm", "x / (k + alpha * mean of x^2 over neighbouring channels)^beta.",
    inputs=(Arg("x", "N C *S"),), attributes=_RESPONSE, outputs=(Out("y", "N C *S"),), requires=_RESPONSE_REQUIRES,
    free=("N", "S"), layout="x", flops="(2*size+8)*N*C*prod(S)", bound=Bound("local_response_norm", depth="size"),
    vjp={"x": f"local_response_norm_grad(x, gy, {_SAME})"}, cases=_RESPONSE_CASES,
    source="Krizhevsky, Sutskever and Hinton, ImageNet classification with deep convolutional networks, NIPS 2012",
)  # fmt: skip


def _window(o: Any, v: Any, before: int, after: int) -> Any:
    """The sum over channels c - before .. c + after."""
    padded = o.pad(v, [(0, 0), (before, after), *((0, 0) for _ in o.S)])
    total = o.slice_of(padded, 1, 0, o.C)
    for j in range(1, before + after + 1):
        total = o.add(total, o.slice_of(padded, 1, j, j + o.C))
    return total


def _response_grad_unfused(o: Any) -> Any:
    half, rest = o.size // 2, (o.size - 1) // 2
    base = o.add(o.mul(_window(o, o.mul(o.x, o.x), half, rest), o.alpha / o.size), o.k)
    power = o.exp(o.mul(o.log(base), o.beta))
    terms = o.div(o.div(o.mul(o.gy, o.x), power), base)
    others = o.mul(_window(o, terms, rest, half), 2 * o.alpha * o.beta / o.size)
    return o.sub(o.div(o.gy, power), o.mul(o.x, others))


LOCAL_RESPONSE_NORM_GRAD = Contract(
    "local_response_norm_grad", "Gradient of local_response_norm.",
    inputs=(Arg("x", "N C *S"), Arg("gy", "N C *S")), attributes=_RESPONSE, outputs=(Out("gx", "N C *S"),),
    requires=_RESPONSE_REQUIRES, free=("N", "S"), layout="x", flops="(3*size+14)*N*C*prod(S)",
    bound=Bound("local_response_norm_grad", depth="size"), composition=_response_grad_unfused, cases=_RESPONSE_CASES,
)  # fmt: skip

_prelu, _prelu_grad = Operator(PRELU), Operator(PRELU_GRAD)
_response, _response_grad = Operator(LOCAL_RESPONSE_NORM), Operator(LOCAL_RESPONSE_NORM_GRAD)


def prelu(x: Any, weight: Any, *, out: Any = None) -> Any:
    """x where it is positive, else x * weight (He et al., arXiv 1502.01852).

    x is (N, C, ...), weight (C,), or (1,) for all channels; with fewer extents than two, x takes one weight alone. Both
    of one float dtype. Raises ContractError if shapes disagree, ContractTypeError for other dtypes. Gradients of any
    order; the weight's is a sum over all elements of a channel. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.prelu(np.array([[-1.0, -1.0, 2.0]]), np.array([0.5, 0.25, 0.0]))
    array([[-0.5 , -0.25,  2.  ]])
    """
    if arrays.library_of(x) and len(x.shape) < 2:
        if arrays.library_of(weight) and arrays.shape_of(weight) != (1,):
            raise ContractError(
                f"prelu: weight.shape is {arrays.shape_of(weight)}; expected (1,), as x has no channels"
            )
        shape = arrays.shape_of(x)
        wide = _prelu.call(arrays.reshape(x, (1, 1, -1)), weight, None if out is None else out.reshape((1, 1, -1)))
        return out if out is not None else arrays.reshape(wide, shape)
    return _prelu.call(x, weight, out)


def local_response_norm(
    x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *, out: Any = None
) -> Any:
    """Divides by a power of the mean square of neighbouring channels (Krizhevsky et al., NIPS 2012).

    The result is ``x / (k + alpha * m)^beta``, m being the sum of x^2 over channels c - size // 2 to
    c + (size - 1) // 2 divided by size; channels that do not exist count as 0. x is (N, C, ...) with one or more
    extents behind C, of a float dtype. Raises ContractError for fewer extents or a size below 1, ContractTypeError for
    other dtypes. Gradients of any order. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.local_response_norm(np.array([[[3.0], [4.0]]]), 2, alpha=2.0, beta=0.5, k=0.0).round(4)
    array([[[1. ],
            [0.8]]])
    """
    return _response.call(x, size, alpha, beta, k, out)
