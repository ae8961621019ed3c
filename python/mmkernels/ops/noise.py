"""Random numbers that are functions of a key and a position alone, with the same bits on every machine.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). A key is a 64-bit integer;
element i of a sample is made of word ``i % 4`` of the counter ``offset + i // 4`` under the sample's key. So noise does
not depend on the batch, the threads or the memory layout, and a longer sample begins with the values of a shorter one.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays import from_numpy, library_of
from ..contract import Arg, Attr, Bound, Case, Contract, Out, Require, number
from ..errors import ContractError, ContractTypeError
from ..operator import Operator
from ..windows import listed

__all__ = ["keys_of", "philox4x32", "philox_fold_in", "philox_normal", "philox_uniform"]

Keys = npt.NDArray[np.uint64]
Seed = int | Sequence[int] | npt.NDArray[Any]

_SOURCE = "Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011"
_WORDS = 2**64

PHILOX4X32 = Contract(
    "philox4x32", "Philox4x32-10: four random words of each counter under its key.",
    inputs=(Arg("counter", "N 4", "uint32"), Arg("key", "N 2", "uint32", broadcast=("N",))),
    outputs=(Out("words", "N 4", "uint32"),),
    free=("N",), flops="100 * N", bound=Bound("exact"), source=_SOURCE,
    cases=(
        Case("plain", {"N": 7}),
        Case("one key", {"N": 5, "key": (1, 2)}),
        Case("many", {"N": 2053}),
        Case("empty", {"N": 0}),
        Case("large", {"N": 1 << 20}, bench=True),
    ),
)  # fmt: skip

PHILOX_FOLD_IN = Contract(
    "philox_fold_in", "A new key from a key and a number: words 0 (low) and 1 (high) of the counter (data, 0, 1).",
    inputs=(Arg("key", "*S", "uint64", broadcast=("S",)), Arg("data", "*S", "uint64", broadcast=("S",))),
    outputs=(Out("folded", "*S", "uint64"),),
    free=("S",), flops="100 * prod(S)", bound=Bound("exact"), source=_SOURCE,
    cases=(
        Case("plain", {"S": (7,)}),
        Case("one key", {"S": (2053,), "key": (1,)}),
        Case("table", {"S": (3, 5), "key": (3, 1), "data": (5,)}),
        Case("one", {"S": ()}),
        Case("empty", {"S": (0,)}),
    ),
)  # fmt: skip


def _draw(name: str, summary: str, bound: Bound, flops: int) -> Contract:
    return Contract(
        name, summary,
        inputs=(Arg("keys", "N", "uint64"),),
        attributes=(
            Attr("extents", "ints", doc="of one sample"),
            Attr("offset", "int", 0, doc="counters (of four elements) before the first; they wrap at 2^64"),
        ),
        requires=(
            Require("len(extents) <= 7", "extents is {extents}; expected at most 7 of them", {"extents": (1,) * 8}),
        ),
        outputs=(Out("y", "N *extents", "float32"),),
        free=("N",), flops=f"{flops} * N * prod(extents)", bound=bound, source=_SOURCE,
        cases=(
            Case("plain", {"N": 3}, {"extents": (3, 5, 7), "offset": 0}),
            Case("whole blocks", {"N": 2}, {"extents": (4, 512), "offset": 3}),
            Case("odd blocks", {"N": 2}, {"extents": (2053,), "offset": -1}),
            Case("small samples", {"N": 37}, {"extents": (3,), "offset": 2**40}),
            Case("one element", {"N": 2}, {"extents": (), "offset": 0}),
            Case("no sample", {"N": 0}, {"extents": (4,), "offset": 0}),
            Case("empty samples", {"N": 2}, {"extents": (3, 0), "offset": 0}),
            Case("latents", {"N": 2}, {"extents": (4, 64, 64), "offset": 0}, bench=True),
            Case("images", {"N": 8}, {"extents": (3, 512, 512), "offset": 0}, bench=True),
        ),
    )  # fmt: skip


PHILOX_UNIFORM = _draw(
    "philox_uniform", "Uniform noise in [0, 1): the low 24 bits of each word, times 2^-24.", Bound("exact"), 27,
)  # fmt: skip
PHILOX_NORMAL = _draw(
    "philox_normal", "Standard normal noise: Box and Muller's (R cos, R sin) of words (0, 1) and (2, 3).",
    Bound("normal"), 50,
)  # fmt: skip

_philox4x32, _fold_in, _uniform, _normal = map(
    Operator, (PHILOX4X32, PHILOX_FOLD_IN, PHILOX_UNIFORM, PHILOX_NORMAL)
)  # fmt: skip


def _word(value: Any, where: str) -> int:
    """An integer modulo 2^64."""
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise ContractTypeError(f"{where} is {value!r}; expected an integer")
    try:
        found = operator.index(value)
    except TypeError:  # an array that is no integer
        raise ContractTypeError(f"{where} is {value!r}; expected an integer") from None
    if not -(2**63) <= found < _WORDS:
        raise ContractError(f"{where} is {found}; expected -2**63 <= value < 2**64")
    return found % _WORDS


def _words(value: Any, where: str) -> Keys:
    """Integers, one or a sequence or an array of them, modulo 2^64."""
    if isinstance(value, (list, tuple, range)):
        return np.array([_word(v, f"{where}[{i}]") for i, v in enumerate(value)], np.uint64)
    if getattr(value, "ndim", 0) == 0 and hasattr(value, "__index__"):
        return np.array(_word(value, where), np.uint64)
    if not hasattr(value, "dtype") or not hasattr(value, "__array__"):
        raise ContractTypeError(f"{where} is {value!r}; expected an integer or an array of them")
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise ContractTypeError(f"{where}.dtype is {array.dtype}; expected integers")
    return array.astype(np.uint64, copy=False)


def keys_of(seed: Seed, n: int, name: str = "keys_of") -> Keys:
    """The keys of n samples.

    An int s stands for ``philox_fold_in(s, 0 .. n-1)``: a smaller batch has the first keys of a larger one. A sequence
    or array of n integers is taken as given. Integers may be in -2^63 .. 2^64-1 and count modulo 2^64.

    Returns uint64[n]. Raises ContractTypeError for what is no integer, ContractError for other counts than n; ``name``
    begins their messages. Provisional.

    >>> from mmkernels.ops.noise import keys_of
    >>> keys_of(7, 3)[:2].tolist() == keys_of(7, 2).tolist()
    True
    >>> keys_of([5, -1], 2).tolist()
    [5, 18446744073709551615]
    """
    words = _words(seed, f"{name}: seed")
    if words.ndim == 0:
        keys: Keys = _fold_in.call(words.reshape(1), np.arange(n, dtype=np.uint64), None)
        return keys
    if words.shape != (n,):
        raise ContractError(f"{name}: seed has shape {words.shape}; expected one int, or one per sample: ({n},)")
    return words


def _on_device(seed: Any) -> bool:
    """Whether keys lie in device memory. They stay there: reading them would wait for what computes them, and a graph
    that draws from other keys each time could not be captured."""
    library = library_of(seed)
    return library not in ("", "numpy", "tape", "jax") and not (library == "torch" and seed.device.type == "cpu")


def keys_for(seed: Any, n: int, like: Any, name: str) -> Any:
    """The keys of n samples beside the array ``like``: ``keys_of``, or keys that lie in device memory as they are."""
    if not _on_device(seed):
        return from_numpy(keys_of(seed, n, name), like)
    if tuple(seed.shape) != (n,):
        raise ContractError(f"{name}: seed has shape {tuple(seed.shape)}; expected one int, or one per sample: ({n},)")
    return seed


def philox4x32(counter: Any, key: Any, *, out: Any = None) -> Any:
    """Philox4x32-10, the generator itself: four words of each counter.

    counter: uint32 (N, 4), word 0 first; key: uint32 (N, 2) or (1, 2). Returns uint32 (N, 4). Raises ContractError for
    other shapes, ContractTypeError for other dtypes. Salmon et al. 2011. Provisional.

    >>> import numpy as np
    >>> from mmkernels.ops.noise import philox4x32
    >>> [hex(word) for word in philox4x32(np.zeros((1, 4), np.uint32), np.zeros((1, 2), np.uint32))[0]]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    return _philox4x32.call(counter, key, out)


