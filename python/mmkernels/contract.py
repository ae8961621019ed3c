"""The contract of an operator: pure data, stated once, from which everything else is derived.

A contract names operands with their extents, attributes, computed extents and conditions as expressions over
integers. Validation, messages, documentation, tests, benchmark cases, cost and gradients are read from it; nothing
here imports the compiled half.

>>> c = Contract(
...     "scale_rows", "Multiplies each row by its own factor.",
...     inputs=(Arg("x", "N D"), Arg("factor", "N")), outputs=(Out("y", "N D"),))
>>> call = c.solve({"x": Operand((2, 3), (3, 1), "float32"), "factor": Operand((3,), (1,), "float32")}, {})
Traceback (most recent call last):
mmkernels.errors.ContractError: scale_rows: factor.shape[0] is 3; expected N = 2
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import CodeType
from typing import Any

from .errors import ContractError, ContractTypeError

__all__ = [
    "FLOATS",
    "WIDE",
    "Arg",
    "Attr",
    "Bound",
    "Case",
    "Contract",
    "Operand",
    "Out",
    "Require",
    "Solution",
    "evaluate",
    "number",
]


_MOST_ELEMENTS = 2**59  # of a result: sizes in bytes and strides stay below 2^63

# float16 and bfloat16 are storage: operands are widened to float32, results are rounded once.
FLOATS = ("float32", "float64", "float16", "bfloat16")
WIDE = {"float16": "float32", "bfloat16": "float32"}  # what each is computed in, where that is another type


def _keep(extents: Sequence[int], dims: Sequence[int]) -> tuple[int, ...]:
    return tuple(1 if i in dims else n for i, n in enumerate(extents))


def _drop(extents: Sequence[int], dims: Sequence[int]) -> tuple[int, ...]:
    return tuple(n for i, n in enumerate(extents) if i not in dims)


def _pick(extents: Sequence[int], dims: Sequence[int]) -> tuple[int, ...]:
    return tuple(extents[i] for i in dims)


def _bits(dims: Sequence[int]) -> int:
    return sum(1 << i for i in dims)


# keep: extents with 1 in place of the dims; drop: without them; pick: only them; bits: dims as a bit set.
_FUNCTIONS: dict[str, Any] = {
    "min": min, "max": max, "prod": math.prod, "len": len, "abs": abs,
    "keep": _keep, "drop": _drop, "pick": _pick, "bits": _bits,
}  # fmt: skip
_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Call, ast.Name, ast.Load, ast.Constant,
    ast.Subscript, ast.Tuple, ast.IfExp, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Div, ast.Mod, ast.USub, ast.And,
    ast.Or, ast.Not, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Is, ast.IsNot, ast.In, ast.NotIn,
    ast.Slice,
)  # fmt: skip


@cache
def _compiled(text: str) -> CodeType:
    tree = ast.parse(text, mode="eval")
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            raise SyntaxError(f"a contract's expression may not contain {type(node).__name__}: {text!r}")
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS):
            raise SyntaxError(f"a contract's expression may call only {', '.join(_FUNCTIONS)}: {text!r}")
    return compile(tree, "<contract>", "eval")


def evaluate(text: str, names: Mapping[str, Any]) -> Any:
    """The value of a contract's expression: integers, comparisons and logic over names; min, max, prod, len, abs."""
    return eval(_compiled(text), {"__builtins__": {}, **_FUNCTIONS}, names)


