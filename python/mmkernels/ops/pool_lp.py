"""Lp pooling: the p-norm of each window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arrays import zeros_like
from ..contract import Arg, Attr, Bound, Case, Contract, Out, Require
from ..operator import Operator
from .pool_windows import CEIL, END, GEOMETRY, axes, fits, geometry_of, limits, plain_windows, windowed, windows

__all__ = ["lp_pool1d", "lp_pool2d", "lp_pool3d"]

Size = int | Sequence[int]
_NORM = Attr("norm_type", "float", 2.0, doc="p: 1, 2, infinity or any other positive number")
_POSITIVE = Require("norm_type > 0", "norm_type is {norm_type}; expected a positive number", {"norm_type": 0.0})


def _maximum(rank: int) -> str:
    """|x| as relu(x) + relu(-x); a window's gradient goes to its first maximum."""
    return f"max_pool{rank}d(add(relu(x), relu(mul(x, -1.0))), {GEOMETRY})"


def _lp_pool(rank: int, cases: tuple[Case, ...]) -> Contract:
    extents, counts = axes[rank]
    return Contract(
        f"lp_pool{rank}d", "The p-norm of each window: (sum of |x|^p)^(1/p).",
        inputs=(Arg("x", f"N C {' '.join(extents)}"),), attributes=(_NORM, *geometry_of(rank)),
        lets=windows(rank), requires=(_POSITIVE, *limits(rank), fits(rank)),
        outputs=(Out("y", f"N C {' '.join(counts)}"),),
        free=("N", "C"), layout="x", flops=f"2 * N * C * {' * '.join(counts)} * prod(kernel)",
        bound=Bound("lp_norm", depth="prod(kernel)"),
        vjp={"x": f"lp_pool_grad(gy, x, y, norm_type=norm_type, {GEOMETRY})"},
        composition=_maximum(rank), composed_when="norm_type > 1e308", cases=cases,
        source="Boureau et al., ICML 2010; Sermanet et al., ICPR 2012 (arXiv 1204.3968)",
    )  # fmt: skip


_LINE, _VOLUME = {"N": 2, "C": 3, "W": 37}, {"N": 2, "C": 3, "D": 4, "H": 5, "W": 6}
_PLANE = {"N": 2, "C": 3, "H": 9, "W": 10}
LP_POOL1D = _lp_pool(1, (
    Case("p = 2", _LINE, windowed((3,), (2,), (1,))),
    Case("p = 1, dilation", _LINE, windowed((2,), (3,), norm_type=1.0, dilation=(4,), ceil_mode=True)),
))  # fmt: skip
LP_POOL2D = _lp_pool(2, (
    Case("p = 2", _PLANE, windowed((2, 2), (2, 2))),
    Case("p = 1, overlap", {"N": 1, "C": 18, "H": 6, "W": 7}, windowed((3, 3), (1, 2), (1, 1), norm_type=1.0)),
    Case("p = 3, dilation, padding behind", {"N": 1, "C": 17, "H": 6, "W": 7}, windowed(
        (3, 2), (2, 1), (0, 2), norm_type=3.0, dilation=(1, 3), padding_end=(2, 1), ceil_mode=True)),
    Case("p = 1.5, global", {"N": 3, "C": 2, "H": 4, "W": 4}, windowed((4, 4), (4, 4), norm_type=1.5)),
    Case("p infinite", _PLANE, windowed((3, 3), (2, 2), (1, 1), norm_type=float("inf"))),
    Case("no samples", {"N": 0, "C": 3, "H": 4, "W": 4}, windowed((2, 2), (2, 2))),
    Case("2x2 of 56", {"N": 1, "C": 256, "H": 56, "W": 56}, windowed((2, 2), (2, 2)), bench=True),
))  # fmt: skip
LP_POOL3D = _lp_pool(3, (
    Case("p = 2", _VOLUME, windowed((2, 2, 2), (2, 2, 2))),
    Case("p = 4, ceil", _VOLUME, windowed((2, 3, 2), (2, 2, 3), norm_type=4.0, ceil_mode=True)),
))  # fmt: skip


