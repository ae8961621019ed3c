"""Module: a tree of parameters with a forward function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from ..autograd import Variable
from ..errors import ContractError
from .initial import draw

__all__ = ["Module", "Parameter", "taped"]


def Parameter(data: Any) -> Variable:
    """A Variable that a Module counts among its parameters: it asks for gradients and was computed from nothing.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.Parameter(np.zeros(2, np.float32)).requires_grad
    True
    """
    return Variable(data, requires_grad=True)


def taped(x: Any, *parameters: Variable | None) -> tuple[Any, ...]:
    """The parameters as x needs them: on the tape beside a Variable, bare arrays beside an array.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> (weight,) = nn.taped(np.ones(2), nn.Parameter(np.zeros(2)))
    >>> type(weight).__name__
    'ndarray'
    """
    if isinstance(x, Variable):
        return parameters
    return tuple(None if p is None else p.data for p in parameters)


class Module:
    """The base of layers and models, with PyTorch's names.

    Parameters, buffers and child modules are plain attributes; their order is the order of assignment. A call with
    NumPy arrays is inference and returns arrays; a call with a Variable is recorded and returns a Variable. Stable.

    A layer draws its weights when it is made, every layer different ones; ``initialize(seed)`` draws them again by
    name, which gives a model the same bits wherever and whenever it is made.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> class Twice(nn.Module):
    ...     def __init__(self):
    ...         self.inner = nn.Linear(3, 3)
    ...     def forward(self, x):
    ...         return self.inner(self.inner(x))
    >>> model = Twice().initialize(seed=0)
    >>> model(np.ones((1, 3), np.float32)).shape
    (1, 3)
    >>> [name for name, _ in model.named_parameters()]
    ['inner.weight', 'inner.bias']
    """

    training: bool = True
    _buffer_names: tuple[str, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What a call computes; subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def register_buffer(self, name: str, value: Any) -> None:
        """Makes ``value`` an attribute that is saved and loaded, but not trained."""
        if name not in self._buffer_names:
            self._buffer_names = (*self._buffer_names, name)
        setattr(self, name, value)

    # ---- the tree ---------------------------------------------------------------------------------------------------

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module (named ``prefix``) and all below it, parents first; a module met twice comes once."""
        seen: set[int] = set()
        for path, module in self._walk(prefix):
            if id(module) not in seen:
                seen.add(id(module))
                yield path, module

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        return (module for _, module in self.named_modules())

    def children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly below, with their names."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Module))

    def named_parameters(self) -> Iterator[tuple[str, Variable]]:
        """The parameters with their full names; a shared one comes once."""
        seen: set[int] = set()
        for path, module in self._walk():
            for name, p in module._own_parameters():
                if id(p) not in seen:
                    seen.add(id(p))
                    yield _join(path, name), p

    def parameters(self) -> Iterator[Variable]:
        """The parameters in the order of their names' list."""
        return (p for _, p in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Any]]:
        """The arrays that are saved, but not trained."""
        for path, module in self.named_modules():
            for name in module._buffer_names:
                yield _join(path, name), getattr(module, name)

    def _own_parameters(self) -> Iterator[tuple[str, Variable]]:
        for name, value in vars(self).items():
            # A result kept as an attribute has a node with a way back; a parameter has none.
            if isinstance(value, Variable) and value.node is not None and value.node.backward is None:
                yield name, value

    def _walk(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        yield prefix, self
        for name, child in self.children():
            yield from child._walk(_join(prefix, name))

    # ---- weights ----------------------------------------------------------------------------------------------------

    def initialize(self, seed: int = 0) -> Self:
        """Draws every parameter again from Philox keyed by (seed, full name), and returns the module.

        The distributions are those of PyTorch's layers. The same seed and names give the same bits on every machine.
        A parameter that a subclass made itself, without a layer, is left as it is.
        """
        for path, module in self.named_modules():
            for name, p in module._own_parameters():
                draw(module, name, p, seed, _join(path, name))
        return self

    def state_dict(self) -> dict[str, Any]:
        """Parameters and buffers by full name: the arrays themselves, not copies."""
        state = {}
        for path, module in self._walk():
            for name, p in module._own_parameters():
                state[_join(path, name)] = p.data
            for name in module._buffer_names:
                state[_join(path, name)] = getattr(module, name)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copies arrays by name into the module, converting them to its dtypes.

        Raises ContractError naming every key that is missing, unexpected or of another shape; then nothing is changed.
        """
        own = self.state_dict()
        missing = [key for key in own if key not in state]
        unexpected = [key for key in state if key not in own]
        misshaped = [
            f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
            for key in own
            if key in state and tuple(state[key].shape) != tuple(own[key].shape)
        ]
        faults = [
            f"{word}: {', '.join(keys)}"
            for word, keys in (("missing", missing), ("unexpected", unexpected), ("misshaped", misshaped))
            if keys
        ]
        if faults:
            raise ContractError(f"load_state_dict: {'; '.join(faults)}")
        for key, target in own.items():
            target[...] = np.asarray(state[key]).astype(target.dtype, copy=False)

    def zero_grad(self) -> None:
        """Forgets the gradients of all parameters."""
        for p in self.parameters():
            p.grad = None

    def train(self, mode: bool = True) -> Self:
        """Switches this module and all below it to training (or not), and returns it."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switches to inference: dropout lets everything through."""
        return self.train(False)

    def __repr__(self) -> str:
        lines = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.children()]
        inside = self.describe() if not lines else "\n" + "\n".join(lines) + "\n"
        return f"{type(self).__name__}({inside})"

    def describe(self) -> str:
        """What stands between the brackets of repr()."""
        return ", ".join(f"{name}={tuple(p.shape)}" for name, p in self._own_parameters())

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} is not pickled; save its state_dict() (see mmkernels.nn.save)")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