def philox_fold_in(key: Any, data: Any, *, out: Any = None) -> Any:
    """New keys from keys and numbers: different numbers give independent keys.

    key, data: integers, sequences or arrays of them, modulo 2^64; shapes broadcast. Returns uint64 of the common
    shape: words 0 (low) and 1 (high) of the counter (data low, data high, 0, 1) under the key (Salmon et al. 2011).
    Noise never uses a counter with a 1 there. Raises ContractTypeError for what is no integer. Provisional.

    >>> from mmkernels.ops.noise import philox_fold_in
    >>> int(philox_fold_in(0, 1)) == int(philox_fold_in([0, 5], 1)[0])
    True
    """
    return _fold_in.call(_words(key, "philox_fold_in: key"), _words(data, "philox_fold_in: data"), out)


def _dtype_name(dtype: Any) -> str:
    """The name of a dtype, be it a name, a NumPy type or torch's."""
    return np.dtype(dtype).name if isinstance(dtype, type) else str(dtype).removeprefix("torch.")


def _drawn(of: Operator, shape: Sequence[int], seed: Any, offset: Any, dtype: Any, like: Any, out: Any) -> Any:
    shape = listed(shape)
    if not isinstance(shape, Sequence) or isinstance(shape, (str, bytes)):
        raise ContractTypeError(f"{of.name}: shape is {shape!r}; expected a sequence of extents")
    extents = tuple(number("int", n, f"{of.name}: shape is {shape!r}") for n in shape)
    if not extents or min(extents) < 0:
        raise ContractError(f"{of.name}: shape is {extents}; expected the number of samples, then their extents")
    wanted = _dtype_name(dtype)
    if wanted not in ("float32", "float64"):
        raise ContractTypeError(f"{of.name}: dtype is {wanted}; expected float32 or float64")
    for name, array in (("like", like), ("out", out)):
        if array is not None and not library_of(array):
            raise ContractTypeError(f"{of.name}: {name} is a {type(array).__name__}; expected an array")
    first = _word(offset, f"{of.name}: offset")
    first -= _WORDS if first >= _WORDS // 2 else 0  # attributes are signed
    if _on_device(seed):
        values = of.call(
            keys_for(seed, extents[0], None, of.name), extents[1:], first, out if wanted == "float32" else None
        )
        if wanted == "float64":
            values = values.double() if library_of(values) == "torch" else values.astype(np.float64)
            if out is not None:
                out[...] = values
        return values if out is None else out
    keys = keys_of(seed, extents[0], of.name)
    if wanted == "float32" and out is not None:
        return of.call(from_numpy(keys, out), extents[1:], first, out)
    values = of.call(keys, extents[1:], first, None)
    if wanted == "float64":
        values = values.astype(np.float64)
    if out is None:
        return from_numpy(values, like)
    if tuple(out.shape) != extents or _dtype_name(out.dtype) != wanted:
        found = f"{_dtype_name(out.dtype)} {tuple(out.shape)}"
        raise ContractError(f"{of.name}: out is {found}; expected {wanted} {extents}")
    out[...] = from_numpy(values, out)
    return out


