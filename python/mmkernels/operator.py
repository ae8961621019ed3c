"""Operator: a contract joined with its compiled entry. The path of every call goes through here once per signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from . import _core
from .arrays import library_of, scalar_like
from .contract import WIDE, Contract, Operand, Solution, evaluate
from .errors import ContractError, ContractTypeError

__all__ = ["OPERATORS", "Operator", "list_out", "map_out"]

OPERATORS: dict[str, Operator] = {}
_DTYPE_CODES = {
    name: code
    for code, name in enumerate(
        ("float32", "float64", "int32", "int64", "uint32", "uint64", "uint8", "bool", "float16", "bfloat16")
    )
}
_INTEGERS = ("int32", "int64", "uint32", "uint64", "uint8")
_FIELDS: dict[str, dict[str, tuple[str, int]]] = _core.operator_fields()

Plan = tuple[list[Any], list[Any], dict[str, Any], list[Any]]
SeenOut = Operand | tuple[Operand, ...] | None
Sugar = Callable[[dict[str, Any], Mapping[str, Operand]], dict[str, Any]]


class Operator:
    """Callable with a contract's operands (positional or by name) and attributes (by name), and ``out=``.

    ``sugar`` turns what the public function accepts ("same", one int for two) into plain attributes; it must leave
    plain attributes as they are. It runs once per signature, before validation."""

    def __init__(self, contract: Contract, sugar: Sugar | None = None) -> None:
        self.contract = contract
        self.name = contract.name
        self._sugar = sugar
        self._operand_names = tuple(a.name for a in contract.inputs)
        self._attribute_names = tuple(a.name for a in contract.attributes)
        self._defaults = {a.name: a.default for a in contract.attributes}
        # call(*operands, *attributes, out): the compiled entry, bare; public functions call this.
        self.call, self.host_seconds = _core.make_entry(
            contract.name,
            len(contract.inputs),
            len(contract.attributes),
            self._make_plan,
            self._other,
            self._bad_value,
        )
        self._names: dict[Any, dict[str, Any]] = {}
        OPERATORS[contract.name] = self

    def __repr__(self) -> str:
        return f"<operator {self.name}>"

    def arguments(self, *operands: Any, out: Any = None, **named: Any) -> list[Any]:
        """The entry's positional arguments for a call by name."""
        n = len(self._operand_names)
        if len(operands) > n:
            raise ContractTypeError(f"{self.name}: {len(operands)} operands; expected at most {n}")
        given = list(operands) + [named.pop(name, None) for name in self._operand_names[len(operands) :]]
        attributes = [named.pop(name, self._defaults[name]) for name in self._attribute_names]
        if named:
            known = ", ".join((*self._operand_names, *self._attribute_names, "out"))
            raise ContractTypeError(
                f"{self.name}: {next(iter(named))!r} is unknown or given twice; expected some of {known}"
            )
        return [*given, *attributes, out]

    def __call__(self, *operands: Any, out: Any = None, **named: Any) -> Any:
        return self.call(*self.arguments(*operands, out=out, **named))

    def describe(self, *arguments: Any) -> str:
        """Runs the entry once and tells which variants ran, why, and with how much scratch memory: a line each."""
        return "\n".join(_core.told_by(lambda: self.call(*arguments)))

    def plain_attributes(self, attributes: tuple[Any, ...], operands: Mapping[str, Operand]) -> dict[str, Any]:
        """Attributes after sugar, before validation."""
        raw = dict(zip(self._attribute_names, attributes, strict=True))
        for name, value in raw.items():
            if isinstance(value, (bytes, bytearray, dict, set)):
                raise ContractTypeError(f"{self.name}: {name} is {value!r}; expected numbers or a name")
        if self._sugar is None:
            return raw
        try:
            return self._sugar(raw, operands)
        except (ContractError, ContractTypeError) as error:  # sugar need not know whom it serves
            text = str(error)
            raise type(error)(text if text.startswith(f"{self.name}: ") else f"{self.name}: {text}") from None
        except TypeError as error:
            given = ", ".join(f"{name} is {value!r}" for name, value in raw.items())
            raise ContractTypeError(f"{self.name}: {given}; expected numbers or names ({error})") from None
        except (ValueError, ArithmeticError) as error:  # such as arrays that are neither true nor false, infinities
            given = ", ".join(f"{name} is {value!r}" for name, value in raw.items())
            raise ContractError(f"{self.name}: {given}; expected numbers or names ({error})") from None

    def solve(self, operands: tuple[Any, ...], attributes: tuple[Any, ...]) -> Solution:
        """The contract's solution of this call on arrays that look like NumPy's."""
        seen = {n: _seen(o) for n, o in zip(self._operand_names, operands, strict=True) if o is not None}
        return self.solve_seen(seen, attributes)

    def solve_seen(self, seen: Mapping[str, Operand], attributes: tuple[Any, ...]) -> Solution:
        """The contract's solution of this call (mmkernels.contract.Solution)."""
        for a in self.contract.inputs:
            if a.name not in seen and not a.optional:
                raise ContractTypeError(f"{self.name}: {a.name} is None; expected an array of {a.shape}")
        return self.contract.solve(seen, self.plain_attributes(attributes, seen))

    def describe_call(self, seen: Mapping[str, Operand], attributes: tuple[Any, ...], out: SeenOut) -> Plan:
        """What the compiled half needs to make a plan; raises where the contract does."""
        solution = self.solve_seen(seen, attributes)
        given = self._check_out(out, list(solution.outputs.values()))
        inputs = [
            (position, name, found.shape, found.strides, _DTYPE_CODES[found.dtype])
            for position, name in enumerate(self._operand_names)
            if (found := solution.operands.get(name)) is not None
        ]
        outputs = []
        for (name, wanted), found in zip(solution.outputs.items(), given, strict=True):
            wanted = wanted if found is None else found
            outputs.append((name, wanted.dtype, wanted.shape, wanted.strides, _DTYPE_CODES[wanted.dtype]))
        values = {}
        choices = {a.name: a.choices for a in self.contract.attributes if a.kind == "choice"}
        for name in _FIELDS[self.name]:
            if name in solution.names:
                value = solution.names[name]
                if isinstance(value, int) and not -(2**63) <= value < 2**63:
                    raise ContractError(f"{self.name}: {name} is {value}; expected a 64-bit integer")
                values[name] = choices[name].index(value) if name in choices else value
        positions = [name for _, name, *_ in inputs]
        columns = {a.name: a.column for a in self.contract.inputs}
        ranges = [(positions.index(name), columns[name], low, high) for name, (low, high) in solution.ranges.items()]
        return inputs, outputs, values, ranges

    # ---- called by the compiled entry -------------------------------------------------------------------------------

    def _make_plan(self, operands: tuple[Any, ...], attributes: tuple[Any, ...], out: Any) -> Plan:
        seen = {n: _seen(o) for n, o in zip(self._operand_names, operands, strict=True) if o is not None}
        inputs, outputs, values, ranges = self.describe_call(seen, attributes, map_out(_seen, out))
        dtypes = {o.dtype.name: o.dtype for o in operands if o is not None}  # NumPy has bfloat16 from others alone
        numpy_outputs = [(name, dtypes.get(t) or np.dtype(t), *rest) for name, t, *rest in outputs]
        return inputs, numpy_outputs, values, ranges

    def _check_out(self, out: SeenOut, wanted: Sequence[Operand]) -> Sequence[Operand | None]:
        """What is given for each result: one array for one, a tuple for several, which kernels write where they would
        lie themselves."""
        if out is None:
            return [None] * len(wanted)
        several, count = isinstance(out, tuple), len(wanted)
        given = out if isinstance(out, tuple) else (out,)
        if not several and count > 1:
            raise ContractTypeError(f"{self.name}: out= was given one array; expected a tuple of {count}, one a result")
        if several and (count == 1 or len(given) != count):
            expected = "one array" if count == 1 else f"a tuple of {count}"
            raise ContractTypeError(f"{self.name}: out is a tuple of {len(given)}; expected {expected}")
        for i, (found, like) in enumerate(zip(given, wanted, strict=True)):
            name = f"out[{i}]" if several else "out"
            if found.shape != like.shape:
                raise ContractError(f"{self.name}: {name}.shape is {found.shape}; expected {like.shape}")
            if found.dtype != like.dtype:
                raise ContractTypeError(f"{self.name}: {name}.dtype is {found.dtype}; expected {like.dtype}")
            steps = list(zip(found.strides, like.strides, found.shape, strict=True)) if 0 not in found.shape else []
            if any(s == 0 and n > 1 for s, _, n in steps):
                raise ContractError(
                    f"{self.name}: {name} has a stride of 0; expected memory of its own for each element"
                )
            if several and any(s != t and n > 1 for s, t, n in steps):
                raise ContractError(
                    f"{self.name}: {name} has strides {found.strides}; expected {like.strides}, those of the result"
                )
        return wanted if several else given  # strides of extents of 1 may be any

    def _bad_value(self, operand: int, position: int, value: float, low: int, high: int) -> NoReturn:
        a = self.contract.inputs[operand]
        assert a.values
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        raise ContractError(
            f"{self.name}: {a.name}.flat[{position}] is {value}; expected {low} <= value < {a.values[1]} = {high}"
        )

    def _other(self, *arguments: Any) -> Any:
        """Serves calls whose operands are not all plain NumPy arrays."""
        n = len(self._operand_names)
        operands, attributes, out = arguments[:n], arguments[n:-1], arguments[-1]
        outs = list_out(out)
        libraries = {library_of(o) for o in operands if o is not None and not _is_scalar(o)}
        libraries |= {library_of(o) for o in outs}
        if "" in libraries or any(map(_is_scalar, outs)):
            self._refuse(operands, out)
        if "tape" in libraries:
            from .autograd import record

            return record(self, operands, attributes, out)
        if libraries == {"torch"}:
            from .interop import torch as door

            return door.call(self, operands, attributes, out)
        if len(libraries) > 1:
            raise ContractTypeError(f"{self.name}: operands of {' and '.join(sorted(libraries))}; expected one library")
        if libraries == {"numpy"} or not libraries:
            return self._call_numpy(self._as_arrays(operands), attributes, out)
        from .interop import device

        return device.call(self, libraries.pop(), operands, attributes, out)

    def _call_numpy(self, operands: list[Any], attributes: tuple[Any, ...], out: Any) -> Any:
        if out is None:
            return self.call(*operands, *attributes, None)
        outs = list_out(out)
        if all(o.flags.aligned for o in outs):
            self.call(*operands, *attributes, map_out(_plain, out))
            return out
        if not all(o.flags.writeable for o in outs):
            raise ContractError(f"{self.name}: out is read-only; expected a writeable array")
        aligned = map_out(lambda o: np.empty(o.shape, o.dtype), out)
        self.call(*operands, *attributes, aligned)
        for o, y in zip(outs, list_out(aligned), strict=True):
            o[...] = y
        return out

    def _as_arrays(self, operands: tuple[Any, ...]) -> list[Any]:
        """NumPy operands for the compiled entry: scalars and subclasses become arrays, misaligned ones copies."""
        return [
            o if o is None else _plain(o) if o.flags.aligned else np.array(o, copy=True, subok=False)
            for o in self.without_scalars(operands)
        ]

    def without_scalars(self, operands: Sequence[Any]) -> list[Any]:
        """Numbers as arrays of the others' library, with the dtype that the arrays of their type variable have."""
        contract = self.contract
        if not any(_is_scalar(o) for o in operands):
            return list(operands)
        dtypes: dict[str, Any] = {}
        for wanted in (np.generic, None):  # arrays have the last word
            for a, o in zip(contract.inputs, operands, strict=True):
                if o is not None and (isinstance(o, wanted) if wanted else not _is_scalar(o)):
                    dtypes[a.type] = o.dtype
        like = next((o for o in operands if o is not None and not _is_scalar(o)), None)
        result = []
        for a, o in zip(contract.inputs, operands, strict=True):
            if not _is_scalar(o):
                result.append(o)
                continue
            narrow = a.type.removeprefix("wide ")
            dtype = dtypes.get(a.type, dtypes.get(narrow, contract.types.get(narrow, (narrow,))[0]))
            if narrow != a.type and a.type not in dtypes:
                dtype = WIDE.get(str(dtype).removeprefix("torch."), dtype)
            if isinstance(o, (float, np.floating)) and str(dtype).removeprefix("torch.") in _INTEGERS:
                raise ContractTypeError(f"{self.name}: {a.name} is {o!r}; expected an integer")
            try:
                result.append(scalar_like(o, dtype, like))
            except (OverflowError, TypeError, ValueError):  # TypeError: dtypes that are no numbers
                raise ContractError(f"{self.name}: {a.name} is {o!r}; expected a number that {dtype} holds") from None
        return result

    def _refuse(self, operands: tuple[Any, ...], out: Any) -> NoReturn:
        given = [(n, o) for n, o in zip(self._operand_names, operands, strict=True) if o is not None]
        for name, o in [*given, *(("out", o) for o in list_out(out))]:
            if name == "out" if _is_scalar(o) else library_of(o) == "":
                raise ContractTypeError(f"{self.name}: {name} is a {type(o).__name__}; expected an array")
        raise AssertionError

    # ---- gradients --------------------------------------------------------------------------------------------------

    def names(self, operands: tuple[Any, ...], attributes: tuple[Any, ...]) -> dict[str, Any]:
        """Extents, plain attributes and which optional operands are there, of a call that has been validated."""
        key = (tuple(None if o is None else (tuple(o.shape), o.dtype) for o in operands), attributes)
        try:
            return self._names[key]
        except KeyError:
            keep = True
        except TypeError:  # a list among the attributes
            keep = False
        seen = {
            name: Operand(tuple(o.shape), (0,) * len(o.shape), _dtype_name(o))
            for name, o in zip(self._operand_names, operands, strict=True)
            if o is not None
        }
        names: dict[str, Any] = self.solve_seen(seen, attributes).names
        if keep:
            if len(self._names) >= 1024:
                self._names.clear()
            self._names[key] = names
        return names

    def composed(self, names: Mapping[str, Any]) -> bool:
        """Whether this call is differentiated through its composition."""
        return self.contract.composition is not None and bool(evaluate(self.contract.composed_when, names))


def list_out(out: Any) -> list[Any]:
    """The arrays of ``out=``: none, one, or those of a tuple."""
    return list(out) if isinstance(out, tuple) else [] if out is None else [out]


def map_out(function: Callable[[Any], Any], out: Any) -> Any:
    """``out=`` with a function of each of its arrays in its place."""
    return tuple(map(function, out)) if isinstance(out, tuple) else None if out is None else function(out)


def _seen(array: Any) -> Operand:
    itemsize = array.dtype.itemsize
    dtype = array.dtype.name if array.dtype.isnative else str(array.dtype)
    return Operand(tuple(array.shape), tuple(s // itemsize for s in array.strides), dtype)


def _dtype_name(array: Any) -> str:
    return str(array.dtype).removeprefix("torch.")


def _is_scalar(x: Any) -> bool:
    return isinstance(x, (int, float, bool, np.generic))


def _plain(x: Any) -> Any:
    return x.view(np.ndarray)
