"""The moving average of weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..autograd import Variable
from ..errors import ContractError

__all__ = ["EMA"]


class EMA:
    """The exponential moving average of parameters: average <- average + (1 - d) (theta - average).

    With ``warm_up`` d is the smaller of ``decay`` and (1 + step) / (10 + step), so the first values are soon forgotten.

    >>> import numpy as np
    >>> from mmkernels import nn, optim
    >>> theta = nn.Parameter(np.array([0.0], np.float32))
    >>> ema = optim.EMA([theta], decay=0.5)
    >>> theta.data[:] = 1.0
    >>> ema.update()
    >>> with ema.applied():
    ...     inside = theta.data.tolist()
    >>> inside, theta.data.tolist()
    ([0.5], [1.0])
    """

    def __init__(self, parameters: Iterable[Variable], decay: float = 0.999, *, warm_up: bool = False) -> None:
        if not 0.0 <= decay <= 1.0:
            raise ContractError(f"EMA: decay is {decay}; expected 0 <= decay <= 1")
        self.parameters = list(parameters)
        self.decay, self.warm_up, self.steps = decay, warm_up, 0
        self.averages = [np.array(p.data, copy=True) for p in self.parameters]

    def update(self) -> None:
        """Takes the present parameters into the average."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps)) if self.warm_up else self.decay
        for p, average in zip(self.parameters, self.averages, strict=True):
            difference = np.subtract(p.data, average)
            difference *= 1.0 - decay
            average += difference
        self.steps += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it, the parameters are the averages."""
        trained = [p.data for p in self.parameters]
        for p, average in zip(self.parameters, self.averages, strict=True):
            p.data = average
        try:
            yield
        finally:
            for p, data in zip(self.parameters, trained, strict=True):
                p.data = data

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs, as arrays by name."""
        return {"steps": np.array(self.steps, np.int64), **{f"{i}": a for i, a in enumerate(self.averages)}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copies a state_dict back; raises ContractError if names or shapes are others."""
        own = self.state_dict()
        if {k: np.shape(v) for k, v in own.items()} != {k: np.shape(v) for k, v in state.items()}:
            raise ContractError("EMA.load_state_dict: names or shapes are others than those of the parameters")
        for name, value in own.items():
            value[...] = state[name]
        self.steps = int(state["steps"])
