"""Matrix products with bias and activation."""

from __future__ import annotations

from typing import Any

from ..arrays import reshape, shape_of
from ..contract import Arg, Attr, Bound, Case, Contract, Out
from ..errors import ContractError, ContractTypeError
from ..operator import Operator

__all__ = ["linear", "matmul"]

_ACTIVATION = Attr(
    "activation", "choice", None, choices=(None, "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu")
)

_ALGORITHM = Attr(
    "algorithm", "choice", None, choices=(None, "tf32"), only={"tf32": ("float32",)},
    doc='"tf32" rounds the factors to TF32 and, on CUDA, uses tensor cores',
)  # fmt: skip


def _activated(o: Any, y: Any) -> Any:
    more: dict[str, dict[str, Any]] = {"leaky_relu": {"negative_slope": 0.01}, "gelu": {"approximate": "none"}}
    return o[o.activation](y, **more.get(o.activation, {}))


MATMUL = Contract(
    "matmul", "Matrix products, one for each index of the batch extents; then bias and activation.",
    inputs=(
        Arg("a", "*S M K", broadcast=("S",)),
        Arg("b", "*S K N", broadcast=("S",)),
        Arg("bias", "N", optional=True),
    ),
    attributes=(_ACTIVATION, _ALGORITHM),
    lets={"batches": "prod(S)"},
    outputs=(Out("y", "*S M N"),),
    free=("S", "M", "N"), flops="2 * prod(S) * M * N * K",
    tensor_cores=True, bound=Bound("dot", depth="min(256, K) + (K + 255) // 256 + 2", ulp=4.0),
    vjp={
        "a": "matmul(gy, matrix_transpose(b), algorithm=algorithm)",
        # One product where all batches share b, instead of a sum of products.
        "b": "matmul(matrix_transpose(reshape(a, (batches * M, K))), reshape(gy, (batches * M, N)), "
             "algorithm=algorithm) if b.shape == (K, N) and a.shape == (*S, M, K) "
             "else matmul(matrix_transpose(a), gy, algorithm=algorithm)",
        "bias": "sum(reshape(gy, (batches * M, N)), dims=(0,))",
    },
    composition=lambda o: _activated(o, o.matmul(o.a, o.b, o.bias, algorithm=o.algorithm)),
    composed_when="activation is not None",
    cases=(
        Case("one batch", {"S": (), "M": 17, "N": 37, "K": 19}, {}, ("bias",)),
        Case("batches, several chunks", {"S": (2, 3), "M": 3, "N": 5, "K": 600}),
        Case("a is shared", {"S": (3,), "M": 5, "N": 18, "K": 7, "a": (5, 7)}, {"activation": "relu"}, ("bias",)),
        Case("b is shared", {"S": (2, 2), "M": 5, "N": 33, "K": 7, "b": (1, 7, 33)}, {"activation": "gelu"}),
        Case("no products", {"S": (2,), "M": 3, "N": 4, "K": 0}, {}, ("bias",)),
        Case("no rows", {"S": (2,), "M": 0, "N": 4, "K": 3}),
        Case("TF32", {"S": (2,), "M": 19, "N": 37, "K": 270}, {"activation": "silu", "algorithm": "tf32"}, ("bias",)),
        Case("TF32, b is shared", {"S": (2, 3), "M": 4, "N": 24, "K": 20, "b": (20, 24)}, {"algorithm": "tf32"}),
        Case("square", {"S": (), "M": 1024, "N": 1024, "K": 1024}, bench=True),
        Case("many small", {"S": (256,), "M": 64, "N": 64, "K": 64}, bench=True),
    ),
)  # fmt: skip

