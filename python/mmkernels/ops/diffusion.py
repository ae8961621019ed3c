"""The forward process of diffusion models, and one step of a sampler as one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arrays import from_numpy, library_of, reshape
from ..contract import Arg, Attr, Bound, Case, Contract, Out, Require
from ..errors import ContractError, ContractTypeError
from ..operator import Operator
from .noise import Seed, keys_for, philox_normal
from .pointwise import add, greater, mul, sub, where

__all__ = ["add_noise", "diffusion_step"]

ADD_NOISE = Contract(
    "add_noise", "The forward process: alpha x + sigma noise.",
    inputs=(
        Arg("x", "N *S"), Arg("noise", "N *S"),
        Arg("alpha", "N", broadcast=("N",)), Arg("sigma", "N", broadcast=("N",)),
    ),
    lets={"ones": "(1,) * len(S)", "size": "prod(S)"},
    outputs=(Out("y", "N *S"),),
    free=("N", "S"), layout="x", flops="3 * N * prod(S)", bound=Bound("terms", depth="2"),
    vjp={
        "x": "mul(gy, reshape(alpha, alpha.shape + ones))",
        "noise": "mul(gy, reshape(sigma, sigma.shape + ones))",
        "alpha": "sum(reshape(mul(gy, x), (N, size)), dims=(1,))",
        "sigma": "sum(reshape(mul(gy, noise), (N, size)), dims=(1,))",
    },
    cases=(
        Case("per sample", {"N": 3, "S": (3, 5, 7)}),
        Case("one level", {"N": 3, "S": (4, 6, 6), "alpha": (1,), "sigma": (1,)}),
        Case("long", {"N": 3, "S": (1037,), "sigma": (1,)}),
        Case("numbers", {"N": 17, "S": ()}),
        Case("empty", {"N": 2, "S": (0, 3)}),
        Case("no sample", {"N": 0, "S": (3, 4)}),
        Case("images", {"N": 8, "S": (3, 512, 512)}, bench=True),
    ),
    source="Ho et al. 2020, equation 4",
)  # fmt: skip

COLUMNS = 20
_G1, _G2, _P, _Q, _LO, _HI, _A, _B, _E, _C1, _S, _KA, _KB, _HA, _HB, _HC = (
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 18
)  # fmt: skip


def _detached(x: Any) -> Any:
    return x.detach() if hasattr(x, "detach") else x


def _clamped(x: Any, low: Any, high: Any) -> Any:
    """NaN stays; the gradient goes to x or to the bound that was taken."""
    x = where(greater(_detached(low), _detached(x)), low, x)
    return where(greater(_detached(x), _detached(high)), high, x)


def _composition(o: Any) -> Any:
    """The step in other operators, with the same roundings in the same order."""
    coefficients = o.coefficients if o.table is None else o.embedding(o.step, o.table)
    rows, rank = coefficients.shape[0], len(o.x.shape)

    def column(k: int, shape: tuple[int, ...] = ()) -> Any:
        return reshape(coefficients[:, k : k + 1], (rows, *shape))

    y = o.y0
    if o.y1 is not None:
        y = add_noise(y, sub(o.y1, o.y0), 1.0, column(_G1))
    if o.y2 is not None:
        y = add_noise(y, sub(o.y2, o.y1), 1.0, column(_G2))
    ones = (1,) * (rank - 1)
    x0 = _clamped(add_noise(y, o.x, column(_Q), column(_P)), column(_LO, ones), column(_HI, ones))
    x_next = add_noise(o.x, x0, column(_A), column(_B))
    x_next = add_noise(x_next, y, 1.0, column(_E))
    for k, h in enumerate((o.h1, o.h2, o.h3, o.h4)):
        if h is not None:
            x_next = add_noise(x_next, h, 1.0, column(_C1 + k))
    z = o.noise
    keys = o["keys"]  # o.keys is the mapping's own
    if keys is not None:
        if o.step is not None:
            keys = o.philox_fold_in(_detached(keys), o.unsigned(_detached(o.step)))
        z = philox_normal(o.x.shape, seed=_detached(keys), dtype=o.x.dtype, like=o.x)
    if z is not None:
        x_next = add_noise(x_next, z, 1.0, column(_S))
    if o.mask is not None:
        kept = mul(o.known, column(_KA, ones))
        if z is not None:
            kept = add_noise(kept, z, 1.0, column(_KB))
        x_next = add(mul(o.mask, kept), mul(sub(1.0, o.mask), x_next))
    if not o.return_history:
        return x_next
    history = add_noise(o.x, x0, column(_HA), column(_HB))
    return x_next, add_noise(history, y, 1.0, column(_HC))


_ROW = ("coefficients",)


def _step_case(name: str, extents: dict[str, Any], *given: str, history: bool = False, bench: bool = False) -> Case:
    """A case; coefficients are given unless there is a table."""
    optional = given if "table" in given else (*_ROW, *given)
    return Case(name, extents, {"return_history": True} if history else {}, optional, bench)


DIFFUSION_STEP = Contract(
    "diffusion_step", "One step of a sampler: guidance, conversion, clipping, history, noise and mask blend at once.",
    inputs=(
        Arg("x", "N *S"),
        Arg("y0", "N *S", doc="the prediction; with guidance the unconditional one"),
        Arg("y1", "N *S", optional=True), Arg("y2", "N *S", optional=True),
        Arg("coefficients", "N 20", optional=True, broadcast=("N",)),
        *(Arg(f"h{k}", "N *S", optional=True) for k in (1, 2, 3, 4)),
        Arg("noise", "N *S", optional=True),
        Arg("keys", "N", "uint64", optional=True, doc="noise is drawn from them"),
        Arg("mask", "N *S", optional=True, broadcast=("N", "S")),
        Arg("known", "N *S", optional=True),
        Arg("table", "T 20", optional=True, doc="rows of coefficients, one per step"),
        Arg("step", "N", "int64", optional=True, broadcast=("N",), values=("0", "T"), doc="rows of the table"),
    ),
    attributes=(Attr("return_history", "bool", False),),
    requires=(
        Require(
            "has_coefficients != has_table", "coefficients and table are both given, or none; expected one of them",
            {"optional": ()},
        ),
        Require(
            "has_table == has_step", "one of table and step is given; expected both or none",
            {"optional": ("table",), "T": 3},
        ),
        Require("has_y1 or not has_y2", "y2 is given and y1 is not; expected both", {"optional": (*_ROW, "y2")}),
        Require(
            "not (has_noise and has_keys)", "noise and keys are both given; expected one of them",
            {"optional": (*_ROW, "noise", "keys")},
        ),
        Require(
            "has_known or not has_mask", "mask is given and known is not; expected both", {"optional": (*_ROW, "mask")}
        ),
        Require(
            "has_mask or not has_known", "known is given and mask is not; expected both",
            {"optional": (*_ROW, "known")},
        ),
    ),
    outputs=(Out("x_next", "N *S"), Out("history", "N *S", when="return_history")),
    free=("N",), layout="x",
    flops="N * prod(S) * (12 + 3 * has_y1 + 3 * has_y2 + 2 * (has_h1 + has_h2 + has_h3 + has_h4) + 2 * has_noise"
    " + 52 * has_keys + 7 * has_mask + 5 * return_history)",
    bound=Bound("diffusion_step"), composition=_composition,
    cases=(
        _step_case("plain", {"N": 3, "S": (3, 5, 7), "coefficients": (1, 20)}),
        _step_case("guidance, drawn noise", {"N": 3, "S": (4, 5, 5), "coefficients": (1, 20)}, "y1", "keys"),
        _step_case("two guidances, given noise, history", {"N": 2, "S": (3, 64)},
                   "y1", "y2", "noise", "h1", "h2", "h3", "h4", history=True),
        _step_case("mask, drawn noise", {"N": 3, "S": (3, 5, 7), "mask": (1, 1, 5, 7)},
                   "keys", "mask", "known", "h1", history=True),
        _step_case("mask per sample", {"N": 2, "S": (2, 9, 16), "mask": (2, 1, 9, 1)}, "mask", "known", "h2"),
        _step_case("long", {"N": 2, "S": (2501,)}, "keys", "mask", "known"),
        _step_case("numbers", {"N": 5, "S": ()}, "noise"),
        _step_case("empty", {"N": 2, "S": (0, 3)}, "keys", "y1"),
        _step_case("no sample", {"N": 0, "S": (3, 4)}, "keys"),
        _step_case("table", {"N": 3, "S": (3, 5, 7), "T": 6, "step": (1,)}, "y1", "keys", "table", "step"),
        _step_case("table, step per sample", {"N": 5, "S": (67,), "T": 4}, "table", "step", history=True),
        _step_case("latents", {"N": 2, "S": (4, 64, 64), "coefficients": (1, 20)}, "y1", "keys", bench=True),
        _step_case("images", {"N": 8, "S": (3, 512, 512), "coefficients": (1, 20)}, "y1", "keys", bench=True),
    ),
    source="Ho et al. 2020; Song et al. 2021; Ho and Salimans 2022",
)  # fmt: skip

_add_noise, _diffusion_step = Operator(ADD_NOISE), Operator(DIFFUSION_STEP)


def _dtype_of(x: Any, name: str) -> np.dtype[Any]:
    """The dtype of x as NumPy's; float32 for what the operator will refuse anyway."""
    if not hasattr(x, "dtype") or not hasattr(x, "shape"):
        raise ContractTypeError(f"{name}: x is a {type(x).__name__}; expected an array")
    if isinstance(x.dtype, np.dtype):
        return x.dtype if x.dtype.kind == "f" else np.dtype(np.float32)
    return np.dtype(np.float64 if str(x.dtype).endswith("float64") else np.float32)


