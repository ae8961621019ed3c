"""Pooling: the maximum or the mean of each window of a plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..contract import Arg, Attr, Bound, Case, Contract, Out, Require
from ..operator import Operator
from .pool_adaptive import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
)  # fmt: skip
from .pool_lp import lp_pool1d, lp_pool2d, lp_pool3d
from .pool_stochastic import stochastic_pool1d, stochastic_pool2d, stochastic_pool3d
from .pool_unpool import max_unpool1d, max_unpool2d, max_unpool3d
from .pool_volumes import avg_pool1d, avg_pool3d, max_pool1d, max_pool3d
from .pool_windows import (
    CEIL,
    COUNT,
    DIVISOR,
    END,
    GEOMETRY,
    counted,
    fits,
    limits,
    plain_windows,
    plane,
    windowed,
    windows,
    windows_of,
)  # fmt: skip

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "lp_pool1d", "lp_pool2d", "lp_pool3d",
    "max_pool1d", "max_pool2d", "max_pool3d", "max_unpool1d", "max_unpool2d", "max_unpool3d", "stochastic_pool1d",
    "stochastic_pool2d", "stochastic_pool3d",
]  # fmt: skip

_GEOMETRY = windows_of(2)
_KERNEL, _STRIDE, _PADDING, _DILATION = (_GEOMETRY[n] for n in ("kernel", "stride", "padding", "dilation"))
_PLANE, _IN_PLANE = plane(("height", "width"), "gx")


MAX_POOL2D = Contract(
    "max_pool2d", "The first maximum, or the first NaN, of each window; on request, where it was.",
    inputs=(Arg("x", "N C H W"),),
    attributes=(
        _KERNEL, _STRIDE, _PADDING, _DILATION, CEIL, Attr("return_indices", "bool", False), END,
    ),
    lets=windows(2),
    requires=(*limits(2), fits(2)),
    outputs=(
        Out("y", "N C P Q"),
        Out("indices", "N C P Q", "int64", when="return_indices", doc="h * W + w inside the plane; -1: no element"),
    ),
    free=("N", "C"), layout="x", flops="N * C * P * Q * prod(kernel)", bound=Bound("exact"),
    vjp={"x": "max_pool2d_grad(gy, indices, height=H, width=W)"},
    composition=f"max_pool2d(x, {GEOMETRY}, return_indices=True)[0]", composed_when="not return_indices",
    cases=(
        Case("3x3 stride 2", {"N": 2, "C": 3, "H": 11, "W": 14}, windowed((3, 3), (2, 2), (1, 1))),
        Case("2x2 with indices", {"N": 1, "C": 20, "H": 6, "W": 37}, windowed((2, 2), (2, 2), return_indices=True)),
        Case(
            "ceil, dilation, indices", {"N": 2, "C": 17, "H": 9, "W": 12},
            windowed((3, 2), (2, 3), (1, 1), dilation=(1, 2), ceil_mode=True, return_indices=True),
        ),
        Case("stride 1", {"N": 1, "C": 2, "H": 7, "W": 40}, windowed((3, 5), (1, 1), (1, 2))),
        Case("global", {"N": 3, "C": 5, "H": 4, "W": 4}, windowed((4, 4), (4, 4))),
        Case(
            "other padding behind", {"N": 1, "C": 3, "H": 6, "W": 19},
            windowed((3, 3), (2, 1), (2, 0), padding_end=(0, 2), return_indices=True),
        ),
        Case("no samples", {"N": 0, "C": 3, "H": 4, "W": 4}, windowed((2, 2), (2, 2))),
        Case("no plane", {"N": 1, "C": 2, "H": 0, "W": 3}, windowed((2, 2), (2, 2), (1, 1), return_indices=True)),
        Case("ResNet-50 stem", {"N": 1, "C": 64, "H": 112, "W": 112}, windowed((3, 3), (2, 2), (1, 1)), bench=True),
        Case(
            "ResNet-50 stem, indices", {"N": 1, "C": 64, "H": 112, "W": 112},
            windowed((3, 3), (2, 2), (1, 1), return_indices=True), bench=True,
        ),
        Case("VGG-16", {"N": 1, "C": 64, "H": 224, "W": 224}, windowed((2, 2), (2, 2)), bench=True),
    ),
    source="LeCun et al., Proc. IEEE 86 (1998); Boureau et al., ICML 2010; ceil_mode and indices as in torch.nn",
)  # fmt: skip

_SCATTER_CASES: tuple[tuple[str, dict[str, int], int, int], ...] = (
    ("odd", {"N": 2, "C": 3, "P": 5, "Q": 7}, 9, 14),
    ("many windows for few elements", {"N": 1, "C": 2, "P": 9, "Q": 8}, 2, 3),
    ("no windows", {"N": 2, "C": 3, "P": 0, "Q": 4}, 3, 3),
    ("no samples", {"N": 0, "C": 3, "P": 2, "Q": 2}, 4, 4),
    ("no elements", {"N": 1, "C": 2, "P": 2, "Q": 2}, 0, 3),
)
MAX_POOL2D_GRAD = Contract(
    "max_pool2d_grad", "Each window's gradient, added to the element that it chose.",
    inputs=(
        Arg("gy", "N C P Q"),
        Arg("indices", "N C P Q", "int64", values=("-1", "height * width"), doc="as max_pool2d returns them"),
    ),
    attributes=_PLANE,
    requires=_IN_PLANE,
    outputs=(Out("gx", "N C height width"),),
    free=("N", "C"), layout="gy", flops="N * C * P * Q", bound=Bound("chain", depth="P * Q"),
    vjp={"gy": "max_pool2d_gather(ggx, indices)", "indices": "None"},
    cases=(
        *(Case(name, e, {"height": h, "width": w}) for name, e, h, w in _SCATTER_CASES),
        Case("ResNet-50 stem", {"N": 1, "C": 64, "P": 56, "Q": 56}, {"height": 112, "width": 112}, bench=True),
    ),
)  # fmt: skip
MAX_POOL2D_GATHER = Contract(
    "max_pool2d_gather", "The elements that the windows chose.",
    inputs=(
        Arg("ggx", "N C H W"),
        Arg("indices", "N C P Q", "int64", values=("-1", "H * W"), doc="as max_pool2d returns them"),
    ),
    outputs=(Out("y", "N C P Q"),),
    free=("N", "C"), layout="ggx", bound=Bound("exact"),
    vjp={"ggx": "max_pool2d_grad(gy, indices, height=H, width=W)", "indices": "None"},
    cases=tuple(Case(name, {**e, "H": h, "W": w}) for name, e, h, w in _SCATTER_CASES),
)  # fmt: skip

_AVG = "kernel=kernel, stride=stride, padding=padding, ceil_mode=ceil_mode"
_AVG_DIVISOR = "count_include_pad=count_include_pad, divisor_override=divisor_override"
_AVG_MORE = "dilation=dilation, padding_end=padding_end"
_AVG_CASES: tuple[tuple[str, dict[str, int], tuple[int, int], tuple[int, int], dict[str, Any]], ...] = (
    ("2x2", {"N": 2, "C": 3}, (11, 14), (5, 7), windowed((2, 2), (2, 2))),
    ("3x3 padded", {"N": 1, "C": 19}, (7, 37), (7, 37), windowed((3, 3), (1, 1), (1, 1), count_include_pad=False)),
    ("overhang", {"N": 2, "C": 17}, (9, 12), (5, 5), windowed((3, 4), (2, 3), (1, 2), ceil_mode=True)),
    ("divisor", {"N": 1, "C": 2}, (6, 40), (3, 18), windowed((2, 5), (2, 2), divisor_override=-3)),
    ("gaps", {"N": 1, "C": 2}, (10, 11), (3, 3), windowed((2, 1), (4, 5))),
    ("global", {"N": 3, "C": 5}, (7, 7), (1, 1), windowed((7, 7), (7, 7))),
    ("no samples", {"N": 0, "C": 3}, (4, 4), (2, 2), windowed((2, 2), (2, 2))),
    ("no plane", {"N": 1, "C": 2}, (3, 0), (2, 1), windowed((2, 2), (2, 2), (1, 1), count_include_pad=False)),
)
AVG_POOL2D = Contract(
    "avg_pool2d", "The mean of each window.",
    inputs=(Arg("x", "N C H W"),),
    attributes=(_KERNEL, _STRIDE, _PADDING, CEIL, COUNT, DIVISOR, _DILATION, END),
    lets=windows(2), requires=(*limits(2), fits(2)),
    outputs=(Out("y", "N C P Q"),),
    free=("N", "C"), layout="x", flops="N * C * P * Q * prod(kernel)", bound=Bound("chain", depth="prod(kernel)"),
    vjp={
        "x": f"avg_pool2d_grad(gy, height=H, width=W, {_AVG}, {_AVG_DIVISOR}) "
        "if dilation == (1, 1) and padding_end == () "
        f"else avg_pool_grad(gy, size=(H, W), {_AVG}, {_AVG_DIVISOR}, {_AVG_MORE})"
    },
    cases=(
        *(Case(name, {**e, "H": h, "W": w}, a) for name, e, (h, w), _, a in _AVG_CASES),
        Case(
            "dilation, other padding behind", {"N": 1, "C": 17, "H": 8, "W": 11},
            windowed((3, 2), (2, 1), (4, 0), dilation=(2, 3), padding_end=(1, 3), ceil_mode=True),
        ),
        Case("2x2 of 56", {"N": 1, "C": 256, "H": 56, "W": 56}, windowed((2, 2), (2, 2)), bench=True),
        Case("3x3 of 35", {"N": 1, "C": 288, "H": 35, "W": 35}, windowed((3, 3), (1, 1), (1, 1)), bench=True),
    ),
    source="LeCun et al., Proc. IEEE 86 (1998), II.B; divisors as in torch.nn.AvgPool2d",
)  # fmt: skip
AVG_POOL2D_GRAD = Contract(
    "avg_pool2d_grad", "Each window's gradient, shared among what it saw.",
    inputs=(Arg("gy", "N C P Q"),),
    attributes=(*_PLANE, _KERNEL, _STRIDE, _PADDING, CEIL, COUNT, DIVISOR),
    lets=counted(("height", "width"), "PQ", "padding", ""),
    requires=(
        *_IN_PLANE, *limits(2, plain=True),
        Require(
            "P == P_windows and Q == Q_windows",
            "gy has {P} x {Q} windows; expected {P_windows} x {Q_windows}",
            {"width": 40},
        ),
    ),
    outputs=(Out("gx", "N C height width"),),
    free=("N", "C"), layout="gy", flops="N * C * height * width * prod(kernel) / prod(stride)",
    bound=Bound("chain", depth="prod(kernel)"),
    vjp={"gy": f"avg_pool2d(ggx, {_AVG}, {_AVG_DIVISOR})"},
    cases=(
        *(
            Case(name, {**e, "P": p, "Q": q}, {"height": h, "width": w, **a})
            for name, e, (h, w), (p, q), a in _AVG_CASES
        ),
        Case(
            "2x2 of 56", {"N": 1, "C": 256, "P": 28, "Q": 28},
            {"height": 56, "width": 56, **windowed((2, 2), (2, 2))}, bench=True,
        ),
    ),
)  # fmt: skip


_max_pool2d, _avg_pool2d = (Operator(c, plain_windows(2)) for c in (MAX_POOL2D, AVG_POOL2D))
for _contract in (AVG_POOL2D_GRAD, MAX_POOL2D_GRAD, MAX_POOL2D_GATHER):
    Operator(_contract)


def max_pool2d(
    x: Any,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] | Sequence[tuple[int, int]] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    out: Any = None,
) -> Any:
    """The maximum of each window: (N, C, H, W) to (N, C, P, Q), float32 or float64.

    Windows lie ``stride`` apart (None: kernel_size), between ``padding`` pixels that take no part; their taps are
    ``dilation`` apart; P = (H + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1. With ``ceil_mode`` the
    division rounds up, but the last window must start inside the plane or the padding before it. The first maximum
    in scan order wins, and the first NaN wins over everything. With ``return_indices`` the result is (y, indices):
    int64, h * W + w inside the plane, -1 for a dilated window that meets no element (y is -inf there).

    ``padding`` may also be pairs, ((top, bottom), (left, right)); each may then be all that a window spans but one.

    Raises ContractError if padding is more than half of kernel_size, a number is out of range, or no window fits;
    ContractTypeError for other dtypes. Gradients of any order. Stable.

    Source: Boureau et al., "A Theoretical Analysis of Feature Pooling in Visual Recognition", ICML 2010; the rules
    are those of torch.nn.MaxPool2d.

    >>> import numpy as np, mmkernels as mmk
    >>> y, indices = mmk.max_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2, return_indices=True)
    >>> y[0, 0].tolist(), indices[0, 0].tolist()
    ([[5.0, 7.0], [13.0, 15.0]], [[5, 7], [13, 15]])
    """
    return _max_pool2d.call(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, (), out)


def avg_pool2d(
    x: Any,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] | Sequence[tuple[int, int]] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: int | Sequence[int] = 1,
    out: Any = None,
) -> Any:
    """The mean of each window: (N, C, H, W) to (N, C, P, Q), float32 or float64.

    Windows are max_pool2d's. The row-major sum of what a window sees is divided by its size, padding
    included; what overhangs the padding in ``ceil_mode`` does not count. ``count_include_pad=False`` counts elements
    alone; ``divisor_override`` replaces the divisor.

    Raises ContractError if padding is more than half of kernel_size, a number is out of range, or no window fits;
    ContractTypeError for other dtypes. Gradients of any order. Stable.

    Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 86 (1998), II.B; the
    rules are those of torch.nn.AvgPool2d.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    divisor = 0 if divisor_override is None else divisor_override
    return _avg_pool2d.call(
        x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor, dilation, (), out
    )  # fmt: skip