LINEAR = Contract(
    "linear", "An affine map of the last extent, by a weight of (outputs, inputs); then the activation.",
    inputs=(Arg("x", "*S I"), Arg("weight", "O I"), Arg("bias", "O", optional=True)),
    attributes=(_ACTIVATION, _ALGORITHM),
    lets={"rows": "prod(S)"},
    outputs=(Out("y", "*S O"),),
    free=("S", "O"), flops="2 * prod(S) * I * O",
    tensor_cores=True, bound=Bound("dot", depth="min(256, I) + (I + 255) // 256 + 2", ulp=4.0),
    vjp={
        "x": "linear(gy, matrix_transpose(weight), algorithm=algorithm)",
        "weight": "matmul(matrix_transpose(reshape(gy, (rows, O))), reshape(x, (rows, I)), algorithm=algorithm)",
        "bias": "sum(reshape(gy, (rows, O)), dims=(0,))",
    },
    composition=lambda o: _activated(o, o.linear(o.x, o.weight, o.bias, algorithm=o.algorithm)),
    composed_when="activation is not None",
    cases=(
        Case("batch", {"S": (7,), "I": 21, "O": 35}, {}, ("bias",)),
        Case("one row, several chunks", {"S": (), "I": 777, "O": 9}, {"activation": "tanh"}, ("bias",)),
        Case("tokens", {"S": (2, 5), "I": 16, "O": 48}, {"activation": "silu"}),
        Case("no inputs", {"S": (3,), "I": 0, "O": 4}, {}, ("bias",)),
        Case("no rows", {"S": (0,), "I": 5, "O": 4}),
        Case("TF32", {"S": (3, 7), "I": 52, "O": 40}, {"activation": "relu", "algorithm": "tf32"}, ("bias",)),
        Case("LeNet", {"S": (64,), "I": 400, "O": 120}, {}, ("bias",), bench=True),
        Case("ViT", {"S": (8, 197), "I": 768, "O": 3072}, {"activation": "gelu"}, ("bias",), bench=True),
        Case("one row", {"S": (1,), "I": 4096, "O": 4096}, {}, ("bias",), bench=True),
    ),
)  # fmt: skip

_matmul, _linear = Operator(MATMUL), Operator(LINEAR)


def matmul(
    a: Any,
    b: Any,
    *,
    bias: Any = None,
    activation: str | None = None,
    algorithm: str | None = None,
    out: Any = None,
) -> Any:
    """activation(a @ b + bias): matrix products over the last two extents, as torch.matmul and numpy.matmul.

    ``a`` is (..., M, K), ``b`` (..., K, N), ``bias`` (N); the extents in front broadcast. A one-dimensional ``a`` is a
    row and a one-dimensional ``b`` a column, whose extent of 1 the result does not have. Operands are all float32 or
    all float64; strided and transposed ones are read in place. ``activation`` is None, "relu", "leaky_relu" (slope
    0.01), "sigmoid", "tanh", "silu" or "gelu". A row of the result has the same bits in any batch.

    ``algorithm`` is None or, for float32 alone, "tf32": ``a`` and ``b`` are rounded to TF32 (8 exponent bits, 10
    fraction bits; nearest, ties away from zero), their products summed in float32; on CUDA by tensor cores, repeatable
    but not the CPU's bits. Gradients of such a call are such calls. Without it nothing is rounded.

    Raises ContractError if shapes do not agree, ContractTypeError for other dtypes, or for "tf32" with
    any but float32. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.matmul(np.arange(6.0).reshape(2, 3), np.ones(3))
    array([ 3., 12.])
    """
    try:
        row, column = len(a.shape) == 1, len(b.shape) == 1
    except AttributeError:
        row = column = False
    if not row and not column:
        return _matmul.call(a, b, bias, activation, algorithm, out)
    left, right = shape_of(a), shape_of(b)
    if not left or not right:
        raise ContractError(f"matmul: a has shape {left} and b {right}; expected one extent or more")
    if row:
        a = reshape(a, (1, *left))
    if column:
        b = reshape(b, (*right, 1))
    if out is not None and not hasattr(out, "shape"):
        raise ContractTypeError(f"matmul: out is a {type(out).__name__}; expected an array")
    y = _matmul.call(a, b, bias, activation, algorithm, None if out is None else _with_ones(out, row, column))
    if out is not None:
        return out
    shape = shape_of(y)
    return reshape(y, shape[: len(shape) - row - column] if column else (*shape[:-2], shape[-1]))


def _with_ones(out: Any, row: bool, column: bool) -> Any:
    """A view of the result's memory with the extents of 1 that a row or a column has."""
    if column:
        out = out[..., None]
    return out[..., None, :] if row else out


def linear(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    activation: str | None = None,
    algorithm: str | None = None,
    out: Any = None,
) -> Any:
    """activation(x @ weight.T + bias), as torch.nn.functional.linear.

    ``x`` is (..., I), ``weight`` (O, I), ``bias`` (O), the result (..., O); all float32 or all float64. ``activation``
    and ``algorithm`` as in matmul. A row of the result has the same bits in any batch.

    Raises ContractError if shapes do not agree, ContractTypeError for other dtypes, or for "tf32" with
    any but float32. Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> mmk.linear(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [-5.0, 0.0]]), np.array([0.5, 0.5]), activation="relu")
    array([[11.5,  0. ]])
    """
    return _linear.call(x, weight, bias, activation, algorithm, out)
