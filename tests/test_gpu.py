"""The real CUDA floor against the CPU floor: every operator, case and dtype, through CuPy's arrays and torch's tensors.

Nothing is listed here: operators and cases come from the contracts. Collected where MMK_GPU is set (gpu_places.py).
"""

from __future__ import annotations

import ctypes
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import harness
import mmkernels as mmk
from floors import Array, call_id, calls, check_found, differences
from gpu_places import REHEARSAL, Place, hashes, image_of, places, put_all, run_in
from mmkernels.contract import Arg, Case, evaluate
from mmkernels.operator import OPERATORS, Operator
from mmkernels.verify import TABLE, canonical, case_names, case_operands, run

PLACES = [pytest.param(place, id=place.name) for place in places()]
Layout = Callable[[Array], Array]


def in_places(*dtypes: str, where: Callable[[Operator, Case], bool] = lambda operator, case: True) -> list[Any]:
    return [
        pytest.param(place, *call, id=f"{place.name}-{call_id(*call)}")
        for place in places()
        for call in calls(*dtypes)
        if call[2] in place.dtypes and where(call[0], call[1])
    ]


@functools.lru_cache(maxsize=16)
def on_cpu(name: str, case_name: str, dtype: str) -> tuple[dict[str, Array], tuple[Array, ...]]:
    operator = OPERATORS[name]
    case = next(c for c in operator.contract.cases if c.name == case_name)
    operands = case_operands(operator.contract, case, dtype)
    return operands, run(operator, case, operands)


def assert_same(operator: Operator, found: tuple[Array, ...], wanted: tuple[Array, ...], what: str) -> None:
    assert harness.same_bits(found, wanted), f"{what}: {differences(operator, found, wanted)}"


@pytest.mark.parametrize(("place", "operator", "case", "dtype"), in_places())
def test_cases(place: Place, operator: Operator, case: Case, dtype: str) -> None:
    """The CPU floor's bits (or the bound), twice the same, operands as they were, results contiguous."""
    operands, wanted = on_cpu(operator.name, case.name, dtype)
    given = put_all(place, operands)
    results = run(operator, case, given)
    found = tuple(map(place.get, results))
    check_found(operator, case, dtype, operands, found, wanted, f"{place.name}: {call_id(operator, case, dtype)}")
    assert_same(operator, tuple(map(place.get, run(operator, case, given))), found, "the second time")
    for y in results:
        assert is_dense(place, y, range(len(y.shape)))
    for name, x in operands.items():
        assert canonical(place.get(given[name])).tobytes() == canonical(x).tobytes(), f"{name} was changed"


def is_dense(place: Place, y: Any, order: Sequence[int]) -> bool:
    """Whether an array is dense with its axes in this order, the last the fastest. Strides of single elements and of
    empty arrays are nobody's business."""
    wanted = 1
    for axis in reversed(order):
        if y.shape[axis] != 1 and place.strides(y)[axis] != wanted and 0 not in y.shape:
            return False
        wanted *= y.shape[axis]
    return True


LAYOUTS: tuple[Layout, ...] = (harness.fortran, harness.strided, harness.channels_last, harness.broadcast_view)


@pytest.mark.parametrize(("place", "operator", "case", "dtype"), in_places("float32", "bfloat16"))
def test_layouts(place: Place, operator: Operator, case: Case, dtype: str) -> None:
    """Strides, order in memory and alignment do not change a bit, nor does what lies between the elements."""
    operands, _ = on_cpu(operator.name, case.name, dtype)
    first = run_in(place, operator, case, operands)
    more = (harness.reversed_memory,) if place.negative_strides else ()
    for layout in (*LAYOUTS, *more):
        found = run_in(place, operator, case, {name: layout(x) for name, x in operands.items()})
        assert_same(operator, found, first, layout.__name__)
    for lead in (1, 2, 3):  # of 16-byte accesses, none may be taken for granted
        found = tuple(map(place.get, run(operator, case, put_all(place, operands, lead))))
        assert_same(operator, found, first, f"{lead} elements off an aligned address")