def _gradient(o: Any) -> Any:
    """sign(x) |x|^(p - 1) times the sum over the windows of gy y^(1 - p): gradients of gradients come from this form,
    the kernel's quotients |x| / y neither overflow nor underflow."""

    def some(magnitude: Any) -> tuple[Any, Any]:  # 1 where it is not 0, else 0; itself, 1 in place of 0
        mask = o.relu_grad(magnitude, o.add(zeros_like(magnitude), 1.0))
        return mask, o.add(magnitude, o.sub(1.0, mask))

    def power(magnitude: Any, exponent: float) -> Any:  # 0 to any power is 0
        mask, safe = some(magnitude)
        return o.mul(mask, o.exp(o.mul(o.log(safe), exponent)))

    x, y, p = o.x, o.y, o.norm_type
    ones = o.add(zeros_like(x), 1.0)
    sign = o.sub(o.relu_grad(x, ones), o.relu_grad(o.mul(x, -1.0), ones))
    if p == 1:
        slope, share = sign, o.gy
    elif p == 2:
        mask, safe = some(y)
        slope, share = x, o.div(o.mul(o.gy, mask), safe)
    else:
        slope = o.mul(sign, power(o.add(o.relu(x), o.relu(o.mul(x, -1.0))), p - 1))
        share = o.mul(o.gy, power(y, 1 - p))
    sums = o.avg_pool_grad(
        share, size=o.S, kernel=o.kernel, stride=o.stride, padding=o.padding, dilation=o.dilation,
        ceil_mode=o.ceil_mode, padding_end=o.padding_end, divisor_override=1,
    )  # fmt: skip
    return o.mul(slope, sums)


def _grad_case(name: str, channels: int, size: tuple[int, ...], outputs: tuple[int, ...], a: dict[str, Any]) -> Case:
    full = {"dilation": (1,) * len(size), **a}
    return Case(name, {"N": 2, "C": channels, "S": size, "P": outputs}, full)


LP_POOL_GRAD = Contract(
    "lp_pool_grad", "gy times sign(x) (|x| / y)^(p - 1), from every window: one, two or three axes.",
    inputs=(
        Arg("gy", "N C *P"), Arg("x", "N C *S"), Arg("y", "N C *P", domain="positive", doc="as lp_pool returns it"),
    ),
    attributes=(
        _NORM, *(Attr(n, "ints") for n in ("kernel", "stride", "padding")), CEIL, Attr("dilation", "ints"), END,
    ),
    lets={"padding_after": "padding_end if len(padding_end) > 0 else padding"},
    requires=(
        Require("0 < norm_type < 1e308", "norm_type is {norm_type}; expected a positive, finite number",
                {"norm_type": -1.0}),
        Require("len(S) == len(P) and 1 <= len(P) <= 3", "x has {S} elements and gy {P} windows; expected one, two or "
                "three axes of both", {"S": (4,)}),
        *(Require(f"len({n}) == len(P)", f"{n} is {{{n}}}; expected one number for each of {{P}}", {n: (1,) * 5})
          for n in ("kernel", "stride", "padding", "dilation")),
        Require("len(padding_end) in (0, len(P))",
                "padding_end is {padding_end}; expected one number for each of {P} or none", {"padding_end": (1,) * 5}),
        Require("min(padding) >= 0 and min(padding_after) >= 0", "padding is {padding}; expected numbers of at least 0",
                {"padding": (-1, 0)}),
        *(Require(f"min({n}) >= 1 and max({n}) < 2147483648", f"{n} is {{{n}}}; expected numbers from 1 to 2147483647",
                  {n: (0, 1)}) for n in ("kernel", "stride", "dilation")),
    ),
    outputs=(Out("gx", "N C *S"),),
    free=("N", "C"), layout="x", flops="3 * N * C * prod(P) * prod(kernel)",
    bound=Bound("lp_norm_grad", depth="prod(kernel)"), composition=_gradient,
    cases=(
        _grad_case("p = 2", 3, (9, 10), (4, 5), windowed((2, 2), (2, 2))),
        _grad_case("p = 2, overlap", 17, (5, 6), (5, 3), windowed((3, 3), (1, 2), (1, 1))),
        _grad_case("p = 1", 3, (6, 7), (2, 3), windowed((3, 2), (2, 2), norm_type=1.0)),
        _grad_case("p = 3, line", 3, (20,), (9,), windowed((3,), (2,), norm_type=3.0)),
        _grad_case("p = 1.5, volume, dilation", 2, (4, 3, 5), (2, 3, 2), windowed(
            (2, 1, 2), (1, 1, 2), dilation=(2, 1, 2), norm_type=1.5)),
    ),
)  # fmt: skip

