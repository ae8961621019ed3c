"""Stochastic pooling: an element of each window is drawn, the larger the likelier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .. import arrays
from ..contract import Arg, Attr, Bound, Case, Contract, Out, Require
from ..operator import Operator
from .noise import keys_for
from .pool_volumes import chosen
from .pool_windows import axes, fits, geometry_of, limits, plain_windows, windowed, windows

__all__ = ["stochastic_pool1d", "stochastic_pool2d", "stochastic_pool3d"]

Size = int | Sequence[int]
_NAMES = ("kernel", "stride", "padding", "ceil_mode", "dilation", "padding_end")


def _composition(rank: int) -> Callable[[Any], Any]:
    """The draw with its indices; or the ratio of two sums of windows."""

    def composition(o: Any) -> Any:
        geometry = {name: o[name] for name in _NAMES}
        if o.training:
            pool = o[f"stochastic_pool{rank}d"]
            return pool(o.x, o["keys"], training=True, return_indices=True, **geometry)[0]
        weight, add_up = o.relu(o.x), o[f"avg_pool{rank}d"]
        total = add_up(weight, divisor_override=1, **geometry)
        squares = add_up(o.mul(weight, weight), divisor_override=1, **geometry)
        empty = o.sub(1.0, o.relu_grad(total, o.add(arrays.zeros_like(total), 1.0)))  # 1 where nothing was positive
        return o.div(squares, o.add(total, empty))

    return composition


def _stochastic_pool(rank: int, cases: tuple[Case, ...]) -> Contract:
    extents, counts = axes[rank]
    return Contract(
        f"stochastic_pool{rank}d",
        "An element of each window, drawn with a probability proportional to its positive value; or the expectation.",
        inputs=(Arg("x", f"N C {' '.join(extents)}"), Arg("keys", "N", "uint64", doc="one per sample")),
        attributes=(
            *geometry_of(rank), Attr("training", "bool", True, doc="draw; else the expectation"),
            Attr("return_indices", "bool", False),
        ),
        lets=windows(rank),
        requires=(
            *limits(rank), fits(rank),
            Require("training or not return_indices",
                    "return_indices is True and training is False; expected one of both",
                    {"training": False, "return_indices": True}),
        ),
        outputs=(
            Out("y", f"N C {' '.join(counts)}"),
            Out("indices", f"N C {' '.join(counts)}", "int64", when="return_indices",
                doc="the drawn element's number inside its plane; -1: nothing was positive"),
        ),
        free=("N",), layout="x", flops=f"4 * N * C * {' * '.join(counts)} * prod(kernel)",
        bound=Bound("drawn", depth="prod(kernel)"),
        vjp={"x": chosen(rank)}, composition=_composition(rank), composed_when="not return_indices",
        cases=cases, source="Zeiler and Fergus, ICLR 2013 (arXiv 1301.3557)",
    )  # fmt: skip


_LINE, _VOLUME = {"N": 2, "C": 3, "W": 37}, {"N": 2, "C": 3, "D": 4, "H": 5, "W": 6}
_PLANE, _WIDE = {"N": 2, "C": 3, "H": 9, "W": 10}, {"N": 2, "C": 18, "H": 6, "W": 7}
STOCHASTIC_POOL1D = _stochastic_pool(1, (
    Case("drawn", _LINE, windowed((3,), (2,), (1,), return_indices=True)),
    Case("expected", _LINE, windowed((3,), (3,), training=False)),
))  # fmt: skip
STOCHASTIC_POOL2D = _stochastic_pool(2, (
    Case("drawn", _PLANE, windowed((3, 3), (2, 2), (1, 1), return_indices=True)),
    Case("values", _WIDE, windowed((2, 2), (2, 2), ceil_mode=True)),
    Case("drawn, dilation, padding behind", _WIDE, windowed(
        (2, 3), (1, 2), (0, 2), dilation=(3, 1), padding_end=(2, 0), return_indices=True)),
    Case("expected", _WIDE, windowed((3, 3), (2, 2), (1, 1), training=False)),
    Case("no samples", {"N": 0, "C": 3, "H": 4, "W": 4}, windowed((2, 2), (2, 2))),
    Case("SVHN", {"N": 16, "C": 64, "H": 32, "W": 32}, windowed((3, 3), (2, 2)), bench=True),
))  # fmt: skip
STOCHASTIC_POOL3D = _stochastic_pool(3, (
    Case("drawn", _VOLUME, windowed((2, 2, 2), (2, 2, 2), return_indices=True)),
    Case("expected", _VOLUME, windowed((2, 3, 2), (1, 2, 2), training=False)),
))  # fmt: skip

_one, _two, _three = (
    Operator(c, plain_windows(r)) for r, c in ((1, STOCHASTIC_POOL1D), (2, STOCHASTIC_POOL2D), (3, STOCHASTIC_POOL3D))
)


def _call(operator: Operator, x: Any, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, dilation: Any, seed: Any,
          training: bool, return_indices: bool, out: Any) -> Any:  # fmt: skip
    shape: Any = getattr(x, "shape", ())
    like = x if arrays.library_of(x) else None  # what is no array, the operator refuses
    keys = keys_for(seed, int(shape[0]) if len(shape) else 0, like, operator.name)
    return operator.call(x, keys, kernel, stride, padding, ceil_mode, dilation, (), training, return_indices, out)


def stochastic_pool1d(
    x: Any, kernel_size: Size, stride: Size | None = None, padding: Any = 0, *, seed: int | Sequence[int],
    training: bool = True, return_indices: bool = False, ceil_mode: bool = False, dilation: Size = 1, out: Any = None,
) -> Any:  # fmt: skip
    """An element of each window of a line, drawn: (N, C, W) to (N, C, Q); see stochastic_pool2d. Stable.

    >>> import numpy as np
    >>> from mmkernels.ops.pool import stochastic_pool1d
    >>> stochastic_pool1d(np.array([[[1.0, 0.0, 0.0, 3.0]]]), 2, seed=1)
    array([[[1., 3.]]])
    """
    return _call(_one, x, kernel_size, stride, padding, ceil_mode, dilation, seed, training, return_indices, out)


def stochastic_pool2d(
    x: Any, kernel_size: Size, stride: Size | None = None, padding: Any = 0, *, seed: int | Sequence[int],
    training: bool = True, return_indices: bool = False, ceil_mode: bool = False, dilation: Size = 1, out: Any = None,
) -> Any:  # fmt: skip
    """An element of each window, drawn with probability x / (sum of the window): (N, C, H, W) to (N, C, P, Q).

    Windows are max_pool2d's; negative elements count as 0 and are never drawn. With u in (0, 1] the element is the
    first positive one at which the running sum, in scan order, reaches u times the sum; u is 1 minus element i of the
    sample's philox_uniform, i counting the sample's results in logical order, so draws depend on (seed, sample, i)
    alone, on every device. ``seed`` is one int, from which N keys are folded, or N keys. A window without positive
    elements gives 0; the first NaN wins. The gradient goes to the drawn element. With ``return_indices`` the result is
    (y, indices): int64, h * W + w, -1 where nothing was positive.

    Not ``training``: the expectation, (sum of x^2) / (sum of x) over the positive elements, 0 where there is none.

    Raises ContractError where max_pool2d does, and for return_indices without training; ContractTypeError for other
    dtypes. Gradients of any order. Stable.

    Source: Zeiler and Fergus, "Stochastic Pooling for Regularization of Deep Convolutional Neural Networks", ICLR 2013,
    equations 4 to 6.

    >>> import numpy as np
    >>> from mmkernels.ops.pool import stochastic_pool2d
    >>> x = np.array([[[[0.0, 3.0], [1.0, -9.0]]]])
    >>> stochastic_pool2d(x, 2, seed=1).item() in (1.0, 3.0), stochastic_pool2d(x, 2, seed=1, training=False).item()
    (True, 2.5)
    """
    return _call(_two, x, kernel_size, stride, padding, ceil_mode, dilation, seed, training, return_indices, out)


def stochastic_pool3d(
    x: Any, kernel_size: Size, stride: Size | None = None, padding: Any = 0, *, seed: int | Sequence[int],
    training: bool = True, return_indices: bool = False, ceil_mode: bool = False, dilation: Size = 1, out: Any = None,
) -> Any:  # fmt: skip
    """An element of each window of a volume, drawn: (N, C, D, H, W) to (N, C, O, P, Q); see stochastic_pool2d. Stable.

    >>> import numpy as np
    >>> from mmkernels.ops.pool import stochastic_pool3d
    >>> stochastic_pool3d(np.full((1, 1, 2, 2, 2), 5.0), 2, seed=[7]).item()
    5.0
    """
    return _call(_three, x, kernel_size, stride, padding, ceil_mode, dilation, seed, training, return_indices, out)
