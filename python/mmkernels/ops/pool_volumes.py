"""Maximum and average pooling of lines and volumes, and the gradient of any average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..contract import Arg, Attr, Bound, Case, Contract, Out, Require
from ..operator import Operator
from .pool_windows import (
    CEIL,
    COUNT,
    DIVISOR,
    END,
    GEOMETRY,
    axes,
    fits,
    limits,
    plain_windows,
    windowed,
    windows,
    windows_of,
)  # fmt: skip

__all__ = ["avg_pool1d", "avg_pool3d", "max_pool1d", "max_pool3d"]

Size = int | Sequence[int]
_DIVISORS = "count_include_pad=count_include_pad, divisor_override=divisor_override"


def chosen(rank: int) -> str:
    """The gradient of what chose elements: indices count inside a plane, whatever its rank."""
    extents, counts = axes[rank]
    flat = f"(N, C, 1, {' * '.join(counts)})"
    return (
        f"reshape(max_pool2d_grad(reshape(gy, {flat}), reshape(indices, {flat}), height=1, "
        f"width={' * '.join(extents)}), (N, C, {', '.join(extents)}))"
    )


def _max_pool(rank: int, cases: tuple[Case, ...]) -> Contract:
    name, (extents, counts), named = f"max_pool{rank}d", axes[rank], windows_of(rank)
    return Contract(
        name, "The first maximum, or the first NaN, of each window; on request, where it was.",
        inputs=(Arg("x", f"N C {' '.join(extents)}"),),
        attributes=(
            *(named[n] for n in ("kernel", "stride", "padding", "dilation")), CEIL,
            Attr("return_indices", "bool", False), END,
        ),
        lets=windows(rank), requires=(*limits(rank), fits(rank)),
        outputs=(
            Out("y", f"N C {' '.join(counts)}"),
            Out("indices", f"N C {' '.join(counts)}", "int64", when="return_indices",
                doc="the element's number inside its plane; -1: no element"),
        ),
        free=("N", "C"), layout="x", flops=f"N * C * {' * '.join(counts)} * prod(kernel)", bound=Bound("exact"),
        vjp={"x": chosen(rank)},
        composition=f"{name}(x, {GEOMETRY}, return_indices=True)[0]", composed_when="not return_indices",
        cases=cases, source="as max_pool2d",
    )  # fmt: skip


def _avg_pool(rank: int, cases: tuple[Case, ...]) -> Contract:
    name, (extents, counts), named = f"avg_pool{rank}d", axes[rank], windows_of(rank)
    return Contract(
        name, "The mean of each window.",
        inputs=(Arg("x", f"N C {' '.join(extents)}"),),
        attributes=(
            *(named[n] for n in ("kernel", "stride", "padding")), CEIL, COUNT, DIVISOR, named["dilation"], END,
        ),
        lets=windows(rank), requires=(*limits(rank), fits(rank)), outputs=(Out("y", f"N C {' '.join(counts)}"),),
        free=("N", "C"), layout="x", flops=f"N * C * {' * '.join(counts)} * prod(kernel)",
        bound=Bound("chain", depth="prod(kernel)"),
        vjp={"x": f"avg_pool_grad(gy, size=({', '.join(extents)},), {GEOMETRY}, {_DIVISORS})"},
        cases=cases, source="as avg_pool2d",
    )  # fmt: skip


_LINE, _VOLUME = {"N": 2, "C": 3, "W": 37}, {"N": 2, "C": 3, "D": 5, "H": 6, "W": 7}
_WIDE = {"N": 1, "C": 18, "D": 4, "H": 3, "W": 5}
MAX_POOL1D = _max_pool(1, (
    Case("3 stride 2", _LINE, windowed((3,), (2,), (1,), return_indices=True)),
    Case("values", _LINE, windowed((2,), (2,))),
    Case("other padding behind", {"N": 1, "C": 17, "W": 9}, windowed(
        (3,), (2,), (0,), dilation=(2,), padding_end=(3,), ceil_mode=True, return_indices=True)),
    Case("no samples", {"N": 0, "C": 3, "W": 4}, windowed((2,), (2,))),
))  # fmt: skip
MAX_POOL3D = _max_pool(3, (
    Case("2x2x2", _VOLUME, windowed((2, 2, 2), (2, 2, 2), return_indices=True)),
    Case("values", _WIDE, windowed((3, 2, 3), (1, 2, 1), (1, 0, 1))),
    Case("dilation, ceil, padding behind", _WIDE, windowed(
        (2, 3, 2), (2, 1, 3), (0, 1, 0), dilation=(2, 1, 3), padding_end=(1, 2, 2), ceil_mode=True,
        return_indices=True)),
    Case("no elements", {"N": 1, "C": 2, "D": 2, "H": 0, "W": 3}, windowed((1, 2, 2), (1, 2, 2), (0, 1, 1))),
    Case("C3D", {"N": 1, "C": 64, "D": 16, "H": 112, "W": 112}, windowed((2, 2, 2), (2, 2, 2)), bench=True),
))  # fmt: skip
AVG_POOL1D = _avg_pool(1, (
    Case("3 stride 2", _LINE, windowed((3,), (2,), (1,), count_include_pad=False)),
    Case("dilation, padding behind", {"N": 1, "C": 17, "W": 9}, windowed(
        (3,), (2,), (0,), dilation=(2,), padding_end=(3,), ceil_mode=True)),
    Case("divisor", _LINE, windowed((4,), (4,), divisor_override=3)),
    Case("no samples", {"N": 0, "C": 3, "W": 4}, windowed((2,), (2,))),
))  # fmt: skip
_AVG3D: tuple[tuple[str, dict[str, int], tuple[int, ...], dict[str, Any]], ...] = (
    ("2x2x2", _VOLUME, (2, 3, 3), windowed((2, 2, 2), (2, 2, 2))),
    ("overlap, ceil", _WIDE, (3, 3, 3), windowed((3, 1, 3), (1, 1, 2), (0, 0, 1), count_include_pad=False,
                                                      padding_end=(1, 0, 1), ceil_mode=True)),
    ("dilation", _WIDE, (2, 3, 3), windowed((2, 3, 2), (1, 1, 1), (0, 1, 0), dilation=(2, 1, 2))),
    ("no samples", {"N": 0, "C": 3, "D": 2, "H": 2, "W": 2}, (1, 1, 1), windowed((2, 2, 2), (2, 2, 2))),
)  # fmt: skip
AVG_POOL3D = _avg_pool(3, (
    *(Case(name, e, a) for name, e, _, a in _AVG3D),
    Case("I3D", {"N": 1, "C": 64, "D": 8, "H": 56, "W": 56}, windowed((2, 3, 3), (1, 2, 2)), bench=True),
))  # fmt: skip


def _grad_case(name: str, e: dict[str, int], outputs: tuple[int, ...], a: dict[str, Any]) -> Case:
    size = tuple(e[n] for n in "DHW" if n in e)
    full = {"dilation": (1,) * len(size), **a, "size": size}
    return Case(name, {"N": e["N"], "C": e["C"], "P": outputs}, full)


def _one_per_axis(name: str) -> Require:
    return Require(
        f"len({name}) == len(P)", f"{name} is {{{name}}}; expected one number for each of {{P}}", {name: (1,) * 5}
    )


AVG_POOL_GRAD = Contract(
    "avg_pool_grad", "Each window's gradient, shared among what it saw: one, two or three axes, any dilation.",
    inputs=(Arg("gy", "N C *P"),),
    attributes=(
        Attr("size", "ints", doc="of gx"), *(Attr(n, "ints") for n in ("kernel", "stride", "padding", "dilation")),
        CEIL, COUNT, DIVISOR, END,
    ),
    lets={"padding_after": "padding_end if len(padding_end) > 0 else padding", "rank": "len(P)"},
    requires=(
        *map(_one_per_axis, ("size", "kernel", "stride", "padding", "dilation")),
        Require("1 <= len(P) <= 3", "gy has {P} windows; expected one, two or three axes",
                dict.fromkeys(("P", "size", "kernel", "stride", "padding", "dilation"), (1,) * 4)),
        Require("len(padding_end) in (0, len(P))",
                "padding_end is {padding_end}; expected one number for each of {P} or none", {"padding_end": (1,) * 5}),
        Require("min(size) >= 0", "size is {size}; expected numbers of at least 0", {"size": (-1, 2, 2)}),
        Require("min(padding) >= 0 and min(padding_after) >= 0", "padding is {padding}; expected numbers of at least 0",
                {"padding": (-1, 0, 0)}),
        *(Require(f"min({n}) >= 1 and max({n}) < 2147483648", f"{n} is {{{n}}}; expected numbers from 1 to 2147483647",
                  {n: (0, 1, 1)}) for n in ("kernel", "stride", "dilation")),
    ),
    outputs=(Out("gx", "N C *size"),),
    free=("N", "C"), layout="gy", flops="N * C * prod(size) * prod(kernel)", bound=Bound("chain", depth="prod(kernel)"),
    vjp={"gy": f"(avg_pool1d, avg_pool2d, avg_pool3d)[rank - 1](ggx, {GEOMETRY}, {_DIVISORS})"},
    cases=(
        *(_grad_case(*row) for row in _AVG3D),
        _grad_case("line", _LINE, (19,), windowed((3,), (2,), (1,))),
        _grad_case("plane, dilation", {"N": 1, "C": 17, "H": 6, "W": 9}, (4, 3),
                   windowed((2, 3), (1, 2), dilation=(2, 2), divisor_override=5)),
    ),
)  # fmt: skip

_max_pool1d, _avg_pool1d = (Operator(c, plain_windows(1)) for c in (MAX_POOL1D, AVG_POOL1D))
_max_pool3d, _avg_pool3d = (Operator(c, plain_windows(3)) for c in (MAX_POOL3D, AVG_POOL3D))
Operator(AVG_POOL_GRAD)


def max_pool1d(
    x: Any, kernel_size: Size, stride: Size | None = None, padding: Any = 0, dilation: Size = 1,
    ceil_mode: bool = False, return_indices: bool = False, *, out: Any = None,
) -> Any:  # fmt: skip
    """The maximum of each window of a line: (N, C, W) to (N, C, Q). As max_pool2d, with one axis. Stable.

    >>> import numpy as np
    >>> from mmkernels.ops.pool import max_pool1d
    >>> max_pool1d(np.array([[[1.0, 3.0, 2.0, 0.0]]]), 2)
    array([[[3., 2.]]])
    """
    return _max_pool1d.call(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, (), out)


def max_pool3d(
    x: Any, kernel_size: Size, stride: Size | None = None, padding: Any = 0, dilation: Size = 1,
    ceil_mode: bool = False, return_indices: bool = False, *, out: Any = None,
) -> Any:  # fmt: skip
    """The maximum of each window of a volume: (N, C, D, H, W) to (N, C, O, P, Q). As max_pool2d; indices are
    (d * H + h) * W + w. Stable.

    >>> import numpy as np
    >>> from mmkernels.ops.pool import max_pool3d
    >>> y, indices = max_pool3d(np.arange(8.0).reshape(1, 1, 2, 2, 2), 2, return_indices=True)
    >>> y.item(), indices.item()
    (7.0, 7)
    """
    return _max_pool3d.call(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, (), out)


def avg_pool1d(
    x: Any, kernel_size: Size, stride: Size | None = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None, *, dilation: Size = 1, out: Any = None,
) -> Any:  # fmt: skip
    """The mean of each window of a line: (N, C, W) to (N, C, Q). As avg_pool2d, with one axis. Stable.

    >>> import numpy as np
    >>> from mmkernels.ops.pool import avg_pool1d
    >>> avg_pool1d(np.array([[[1.0, 3.0, 2.0, 0.0]]]), 2)
    array([[[2., 1.]]])
    """
    divisor = 0 if divisor_override is None else divisor_override
    return _avg_pool1d.call(
        x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor, dilation, (), out
    )  # fmt: skip


def avg_pool3d(
    x: Any, kernel_size: Size, stride: Size | None = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None, *, dilation: Size = 1, out: Any = None,
) -> Any:  # fmt: skip
    """The mean of each window of a volume: (N, C, D, H, W) to (N, C, O, P, Q). As avg_pool2d, in float16 and bfloat16
    too. Stable.

    >>> import numpy as np
    >>> from mmkernels.ops.pool import avg_pool3d
    >>> avg_pool3d(np.arange(8.0).reshape(1, 1, 2, 2, 2), 2).item()
    3.5
    """
    divisor = 0 if divisor_override is None else divisor_override
    return _avg_pool3d.call(
        x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor, dilation, (), out
    )  # fmt: skip
