"""Adaptive pooling: the extents of the result are given, the windows follow from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..contract import Arg, Attr, Bound, Case, Contract, Operand, Out, Require
from ..operator import Operator
from .pool_volumes import chosen
from .pool_windows import axes, several

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d",
]  # fmt: skip

Size = int | Sequence[int | None]


def _windows(rank: int) -> dict[str, str]:
    """Window i is [floor(i * in / out), ceil((i + 1) * in / out))."""
    extents, counts = axes[rank]
    lets = {count: f"output_size[{i}]" for i, count in enumerate(counts)}
    return lets | {"most": " * ".join(f"({e} // max({c}, 1) + 2)" for e, c in zip(extents, counts, strict=True))}


def _requires(rank: int) -> tuple[Require, ...]:
    extents = axes[rank][0]
    return (
        Require("min(output_size) >= 0", "output_size is {output_size}; expected numbers of at least 0",
                {"output_size": (-1,) * rank}),
        Require(f"min({', '.join([*extents, '1'])}) >= 1 or prod(output_size) == 0",
                f"x has extents {' x '.join(f'{{{e}}}' for e in extents)}; "
                "expected at least one element for each window", {"W": 0}),
    )  # fmt: skip


_ROWS: dict[int, tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]] = {
    1: (("windows of two sizes", (2, 3, 11), (4,)), ("global", (2, 18, 9), (1,)), ("more windows", (1, 2, 3), (7,))),
    2: (
        ("windows of two sizes", (2, 3, 7, 11), (3, 4)), ("global", (2, 18, 5, 7), (1, 1)),
        ("a line", (1, 17, 6, 5), (3, 1)), ("more windows than elements", (1, 2, 2, 3), (5, 4)),
        ("no windows", (2, 3, 4, 4), (0, 2)), ("no samples", (0, 3, 4, 4), (2, 2)),
    ),
    3: (
        ("windows of two sizes", (2, 3, 5, 4, 7), (2, 3, 3)), ("global", (1, 18, 3, 4, 5), (1, 1, 1)),
        ("no channels", (1, 0, 2, 2, 2), (1, 2, 1)),
    ),
}  # fmt: skip

_LONG = {
    rank: Case(
        "windows of more than 256 elements", dict(zip(("N", "C", *axes[rank][0]), shape, strict=True)),
        {"output_size": size},
    )
    for rank, shape, size in ((1, (2, 3, 1150), (2,)), (2, (1, 4, 21, 47), (1, 2)), (3, (2, 2, 5, 8, 19), (1, 1, 2)))
}  # fmt: skip


def _cases(rank: int, **more: Any) -> tuple[Case, ...]:
    names = ("N", "C", *axes[rank][0])
    cases = [
        Case(name, dict(zip(names, shape, strict=True)), {"output_size": size, **more})
        for name, shape, size in _ROWS[rank]
    ]
    if rank == 2:
        cases += [
            Case("ResNet-50", {"N": 1, "C": 2048, "H": 7, "W": 7}, {"output_size": (1, 1), **more}, bench=True),
            Case("VGG-16", {"N": 1, "C": 512, "H": 14, "W": 14}, {"output_size": (7, 7), **more}, bench=True),
            Case("global, 56", {"N": 1, "C": 256, "H": 56, "W": 56}, {"output_size": (1, 1), **more}, bench=True),
        ]
    return tuple(cases)


def _size(rank: int) -> tuple[Attr, ...]:
    return (Attr("output_size", "ints", length=rank, doc="windows along each axis"),)


def _avg_pool(rank: int) -> Contract:
    extents, counts = axes[rank]
    return Contract(
        f"adaptive_avg_pool{rank}d", "The mean of each of a given number of windows.",
        inputs=(Arg("x", f"N C {' '.join(extents)}"),), attributes=_size(rank), lets=_windows(rank),
        requires=_requires(rank), outputs=(Out("y", f"N C {' '.join(counts)}"),),
        free=("N", "C"), layout="x", flops=f"N * C * {' * '.join(counts)} * most",
        bound=Bound("chain", depth="min(256, most) + (most - 1) // 256"),
        vjp={"x": f"adaptive_avg_pool_grad(gy, size=({', '.join(extents)},))"}, cases=(*_cases(rank), _LONG[rank]),
        source="He et al., ECCV 2014 (arXiv 1406.4729); windows as in torch.nn.AdaptiveAvgPool2d",
    )  # fmt: skip


def _max_pool(rank: int) -> Contract:
    name, (extents, counts) = f"adaptive_max_pool{rank}d", axes[rank]
    return Contract(
        name, "The first maximum, or the first NaN, of each of a given number of windows; on request, where it was.",
        inputs=(Arg("x", f"N C {' '.join(extents)}"),),
        attributes=(*_size(rank), Attr("return_indices", "bool", False)),
        lets=_windows(rank), requires=_requires(rank),
        outputs=(
            Out("y", f"N C {' '.join(counts)}"),
            Out("indices", f"N C {' '.join(counts)}", "int64", when="return_indices",
                doc="the element's number inside its plane"),
        ),
        free=("N", "C"), layout="x", flops=f"N * C * {' * '.join(counts)} * most", bound=Bound("exact"),
        vjp={"x": chosen(rank)},
        composition=f"{name}(x, output_size=output_size, return_indices=True)[0]", composed_when="not return_indices",
        cases=(
            *_cases(rank, return_indices=True),
            Case("values", dict(zip(("N", "C", *extents), (2, 3, 5, 6, 7))), {"output_size": (2,) * rank}),  # noqa: B905
        ),
        source="He et al., ECCV 2014 (arXiv 1406.4729); windows as in torch.nn.AdaptiveMaxPool2d",
    )  # fmt: skip


ADAPTIVE_AVG_POOL1D, ADAPTIVE_AVG_POOL2D, ADAPTIVE_AVG_POOL3D = map(_avg_pool, (1, 2, 3))
ADAPTIVE_MAX_POOL1D, ADAPTIVE_MAX_POOL2D, ADAPTIVE_MAX_POOL3D = map(_max_pool, (1, 2, 3))
ADAPTIVE_AVG_POOL_GRAD = Contract(
    "adaptive_avg_pool_grad", "Each window's gradient, shared among what it saw: one, two or three axes.",
    inputs=(Arg("gy", "N C *P"),), attributes=(Attr("size", "ints", doc="of gx"),),
    lets={"rank": "len(P)"},
    requires=(
        Require("len(size) == len(P) and 1 <= len(P) <= 3",
                "size is {size} and gy has {P} windows; expected one, two or three axes of both", {"size": (1,) * 5}),
        Require("min(size) >= 0", "size is {size}; expected numbers of at least 0", {"size": (-1, 2)}),
        Require("min(size) >= 1 or prod(P) == 0", "size is {size}; expected at least one element for each window",
                {"size": (0, 2)}),
    ),
    outputs=(Out("gx", "N C *size"),),
    free=("N", "C"), layout="gy", flops="N * C * (prod(size) + prod(P))",
    bound=Bound("chain", depth="prod(P)"),
    vjp={"gy": "(adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)[rank - 1](ggx, output_size=P)"},
    cases=tuple(
        Case(f"{rank}d, {name}", {"N": shape[0], "C": shape[1], "P": outputs}, {"size": shape[2:]})
        for rank in (2, 1, 3) for name, shape, outputs in _ROWS[rank] if rank == 2 or name != "global"
    ),
)  # fmt: skip


def _plain(rank: int) -> Callable[[dict[str, Any], Mapping[str, Operand]], dict[str, Any]]:
    def plain(raw: dict[str, Any], operands: Mapping[str, Operand]) -> dict[str, Any]:
        """None stands for x's extent, one number for all axes."""
        size = raw["output_size"]
        x = operands.get("x")
        if x is not None and len(x.shape) == rank + 2 and (size is None or isinstance(size, Sequence)):
            given = (None,) * rank if size is None else tuple(size)
            if len(given) == rank:
                size = tuple(x.shape[2 + i] if n is None else n for i, n in enumerate(given))
        return {**raw, "output_size": several("output_size", size, rank)}

    return plain


