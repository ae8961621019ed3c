"""Maximum unpooling: values go back to where a maximum pooling found them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..contract import Arg, Attr, Bound, Case, Contract, Out, Require, number
from ..errors import ContractError, ContractTypeError
from ..operator import Operator
from ..windows import listed
from .pool_windows import axes, several

__all__ = ["max_unpool1d", "max_unpool2d", "max_unpool3d"]

Size = int | Sequence[int]


def _max_unpool(rank: int, cases: tuple[Case, ...]) -> Contract:
    counts = " ".join(axes[rank][1])
    return Contract(
        f"max_unpool{rank}d", "Each element from the last window that chose it, 0 where none did.",
        inputs=(
            Arg("x", f"N C {counts}"),
            Arg("indices", f"N C {counts}", "int64", values=("-1", "prod(output_size)"),
                doc=f"as max_pool{rank}d returns them"),
        ),
        attributes=(Attr("output_size", "ints", length=rank, doc="of y"),),
        requires=(
            Require("min(output_size) >= 0", "output_size is {output_size}; expected numbers of at least 0",
                    {"output_size": (-1,) * rank}),
        ),
        outputs=(Out("y", "N C *output_size"),),
        free=("N", "C"), layout="x", bound=Bound("exact"),
        vjp={"x": "max_unpool_grad(gy, indices)", "indices": "None"}, cases=cases,
        source="Zeiler et al., ICCV 2011; Badrinarayanan et al. (SegNet), arXiv 1511.00561",
    )  # fmt: skip


def _case(name: str, shape: tuple[int, ...], size: tuple[int, ...], **more: Any) -> Case:
    rank = len(size)
    return Case(name, dict(zip(("N", "C", *axes[rank][1]), shape, strict=True)), {"output_size": size}, **more)


MAX_UNPOOL1D = _max_unpool(1, (_case("line", (2, 3, 17), (40,)), _case("no windows", (1, 2, 0), (3,))))
MAX_UNPOOL2D = _max_unpool(2, (
    _case("plane", (2, 3, 5, 7), (9, 14)), _case("many windows for few elements", (1, 2, 9, 8), (2, 3)),
    _case("no samples", (0, 3, 2, 2), (4, 4)), _case("no elements", (1, 2, 2, 2), (0, 3)),
    _case("SegNet", (1, 64, 112, 112), (224, 224), bench=True),
))  # fmt: skip
MAX_UNPOOL3D = _max_unpool(3, (_case("volume", (2, 2, 2, 3, 4), (4, 6, 7)),))
MAX_UNPOOL_GRAD = Contract(
    "max_unpool_grad", "What each window gave: gy at its element, 0 if a later window chose that too.",
    inputs=(Arg("gy", "N C *S"), Arg("indices", "N C *P", "int64", values=("-1", "prod(S)"))),
    lets={"rank": "len(P)"},
    requires=(
        Require("len(S) == len(P) and 1 <= len(P) <= 3",
                "gy has {S} elements and indices {P} windows; expected one, two or three axes of both", {"S": (3,)}),
    ),
    outputs=(Out("gx", "N C *P"),),
    free=("N", "C"), layout="gy", bound=Bound("exact"),
    vjp={"gy": "(max_unpool1d, max_unpool2d, max_unpool3d)[rank - 1](ggx, indices, output_size=S)", "indices": "None"},
    cases=(
        Case("plane", {"N": 2, "C": 3, "S": (9, 14), "P": (5, 7)}),
        Case("many windows for few elements", {"N": 1, "C": 2, "S": (2, 3), "P": (9, 8)}),
        Case("line", {"N": 2, "C": 3, "S": (40,), "P": (17,)}),
        Case("volume", {"N": 2, "C": 2, "S": (4, 6, 7), "P": (2, 3, 4)}),
    ),
)  # fmt: skip
_operators = {r: Operator(c) for r, c in ((1, MAX_UNPOOL1D), (2, MAX_UNPOOL2D), (3, MAX_UNPOOL3D))}
Operator(MAX_UNPOOL_GRAD)


def _output_size(name: str, rank: int, x: Any, kernel: Any, stride: Any, padding: Any, wanted: Any) -> tuple[int, ...]:
    """The extents that a pooling with these windows had, by default the smallest; another choice has to have the same
    number of windows but for one stride, as in torch."""
    shape = tuple(getattr(x, "shape", ()))
    if len(shape) != rank + 2:
        return (0,) * rank  # the contract has the words for it
    try:
        kernels = several("kernel_size", kernel, rank)
        strides = kernels if stride is None else several("stride", stride, rank)
        paddings = several("padding", padding, rank)
    except ContractTypeError as error:
        raise ContractTypeError(f"{name}: {error}") from None
    named = (("kernel_size", kernels), ("stride", strides), ("padding", paddings))
    for text, value in named:
        if len(value) != rank:
            raise ContractTypeError(f"{name}: {text} is {value}; expected {rank} integers")
    kernels, strides, paddings = (
        tuple(number("int", v, f"{name}: {text} is {value}") for v in value) for text, value in named
    )
    least = tuple((n - 1) * s + k - 2 * p for n, k, s, p in zip(shape[2:], kernels, strides, paddings, strict=True))
    if wanted is None:
        return least
    wanted = listed(wanted)
    if not isinstance(wanted, Sequence) or isinstance(wanted, str):
        raise ContractTypeError(f"{name}: output_size is {wanted!r}; expected {rank} extents, or all {rank + 2}")
    size = tuple(number("int", n, f"{name}: output_size is {tuple(wanted)}") for n in wanted)[-rank:]
    if len(tuple(wanted)) not in (rank, rank + 2):
        raise ContractError(f"{name}: output_size is {tuple(wanted)}; expected {rank} extents, or all {rank + 2}")
    for n, low, s in zip(size, least, strides, strict=True):
        if not low - s < n < low + s:
            raise ContractError(
                f"{name}: output_size is {tuple(wanted)}; expected extents less than a stride = {strides} "
                f"away from {least}"
            )
    return size


def max_unpool1d(
    x: Any, indices: Any, kernel_size: Size, stride: Size | None = None, padding: Size = 0,
    output_size: Sequence[int] | None = None, *, out: Any = None,
) -> Any:  # fmt: skip
    """The transpose of choosing maxima along a line: (N, C, Q) to (N, C, W); see max_unpool2d. Stable.

    >>> import numpy as np
    >>> from mmkernels.ops.pool import max_unpool1d
    >>> max_unpool1d(np.array([[[3.0, 2.0]]]), np.array([[[1, 2]]]), 2)
    array([[[0., 3., 2., 0.]]])
    """
    size = _output_size("max_unpool1d", 1, x, kernel_size, stride, padding, output_size)
    return _operators[1].call(x, indices, size, out)


def max_unpool2d(
    x: Any, indices: Any, kernel_size: Size, stride: Size | None = None, padding: Size = 0,
    output_size: Sequence[int] | None = None, *, out: Any = None,
) -> Any:  # fmt: skip
    """Values go back to where max_pool2d found them, zeros elsewhere: (N, C, P, Q) to (N, C, H, W), any float dtype.

    ``indices`` are int64, h * W + w inside the result's planes, as max_pool2d returns them; -1 is no element. Where
    windows chose the same element the last of them, in (p, q) order, gives its value, and it alone has a gradient.
    H = (P - 1) * stride + kernel_size - 2 * padding unless ``output_size`` (of H, W or of all four extents), which may
    be less than a stride away from it, says otherwise.

    Raises ContractError for an index outside the plane (on CUDA it is ignored), a size that is too far away, or other
    extents of indices; ContractTypeError for other dtypes. Gradients of any order. Stable.

    Source: Zeiler, Taylor and Fergus, "Adaptive Deconvolutional Networks for Mid and High Level Feature Learning", ICCV
    2011 (switches); the rules are those of torch.nn.MaxUnpool2d.

    >>> import numpy as np
    >>> from mmkernels.ops.pool import max_unpool2d
    >>> max_unpool2d(np.array([[[[7.0]]]]), np.array([[[[2]]]]), 2)
    array([[[[0., 0.],
             [7., 0.]]]])
    """
    size = _output_size("max_unpool2d", 2, x, kernel_size, stride, padding, output_size)
    return _operators[2].call(x, indices, size, out)


def max_unpool3d(
    x: Any, indices: Any, kernel_size: Size, stride: Size | None = None, padding: Size = 0,
    output_size: Sequence[int] | None = None, *, out: Any = None,
) -> Any:  # fmt: skip
    """Values go back to where max_pool3d found them: (N, C, O, P, Q) to (N, C, D, H, W); see max_unpool2d. Stable.

    >>> import numpy as np
    >>> from mmkernels.ops.pool import max_unpool3d
    >>> max_unpool3d(np.ones((1, 1, 1, 1, 1)), np.array([[[[[3]]]]]), 2).ravel()
    array([0., 0., 0., 1., 0., 0., 0., 0.])
    """
    size = _output_size("max_unpool3d", 3, x, kernel_size, stride, padding, output_size)
    return _operators[3].call(x, indices, size, out)