def number(kind: str, value: Any, where: str) -> Any:
    """A value as an "int" of 64 bits, a "float" or a "bool"; ``where`` begins the message of what it raises."""
    if kind == "bool":
        if isinstance(value, bool) or type(value).__name__ == "bool_":
            return bool(value)
        raise ContractTypeError(f"{where}; expected True or False")
    if kind == "int":
        if hasattr(value, "__index__") and not isinstance(value, bool):
            try:
                found = value.__index__()
            except TypeError:  # an array of several numbers, or of another kind
                raise ContractTypeError(f"{where}; expected an integer") from None
            if -(2**63) <= found < 2**63:
                return found
            raise ContractError(f"{where}; expected a 64-bit integer")
        raise ContractTypeError(f"{where}; expected an integer")
    if isinstance(value, bool) or not (isinstance(value, (int, float)) or hasattr(value, "__float__")):
        raise ContractTypeError(f"{where}; expected a number")
    try:
        return float(value)
    except OverflowError:
        raise ContractError(f"{where}; expected a number that float64 holds") from None
    except (TypeError, ValueError):  # an array of several numbers, or of another kind
        raise ContractTypeError(f"{where}; expected a number") from None


@dataclass(frozen=True)
class Arg:
    """An operand. ``shape`` lists its extents by name or expression (no blanks inside one); ``*S`` is any number of
    extents. ``type`` is a type variable of the contract, "wide T" (the type that T is computed in) or a dtype.
    ``broadcast`` lists extents (or the pack) that may be 1, or missing at the front of the pack. ``values`` bounds an
    integer operand's values, or, fractions cut off, those of one ``column`` (of the last extent) of a float operand:
    low <= v < high. ``columns`` are ranges of test values, one per column."""

    name: str
    shape: str
    type: str = "T"
    optional: bool = False
    broadcast: tuple[str, ...] = ()
    values: tuple[str, str] | None = None
    column: int = -1  # -1: values are bounded in all columns
    columns: tuple[tuple[str, str], ...] = ()
    domain: str = "normal"  # of test values: "normal", "positive", "unit" ([0, 1)) or "boxes" (corners, *S 4)
    doc: str = ""