_avg1, _avg2, _avg3 = (
    Operator(c, _plain(r)) for r, c in ((1, ADAPTIVE_AVG_POOL1D), (2, ADAPTIVE_AVG_POOL2D), (3, ADAPTIVE_AVG_POOL3D))
)
_max1, _max2, _max3 = (
    Operator(c, _plain(r)) for r, c in ((1, ADAPTIVE_MAX_POOL1D), (2, ADAPTIVE_MAX_POOL2D), (3, ADAPTIVE_MAX_POOL3D))
)
Operator(ADAPTIVE_AVG_POOL_GRAD)


def adaptive_avg_pool1d(x: Any, output_size: Size, *, out: Any = None) -> Any:
    """The mean of each of output_size windows of a line: (N, C, W) to (N, C, Q); see adaptive_avg_pool2d. Stable.

    >>> import numpy as np
    >>> from mmkernels.ops.pool import adaptive_avg_pool1d
    >>> adaptive_avg_pool1d(np.arange(5.0)[None, None], 2)
    array([[[1., 3.]]])
    """
    return _avg1.call(x, output_size, out)


def adaptive_avg_pool2d(x: Any, output_size: Size, *, out: Any = None) -> Any:
    """The mean of each of output_size windows: (N, C, H, W) to (N, C, P, Q), any float dtype.

    Window p covers rows floor(p H / P) to ceil((p + 1) H / P), columns likewise, so windows overlap where extents do
    not divide. Its sum is divided by its own number of elements. It is
    row-major; of more than 256 elements, those of each 256 are added up first. ``output_size`` is one number or one for
    each axis, None standing for x's extent; 1 is global average pooling.

    Raises ContractError for negative numbers and where a window would have no element; ContractTypeError for other
    dtypes. Gradients of any order. Stable.

    Source: He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks", ECCV 2014, section 2.2; Lin et al.,
    "Network in Network", ICLR 2014, section 3.2 (global).

    >>> import numpy as np
    >>> from mmkernels.ops.pool import adaptive_avg_pool2d
    >>> adaptive_avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 1).item()
    7.5
    """
    return _avg2.call(x, output_size, out)