def _level(value: Any, x: Any, dtype: np.dtype[Any], what: str) -> Any:
    """One level as an array of one, in x's library; an array stays."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return from_numpy(np.array((value,), dtype), x)
    if not library_of(value):
        raise ContractTypeError(f"add_noise: {what} is {value!r}; expected a number or an array of one per sample")
    return reshape(value, (1,)) if len(value.shape) == 0 else value


def add_noise(x: Any, noise: Any, alpha: Any, sigma: Any, *, out: Any = None) -> Any:
    """The forward process: ``alpha * x + sigma * noise``, with one rounding for the sum and the second product.

    Args:
        x, noise: (N, \\*S), float32 or float64.
        alpha, sigma: numbers, or arrays (N,) or (1,) of x's dtype: the signal and noise level of each sample.
        out: an array to write to.

    Returns:
        (N, \\*S), in x's layout.

    Raises:
        ContractError: shapes differ. ContractTypeError: dtypes do.

    Source: Ho et al. 2020, equation 4. Differentiable in all operands. Stable.

    >>> import numpy as np
    >>> from mmkernels.ops.diffusion import add_noise
    >>> add_noise(np.ones((2, 2)), np.ones((2, 2)), 0.5, np.array([1.0, 2.0]))
    array([[1.5, 1.5],
           [2.5, 2.5]])
    """
    dtype = _dtype_of(x, "add_noise")
    return _add_noise.call(x, noise, _level(alpha, x, dtype, "alpha"), _level(sigma, x, dtype, "sigma"), out)


def _table(what: str, value: Any) -> Any:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:  # rows of several lengths, objects that refuse
        raise ContractTypeError(
            f"diffusion_step: {what} is a {type(value).__name__}; expected numbers ({error})"
        ) from None


def _rows(coefficients: Any, x: Any, dtype: np.dtype[Any]) -> Any:
    if library_of(coefficients) in ("", "numpy"):
        rows = _table("coefficients", coefficients)
        if rows.dtype.kind not in "fiu":
            raise ContractTypeError(f"diffusion_step: coefficients.dtype is {rows.dtype}; expected numbers")
        with np.errstate(over="ignore"):
            rows = from_numpy(rows.astype(dtype, copy=False), x)
    else:
        rows = coefficients
    return reshape(rows, (1, *rows.shape)) if len(rows.shape) == 1 else rows


def _index(step: Any, x: Any) -> Any:
    """Numbers of rows as an array of extents, in x's library."""
    if library_of(step) in ("", "numpy"):
        found = _table("step", step)
        if found.dtype.kind not in "iu":
            raise ContractTypeError(f"diffusion_step: step is {step!r}; expected an integer, or one per sample")
        step = from_numpy(found.astype(np.int64, copy=False), x)
    return reshape(step, (1,)) if len(step.shape) == 0 else step