def philox_uniform(
    shape: Sequence[int],
    *,
    seed: Seed,
    offset: int = 0,
    dtype: str = "float32",
    like: Any = None,
    out: Any = None,
) -> Any:
    """Uniform random numbers in [0, 1), multiples of 2^-24.

    Args:
        shape: (N, \\*S), N samples.
        seed: one int, or one key per sample; see ``keys_of``. Sample n depends on its key alone.
        offset: counters to skip, of four elements each: ``offset=k`` begins with element 4k of offset 0.
        dtype: "float32", or "float64" for the same float32 values, widened.
        like: an array whose library the result is of; NumPy by default.
        out: an array to write to.

    Returns:
        (N, \\*S): element i of a sample, in logical order, is ``(word & 0xffffff) * 2**-24`` of word ``i % 4`` of the
        counter ``offset + i // 4``.

    Raises:
        ContractError: shape has no extent or more than 8, or seed does not hold one key per sample.
        ContractTypeError: seed or offset is no integer, dtype is another.

    Source: Salmon et al. 2011. Stable.

    >>> import mmkernels.ops.noise as noise
    >>> [hex(int(v)) for v in noise.philox_uniform((1, 4), seed=[0])[0] * 2**24]
    ['0x27e8d5', '0x69c58d', '0x57ac4c', '0xdbd8']
    """
    return _drawn(_uniform, shape, seed, offset, dtype, like, out)


def philox_normal(
    shape: Sequence[int],
    *,
    seed: Seed,
    offset: int = 0,
    dtype: str = "float32",
    like: Any = None,
    out: Any = None,
) -> Any:
    """Random numbers of the standard normal law.

    Args, returns and errors as ``philox_uniform``, but for the values: words (0, 1) of a counter make elements 0 and 1,
    words (2, 3) elements 2 and 3, as ``R cos(a), R sin(a)`` with ``R = sqrt(-2 ln u)``,
    ``u = (first word + 1/2) 2^-32`` and ``a = 2 pi (second word) 2^-32``, in float32. Errors are below 6e-7 where
    R > 0.05, and 2.5e-4 at worst. No value exceeds 6.77.

    Source: Box and Muller 1958; Salmon et al. 2011. Stable.

    >>> import mmkernels.ops.noise as noise
    >>> batch = noise.philox_normal((4, 3, 8, 8), seed=1)
    >>> alone = noise.philox_normal((2, 3, 8, 8), seed=1)
    >>> bool((batch[:2] == alone).all())
    True
    """
    return _drawn(_normal, shape, seed, offset, dtype, like, out)
