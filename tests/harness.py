"""Everything that a contract implies, as functions of (operator, case, dtype). tests/test_laws.py calls them for all.

`python tests/harness.py OPERATOR CASE [DTYPE]` runs every law on one case.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bounds
import mmkernels as mmk
from mmkernels import _core, autograd
from mmkernels.contract import WIDE, Case, Contract
from mmkernels.operator import OPERATORS, Operator
from mmkernels.profile import family_of
from mmkernels.verify import canonical, case_names, case_operands, instruction_set, run

Array = NDArray[Any]
BEST = _core.get_isa()


def reference_of(name: str) -> Callable[..., Any]:
    return getattr(importlib.import_module(f"reference.{family_of(name)}"), name)  # type: ignore[no-any-return]


def line(operator: Operator, case: Case, dtype: str) -> str:
    """What to paste to rerun a case."""
    return f"python tests/harness.py {operator.name} {case.name!r} {dtype}"


def same_bits(a: tuple[Array, ...], b: tuple[Array, ...]) -> bool:
    return all(
        x.dtype == y.dtype and x.shape == y.shape and canonical(x).tobytes() == canonical(y).tobytes()
        for x, y in zip(a, b, strict=True)
    )


# ---- numbers --------------------------------------------------------------------------------------------------------


def plain_attributes(operator: Operator, case: Case) -> dict[str, Any]:
    names = case_names(operator.contract, case)
    return {a.name: names[a.name] for a in operator.contract.attributes}


def check_against_reference(
    operator: Operator,
    case: Case,
    operands: Mapping[str, Array],
    dtype: str,
    wanted: list[Array] | None = None,
    found: tuple[Array, ...] | None = None,
    bound: str | None = None,
) -> None:
    """Our results against the reference one precision up (or another judge's), within the contract's bound (or one of
    another name); results in 16 bits may err by their last rounding more."""
    contract, where = operator.contract, line(operator, case, dtype)
    computed = WIDE.get(dtype, dtype)
    wide = np.float64 if computed == "float32" else np.longdouble
    given = [operands.get(a.name) for a in contract.inputs]
    exact = [o.astype(wide) if o is not None and is_float(o) else o for o in given]
    attributes = plain_attributes(operator, case)
    reference = reference_of(operator.name)
    if wanted is None:
        with np.errstate(all="ignore"):
            wanted = bounds.as_tuple(reference(*exact, **attributes))
    if found is None:
        found = run(operator, case, operands)
    assert len(found) == len(wanted), f"{len(found)} results; the reference has {len(wanted)}\n{where}"
    info = np.finfo(computed)
    storage = unit_of(dtype) if dtype in WIDE else 0.0
    names = operator.names(tuple(given), tuple(attributes.values()))
    depth = int(mmk.contract.evaluate(contract.bound.depth, names))
    unit = float(info.eps) / 2
    call = bounds.Call(exact, attributes, names, reference, wanted, unit, depth, contract.bound.ulp, storage)
    limits = bounds.allowed(bound or contract.bound.kind, call, float(info.smallest_subnormal))
    for out, y, w, limit in zip(contract.outputs, found, wanted, limits, strict=False):
        assert y.shape == w.shape, f"{out.name}.shape is {y.shape}; the reference's is {w.shape}\n{where}"
        if not is_float(y):
            assert y.dtype.kind == w.dtype.kind and (y == w).all(), f"{out.name} differs\n{where}"
            continue
        float_type = np.dtype(computed if out.type.startswith("wide ") else dtype)
        assert y.dtype == float_type, f"{out.name}.dtype is {y.dtype}\n{where}"
        if float_type.name in WIDE:
            limit = limit * (1 + storage) + storage * np.abs(w) + smallest_of(dtype)
        with np.errstate(all="ignore"):
            rounded = w.astype(float_type).astype(wide)
            seen = y.astype(wide)
            special = ~np.isfinite(rounded)
            error = np.where(special, 0, np.abs(seen - w))
        assert (np.isnan(seen) == np.isnan(w)).all(), f"{out.name}: NaN in other places than the reference's\n{where}"
        clear = special & ~np.isnan(w)
        assert (seen[clear] == rounded[clear]).all(), f"{out.name}: infinities differ\n{where}"
        finite = ~special
        if (bound or contract.bound.kind) == "exact":
            good = (seen == rounded)[finite]
        else:
            good = (error <= limit)[finite]  # a NaN error is not <= anything
        if not np.all(good):
            at = np.unravel_index(
                np.argmax(np.where(finite, np.nan_to_num(error, nan=np.inf) - limit, -np.inf)), y.shape
            )
            raise AssertionError(
                f"{out.name}{list(map(int, at))} is {y[at]!r}; the reference has {w[at]!r}, "
                f"the bound is {limit[at]!r}\n{where}"
            )


def is_float(x: Array) -> bool:
    return x.dtype.kind == "f" or x.dtype.name == "bfloat16"


def unit_of(dtype: str) -> float:
    """The unit of rounding."""
    return {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}[dtype]


def smallest_of(dtype: str) -> float:
    """The smallest subnormal of a storage type."""
    return {"float16": 2.0**-24, "bfloat16": 2.0**-133}[dtype]


def law_reference(operator: Operator, case: Case, dtype: str) -> None:
    check_against_reference(operator, case, case_operands(operator.contract, case, dtype), dtype)


def law_storage(operator: Operator, case: Case, dtype: str) -> None:
    """A 16-bit call is the float32 call on widened operands, rounded once, in any layout."""
    operands = case_operands(operator.contract, case, dtype)
    wide = {name: x.astype(np.float32) if is_float(x) else x for name, x in operands.items()}
    with np.errstate(over="ignore"):  # what is too large for float16 is infinite in both
        wanted = tuple(
            y.astype(dtype) if is_float(y) and not out.type.startswith("wide ") else y
            for out, y in zip(operator.contract.outputs, run(operator, case, wide), strict=False)
        )
    for layout in (None, strided, reversed_memory, misaligned, fortran):
        given = operands if layout is None else {name: layout(x) for name, x in operands.items()}
        assert same_bits(run(operator, case, given), wanted), f"layout {layout}\n{line(operator, case, dtype)}"


def law_nan(operator: Operator, case: Case, dtype: str) -> None:
    """A NaN and an infinity in each float operand reach the results that the reference says they reach."""
    base = case_operands(operator.contract, case, dtype)
    for name, x in base.items():
        if x.dtype.kind != "f" or not x.size:
            continue
        for value in (np.nan, np.inf):
            spoilt = x.copy()
            at = x.size // 2
            if x.ndim and at % x.shape[-1] == column_of(operator, name):  # a value that is bounded raises
                at += 1
            spoilt.reshape(-1)[at] = value
            check_nan_places(operator, case, {**base, name: spoilt}, dtype)


def column_of(operator: Operator, name: str) -> int:
    """The column of an operand whose values are bounded; -1: none, or all."""
    return next((a.column for a in operator.contract.inputs if a.name == name), -1)


def check_nan_places(operator: Operator, case: Case, operands: Mapping[str, Array], dtype: str) -> None:
    given = [operands.get(a.name) for a in operator.contract.inputs]
    with np.errstate(all="ignore"):
        wanted = bounds.as_tuple(reference_of(operator.name)(*given, **plain_attributes(operator, case)))
    for out, y, w in zip(operator.contract.outputs, run(operator, case, operands), wanted, strict=False):
        if y.dtype.kind == "f":
            assert (np.isnan(y) == np.isnan(w)).all(), f"{out.name}: NaN in other places\n{line(operator, case, dtype)}"


# ---- the same bits --------------------------------------------------------------------------------------------------


def law_instruction_sets(operator: Operator, case: Case, dtype: str) -> None:
    """portable = AVX2 = AVX-512, in float32."""
    operands = case_operands(operator.contract, case, dtype)
    results = {}
    for isa in _core.available_isas():
        with instruction_set(isa):
            results[isa] = run(operator, case, operands)
    for isa, found in results.items():
        if dtype == "float32":
            assert same_bits(found, results["portable"]), f"{isa} differs from portable\n{line(operator, case, dtype)}"
        else:
            with instruction_set(isa):
                check_against_reference(operator, case, operands, dtype)


def law_threads(operator: Operator, case: Case, dtype: str) -> None:
    """Twice the same; one and two threads, and more than there are processors."""
    operands = case_operands(operator.contract, case, dtype)
    first = run(operator, case, operands)
    before = mmk.get_num_threads()
    try:
        for threads in (1, 2, 5, 1):
            mmk.set_num_threads(threads)
            assert same_bits(run(operator, case, operands), first), f"{threads} threads\n{line(operator, case, dtype)}"
    finally:
        mmk.set_num_threads(before)


def strided(x: Array) -> Array:
    """The same values with a gap after every element."""
    wide = np.empty((*x.shape, 2), x.dtype)
    wide[..., 0] = x
    wide[..., 1] = np.nan if is_float(x) else np.zeros((), x.dtype)
    return wide[..., 0]


def reversed_memory(x: Array) -> Array:
    """The same values, the last first in memory."""
    return np.flip(np.flip(x).copy())


def misaligned(x: Array) -> Array:
    """The same values at an odd address."""
    raw = np.empty(x.nbytes + 1, np.uint8)
    shifted = raw[1:].view(x.dtype).reshape(x.shape) if x.nbytes else x.copy()
    shifted[...] = x
    return shifted


def read_only(x: Array) -> Array:
    y = x.copy()
    y.setflags(write=False)
    return y


def channels_last(x: Array) -> Array:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1) if x.ndim >= 3 else x


def broadcast_view(x: Array) -> Array:
    return x if x.ndim == 0 or x.shape[0] != 1 else np.broadcast_to(x[0], x.shape)


def fortran(x: Array) -> Array:
    return x.copy(order="F")


LAYOUTS: tuple[Callable[[Array], Array], ...] = (
    fortran, strided, reversed_memory, misaligned, read_only, channels_last, broadcast_view,
)  # fmt: skip


def law_layouts(operator: Operator, case: Case, dtype: str) -> None:
    """Layout, strides, alignment and writeability of the operands do not change a bit, nor do calls change them."""
    operands = case_operands(operator.contract, case, dtype)
    first = run(operator, case, operands)
    for layout in LAYOUTS:
        other = {name: layout(x) for name, x in operands.items()}
        found = run(operator, case, other)
        assert same_bits(found, first), f"layout {layout.__name__}\n{line(operator, case, dtype)}"
        for name, x in operands.items():
            assert canonical(other[name]).tobytes() == canonical(x).tobytes(), f"{name} was changed"


def law_result_layout(operator: Operator, case: Case, dtype: str) -> None:
    """Results follow a dense channels-last first operand, and are contiguous otherwise."""
    contract = operator.contract
    operands = case_operands(contract, case, dtype)
    x = operands.get(contract.layout) if contract.layout else None
    for y in run(operator, case, operands):
        assert y.flags.c_contiguous
    if x is None or x.ndim < 3 or x.shape[1] == 1 or np.prod(x.shape[2:]) <= 1 or not x.size:
        return
    for y in run(operator, case, {**operands, contract.layout: channels_last(x)}):
        if y.ndim == x.ndim:
            assert np.moveaxis(y, 1, -1).flags.c_contiguous, line(operator, case, dtype)


def law_free_extents(operator: Operator, case: Case, dtype: str) -> None:
    """Part of a free extent gives that part of the results."""
    contract = operator.contract
    operands = case_operands(contract, case, dtype)
    whole = run(operator, case, operands)
    outputs = [o for o in contract.outputs if mmk.contract.evaluate(o.when, case_names(contract, case))]
    for extent in contract.free:
        n = case.extents.get(extent)
        if isinstance(n, tuple):
            n = n[0] if n else 1
        if n is None or n < 2:
            continue
        for part in (slice(0, 1), slice(n - 1, n), slice(n // 2, n)):
            pieces = {}
            for a in contract.inputs:
                if a.name in operands:
                    pieces[a.name] = slice_extent(operands[a.name], a.shape, extent, part, n)
            extents = {k: v for k, v in case.extents.items() if k not in operands}
            found = run(operator, replace(case, extents=extents), pieces)
            wanted = tuple(slice_extent(y, o.shape, extent, part, n) for y, o in zip(whole, outputs, strict=True))
            assert same_bits(found, wanted), f"{extent}[{part.start}:{part.stop}]\n{line(operator, case, dtype)}"


def slice_extent(x: Array, shape: str, extent: str, part: slice, n: int) -> Array:
    tokens = shape.split()
    for i, token in enumerate(tokens):
        if token in (extent, "*" + extent):
            after = len(tokens) - 1 - i
            pack = any(t.startswith("*") for t in tokens[:i])
            axis = x.ndim - 1 - after if pack else i
            if axis >= x.ndim or x.shape[axis] != n:  # broadcast
                return x
            return x[(slice(None),) * axis + (part,)]
    return x


@contextmanager
def floating_point_mode(rounding: int, flush: bool) -> Iterator[None]:
    """The caller's mode: rounding as in <fenv.h>, flush-to-zero and denormals-are-zero (x86 with glibc)."""
    libm = ctypes.CDLL("libm.so.6")
    environment = (ctypes.c_uint32 * 8)()
    changed = (ctypes.c_uint32 * 8)()
    assert libm.fegetenv(environment) == 0 and libm.fegetenv(changed) == 0
    changed[7] = (changed[7] & ~0x6000) | rounding << 13 | (0x8040 if flush else 0)
    assert libm.fesetenv(changed) == 0
    try:
        yield
    finally:
        libm.fesetenv(environment)


def law_caller_mode(operator: Operator, case: Case, dtype: str) -> None:
    """A caller that flushes subnormals or rounds upward gets the same bits, and its mode back."""
    operands = case_operands(operator.contract, case, dtype)
    operands = {k: x * np.float32(1e-30).astype(x.dtype) if x.dtype.kind == "f" else x for k, x in operands.items()}
    first = run(operator, case, operands)
    for rounding, flush in ((0, True), (2, False)):
        with floating_point_mode(rounding, flush):
            found = run(operator, case, operands)
        assert same_bits(found, first), f"rounding {rounding}, flush {flush}\n{line(operator, case, dtype)}"


def law_out(operator: Operator, case: Case, dtype: str) -> None:
    """A poisoned result between guard bands is written whole and nothing beside it is touched, in any layout."""
    operands = case_operands(operator.contract, case, dtype)
    first = run(operator, case, operands)
    if len(first) != 1:
        _law_several_outs(operator, case, dtype, operands, first)
        return
    y = first[0]
    poison = np.nan if y.dtype.kind == "f" else 1
    guard = 64
    for layout in ("contiguous", "strided", "fortran"):
        step = 2 if layout == "strided" else 1
        memory = np.full(y.size * step + 2 * guard, poison, y.dtype)
        inside = memory[guard : guard + y.size * step : step] if y.size else memory[guard:guard]
        out = inside.reshape(y.shape[::-1]).T if layout == "fortran" else inside.reshape(y.shape)
        before = memory.copy()
        assert run(operator, case, operands, out=out)[0] is out
        assert same_bits((out,), first), f"out {layout}\n{line(operator, case, dtype)}"
        untouched = np.ones(memory.shape, bool)
        untouched[guard : guard + y.size * step : step] = False
        assert memory[untouched].tobytes() == before[untouched].tobytes(), (
            f"guard {layout}\n{line(operator, case, dtype)}"
        )


def _law_several_outs(
    operator: Operator, case: Case, dtype: str, operands: Mapping[str, Array], first: tuple[Array, ...]
) -> None:
    """Several results take a tuple of as many arrays, which lie as the results do."""
    given = [operands.get(a.name) for a in operator.contract.inputs]

    def refuse(kind: type[Exception], text: str, out: Any) -> None:
        with pytest.raises(kind) as caught:
            operator(*given, out=out, **case.attributes)
        assert str(caught.value).startswith(f"{operator.name}: ") and text in str(caught.value), str(caught.value)

    guard, memories, outs = 64, [], []
    for y in first:
        memory = np.full(y.size + 2 * guard, np.nan if y.dtype.kind == "f" else 1, y.dtype)
        inside = memory[guard : guard + y.size]
        order = sorted(range(y.ndim), key=lambda i: -abs(y.strides[i]))  # of memory, slowest first
        out = inside.reshape([y.shape[i] for i in order]).transpose(np.argsort(order)) if y.ndim else inside.reshape(())
        memories.append(memory)
        outs.append(out)
    before = [memory.copy() for memory in memories]
    given_outs = tuple(outs)
    found = operator(*given, out=given_outs, **case.attributes)
    assert len(found) == len(outs) and all(y is out for y, out in zip(found, outs, strict=True))
    assert same_bits(given_outs, first), f"out\n{line(operator, case, dtype)}"
    for memory, old, y in zip(memories, before, first, strict=True):
        inside = slice(guard, guard + y.size)
        memory[inside] = old[inside]
        assert memory.tobytes() == old.tobytes(), f"guard\n{line(operator, case, dtype)}"
    refuse(mmk.ContractTypeError, "out= was given one array; expected a tuple of", outs[0])
    refuse(mmk.ContractTypeError, f"out is a tuple of 1; expected a tuple of {len(first)}", (outs[0],))
    refuse(mmk.ContractTypeError, "out is a list", (*outs[:-1], [0.0]))
    refuse(mmk.ContractError, "out[1].shape is", (outs[0], np.empty((*first[1].shape, 2), first[1].dtype), *outs[2:]))
    refuse(mmk.ContractTypeError, "out[1].dtype is", (outs[0], np.empty(first[1].shape, np.complex64), *outs[2:]))
    refuse(mmk.ContractError, "out[0] is read-only", (read_only(first[0]), *outs[1:]))
    y = first[0]
    if y.size > 1:
        refuse(mmk.ContractError, "out[0] has strides", (strided(y), *outs[1:]))
    if y.size and y.shape == first[1].shape and y.dtype == first[1].dtype and y.strides == first[1].strides:
        refuse(mmk.ContractError, "out[1] overlaps out[0]", (outs[0], outs[0], *outs[2:]))


# ---- errors ---------------------------------------------------------------------------------------------------------


def law_errors(operator: Operator, case: Case, dtype: str) -> None:
    """Wrong rank, extent, dtype, kind, library and out= are told clearly, with operator and operand."""
    contract = operator.contract
    operands = case_operands(contract, case, dtype)

    def refuse(kind: type[Exception], text: str, changed: Mapping[str, Any], out: Any = None) -> None:
        given = [{**operands, **changed}.get(a.name) for a in contract.inputs]
        with pytest.raises(kind) as caught:
            operator(*given, out=out, **case.attributes)
        assert str(caught.value).startswith(f"{operator.name}: ") and text in str(caught.value), str(caught.value)

    for a in contract.inputs:
        x = operands.get(a.name)
        if x is None:
            continue
        if not a.optional:
            refuse(mmk.ContractTypeError, f"{a.name} is ", {a.name: None})
        refuse(mmk.ContractTypeError, f"{a.name} is a list", {a.name: [1.0]})
        refuse(mmk.ContractTypeError, f"{a.name}.dtype is complex64", {a.name: x.astype(np.complex64)})
        if "*" not in a.shape:
            refuse(mmk.ContractError, f"{a.name} has {x.ndim + 1} extents", {a.name: x[None]})
        if a.values and x.size:
            low, high = (mmk.contract.evaluate(v, case_names(contract, case)) for v in a.values)
            at = x.size // 2 if a.column < 0 else x.shape[0] // 2 * x.shape[-1] + a.column
            for value in (high, low - 1):
                bad = x.copy()
                bad.reshape(-1)[at] = value
                refuse(mmk.ContractError, f"{a.name}.flat[{at}] is {value}; expected", {a.name: bad})
    found = run(operator, case, operands)
    if len(found) == 1:
        y = found[0]
        refuse(mmk.ContractError, "out.shape is", {}, np.empty((*y.shape, 2), y.dtype))
        refuse(mmk.ContractTypeError, "out.dtype is", {}, np.empty(y.shape, np.complex64))
        refuse(mmk.ContractError, "out is read-only", {}, read_only(y))
        refuse(mmk.ContractTypeError, "out is a list", {}, [0.0])
        for name, x in operands.items():
            if x.shape == y.shape and x.dtype == y.dtype and x.size:
                refuse(mmk.ContractError, "out overlaps operand", {}, operands[name])


def law_attributes(operator: Operator, case: Case, dtype: str) -> None:
    """An attribute of a kind that it cannot have is refused by an error of ours, whatever it is."""
    operands = case_operands(operator.contract, case, dtype)
    given = [operands.get(a.name) for a in operator.contract.inputs]
    for a in operator.contract.attributes:
        values = [object(), "nonsense", (1, "2"), b"1", {}, 1j] + ([] if a.kind == "float" else [10**30, -(10**30)])
        for value in values:
            with pytest.raises((mmk.ContractError, mmk.ContractTypeError), match=rf"^{operator.name}: "):
                operator(*given, **{**case.attributes, a.name: value})


def law_extents(operator: Operator, case: Case, dtype: str) -> None:
    """An operand whose extent disagrees with the others' is refused by name."""
    contract = operator.contract
    operands = case_operands(contract, case, dtype)
    owners: dict[str, str] = {}
    for a in contract.inputs:
        x = operands.get(a.name)
        if x is None or "*" in a.shape:
            continue
        for axis, token in enumerate(a.shape.split()):
            if token.isidentifier() and token not in owners and token not in a.broadcast:
                owners[token] = a.name
                continue
            widths = [(0, 0)] * x.ndim
            widths[axis] = (0, 1 if x.shape[axis] else 2)
            other = np.pad(x, widths)
            if token in a.broadcast and other.shape[axis] == 1:
                continue
            given = [{**operands, a.name: other}.get(b.name) for b in contract.inputs]
            with pytest.raises(mmk.ContractError, match=rf"^{operator.name}: .*(shape|expected)"):
                operator(*given, **case.attributes)


def law_requires(operator: Operator, dtype: str) -> None:
    """Each condition, broken as the contract says, raises its own text."""
    contract = operator.contract
    base = contract.cases[0]
    for require in contract.requires:
        broken = dict(require.broken)
        optional = broken.pop("optional", base.optional)  # the optional operands that are given
        extents = {k: v for k, v in broken.items() if k not in {a.name for a in contract.attributes}}
        attributes = {k: v for k, v in broken.items() if k in {a.name for a in contract.attributes}}
        case = Case("broken", {**base.extents, **extents}, {**base.attributes, **attributes}, optional)
        names = case_names(contract, case)
        operands = case_operands(contract, case, dtype)
        given = [operands.get(a.name) for a in contract.inputs]
        with pytest.raises(mmk.ContractError) as caught:
            operator(*given, **case.attributes)
        wanted = f"{operator.name}: " + require.message.format_map(names)
        assert str(caught.value) == wanted, f"found  {caught.value}\nwanted {wanted}"


# ---- gradients ------------------------------------------------------------------------------------------------------


def law_gradients(operator: Operator, case: Case) -> None:
    """The tape's gradients, and their gradients, against central differences in float64."""
    contract = operator.contract
    if not contract.vjp and contract.composition is None:
        return
    operands = case_operands(contract, case, "float64")
    covered = {name for key in contract.vjp for name in key.split()}
    floats = [
        n for n, x in operands.items()
        if x.dtype.kind == "f" and contract.vjp.get(n) != "None" and (contract.composition or n in covered)
    ]  # fmt: skip
    names = case_names(contract, case)
    outputs = [o for o in contract.outputs if mmk.contract.evaluate(o.when, names)]
    first = run(operator, case, operands)
    seeds = np.random.default_rng(7)
    weights = [np.asarray(seeds.standard_normal(y.shape)) if y.dtype.kind == "f" else None for y in first]
    if not any(w is not None and w.size for w in weights) or not floats:
        return
    if not all(np.isfinite(y).all() for y in first if y.dtype.kind == "f"):
        return

    def scalar(values: Mapping[str, Any]) -> Any:
        """A smooth function of the operands through the operator: the weighted sum of its float results."""
        given = [values.get(a.name) for a in contract.inputs]
        result = operator(*given, **case.attributes)
        results = result if isinstance(result, tuple) else (result,)
        total: Any = None
        for o, y, w in zip(outputs, results, weights, strict=True):
            if w is not None and not (contract.vjp and not _used(contract, o.name)):
                term = mmk.sum(mmk.mul(y, w))
                total = term if total is None else mmk.add(total, term)
        return total

    directions = {n: np.asarray(seeds.standard_normal(operands[n].shape)) for n in floats}

    def gradient(values: Mapping[str, Any], create_graph: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        variables = {n: autograd.Variable(values[n], requires_grad=True) for n in floats}
        total = scalar({**values, **variables})
        found = autograd.grad(total, list(variables.values()), create_graph=create_graph)
        return variables, dict(zip(floats, found, strict=True))

    def along(found: Mapping[str, Any]) -> float:
        return float(np.sum([np.sum(g.data * directions[n]) for n, g in found.items() if g is not None]))

    def shifted(step: float) -> dict[str, Array]:
        return {**operands, **{n: operands[n] + step * directions[n] for n in floats}}

    step = 1e-5
    _, found = gradient(operands, False)
    for n, g in found.items():
        assert g is None or g.shape == operands[n].shape, f"gradient of {n}"
    numeric = (float(scalar(shifted(step))) - float(scalar(shifted(-step)))) / (2 * step)
    analytic = along(found)
    scale = 1 + abs(analytic) + float(np.sqrt(np.sum([np.sum(g.data**2) for g in found.values() if g is not None])))
    assert abs(numeric - analytic) <= 2e-6 * scale, f"{numeric} {analytic}\n{line(operator, case, 'float64')}"

    if contract.derivatives < 2:
        return
    # The derivative of <gradient, c> along the directions, against differences of the gradient.
    cotangent = {n: np.asarray(seeds.standard_normal(operands[n].shape)) for n in floats}

    def penalty(found: Mapping[str, Any]) -> Any:
        total: Any = None
        for n, g in found.items():
            if g is not None:
                term = mmk.sum(mmk.mul(g, cotangent[n]))
                total = term if total is None else mmk.add(total, term)
        return total

    variables, found = gradient(operands, True)
    total = penalty(found)
    if not isinstance(total, autograd.Variable) or not total.requires_grad:
        analytic, size = 0.0, 1.0
    else:
        seconds = autograd.grad(total, list(variables.values()))
        analytic = float(
            np.sum([np.sum(s.data * directions[n]) for n, s in zip(floats, seconds, strict=True) if s is not None])
        )
        size = 1 + float(np.sqrt(np.sum([np.sum(s.data**2) for s in seconds if s is not None])))
    up, down = (float(penalty({n: g.data for n, g in gradient(shifted(s), False)[1].items() if g is not None}))
                for s in (step, -step))  # fmt: skip
    numeric = (up - down) / (2 * step)
    assert abs(numeric - analytic) <= 2e-5 * (size + abs(analytic)), (
        f"{numeric} {analytic}\n{line(operator, case, 'float64')}"
    )


def _used(contract: Contract, output: str) -> bool:
    """Whether a result's gradient enters the vector-Jacobian products."""
    import re

    return any(re.search(rf"\bg{output}\b", expression) for expression in contract.vjp.values())


LAWS: tuple[Callable[[Operator, Case, str], None], ...] = (
    law_reference, law_nan, law_instruction_sets, law_threads, law_layouts, law_result_layout, law_free_extents,
    law_caller_mode, law_out, law_errors, law_attributes, law_extents,
)  # fmt: skip


def main(name: str, case_name: str, dtype: str = "float32") -> None:
    operator = OPERATORS[name]
    case = next(c for c in operator.contract.cases if c.name == case_name)
    for law in LAWS:
        law(operator, case, dtype)
        print("holds:", law.__name__)
    law_requires(operator, dtype)
    law_gradients(operator, case)
    print("holds: law_requires, law_gradients")


if __name__ == "__main__":
    main(*sys.argv[1:])
