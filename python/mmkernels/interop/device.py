"""Arrays in device memory: which floor serves them, and how their library shows and makes them.

A library is five functions (``Library``). CuPy's and torch's are here; another says its name as
``__mmkernels_library__`` on its array type and registers itself with ``add_library``. The compiled CUDA floor sees
only addresses; it is loaded when the first device array comes.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..contract import Operand
from ..errors import BackendError, ContractError, ContractTypeError
from ..operator import Operator, SeenOut, list_out, map_out

__all__ = ["Library", "add_library", "call", "cuda", "library"]


class Library(Protocol):
    """What a call needs of the library whose device arrays it is given."""

    floor: ModuleType  # the compiled floor that its memory belongs to

    def see(self, x: Any) -> Operand:
        """Shape, strides in elements, dtype name."""

    def address(self, x: Any) -> int:
        """Of the first element."""

    def device(self, x: Any) -> int:
        """The number of the device."""

    def stream(self, device: int) -> int:
        """The current stream's handle."""

    def empty(self, wanted: Operand, device: int) -> Any:
        """A new array, not initialised, in the library's own memory."""

    def from_numpy(self, x: NDArray[Any], like: Any) -> Any:
        """A copy on the device of `like`."""

    def to_numpy(self, x: Any) -> NDArray[Any]:
        """A copy on the host; waits for what computes it."""


_LIBRARIES: dict[str, Library] = {}
_PLANS: dict[Any, tuple[Any, list[int], list[Operand], list[Any]]] = {}
_MAX_PLANS = 4096


def add_library(name: str, found: Library) -> None:
    """Serves arrays whose type has this name as ``__mmkernels_library__``."""
    _LIBRARIES[name] = found


def library(name: str) -> Library:
    """The library of this name; CuPy and torch are looked at when first asked for."""
    if name not in _LIBRARIES:
        if name == "cupy":
            floor = cuda()
            from .cupy import CuPy

            _LIBRARIES[name] = CuPy(floor)
        elif name == "torch":
            floor = cuda()
            from .torch import TorchCuda

            _LIBRARIES[name] = TorchCuda(floor)
        else:
            raise BackendError(f"{name} arrays cannot be served; expected NumPy, CuPy or torch arrays")
    return _LIBRARIES[name]


def cuda() -> ModuleType:
    """The compiled CUDA floor. Raises BackendError where there is none, or no device for it."""
    try:
        floor = importlib.import_module("mmkernels._cuda")
    except ImportError as error:
        raise BackendError(
            "this build of mmkernels has no CUDA floor; build it where nvcc is found, or with MMKERNELS_CUDA=on"
        ) from error
    if floor.device_count() == 0:
        raise BackendError("mmkernels finds no CUDA device; its driver is missing, too old, or sees none")
    return floor


def call(operator: Operator, name: str, operands: Sequence[Any], attributes: tuple[Any, ...], out: Any) -> Any:
    """Runs an operator on a library's device arrays (and Python numbers), on its current stream."""
    try:
        door = library(name)
    except BackendError as error:
        raise BackendError(f"{operator.name}: {error}") from None
    operands = operator.without_scalars(operands)
    outs = list_out(out)
    devices = {door.device(o) for o in [*(o for o in operands if o is not None), *outs]}
    if len(devices) != 1:
        raise ContractTypeError(f"{operator.name}: operands on devices {sorted(devices)}; expected one device")
    device = devices.pop()
    seen = [None if o is None else door.see(o) for o in operands]
    seen_out = map_out(door.see, out)
    plan, positions, outputs, ranges = _plan(operator, door, seen, attributes, seen_out)
    names = ["out"] if not isinstance(out, tuple) else [f"out[{i}]" for i in range(len(out))]
    written = list(zip(names, outs, list_out(seen_out), strict=False))
    _check_overlap(operator, door, operands, seen, written)
    if ranges and os.environ.get("MMK_CHECK_VALUES", "0") not in ("", "0"):
        _check_values(operator, door, [operands[i] for i in positions], positions, ranges)
    addresses = [door.address(operands[i]) for i in positions]
    results = outs or [door.empty(wanted, device) for wanted in outputs]
    for what, address, found in [
        *((operator.contract.inputs[i].name, a, seen[i]) for i, a in zip(positions, addresses, strict=True)),
        *((name, door.address(o), s) for name, o, s in written),
    ]:
        if found is not None and address % _itemsize(found):
            raise ContractError(
                f"{operator.name}: {what} begins at {address:#x}; expected a multiple of its {_itemsize(found)} bytes"
            )

    def scratch(size: int) -> tuple[int, Any]:
        memory = door.empty(Operand((size,), (1,), "uint8"), device)
        return door.address(memory), memory

    telling = _core.telling()
    told = plan.run(addresses, [door.address(y) for y in results], device, door.stream(device), scratch, telling)
    if telling:
        _core.tell(told)
    return results[0] if len(results) == 1 else tuple(results)


def _plan(
    operator: Operator, door: Library, seen: Sequence[Operand | None], attributes: tuple[Any, ...], out: SeenOut
) -> tuple[Any, list[int], list[Operand], list[Any]]:
    key = (door.floor.__name__, operator.name, tuple(seen), attributes, tuple(map(type, attributes)), out)
    try:
        return _PLANS[key]
    except (KeyError, TypeError) as error:  # TypeError: a list among the attributes
        keep = isinstance(error, KeyError)
    names = [a.name for a in operator.contract.inputs]
    present = {n: s for n, s in zip(names, seen, strict=True) if s is not None}
    description = operator.describe_call(present, attributes, out)
    outputs = [Operand(shape, strides, dtype) for _, dtype, shape, strides, _ in description[1]]
    positions = [position for position, *_ in description[0]]
    made = (door.floor.Plan(operator.name, description), positions, outputs, description[3])
    if keep:
        if len(_PLANS) >= _MAX_PLANS:
            _PLANS.clear()
        _PLANS[key] = made
    return made


def _check_overlap(
    operator: Operator, door: Library, operands: Sequence[Any], seen: Sequence[Any], written: Sequence[Any]
) -> None:
    given = [
        (argument.name, *_span(door.address(x), s))
        for argument, x, s in zip(operator.contract.inputs, operands, seen, strict=True)
        if written and x is not None
    ]
    for name, out, seen_out in written:
        first, last = _span(door.address(out), seen_out)
        for other, begin, end in given:
            if begin < last and first < end:
                raise ContractError(f"{operator.name}: {name} overlaps {other}; expected memory of its own")
        given.append((name, first, last))


def _itemsize(seen: Operand) -> int:
    return 2 if seen.dtype == "bfloat16" else np.dtype(seen.dtype).itemsize


def _span(address: int, seen: Operand) -> tuple[int, int]:
    if 0 in seen.shape:
        return address, address
    size = _itemsize(seen)
    walks = [(n - 1) * s * size for n, s in zip(seen.shape, seen.strides, strict=True)]
    return address + sum(w for w in walks if w < 0), address + sum(w for w in walks if w > 0) + size


def _check_values(
    operator: Operator, door: Library, inputs: Sequence[Any], positions: Sequence[int], ranges: Sequence[Any]
) -> None:
    for index, column, low, high in ranges:
        values = door.to_numpy(inputs[index])
        seen = np.trunc(values)
        bounded = np.ones(values.shape, bool) if column < 0 else np.arange(values.shape[-1]) == column
        bad = np.flatnonzero(bounded & ~((seen >= low) & (seen < high)))
        if bad.size:
            operator._bad_value(positions[index], int(bad[0]), values.flat[bad[0]].item(), low, high)
