"""What all optimisers share: parameters, a learning rate, and buffers beside each parameter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..autograd import Variable
from ..errors import ContractError

__all__ = ["Array", "Optimizer", "Rate"]

Array = npt.NDArray[Any]
Rate = float | Callable[[int], float]


class Optimizer(ABC):
    """Updates parameters in place from their ``grad``; a parameter without one is left alone.

    Updates are NumPy's elementwise ``+ - * / sqrt``, which IEEE 754 rounds correctly, in one stated order: the bits
    do not depend on the machine. ``lr`` is a number or a function of the step (mmkernels.optim has the usual ones).
    """

    buffers: tuple[str, ...] = ()

    def __init__(self, parameters: Iterable[Variable], lr: Rate) -> None:
        self.parameters = list(parameters)
        self.lr = lr
        self.steps = 0
        self._state = {name: [np.zeros_like(p.data) for p in self.parameters] for name in self.buffers}
        largest = max((p.data.size for p in self.parameters), default=0)
        self._scratch = np.empty(largest, self.parameters[0].dtype if self.parameters else np.float32)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.lr(self.steps) if callable(self.lr) else self.lr

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for p in self.parameters:
            p.grad = None

    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        self._prepare(self.rate)
        for i, p in enumerate(self.parameters):
            if p.grad is not None:
                g = np.asarray(p.grad)
                scratch = self._scratch[: g.size].reshape(g.shape)
                self._update(p.data, g, scratch, *(self._state[name][i] for name in self.buffers))
        self.steps += 1

    def _prepare(self, rate: float) -> None:
        """Computes what all parameters of this step share."""
        self._rate = rate

    @abstractmethod
    def _update(self, theta: Array, g: Array, scratch: Array, *state: Array) -> None:
        """Updates one parameter and its buffers in place."""

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs, as arrays by name: "steps" and "<number of the parameter>.<buffer>"."""
        state: dict[str, Any] = {"steps": np.array(self.steps, np.int64)}
        for name, values in self._state.items():
            state.update({f"{i}.{name}": value for i, value in enumerate(values)})
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copies a state_dict back; raises ContractError if names or shapes are others, and then changes nothing."""
        own = self.state_dict()
        if own.keys() != state.keys():
            names = ", ".join(sorted(own.keys() ^ state.keys()))
            raise ContractError(f"{type(self).__name__}.load_state_dict: missing or unexpected: {names}")
        for name, value in own.items():
            if np.shape(state[name]) != value.shape:
                raise ContractError(
                    f"{type(self).__name__}.load_state_dict: {name} is {np.shape(state[name])}; expected {value.shape}"
                )
        for name, value in own.items():
            value[...] = state[name]
        self.steps = int(state["steps"])