def follows(operator: Operator, case: Case) -> bool:
    """Whether the results of a case can be told to follow their operand's layout."""
    contract = operator.contract
    if not contract.layout:
        return False
    x = on_cpu(operator.name, case.name, "float32")[0].get(contract.layout)
    return x is not None and x.ndim >= 3 and x.shape[1] > 1 and bool(np.prod(x.shape[2:]) > 1) and bool(x.size)


@pytest.mark.parametrize(("place", "operator", "case", "dtype"), in_places("float32", where=follows))
def test_results_follow_channels_last(place: Place, operator: Operator, case: Case, dtype: str) -> None:
    operands, _ = on_cpu(operator.name, case.name, dtype)
    first = run_in(place, operator, case, operands)
    x = operands[operator.contract.layout]
    results = run(operator, case, put_all(place, {**operands, operator.contract.layout: harness.channels_last(x)}))
    assert_same(operator, tuple(map(place.get, results)), first, "channels last")
    for y in results:
        if len(y.shape) == x.ndim:
            assert is_dense(place, y, (0, *range(2, x.ndim), 1))


def has_free_extent(operator: Operator, case: Case) -> bool:
    return bool(operator.contract.free)


@pytest.mark.parametrize(
    ("place", "operator", "case", "dtype"), in_places("float32", "float16", "bfloat16", where=has_free_extent)
)
def test_free_extents(place: Place, operator: Operator, case: Case, dtype: str) -> None:
    """Part of a free extent gives that part of the results: tensor cores keep this law too."""
    contract = operator.contract
    operands, _ = on_cpu(operator.name, case.name, dtype)
    whole = run_in(place, operator, case, operands)
    outputs = [o for o in contract.outputs if evaluate(o.when, case_names(contract, case))]
    for extent in contract.free:
        n = case.extents.get(extent)
        n = (n[0] if n else 1) if isinstance(n, tuple) else n
        if n is None or n < 2:
            continue
        for part in (slice(0, 1), slice(n - 1, n), slice(n // 2, n)):
            pieces = {
                a.name: harness.slice_extent(operands[a.name], a.shape, extent, part, n)
                for a in contract.inputs
                if a.name in operands
            }
            smaller = replace(case, extents={k: v for k, v in case.extents.items() if k not in operands})
            wanted = tuple(
                harness.slice_extent(y, o.shape, extent, part, n) for y, o in zip(whole, outputs, strict=True)
            )
            assert_same(operator, run_in(place, operator, smaller, pieces), wanted, f"{extent}[{part.start}:]")


@pytest.mark.parametrize(("place", "operator", "case", "dtype"), in_places("float32", "float16"))
def test_out(place: Place, operator: Operator, case: Case, dtype: str) -> None:
    """A poisoned result between guards is written whole, and nothing beside it is touched, in any layout."""
    operands, _ = on_cpu(operator.name, case.name, dtype)
    given = put_all(place, operands)
    first = tuple(map(place.get, run(operator, case, given)))
    if len(first) != 1:
        with pytest.raises(mmk.ContractTypeError, match="out= was given"):
            run(operator, case, given, out=place.put(image_of(first[0])))
        outs = tuple(place.put(image_of(np.full_like(y, np.nan if harness.is_float(y) else 1))) for y in first)
        found = run(operator, case, given, out=outs)
        assert all(a is b for a, b in zip(found, outs, strict=True))
        assert_same(operator, tuple(map(place.get, outs)), first, "outs")
        return
    y = first[0]
    poison = np.nan if harness.is_float(y) else 1
    layouts: tuple[Layout, ...] = (np.copy, harness.fortran, harness.strided)
    for layout in layouts:
        image = image_of(layout(np.full(y.shape, poison, y.dtype)), lead=64)
        guarded = replace(image, memory=np.concatenate([image.memory, np.ones(64, y.dtype)]))
        guarded.memory[...] = poison
        out = place.put(guarded)
        assert run(operator, case, given, out=out)[0] is out
        assert_same(operator, (place.get(out),), first, f"out {layout.__name__}")
        whole = np.full(guarded.memory.shape, poison, y.dtype)
        inside = np.lib.stride_tricks.as_strided(
            whole[image.offset :], y.shape, tuple(s * y.itemsize for s in image.strides)
        )
        inside[...] = y
        assert canonical(memory_of(place, out, guarded)).tobytes() == canonical(whole).tobytes(), layout.__name__


def memory_of(place: Place, y: Any, image: Any) -> Array:
    """All the memory that an image was put into, y being the array in it."""
    n = len(image.memory)
    if place.name == "torch":
        return place.get(y.as_strided((n,), (1,), 0))
    if place.name == "cupy":
        return place.get(type(y)((n,), y.dtype, y.data - image.offset * y.itemsize))
    host = np.asarray(y.view(np.ndarray))
    start = host.__array_interface__["data"][0] - image.offset * y.itemsize
    raw = (ctypes.c_char * (n * y.itemsize)).from_address(start)
    return np.frombuffer(bytes(raw), y.dtype)


def middle(argument: Arg, x: Array, index: bool) -> int:
    """The flat position of an element in the middle; of boxes it is an index of an image, or it is not."""
    at = x.size // 2
    if argument.column < 0:
        return at
    row = at - at % x.shape[-1]
    return row + argument.column if index else row + (argument.column + 1) % x.shape[-1]


def has_floats(operator: Operator, case: Case) -> bool:
    return any(harness.is_float(x) and x.size for x in on_cpu(operator.name, case.name, "float32")[0].values())


@pytest.mark.parametrize(
    ("place", "operator", "case", "dtype"), in_places("float32", "float16", "bfloat16", where=has_floats)
)
def test_nan_and_infinity(place: Place, operator: Operator, case: Case, dtype: str) -> None:
    """In float32 the CPU floor's bits; in 16 bits NaN in the places of the CPU floor's. On tensor cores NaN may also
    stand for an infinity (csrc/ops/attention.h), and for nothing else."""
    base, _ = on_cpu(operator.name, case.name, dtype)
    for argument in operator.contract.inputs:
        name, x = argument.name, base.get(argument.name)
        if x is None or not harness.is_float(x) or not x.size:
            continue
        for value in (np.nan, np.inf, -np.inf):
            spoilt = x.copy()
            spoilt.reshape(-1)[middle(argument, x, index=False)] = value
            operands = {**base, name: spoilt}
            with np.errstate(all="ignore"):
                wanted = run(operator, case, operands)
            found = run_in(place, operator, case, operands)
            exact = not operator.contract.on_tensor_cores(case.attributes, dtype)
            if exact:
                assert_same(operator, found, wanted, f"{value} in {name}")
            for out, y, w in zip(operator.contract.outputs, found, wanted, strict=False):
                if harness.is_float(y):
                    y, w = y.astype(np.float32), w.astype(np.float32)
                    assert (np.isfinite(y) == np.isfinite(w)).all(), f"{value} in {name}: {out.name}"
                    assert (np.isnan(y) >= np.isnan(w)).all(), f"{value} in {name}: NaN of {out.name}"
                    assert not exact or (np.isnan(y) == np.isnan(w)).all(), f"{value} in {name}: NaN of {out.name}"


def has_values(operator: Operator, case: Case) -> bool:
    operands = on_cpu(operator.name, case.name, "float32")[0]
    return any(a.values and a.name in operands and operands[a.name].size for a in operator.contract.inputs)


# For operators that add up or spread what an index points to, a bad index takes no part: the result is that of its
# contribution being zero. For the others the element that it would have chosen is zero.
@pytest.mark.parametrize(("place", "operator", "case", "dtype"), in_places("float32", where=has_values))
def test_values_out_of_range(
    place: Place, operator: Operator, case: Case, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a check a bad index gives zeros and reads nothing; with MMK_CHECK_VALUES=1 it raises."""
    if place.name == "torch" and REHEARSAL:
        pytest.skip("the CPU floor always checks")
    contract = operator.contract
    operands, wanted = on_cpu(operator.name, case.name, dtype)
    names = case_names(contract, case)
    for a in contract.inputs:
        if not a.values or a.name not in operands or not operands[a.name].size:
            continue
        low, high = (int(evaluate(v, names)) for v in a.values)
        x = operands[a.name]
        at = middle(a, x, index=True)
        for value in (high, low - 1, 2**31 - 1, -(2**31)):
            bad = x.copy()
            bad.reshape(-1)[at] = value
            held = int(bad.reshape(-1)[at])  # float32 has no 2^31 - 1
            spoilt = {**operands, a.name: bad}
            monkeypatch.setenv("MMK_CHECK_VALUES", "0")
            found = run_in(place, operator, case, spoilt)
            assert_same(operator, found, run_in(place, operator, case, spoilt), "the second time")
            for out, y in zip(contract.outputs, found, strict=False):  # a row without keys has lse = -inf
                assert (np.isfinite(y) | (out.name == "lse") & np.isneginf(y)).all()
            if operator.name in ("embedding", "max_pool2d_gather"):  # one result, or row of results, an index
                zero = wanted[0].copy()
                zero.reshape(x.size, -1)[at] = 0
                assert_same(operator, found, (zero,), f"{a.name} holds {value}")
            monkeypatch.setenv("MMK_CHECK_VALUES", "1")
            with pytest.raises(mmk.ContractError, match=rf"^{operator.name}: {a.name}.flat\[{at}\] is {held}; "):
                run_in(place, operator, case, spoilt)
    monkeypatch.setenv("MMK_CHECK_VALUES", "1")  # good values pass
    check_found(operator, case, dtype, operands, run_in(place, operator, case, operands), wanted, "values checked")


@pytest.mark.parametrize("place", PLACES)
def test_mixed_operands_are_refused(place: Place) -> None:
    """Arrays of two libraries, or of a library and NumPy, in operands or out=."""
    x = np.ones((3, 4), np.float32)
    here = place.put(image_of(x))
    others = [x] + [p.put(image_of(x)) for p in places() if p is not place]
    for other in others:
        for operands, out in (((here, other), None), ((other, here), None), ((here, here), other)):
            with pytest.raises(mmk.ContractTypeError, match=r"^add: "):
                OPERATORS["add"](*operands, out=out)


@pytest.mark.parametrize("place", PLACES)
def test_overlap_is_refused(place: Place) -> None:
    x = place.put(image_of(np.ones((6, 4), np.float32)))
    with pytest.raises(mmk.ContractError, match=r"^add: out overlaps "):
        OPERATORS["add"](x[:3], x[3:], out=x[1:4])


@pytest.mark.parametrize("place", PLACES)
def test_contracts_are_worded_as_on_the_cpu(place: Place) -> None:
    x, y = np.ones((3, 4), np.float32), np.ones((5, 2), np.float32)
    with pytest.raises(mmk.ContractError) as wanted:
        OPERATORS["matmul"](x, y)
    with pytest.raises(mmk.ContractError) as found:
        OPERATORS["matmul"](place.put(image_of(x)), place.put(image_of(y)))
    assert str(found.value) == str(wanted.value)


@pytest.mark.parametrize("place", PLACES)
def test_published_hashes(place: Place) -> None:
    """The table that travels in the wheel, made on this floor."""
    published = json.loads(TABLE.read_text())["hashes"]
    found = hashes(place)
    assert found.keys() == published.keys()
    differing = sorted(k for k in found if found[k] != published[k])
    assert not differing, f"{len(differing)} of {len(published)}: {', '.join(differing)}"
