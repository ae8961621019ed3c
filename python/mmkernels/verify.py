"""The hash table: does this machine give the published bits?

Every operator runs on its small cases; operands come from Philox, results are hashed, hashes are compared with the
table that travels in the wheel (``hashes.json``). ``mmkernels verify`` does it on every instruction set of the machine
and on every CUDA device that CuPy or torch reaches.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from .contract import WIDE, Arg, Case, Contract, evaluate
from .errors import BackendError
from .interop import device
from .operator import OPERATORS, Operator

__all__ = ["TABLE", "case_operands", "digest", "hashes", "instruction_set", "main", "random_words"]

TABLE = Path(__file__).with_name("hashes.json")
Array = NDArray[Any]


def random_words(key: int, count: int) -> NDArray[np.uint32]:
    """``count`` words of Philox4x32-10 (Salmon et al. 2011) with counters 0, 1, ...; in NumPy, so that operands do
    not come from what is being verified.

    >>> [hex(w) for w in random_words(0, 4)]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    low = np.uint64(0xFFFFFFFF)
    c0 = np.arange((count + 3) // 4, dtype=np.uint64)
    c1, c2, c3 = np.zeros_like(c0), np.zeros_like(c0), np.zeros_like(c0)
    k0, k1 = key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0), p1 & low, (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1), p0 & low
        )  # fmt: skip
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).reshape(-1)[:count].astype(np.uint32)


def random_values(argument: Arg, dtype: str, shape: tuple[int, ...], names: Mapping[str, Any], key: int) -> Array:
    """Random values that an operand may hold, from Philox under this key."""
    size = int(np.prod(shape, dtype=np.int64))
    words = random_words(key, 4 * size).reshape(size, 4)
    if argument.columns:
        lows, highs = (np.array([float(evaluate(c[i], names)) for c in argument.columns]) for i in (0, 1))
        units = (words[:, 0] >> 8).astype(np.float64).reshape(shape) * 2.0**-24
        flat: Array = lows + units * (highs - lows)
        if argument.column >= 0:
            flat[..., argument.column] = np.floor(flat[..., argument.column])
        flat = flat.astype(np.float32).astype(dtype)
    elif dtype == "bool":
        flat = words[:, 0] % 4 != 0  # three of four are true
    elif dtype in ("uint32", "uint64"):
        wide = words[:, 0].astype(np.uint64) | words[:, 1].astype(np.uint64) << np.uint64(32)
        flat = wide.astype(dtype)
    elif dtype.startswith("int"):
        low, high = (int(evaluate(v, names)) for v in argument.values or ("0", "7"))
        flat = (low + words[:, 0].astype(np.int64) % max(high - low, 1)).astype(dtype)
    else:
        units = (words >> 8).astype(np.float64) * 2.0**-24
        if argument.domain == "unit":
            flat = units[:, 0].astype(np.float32).astype(dtype)
        elif argument.domain == "positive":
            flat = (units[:, 0] * 3.0 + 0.25).astype(np.float32).astype(dtype)
        elif argument.domain == "boxes":  # a low corner in [0, 800)^2, sides in [8, 200)
            starts = np.arange(size) % 4 < 2
            corner = 800.0 * np.where(starts, units[:, 0], np.roll(units[:, 0], 2))
            flat = np.where(starts, corner, corner + 8.0 + 192.0 * units[:, 0]).astype(np.float32).astype(dtype)
        else:  # near enough to a normal law; exact arithmetic, so the same bits everywhere
            total = ((units[:, 0] + units[:, 1]) + units[:, 2]) + units[:, 3]
            flat = ((total - 2.0) * 1.75).astype(np.float32).astype(dtype)
    return flat.reshape(shape)


def case_names(contract: Contract, case: Case) -> dict[str, Any]:
    """Extents, attributes and optional operands of a case, by name; computed extents too."""
    names = contract.blank_names()
    for attribute in contract.attributes:
        names[attribute.name] = attribute.default
    names.update(case.attributes)
    names.update(case.extents)
    for a in contract.inputs:
        names["has_" + a.name] = not a.optional or a.name in case.optional
    return names


def case_operands(
    contract: Contract, case: Case, dtype: str = "float32", values: Callable[..., Array] | None = None
) -> dict[str, Array]:
    """The operands of a case, by name; those that are optional and not asked for are missing. ``values`` (as
    ``random_values``, the default) fills them."""
    names = case_names(contract, case)
    operands = {}
    for a in contract.inputs:
        if a.optional and a.name not in case.optional:
            continue
        override = case.extents.get(a.name)
        shape = tuple(override) if isinstance(override, (tuple, list)) else contract.extents_of(a.shape, names)
        wide = a.type.startswith("wide ")
        allowed = contract.types.get(a.type.removeprefix("wide "), (a.type,))
        kind = (
            WIDE.get(dtype, dtype)
            if wide
            else dtype
            if dtype in allowed
            else "int64"
            if "int64" in allowed
            else allowed[0]
        )
        key = zlib.crc32(f"{contract.name}/{case.name}/{a.name}".encode())
        operands[a.name] = (values or random_values)(a, kind, shape, names, key)
    return operands


