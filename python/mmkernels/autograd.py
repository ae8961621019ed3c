"""A tape: gradients of any composition of operators, over any array type that the operators take.

Gradients are the vector-Jacobian products that the contracts state, evaluated with operators again, so a gradient can
be differentiated in its turn (``create_graph=True``).

>>> import numpy as np, mmkernels as mmk
>>> from mmkernels import autograd
>>> x = autograd.Variable(np.array([1.0, 2.0, 3.0]), requires_grad=True)
>>> y = mmk.sum(mmk.mul(mmk.mul(x, x), x))
>>> (first,) = autograd.grad(y, [x], create_graph=True)
>>> (second,) = autograd.grad(mmk.sum(first), [x])
>>> first.data.tolist(), second.data.tolist()
([3.0, 12.0, 27.0], [6.0, 12.0, 18.0])
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from types import CodeType
from typing import Any

from . import arrays
from .errors import ContractTypeError
from .operator import OPERATORS, Operator

__all__ = ["Variable", "grad", "no_grad", "record"]

_serial = itertools.count()
_state = threading.local()


@contextmanager
def no_grad() -> Iterator[None]:
    """Within it, operators record nothing on this thread."""
    before = recording()
    _state.recording = False
    try:
        yield
    finally:
        _state.recording = before


def recording() -> bool:
    """Whether operators on Variables are recorded on this thread."""
    return getattr(_state, "recording", True)


class _Node:
    """One recorded call: where its operands came from, and how its result's gradient becomes theirs."""

    __slots__ = ("backward", "inputs", "results", "serial")

    def __init__(
        self, inputs: Sequence[Variable | None], backward: Callable[..., Sequence[Any]] | None, results: int = 1
    ) -> None:
        self.inputs = inputs
        self.results = results
        # backward(node, gradients of the results, create_graph) -> a gradient, or None, per input; the node comes
        # as an argument because a closure over it would be a cycle, and memory would wait for the collector
        self.backward = backward
        self.serial = next(_serial)