def adaptive_avg_pool3d(x: Any, output_size: Size, *, out: Any = None) -> Any:
    """The mean of each of output_size windows of a volume: (N, C, D, H, W) to (N, C, O, P, Q); see
    adaptive_avg_pool2d. Stable.

    >>> import numpy as np
    >>> from mmkernels.ops.pool import adaptive_avg_pool3d
    >>> adaptive_avg_pool3d(np.arange(8.0).reshape(1, 1, 2, 2, 2), (2, 1, None))
    array([[[[[1., 2.]],
    <BLANKLINE>
             [[5., 6.]]]]])
    """
    return _avg3.call(x, output_size, out)


def adaptive_max_pool1d(x: Any, output_size: Size, return_indices: bool = False, *, out: Any = None) -> Any:
    """The maximum of each of output_size windows of a line; see adaptive_max_pool2d. Stable.

    >>> import numpy as np
    >>> from mmkernels.ops.pool import adaptive_max_pool1d
    >>> adaptive_max_pool1d(np.arange(5.0)[None, None], 2)
    array([[[2., 4.]]])
    """
    return _max1.call(x, output_size, return_indices, out)


def adaptive_max_pool2d(x: Any, output_size: Size, return_indices: bool = False, *, out: Any = None) -> Any:
    """The maximum of each of output_size windows: (N, C, H, W) to (N, C, P, Q), any float dtype.

    Windows are adaptive_avg_pool2d's; ties, NaN and indices are max_pool2d's. Raises ContractError for negative numbers
    and where a window would have no element; ContractTypeError for other dtypes. Gradients of any order. Stable.

    Source: He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks", ECCV 2014, section 2.2.

    >>> import numpy as np
    >>> from mmkernels.ops.pool import adaptive_max_pool2d
    >>> y, indices = adaptive_max_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), (1, 2), return_indices=True)
    >>> y.tolist(), indices.tolist()
    ([[[[13.0, 15.0]]]], [[[[13, 15]]]])
    """
    return _max2.call(x, output_size, return_indices, out)


def adaptive_max_pool3d(x: Any, output_size: Size, return_indices: bool = False, *, out: Any = None) -> Any:
    """The maximum of each of output_size windows of a volume; see adaptive_max_pool2d. Stable.

    >>> import numpy as np
    >>> from mmkernels.ops.pool import adaptive_max_pool3d
    >>> adaptive_max_pool3d(np.arange(8.0).reshape(1, 1, 2, 2, 2), 1).item()
    7.0
    """
    return _max3.call(x, output_size, return_indices, out)
