"""Embeddings: rows of a table by index, and numbers as waves."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..arrays import library_of
from ..contract import FLOATS, Arg, Attr, Bound, Case, Contract, Out, Require
from ..operator import Operator

__all__ = ["embedding", "fourier_features", "sinusoidal_features"]

_TYPES = {"T": FLOATS, "I": ("int32", "int64")}
_ROWS: tuple[tuple[str, tuple[int, ...], int, int], ...] = (
    ("sentences", (3, 7), 11, 5),
    ("wide rows", (40,), 6, 33),
    ("one token", (), 4, 3),
    ("no tokens", (2, 0), 5, 4),
    ("no columns", (3,), 5, 0),
)
EMBEDDING = Contract(
    "embedding", "Rows of a table.",
    inputs=(Arg("indices", "*S", "I", values=("0", "V")), Arg("weight", "V D")),
    outputs=(Out("y", "*S D"),),
    types=_TYPES, free=("S", "D"), bound=Bound("exact"),
    vjp={"indices": "None", "weight": "embedding_grad(indices, gy, rows=V)"},
    cases=(
        *(Case(name, {"S": s, "V": v, "D": d}) for name, s, v, d in _ROWS),
        Case("CLIP", {"S": (8, 77), "V": 49408, "D": 768}, bench=True),
    ),
)  # fmt: skip
EMBEDDING_GRAD = Contract(
    "embedding_grad", "The gradients of the tokens that are a row's, added in token order.",
    inputs=(Arg("indices", "*S", "I", values=("0", "rows")), Arg("gy", "*S D")),
    attributes=(Attr("rows", "int", doc="of the table"),),
    requires=(Require("rows >= 0", "rows is {rows}; expected at least 0", {"rows": -1}),),
    outputs=(Out("gweight", "rows D"),),
    types=_TYPES, free=("D",), flops="prod(S) * D", bound=Bound("chain", depth="prod(S)"),
    vjp={"indices": "None", "gy": "embedding(indices, ggweight)"},
    cases=(
        *(Case(name, {"S": s, "D": d}, {"rows": v}) for name, s, v, d in _ROWS),
        Case("CLIP", {"S": (8, 77), "D": 768}, {"rows": 49408}, bench=True),
    ),
)  # fmt: skip

SINUSOIDAL_FEATURES = Contract(
    "sinusoidal_features", "sin and cos of t at frequencies that fall geometrically from 1 towards 1 / max_period.",
    inputs=(Arg("t", "N"),),
    attributes=(
        Attr("dim", "int", doc="the number of features"),
        Attr("max_period", "float", 10000.0, doc="of the slowest wave, over 2 pi"),
        Attr("order", "choice", "sin-cos", choices=("sin-cos", "cos-sin")),
        Attr("shift", "float", 0.0, doc="1 in DDPM: the slowest frequency is then exactly 1 / max_period"),
    ),
    lets={"half": "dim // 2"},
    requires=(
        Require("dim >= 0", "dim is {dim}; expected at least 0", {"dim": -2}),
        Require("half != shift", "shift is {shift}; expected other than dim // 2", {"dim": 4, "shift": 2.0}),
        Require("abs(shift) < 1e15", "shift is {shift}; expected a finite number", {"shift": 1e30}),
        Require(
            "0 < max_period and max_period < 1e300",
            "max_period is {max_period}; expected a number above 0",
            {"max_period": 0.0},
        ),
    ),
    outputs=(Out("y", "N dim"),),
    free=("N",), flops="N * dim * 20", bound=Bound("elementwise", ulp=2.0), derivatives=0,
    cases=(
        Case("even", {"N": 5}, {"dim": 8}),
        Case("odd, cos first", {"N": 3}, {"dim": 37, "order": "cos-sin", "shift": 1.0}),
        Case("other period", {"N": 4}, {"dim": 66, "max_period": 50.0, "shift": 0.5}),
        Case("no samples", {"N": 0}, {"dim": 6}),
        Case("U-Net", {"N": 64}, {"dim": 320, "order": "cos-sin"}, bench=True),
    ),
    source="Vaswani et al., arXiv 1706.03762, 3.5; Ho et al., arXiv 2006.11239 (shift 1)",
)  # fmt: skip

_TURNED = (  # the gradient of 2 pi t f, for each sample and frequency
    "sub(mul(slice_of(gy, 1, 0, F), slice_of(y, 1, F, 2 * F)), mul(slice_of(gy, 1, F, 2 * F), slice_of(y, 1, 0, F)))"
)
FOURIER_FEATURES = Contract(
    "fourier_features", "sin(2 pi t f) and cos(2 pi t f) for each of the given frequencies.",
    inputs=(Arg("t", "N"), Arg("frequencies", "F")),
    outputs=(Out("y", "N F+F"),),
    free=("N",), flops="N * F * 40", bound=Bound("elementwise", ulp=2.0),
    vjp={
        "t": f"mul(sum(mul({_TURNED}, frequencies), dims=(1,)), {2 * np.pi!r})",
        "frequencies": f"mul(sum(mul({_TURNED}, reshape(t, (N, 1))), dims=(0,)), {2 * np.pi!r})",
    },
    cases=(
        Case("few", {"N": 5, "F": 3}),
        Case("many", {"N": 3, "F": 37}),
        Case("no samples", {"N": 0, "F": 4}),
        Case("no frequencies", {"N": 4, "F": 0}),
        Case("score network", {"N": 64, "F": 128}, bench=True),
    ),
    source="Tancik et al., arXiv 2006.10739",
)  # fmt: skip

_embedding, _embedding_grad = Operator(EMBEDDING), Operator(EMBEDDING_GRAD)
_sinusoidal_features, _fourier_features = Operator(SINUSOIDAL_FEATURES), Operator(FOURIER_FEATURES)


def _as_float(t: Any) -> Any:
    """Integers, such as time steps, as float32; everything else as it is."""
    library = library_of(t)
    if library == "numpy" and t.dtype.kind in "iu":
        return t.astype(np.float32)
    if library == "torch" and not (t.is_floating_point() or t.is_complex()):
        return t.float()
    return t


def embedding(indices: Any, weight: Any, *, out: Any = None) -> Any:
    """Row indices[s] of weight (V, D) for every s: int32 or int64 of any shape to (*shape, D), weight's dtype.

    Raises ContractError for an index outside [0, V), ContractTypeError for other dtypes. The gradient of weight adds
    tokens in their order, so it is the same every time. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.embedding(np.array([2, 0]), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    array([[5., 6.],
           [1., 2.]])
    """
    return _embedding.call(indices, weight, out)


def sinusoidal_features(
    t: Any,
    dim: int,
    *,
    max_period: float = 10000.0,
    order: Literal["sin-cos", "cos-sin"] = "sin-cos",
    shift: float = 0.0,
    out: Any = None,
) -> Any:
    """t (N,), float32, float64 or integers (taken as float32), as sin and cos of t f_i: (N, dim).

    f_i = max_period ** (-i / (dim // 2 - shift)) for i < dim // 2; all sines stand before all cosines, or behind them
    with order "cos-sin"; the last column of an odd dim is 0. In float32 the angle is reduced in double, so the error
    stays about 1 ulp at any time step.

    Raises ContractError if shift is dim // 2 or max_period is not above 0. It has no gradient. Stable.

    Source: Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, section 3.5; Ho et al., "Denoising
    Diffusion Probabilistic Models", arXiv 2006.11239 (shift 1).

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.sinusoidal_features(np.array([0, 10]), 4).round(4)
    array([[ 0.    ,  0.    ,  1.    ,  1.    ],
           [-0.544 ,  0.0998, -0.8391,  0.995 ]], dtype=float32)
    """
    return _sinusoidal_features.call(_as_float(t), dim, max_period, order, shift, out)


def fourier_features(t: Any, frequencies: Any, *, out: Any = None) -> Any:
    """[sin(2 pi t f), cos(2 pi t f)] of t (N,) and frequencies (F,), float32 or float64: (N, 2 F).

    The product t f is exact in float32, so the error stays about 1 ulp however large it is. Gradients of any order
    with respect to both. Integers for t are taken as float32.

    Raises ContractTypeError for other dtypes. Stable.

    Source: Tancik et al., "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains",
    arXiv 2006.10739; Song et al., arXiv 2011.13456, for diffusion times.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.fourier_features(np.array([0.25, 0.5]), np.array([1.0])).round(4) + 0.0
    array([[ 1.,  0.],
           [ 0., -1.]])
    """
    return _fourier_features.call(_as_float(t), frequencies, out)