class Variable:
    """An array on the tape. ``data`` is the array; arithmetic, ``reshape``, ``transpose``, slicing, ``sum`` and
    ``mean`` are recorded like operators. ``grad`` is filled by ``backward()`` on variables that the user made."""

    __slots__ = ("data", "grad", "index", "node")
    __array_priority__ = 1000  # NumPy arrays on the left leave arithmetic to us
    __array_ufunc__ = None

    def __init__(self, data: Any, requires_grad: bool = False, *, node: _Node | None = None, index: int = 0) -> None:
        self.data = data
        self.grad: Any = None
        self.node = node if node is not None else (_Node((), None) if requires_grad else None)
        self.index = index

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to this variable."""
        return self.node is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents."""
        return arrays.shape_of(self.data)

    @property
    def ndim(self) -> int:
        """The number of extents."""
        return len(self.data.shape)

    @property
    def dtype(self) -> Any:
        """The dtype of the data."""
        return self.data.dtype

    def __repr__(self) -> str:
        return f"Variable({self.data!r}{', requires_grad=True' if self.requires_grad else ''})"

    def __len__(self) -> int:
        return self.shape[0]

    def detach(self) -> Variable:
        """The same data, off the tape."""
        return Variable(self.data)

    def item(self) -> float:
        """The value of a variable with one element."""
        return float(self.data.item())

    def backward(self, gradient: Any = None) -> None:
        """Adds this variable's gradients to ``grad`` of every leaf it was computed from."""
        leaves = _leaves(self)
        for leaf, g in zip(leaves, grad(self, leaves, gradient), strict=True):
            if g is not None:
                leaf.grad = g.data if leaf.grad is None else OPERATORS["add"](leaf.grad, g.data)

    def __add__(self, other: Any) -> Any:
        return OPERATORS["add"](self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return OPERATORS["sub"](self, other)

    def __rsub__(self, other: Any) -> Any:
        return OPERATORS["sub"](other, self)

    def __mul__(self, other: Any) -> Any:
        return OPERATORS["mul"](self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return OPERATORS["div"](self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return OPERATORS["div"](other, self)

    def __neg__(self) -> Any:
        return OPERATORS["mul"](self, -1.0)

    def __matmul__(self, other: Any) -> Any:
        from .ops.matmul import matmul

        return matmul(self, other)

    def sum(self, dim: Any = None, keepdim: bool = False) -> Any:
        """See mmkernels.sum."""
        from .ops.pointwise import sum as total

        return total(self, dim, keepdim)

    def mean(self, dim: Any = None, keepdim: bool = False) -> Any:
        """See mmkernels.mean."""
        from .ops.pointwise import mean

        return mean(self, dim, keepdim)

    # ---- movements of data: the array's own library does them --------------------------------------------------------

    def reshape(self, *shape: Any) -> Variable:
        """The same elements in logical order under other extents."""
        new = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        old = self.shape
        return _move(self.data.reshape(tuple(new)), [self], lambda g: [arrays.reshape(g, old)])

    def transpose(self, *axes: Any) -> Variable:
        """Axis i of the result is axis axes[i]."""
        order = tuple(axes[0]) if len(axes) == 1 and not isinstance(axes[0], int) else tuple(axes)
        back = tuple(sorted(range(len(order)), key=order.__getitem__))
        return _move(arrays.permute(self.data, order), [self], lambda g: [arrays.permute(g, back)])

    def broadcast_to(self, shape: Sequence[int]) -> Variable:
        """Extents of 1 repeated."""
        old = self.shape
        return _move(arrays.broadcast_to(self.data, shape), [self], lambda g: [reduce_to(g, old)])

    def pad(self, widths: Sequence[tuple[int, int]]) -> Variable:
        """Zeros around: (before, after) per axis."""
        inside = tuple(slice(low, low + n) for (low, _), n in zip(widths, self.shape, strict=True))
        return _move(arrays.pad(self.data, widths), [self], lambda g: [g[inside]])

    def __getitem__(self, key: Any) -> Variable:
        keys = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(k, slice) and k.step in (None, 1) for k in keys):
            raise TypeError("autograd: a Variable is indexed with slices of step 1 only; use reshape to drop an extent")
        bounds = [k.indices(n)[:2] for k, n in zip(keys, self.shape, strict=False)]
        bounds += [(0, n) for n in self.shape[len(keys) :]]
        widths = [(start, n - max(start, stop)) for (start, stop), n in zip(bounds, self.shape, strict=True)]
        return _move(self.data[keys], [self], lambda g: [arrays.pad(g, widths)])

    @staticmethod
    def concat(parts: Sequence[Any], axis: int) -> Variable:
        """The parts, one after another along an axis."""
        ends = list(itertools.accumulate(arrays.shape_of(p)[axis] for p in parts))
        starts = [0, *ends[:-1]]

        def split(g: Any) -> list[Any]:
            return [arrays.slice_of(g, axis, start, end) for start, end in zip(starts, ends, strict=True)]

        whole = arrays.concat([p.data if isinstance(p, Variable) else p for p in parts], axis)
        return _move(whole, parts, split)


def _move(data: Any, inputs: Sequence[Any], back: Callable[[Any], list[Any]]) -> Variable:
    variables = [x if isinstance(x, Variable) and x.requires_grad else None for x in inputs]
    if not recording() or all(v is None for v in variables):
        return Variable(data)
    return Variable(data, node=_Node(variables, lambda node, gradients, create_graph: back(gradients[0])))


@cache
def _compiled(text: str) -> CodeType:
    return compile(text, "<vjp>", "eval")


class Names(dict[str, Any]):
    """The names of a contract's call, as attributes too; operators and data movements stand behind them."""

    def __missing__(self, name: str) -> Any:
        if name in OPERATORS:
            return OPERATORS[name]
        if name in arrays.__all__:
            return getattr(arrays, name)
        raise KeyError(name)

    __getattr__ = dict.__getitem__


def names_of(operator: Operator, operands: Sequence[Any], names: Mapping[str, Any]) -> Names:
    """Extents, attributes and operands of a call, for its expressions."""
    found = Names(names)
    for argument, operand in zip(operator.contract.inputs, operands, strict=True):
        found[argument.name] = operand
    return found


def compose(operator: Operator, operands: Sequence[Any], names: Mapping[str, Any]) -> Any:
    """The call through the operator's composition."""
    composition = operator.contract.composition
    found = names_of(operator, operands, names)
    if isinstance(composition, str):
        return eval(_compiled(composition), {"__builtins__": {}}, found)
    assert composition is not None
    return composition(found)


def vjp(
    operator: Operator,
    operands: Sequence[Any],
    outputs: Sequence[Any],
    gradients: Sequence[Any],
    wanted: Sequence[bool],
    names: Mapping[str, Any],
) -> list[Any]:
    """Gradients of the operands that are wanted, from those of the results, by the contract's expressions."""
    contract = operator.contract
    found = names_of(operator, operands, names)
    given = [o for o in contract.outputs if _exists(o.when, names)]
    for out, y, g in zip(given, outputs, gradients, strict=True):
        found[out.name] = y
        found["g" + out.name] = g if g is not None else arrays.zeros_like(y)
    position = {a.name: i for i, a in enumerate(contract.inputs)}
    result: list[Any] = [None] * len(operands)
    covered = set()
    for key, expression in contract.vjp.items():
        targets = [position[name] for name in key.split()]
        covered.update(targets)
        if not any(wanted[i] for i in targets):
            continue
        value = eval(_compiled(expression), {"__builtins__": {}}, found)
        for i, g in zip(targets, value if len(targets) > 1 else (value,), strict=True):
            if wanted[i] and g is not None:
                shape = arrays.shape_of(operands[i])
                result[i] = g if arrays.shape_of(g) == shape else reduce_to(g, shape)
    for i, want in enumerate(wanted):
        if want and i not in covered:
            raise NotImplementedError(
                f"{operator.name}: no gradient is defined for {contract.inputs[i].name}; "
                "detach it, or use other operators"
            )
    return result


def _exists(when: str, names: Mapping[str, Any]) -> bool:
    from .contract import evaluate

    return when == "True" or bool(evaluate(when, names))


def reduce_to(g: Any, shape: Sequence[int]) -> Any:
    """The gradient of a broadcast: summed over what was repeated."""
    found = arrays.shape_of(g)
    extra = len(found) - len(shape)
    dims = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n == 1 and found[i + extra] != 1)
    if dims:
        g = OPERATORS["sum"](g, dims=dims, keepdim=True)
    return arrays.reshape(g, shape)


def record(operator: Operator, operands: Sequence[Any], attributes: tuple[Any, ...], out: Any) -> Any:
    """Runs an operator on Variables and remembers how."""
    if out is not None:
        raise ContractTypeError(f"{operator.name}: out= was given; expected none, as a Variable is among the operands")
    raw = [o.data if isinstance(o, Variable) else o for o in operands]
    inputs = [o if isinstance(o, Variable) and o.requires_grad else None for o in operands]
    wanted = [v is not None for v in inputs]
    if not recording() or not any(wanted):
        return _wrap(operator.call(*raw, *attributes, None), None)
    raw = operator.without_scalars(raw)  # so that gradients know every shape
    names = operator.names(tuple(raw), attributes)
    if operator.composed(names):
        kept = [v if v is not None else o for v, o in zip(inputs, raw, strict=True)]
        return compose(operator, kept, names)
    result = operator.call(*raw, *attributes, None)
    outputs = result if isinstance(result, tuple) else (result,)

    def backward(node: _Node, gradients: Sequence[Any], create_graph: bool) -> Sequence[Any]:
        if create_graph:
            ins: Sequence[Any] = [v if v is not None else o for v, o in zip(inputs, raw, strict=True)]
            outs: Sequence[Any] = [Variable(y, node=node, index=i) for i, y in enumerate(outputs)]
        else:
            ins, outs = raw, outputs
        return vjp(operator, ins, outs, gradients, wanted, names)

    node = _Node(inputs, backward, len(outputs))
    return _wrap(result, node)


def _wrap(result: Any, node: _Node | None) -> Any:
    if isinstance(result, tuple):
        return tuple(Variable(y, node=node, index=i) for i, y in enumerate(result))
    return Variable(result, node=node)


def _leaves(root: Variable) -> list[Variable]:
    leaves: dict[int, Variable] = {}
    seen: set[int] = set()
    stack = [root]
    while stack:
        v = stack.pop()
        assert v.node is not None
        if v.node.backward is None:
            leaves[id(v.node)] = v
        if id(v.node) in seen:
            continue
        seen.add(id(v.node))
        stack.extend(x for x in v.node.inputs if x is not None)
    return list(leaves.values())


def grad(
    outputs: Variable | Sequence[Variable],
    inputs: Sequence[Variable],
    gradients: Any = None,
    *,
    create_graph: bool = False,
) -> list[Variable | None]:
    """Gradients of the outputs' weighted sum with respect to the inputs.

    ``gradients`` are the weights, one per output; ones for a single output with one element. With ``create_graph``
    the gradients are on the tape themselves. An input that no output depends on gets None.
    """
    roots = [outputs] if isinstance(outputs, Variable) else list(outputs)
    weights = [gradients] if isinstance(outputs, Variable) else list(gradients or [None] * len(roots))
    pending: dict[_Node, dict[int, Any]] = {}
    queue: list[tuple[int, int, _Node]] = []

    def arrive(v: Variable, g: Any) -> None:
        assert v.node is not None
        slots = pending.get(v.node)
        if slots is None:
            slots = pending[v.node] = {}
            heapq.heappush(queue, (-v.node.serial, id(v.node), v.node))
        before = slots.get(v.index)
        slots[v.index] = g if before is None else OPERATORS["add"](before, g)

    for root, weight in zip(roots, weights, strict=True):
        if root.node is None:
            raise ValueError("autograd.grad: an output does not depend on a variable that requires gradients")
        if weight is None:
            if arrays.size_of(root) != 1:
                raise ValueError(f"autograd.grad: an output has shape {root.shape}; expected one element, or gradients")
            weight = OPERATORS["add"](arrays.zeros_like(root.data), 1.0)
        arrive(root, weight if not create_graph or isinstance(weight, Variable) else Variable(weight))

    targets = {(id(v.node), v.index) for v in inputs if v.node is not None}
    kept: dict[tuple[int, int], Any] = {}
    with _recording(create_graph):
        while queue:
            _, _, node = heapq.heappop(queue)
            slots = pending.pop(node)
            for index, g in slots.items():
                if (id(node), index) in targets:
                    kept[id(node), index] = g
            if node.backward is None:
                continue
            back = node.backward(node, [slots.get(i) for i in range(node.results)], create_graph)
            for v, g in zip(node.inputs, back, strict=True):
                if v is not None and g is not None:
                    arrive(v, g)
    result: list[Variable | None] = []
    for v in inputs:
        g = kept.get((id(v.node), v.index)) if v.node is not None else None
        result.append(g if g is None or isinstance(g, Variable) else Variable(g))
    return result


@contextmanager
def _recording(on: bool) -> Iterator[None]:
    before = recording()
    _state.recording = on
    try:
        yield
    finally:
        _state.recording = before