@dataclass(frozen=True)
class Attr:
    """A static attribute. ``kind``: "int", "float", "bool", "ints" or "floats" (``length`` of them), "choice".
    ``only`` names the dtypes of T that a choice is for, where it is not for all."""

    name: str
    kind: str
    default: Any = None
    length: int = 0
    choices: tuple[Any, ...] = ()
    doc: str = ""
    only: Mapping[Any, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Out:
    """A result. ``when`` is an expression; the result exists only where it is true."""

    name: str
    shape: str
    type: str = "T"
    when: str = "True"
    doc: str = ""


@dataclass(frozen=True)
class Require:
    """A condition, the message (with {names}) where it fails, and what to change in the first case to break it:
    attributes, extents, or "optional": the optional operands that are given."""

    expression: str
    message: str
    broken: Mapping[str, Any]


@dataclass(frozen=True)
class Bound:
    """How far a float32 result may be from the exact one; tests turn it into numbers (tests/bounds.py).

    ``kind`` names the algorithm ("dot", "elementwise", ...); ``depth`` is the expression of the longest chain of
    roundings; ``ulp`` counts roundings of the result itself."""

    kind: str
    depth: str = "0"
    ulp: float = 1.0


@dataclass(frozen=True)
class Case:
    """One set of extents and attributes: a test, and a benchmark if ``bench``."""

    name: str
    extents: Mapping[str, Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    bench: bool = False


@dataclass(frozen=True)
class Operand:
    """What the contract needs to know of an array: shape, strides in elements, dtype name."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


@dataclass
class Solution:
    """A validated call: extents and attributes by name, operands as the kernel sees them, results to allocate."""

    names: dict[str, Any]
    operands: dict[str, Operand]
    outputs: dict[str, Operand]
    ranges: dict[str, tuple[int, int]]


class _Names(dict[str, Any]):
    """Extents and attributes; computed extents are evaluated when first asked for, so that a condition that fails
    is told before an extent that it protects is computed."""

    def __init__(self, lets: Mapping[str, str]) -> None:
        super().__init__()
        self.lets = lets

    def __missing__(self, name: str) -> Any:
        if name not in self.lets:
            raise KeyError(name)
        value = self[name] = evaluate(self.lets[name], self)
        return value


@dataclass(frozen=True)
class Contract:
    """See the module's text; the fields say the rest.

    ``lets`` are computed extents, ``requires`` conditions; ``free`` lists the
    extents that never change a bit of what the others compute; ``layout`` is "x" where results follow a
    channels-last first operand. ``vjp`` maps operands ("x", or "q k v" for several at once) to the expression of
    their gradients, over operands, results, ``g<result>``, extents, attributes and other operators' names.
    ``composition`` says the same operator in other operators, as an expression or a function of the same names;
    differentiation uses it where it is given. ``flops`` and ``moves`` (bytes; None: each operand once) are costs."""

    name: str
    summary: str
    inputs: tuple[Arg, ...]
    outputs: tuple[Out, ...]
    attributes: tuple[Attr, ...] = ()
    lets: Mapping[str, str] = field(default_factory=dict)
    requires: tuple[Require, ...] = ()
    types: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"T": FLOATS})
    free: tuple[str, ...] = ()
    layout: str = ""
    accumulate: str = "float32"
    flops: str = "0"
    moves: str | None = None
    bound: Bound = Bound("elementwise")
    vjp: Mapping[str, str] = field(default_factory=dict)
    composition: str | Callable[..., Any] | None = None
    composed_when: str = "True"
    tensor_cores: bool = False  # on CUDA, 16 bits and algorithm "tf32" use them: repeatable, but not the CPU's bits
    derivatives: int = 2  # how often it can be differentiated; 2 stands for any number of times
    cases: tuple[Case, ...] = ()
    source: str = ""

    def blank_names(self) -> dict[str, Any]:
        """A place for extents and attributes that evaluates computed extents when they are asked for."""
        return _Names(self.lets)

    def extents_of(self, shape: str, names: Mapping[str, Any]) -> tuple[int, ...]:
        """The extents that a shape expression stands for."""
        return self._shape(shape, names)

    def serves(self, attributes: Mapping[str, Any], dtype: str) -> bool:
        """Whether operands of this dtype may have these attributes."""
        return all(dtype in a.only.get(attributes.get(a.name, a.default), (dtype,)) for a in self.attributes if a.only)

    def on_tensor_cores(self, attributes: Mapping[str, Any], dtype: str) -> bool:
        """Whether CUDA's results are within a bound of the CPU's, not its bits."""
        return self.tensor_cores and (dtype in WIDE or attributes.get("algorithm") == "tf32")

    # ---- validation -------------------------------------------------------------------------------------------------

    def solve(self, operands: Mapping[str, Operand], attributes: Mapping[str, Any]) -> Solution:
        """Validates a call. Raises ContractError or ContractTypeError, worded for the caller."""
        names = _Names(self.lets)
        for attribute in self.attributes:
            names[attribute.name] = self._attribute(attribute, attributes.get(attribute.name, attribute.default))
        types = self._types(operands)
        for attribute in self.attributes:
            wanted = attribute.only.get(names[attribute.name], ()) if attribute.only else ()
            if wanted and types["T"] not in wanted:
                first = next(a.name for a in self.inputs if a.type == "T" and a.name in operands)
                raise ContractTypeError(
                    f"{self.name}: {attribute.name} is {names[attribute.name]!r} and {first}.dtype is {types['T']}; "
                    f"expected {' or '.join(wanted)}"
                )
        for argument in self.inputs:
            names["has_" + argument.name] = argument.name in operands
        self._bind(operands, names)
        # Conditions come first: they protect the divisions in shapes such as C//groups.
        for require in self.requires:
            if not evaluate(require.expression, names):
                raise ContractError(f"{self.name}: " + require.message.format_map(names))
        seen = {a.name: self._expand(a, operands[a.name], names) for a in self.inputs if a.name in operands}
        for name in self.lets:
            names[name]
        outputs = {}
        for out in self.outputs:
            if evaluate(out.when, names):
                shape = self._shape(out.shape, names)
                for extent, text in zip(shape, self._texts(out.shape, len(shape)), strict=True):
                    if extent < 0:
                        raise ContractError(f"{self.name}: {out.name} would have {text} = {extent}; expected 0 or more")
                if (count := math.prod(max(n, 1) for n in shape)) > _MOST_ELEMENTS:
                    raise ContractError(
                        f"{self.name}: {out.name} would be {shape}, {count} elements; expected at most 2^59"
                    )
                strides = self._output_strides(shape, operands)
                outputs[out.name] = Operand(shape, strides, types.get(out.type, out.type))
        ranges = {
            a.name: (int(evaluate(a.values[0], names)), int(evaluate(a.values[1], names)))
            for a in self.inputs
            if a.values and a.name in operands
        }
        return Solution(dict(names), seen, outputs, ranges)

    def _attribute(self, attribute: Attr, value: Any) -> Any:
        kind, where = attribute.kind, f"{self.name}: {attribute.name} is {value!r}"
        if kind == "choice":
            try:
                return attribute.choices[attribute.choices.index(value)]
            except ValueError:  # none of them; or an array, which is not true or false
                raise ContractError(f"{where}; expected one of {', '.join(map(repr, attribute.choices))}") from None
        if kind in ("ints", "floats"):
            if not isinstance(value, (tuple, list)) or (attribute.length and len(value) != attribute.length):
                raise ContractTypeError(f"{where}; expected {attribute.length or 'some'} numbers")
            return tuple(number(kind[:-1], v, where) for v in value)
        return number(kind, value, where)

    def _types(self, operands: Mapping[str, Operand]) -> dict[str, str]:
        bound: dict[str, tuple[str, str]] = {}
        for a in self.inputs:
            if a.name not in operands:
                if not a.optional:
                    raise ContractTypeError(f"{self.name}: {a.name} is missing; expected an array of {a.shape}")
                continue
            found = operands[a.name].dtype
            if a.type.startswith("wide "):
                continue
            allowed = self.types.get(a.type, (a.type,))
            if found not in allowed:
                wanted = " or ".join(filter(None, [", ".join(allowed[:-1]), allowed[-1]]))
                raise ContractTypeError(f"{self.name}: {a.name}.dtype is {found}; expected {wanted}")
            if a.type in self.types:
                other, dtype = bound.setdefault(a.type, (a.name, found))
                if dtype != found:
                    raise ContractTypeError(f"{self.name}: {a.name}.dtype is {found}; expected {dtype}, as {other} has")
        types = {variable: dtype for variable, (_, dtype) in bound.items()}
        for variable, allowed in self.types.items():  # one that no operand binds is as T, if it may be
            types.setdefault(variable, types["T"] if types.get("T") in allowed else allowed[0])
        for variable in self.types:
            types["wide " + variable] = WIDE.get(types[variable], types[variable])
        for a in self.inputs:
            if a.type.startswith("wide ") and a.name in operands and operands[a.name].dtype != types[a.type]:
                raise ContractTypeError(
                    f"{self.name}: {a.name}.dtype is {operands[a.name].dtype}; expected {types[a.type]}"
                )
        return types

    @staticmethod
    def _tokens(shape: str) -> tuple[list[str], str | None, list[str]]:
        """Extents before the pack, the pack's name, extents after it."""
        tokens = shape.split()
        for i, token in enumerate(tokens):
            if token.startswith("*"):
                return tokens[:i], token[1:], tokens[i + 1 :]
        return tokens, None, []

    def _bind(self, operands: Mapping[str, Operand], names: _Names) -> None:
        """First the extents that name themselves, from operands that do not broadcast them, then the packs."""
        packs: dict[str, list[tuple[Arg, tuple[int, ...]]]] = {}
        for a in self.inputs:
            if a.name not in operands:
                continue
            shape = operands[a.name].shape
            before, pack, after = self._tokens(a.shape)
            fixed = len(before) + len(after)
            if len(shape) < fixed or (pack is None and len(shape) != fixed):
                raise ContractError(
                    f"{self.name}: {a.name} has {len(shape)} extents {shape}; expected {fixed}"
                    f"{' or more' if pack else ''}: {a.shape}"
                )
            if len(shape) > 8:
                raise ContractError(f"{self.name}: {a.name} has {len(shape)} extents; at most 8 are supported")
            back = shape[len(shape) - len(after) :] if after else ()
            for token, extent in [*zip(before, shape[: len(before)], strict=True), *zip(after, back, strict=True)]:
                if token.isidentifier() and token not in {*names, *a.broadcast, *self.lets}:
                    names[token] = extent
            if pack is not None and pack not in self.lets:
                packs.setdefault(pack, []).append((a, shape[len(before) : len(shape) - len(after)]))
        for pack, members in packs.items():
            strict = [(a, s) for a, s in members if pack not in a.broadcast]
            if strict:
                names.setdefault(pack, strict[0][1])
            else:
                names[pack] = self._broadcast(pack, [s for _, s in members], members)
        for a in self.inputs:  # an extent that only broadcasting operands have
            if a.name in operands:
                before, _, after = self._tokens(a.shape)
                shape = operands[a.name].shape
                for token, extent in [
                    *zip(before, shape, strict=False),
                    *zip(reversed(after), reversed(shape), strict=False),
                ]:
                    if not token.isidentifier() or token not in a.broadcast or token in self.lets:
                        continue
                    if token not in names or names[token] == 1:
                        names[token] = extent if token not in names else max(extent, names[token])

    def _broadcast(
        self, pack: str, shapes: Sequence[tuple[int, ...]], members: Sequence[tuple[Arg, tuple[int, ...]]]
    ) -> tuple[int, ...]:
        rank = max(map(len, shapes))
        result = [1] * rank
        for (a, _), shape in zip(members, shapes, strict=True):
            for i, extent in enumerate(shape, rank - len(shape)):
                if extent != 1 and result[i] not in (1, extent):
                    raise ContractError(
                        f"{self.name}: {a.name}.shape is {shape}; expected what broadcasts to {tuple(result)}"
                    )
                if extent != 1:
                    result[i] = extent
        return tuple(result)

    def _expand(self, a: Arg, operand: Operand, names: _Names) -> Operand:
        """Checks an operand's extents and broadcasts it: stride 0 where an extent of 1 stands for more."""
        before, pack, after = self._tokens(a.shape)
        wanted = self._shape(a.shape, names)
        texts = self._texts(a.shape, len(wanted))
        front = len(before)
        missing = len(wanted) - len(operand.shape)
        if missing and not (pack in a.broadcast and missing > 0):
            raise ContractError(
                f"{self.name}: {a.name} has {len(operand.shape)} extents {operand.shape}; expected {len(wanted)}: "
                f"{wanted}"
            )
        shape = operand.shape[:front] + (1,) * missing + operand.shape[front:]
        strides = operand.strides[:front] + (0,) * missing + operand.strides[front:]
        allowed = {
            *[i for i, token in enumerate(before) if token in a.broadcast],
            *[len(wanted) - len(after) + i for i, token in enumerate(after) if token in a.broadcast],
            *(range(front, len(wanted) - len(after)) if pack in a.broadcast else ()),
        }
        new_strides = []
        for i, (found, expected, stride) in enumerate(zip(shape, wanted, strides, strict=True)):
            if found == expected:
                new_strides.append(stride)
            elif found == 1 and i in allowed:
                new_strides.append(0)
            else:
                text = texts[i]
                equals = f"{text} = {expected}" if text != str(expected) else text
                also = " or 1" if i in allowed else ""
                raise ContractError(
                    f"{self.name}: {a.name}.shape[{max(i - missing, 0)}] is {found}; expected {equals}{also}"
                )
        return Operand(wanted, tuple(new_strides), operand.dtype)

    def _shape(self, shape: str, names: Mapping[str, Any]) -> tuple[int, ...]:
        result: list[int] = []
        for token in shape.split():
            if token.startswith("*"):
                result.extend(evaluate(token[1:], names))
            else:
                result.append(evaluate(token, names))
        return tuple(result)

    @staticmethod
    def _texts(shape: str, rank: int) -> list[str]:
        tokens = shape.split()
        texts: list[str] = []
        for token in tokens:
            if token.startswith("*"):
                texts.extend(f"{token[1:]}[{i}]" for i in range(rank - len(tokens) + 1))
            else:
                texts.append(token.replace("//", " // ").replace("*", " * ").replace("+", " + "))
        return texts

    def _output_strides(self, shape: tuple[int, ...], operands: Mapping[str, Operand]) -> tuple[int, ...]:
        order = list(range(len(shape)))
        if self.layout and len(shape) >= 3:
            x = operands.get(self.layout)
            if x is not None and len(x.shape) == len(shape) and is_channels_last(x):
                order = [0, *range(2, len(shape)), 1]
        strides = [0] * len(shape)
        step = 1
        for axis in reversed(order):
            strides[axis] = step
            step *= max(shape[axis], 1)
        return tuple(strides)

    # ---- documentation ----------------------------------------------------------------------------------------------

    def markdown(self) -> str:
        """The operand table, attributes, conditions and cost, as the documentation prints them."""
        lines = [
            f"### `{self.name}`",
            "",
            self.summary,
            "",
            "| operand | extents | dtype | |",
            "| --- | --- | --- | --- |",
        ]
        for a in self.inputs:
            dtypes = ", ".join(self.types.get(a.type, (a.type,)))
            note = "; ".join(
                filter(
                    None,
                    [
                        "optional" if a.optional else "",
                        f"broadcasts over {', '.join(a.broadcast)}" if a.broadcast else "",
                        f"values in [{a.values[0]}, {a.values[1]})" if a.values and a.column < 0 else "",
                        f"[:, {a.column}] in [{a.values[0]}, {a.values[1]})" if a.values and a.column >= 0 else "",
                        a.doc,
                    ],
                )
            )
            lines.append(f"| {a.name} | `{a.shape}` | {dtypes} | {note} |")
        for out in self.outputs:
            when = "" if out.when == "True" else f"if `{out.when}` "
            dtypes = ", ".join(self.types.get(out.type, (out.type,)))
            lines.append(f"| → {out.name} | `{out.shape}` | {dtypes} | {when}{out.doc} |")
        if self.attributes:
            lines += ["", "| attribute | kind | default | |", "| --- | --- | --- | --- |"]
            for t in self.attributes:
                kind = " or ".join(map(repr, t.choices)) if t.kind == "choice" else t.kind
                only = "; ".join(f"{choice!r}: {', '.join(dtypes)} only" for choice, dtypes in t.only.items())
                lines.append(f"| {t.name} | {kind} | {t.default!r} | {'; '.join(filter(None, [t.doc, only]))} |")
        if self.lets:
            lines += ["", "Computed: " + ", ".join(f"`{k} = {v}`" for k, v in self.lets.items()) + "."]
        if self.requires:
            lines += [
                "",
                "Raises `ContractError` unless " + ", ".join(f"`{r.expression}`" for r in self.requires) + ".",
            ]
        lines += ["", f"Free extents: {', '.join(self.free) or 'none'}. Operations: `{self.flops}`."]
        if self.source:
            lines += ["", f"Source: {self.source}"]
        return "\n".join(lines) + "\n"


def is_channels_last(x: Operand) -> bool:
    """Dense with channels (axis 1) innermost, and not contiguous as well."""
    if len(x.shape) < 3 or x.shape[1] == 1 or math.prod(x.shape[2:]) == 1:
        return False
    step = 1
    for axis in [1, *reversed(range(2, len(x.shape))), 0]:
        if x.shape[axis] != 1 and x.strides[axis] != step:
            return False
        step *= x.shape[axis]
    return True