_lp1, _lp2, _lp3 = (Operator(c, plain_windows(r)) for r, c in ((1, LP_POOL1D), (2, LP_POOL2D), (3, LP_POOL3D)))
Operator(LP_POOL_GRAD)


def lp_pool1d(
    x: Any, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False, *,
    padding: Any = 0, dilation: Size = 1, out: Any = None,
) -> Any:  # fmt: skip
    """The p-norm of each window of a line: (N, C, W) to (N, C, Q); see lp_pool2d. Stable.

    >>> import numpy as np
    >>> from mmkernels.ops.pool import lp_pool1d
    >>> lp_pool1d(np.array([[[3.0, -4.0, 0.0, 2.0]]]), 2, 2)
    array([[[5., 2.]]])
    """
    return _lp1.call(x, norm_type, kernel_size, stride, padding, ceil_mode, dilation, (), out)


def lp_pool2d(
    x: Any, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False, *,
    padding: Any = 0, dilation: Size = 1, out: Any = None,
) -> Any:  # fmt: skip
    """The p-norm of each window, (sum of abs(x)^p)^(1/p): (N, C, H, W) to (N, C, P, Q), any float dtype.

    Windows are max_pool2d's. ``norm_type`` is p: 1 (the sum of absolute values), 2 (L2-norm pooling), infinity (the
    maximum of absolute values) or any other positive number. Padding is 0, and a window that overhangs in
    ``ceil_mode`` is not scaled up. Powers are not scaled: abs(x)^p has to be a number of the dtype. An element that
    is 0 has the gradient 0, as has a window whose norm is 0.

    Raises ContractError for p <= 0 and where max_pool2d does; ContractTypeError for other dtypes. Gradients of any
    order. Stable.

    Source: Boureau et al., "A Theoretical Analysis of Feature Pooling in Visual Recognition", ICML 2010; Sermanet et
    al., "Convolutional Neural Networks Applied to House Numbers Digit Classification", ICPR 2012, section 2.2.

    >>> import numpy as np
    >>> from mmkernels.ops.pool import lp_pool2d
    >>> x = np.array([[[[3.0, -4.0], [0.0, 12.0]]]])
    >>> [lp_pool2d(x, p, 2).item() for p in (1, 2, np.inf)]
    [19.0, 13.0, 12.0]
    """
    return _lp2.call(x, norm_type, kernel_size, stride, padding, ceil_mode, dilation, (), out)


def lp_pool3d(
    x: Any, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False, *,
    padding: Any = 0, dilation: Size = 1, out: Any = None,
) -> Any:  # fmt: skip
    """The p-norm of each window of a volume: (N, C, D, H, W) to (N, C, O, P, Q); see lp_pool2d. Stable.

    >>> import numpy as np
    >>> from mmkernels.ops.pool import lp_pool3d
    >>> lp_pool3d(np.full((1, 1, 2, 2, 1), -2.0), 2, (2, 2, 1)).item()
    4.0
    """
    return _lp3.call(x, norm_type, kernel_size, stride, padding, ceil_mode, dilation, (), out)
