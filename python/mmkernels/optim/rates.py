"""Learning rates as functions of the step; hand one to an optimiser as ``lr``."""

from __future__ import annotations

from dataclasses import dataclass

from ..diffusion.host_math import PI, cos
from .optimizer import Rate

__all__ = ["CosineDecay", "LinearDecay", "StepDecay", "WarmUp"]


@dataclass(frozen=True)
class LinearDecay:
    """e_k = (1 - a) e_0 + a e_tau with a = k / tau up to step tau, then e_tau. e_tau is about 1% of e_0 as a rule.

    >>> from mmkernels import optim
    >>> rate = optim.LinearDecay(1.0, 0.0, tau=4)
    >>> [rate(k) for k in (0, 1, 4, 9)]
    [1.0, 0.75, 0.0, 0.0]
    """

    start: float
    end: float
    tau: int

    def __call__(self, step: int) -> float:
        a = step / self.tau if step < self.tau else 1.0
        return (1.0 - a) * self.start + a * self.end


@dataclass(frozen=True)
class StepDecay:
    """start * factor^(step // every).

    >>> from mmkernels import optim
    >>> rate = optim.StepDecay(1.0, every=10, factor=0.5)
    >>> [rate(k) for k in (0, 9, 10, 25)]
    [1.0, 1.0, 0.5, 0.25]
    """

    start: float
    every: int
    factor: float = 0.1

    def __call__(self, step: int) -> float:
        rate = self.start
        for _ in range(step // self.every):  # a product, not pow, whose last bit differs between C libraries
            rate *= self.factor
        return rate


@dataclass(frozen=True)
class CosineDecay:
    """Half a cosine from start to end over ``steps`` steps, then end (Loshchilov and Hutter 2017, equation 5).

    >>> from mmkernels import optim
    >>> rate = optim.CosineDecay(1.0, 0.0, steps=10)
    >>> [round(rate(k), 6) for k in (0, 5, 10, 20)]
    [1.0, 0.5, 0.0, 0.0]
    """

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        if step >= self.steps:
            return self.end
        return self.end + (self.start - self.end) * (0.5 * (1.0 + cos(PI * (step / self.steps))))


@dataclass(frozen=True)
class WarmUp:
    """Another rate, times (step + 1) / steps during the first ``steps`` steps.

    >>> from mmkernels import optim
    >>> rate = optim.WarmUp(1.0, steps=4)
    >>> [rate(k) for k in (0, 1, 3, 4)]
    [0.25, 0.5, 1.0, 1.0]
    """

    rate: Rate
    steps: int

    def __call__(self, step: int) -> float:
        rate = self.rate(step) if callable(self.rate) else self.rate
        return rate * ((step + 1) / self.steps) if step < self.steps else rate