def run(operator: Operator, case: Case, operands: Mapping[str, Array], out: Any = None) -> tuple[Array, ...]:
    """The operator's results on a case's operands."""
    given = [operands.get(a.name) for a in operator.contract.inputs]
    result = operator(*given, out=out, **case.attributes)
    return result if isinstance(result, tuple) else (result,)


def canonical(y: Array) -> Array:
    """Contiguous, every NaN the same."""
    y = np.ascontiguousarray(y)
    if y.dtype.name == "bfloat16":
        bits = y.view(np.uint16)
        y = np.where(bits & 0x7FFF > 0x7F80, np.uint16(0x7FC0), bits).view(y.dtype)
    if y.dtype.kind == "f":
        y = np.where(np.isnan(y), y.dtype.type(np.nan), y)
    return y


def digest(outputs: tuple[Array, ...]) -> str:
    """A hash of the results' bits, dtypes and shapes."""
    h = hashlib.sha256()
    for y in outputs:
        h.update(f"{y.dtype.name}{y.shape}".encode())
        h.update(canonical(y).tobytes())
    return h.hexdigest()[:16]


def hashes(place: Callable[[Array], Any] = np.asarray, fetch: Callable[[Any], Array] = np.asarray) -> dict[str, str]:
    """The table as this machine computes it: on the instruction set in use, or where `place` brings operands to and
    `fetch` results from. It has the cases whose bits every floor owes, so none of those that ask for TF32."""
    table = {}
    for name in sorted(OPERATORS):
        operator = OPERATORS[name]
        for case in operator.contract.cases:
            if not case.bench and not operator.contract.on_tensor_cores(case.attributes, "float32"):
                operands = {k: place(x) for k, x in case_operands(operator.contract, case).items()}
                table[f"{name}/{case.name}"] = digest(tuple(map(fetch, run(operator, case, operands))))
    return table


def devices() -> Iterator[tuple[str, Callable[[Array], Any], Callable[[Any], Array]]]:
    """(name, place, fetch) of each CUDA device that an installed library brings arrays to; none without a device."""
    try:
        floor = device.cuda()
    except BackendError:
        return
    for number in range(floor.device_count()):
        name = f"cuda:{number} ({floor.device_name(number)})"
        if importlib.util.find_spec("cupy"):
            import cupy

            def to_cupy(x: Array, number: int = number) -> Any:
                with cupy.cuda.Device(number):
                    return cupy.asarray(x)

            yield name, to_cupy, cupy.asnumpy
        elif importlib.util.find_spec("torch"):
            import torch

            def to_torch(x: Array, number: int = number) -> Any:
                return torch.from_numpy(x.copy()).to(torch.device("cuda", number))

            yield name, to_torch, lambda y: y.cpu().numpy()


@contextmanager
def instruction_set(isa: str) -> Iterator[None]:
    """Within it, operators use this instruction set."""
    before = _core.get_isa()
    _core.set_isa(isa)
    try:
        yield
    finally:
        _core.set_isa(before)


def main(update: bool = False) -> int:
    """Prints what agrees and what does not, per instruction set; returns 0 if everything agrees."""
    from . import __arithmetic__

    if update:
        TABLE.write_text(json.dumps({"arithmetic": __arithmetic__, "hashes": hashes()}, indent=1) + "\n")
    published = json.loads(TABLE.read_text())
    bad = 0
    if published["arithmetic"] != __arithmetic__:
        print(f"the table is of arithmetic {published['arithmetic']}; this is arithmetic {__arithmetic__}")
        bad += 1
    for isa in _core.available_isas():
        with instruction_set(isa):
            bad += _compare(isa, hashes(), published["hashes"])
    for name, place, fetch in devices():
        bad += _compare(name, hashes(place, fetch), published["hashes"])
    return 1 if bad else 0


def _compare(where: str, found: Mapping[str, str], published: Mapping[str, str]) -> int:
    differing = sorted(k for k in found.keys() | published.keys() if found.get(k) != published.get(k))
    for key in differing:
        print(f"{where}: {key} is {found.get(key)}; the table has {published.get(key)}")
    print(f"{where}: {len(found) - len(differing)} of {len(published)} results have the published bits")
    return len(differing)