def _mask(mask: Any, x: Any, dtype: np.dtype[Any]) -> Any:
    """Of x's rank and dtype."""
    if not library_of(mask):
        raise ContractTypeError(f"diffusion_step: mask is a {type(mask).__name__}; expected an array")
    if str(mask.dtype) in ("bool", "torch.bool"):
        mask = mask.to(x.dtype) if library_of(mask) == "torch" else mask.astype(dtype)
    missing = len(x.shape) - len(mask.shape)
    return reshape(mask, (1,) * missing + tuple(mask.shape)) if missing > 0 else mask


def diffusion_step(
    x: Any,
    prediction: Any,
    coefficients: Any,
    *,
    history: Sequence[Any] = (),
    noise: Any = None,
    seed: Seed | None = None,
    mask: Any = None,
    known: Any = None,
    step: Any = None,
    return_history: bool = False,
    out: Any = None,
) -> Any:
    """One step of a sampler in one pass over memory: guidance, conversion, clipping, history, noise, mask blend.

    With a row ``[g1, g2, p, q, lo, hi, A, B, E, C1, C2, C3, C4, s, ka, kb, ha, hb, hc, 0]``::

        y  = y0 + g1 (y1 - y0) + g2 (y2 - y1)
        x0 = clamp(p x + q y, lo, hi)
        x' = A x + B x0 + E y + C1 h1 + .. + C4 h4 + s z
        x' = m (ka known + kb z) + (1 - m) x'            with a mask m
        history' = ha x + hb x0 + hc y                   with return_history

    Terms of what is not given are left out, whatever their coefficients.

    Args:
        x: (N, \\*S), float32 or float64, any layout.
        prediction: y0, an array like x; or a sequence of (unconditional, conditional) or (unconditional, image, image
            and text).
        coefficients: 20 numbers, or (N, 20) for a row per sample; with ``step`` a table (T, 20). Rounded to x's dtype
            once, before anything else.
        history: up to four arrays like x: h1, h2, ...
        noise: z, like x; or
        seed: one int, or one key per sample: z is drawn in the kernel, with the bits of ``philox_normal(x.shape,
            seed=seed, dtype=...)``, which do not depend on layout or batch.
        mask: what broadcasts to x, of its dtype or bool; 1 where the sample is known.
        known: like x; given if mask is.
        step: int64, one or one per sample: the row of the table. Noise is then drawn under ``philox_fold_in(keys of
            the seed, step)``, as the samplers do. Both may lie in device memory, so that a captured graph of one step
            serves all of them. A step outside the table raises on the CPU; on a device the sample's results are zeros.
        return_history: whether the history for later steps is returned too.
        out: an array to write x' to; not with return_history.

    Returns:
        x', in x's layout, or (x', history'). A sample's bits depend on its own data, row and key alone; float32
        results are the same on every machine.

    Raises:
        ContractError: shapes differ, noise and seed are both given, or one of mask and known is. ContractTypeError:
            dtypes or array libraries differ.

    Source: Ho et al. 2020; Song et al. 2021; Ho and Salimans 2022; Lugmayr et al. 2022. Differentiable in all operands
    but seed. Stable, but for return_history, which is provisional.

    >>> import numpy as np
    >>> from mmkernels.ops.diffusion import diffusion_step
    >>> row = np.zeros(20)
    >>> row[[0, 3, 4, 5, 7]] = 2.0, 1.0, -1.0, 1.0, 1.0  # x' is the guided prediction, clipped
    >>> x, u, c = np.zeros((1, 3)), np.array([[0.1, 0.2, 0.3]]), np.array([[0.2, 0.4, 0.9]])
    >>> diffusion_step(x, (u, c), row).round(3)
    array([[0.3, 0.6, 1. ]])
    """
    dtype = _dtype_of(x, "diffusion_step")
    branches = tuple(prediction) if isinstance(prediction, (tuple, list)) else (prediction,)
    if not 1 <= len(branches) <= 3:
        raise ContractError(f"diffusion_step: prediction has {len(branches)} arrays; expected 1, 2 or 3")
    if not isinstance(history, (tuple, list)):
        raise ContractTypeError(f"diffusion_step: history is a {type(history).__name__}; expected a sequence of arrays")
    if len(history) > 4:
        raise ContractError(f"diffusion_step: history has {len(history)} arrays; expected at most 4")
    keys = None
    if seed is not None:
        if noise is not None:
            raise ContractError("diffusion_step: noise and seed are both given; expected one of them")
        if len(x.shape) == 0:
            raise ContractError("diffusion_step: x has no extents; expected (N, *S)")
        keys = keys_for(seed, x.shape[0], x, "diffusion_step")
    rows = _rows(coefficients, x, dtype)
    return _diffusion_step.call(
        x,
        *branches,
        *(None,) * (3 - len(branches)),
        rows if step is None else None,
        *history,
        *(None,) * (4 - len(history)),
        noise,
        keys,
        mask if mask is None else _mask(mask, x, dtype),
        known,
        None if step is None else rows,
        None if step is None else _index(step, x),
        return_history,
        out,
    )
