"""Noise schedules of a variance-preserving diffusion process, and grids of timesteps.

A schedule says how much signal, ``alpha(t) = sqrt(alphas_cumprod[t])``, and how much noise,
``sigma(t) = sqrt(1 - alphas_cumprod[t])``, a training sample holds at timestep t.  A grid says which of the timesteps a
sampler visits.  Everything is float64 on the host, built in one stated order from ``+ - * / sqrt`` and the functions of
``host_math``, so the tables have the same bits on every machine.

>>> from mmkernels.diffusion import linear_schedule, timestep_grid
>>> linear_schedule().betas[[0, -1]].tolist()
[0.0001, 0.02]
>>> timestep_grid(1000, 4, spacing="trailing").tolist()
[999, 749, 499, 249]
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from mmkernels.diffusion.host_math import PI, cos
from mmkernels.errors import ContractError

__all__ = [
    "NoiseSchedule",
    "Spacing",
    "cosine_schedule",
    "linear_schedule",
    "scaled_linear_schedule",
    "timestep_grid",
]

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
Spacing = Literal["leading", "linspace", "trailing"]


def _read_only(values: Sequence[float] | Float64Array) -> Float64Array:
    array = np.array(values, dtype=np.float64)
    array.flags.writeable = False
    return array


def whole_number(value: Any, name: str, where: str, low: int, high: int | None = None) -> int:
    """``value`` as an int, or a ContractError naming operator, operand, found and wanted."""
    wanted = f"{low} <= {name} <= {high}" if high is not None else f"{name} >= {low}"
    try:
        number = operator.index(value)
    except TypeError:
        raise ContractError(f"{where}: {name} is {value!r}; expected an integer, {wanted}") from None
    if number < low or (high is not None and number > high):
        raise ContractError(f"{where}: {name} is {number}; expected {wanted}")
    return number


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The variances of the forward process (Ho et al. 2020, equations 2 and 4).

    Args:
        betas: float64[T], the variance added by each training step, ``0 < beta <= 1``; 1 is for the last step alone.

    Attributes:
        betas: float64[T], read-only.
        alphas_cumprod: float64[T], read-only; the running product of ``1 - beta``, multiplied from the first to the
            last.

    Raises:
        ContractError: betas is empty, not one-dimensional or outside its range, or a beta is too small to change the
            product.

    >>> schedule = NoiseSchedule(np.array([0.1, 0.5]))
    >>> schedule.alphas_cumprod.tolist()
    [0.9, 0.45]
    """

    betas: Float64Array
    alphas_cumprod: Float64Array = field(init=False)

    def __post_init__(self) -> None:
        betas = _read_only(self.betas)
        if betas.ndim != 1 or betas.size == 0:
            raise ContractError(f"noise_schedule: betas.shape is {betas.shape}; expected (T,) with T >= 1")
        product = 1.0
        products: list[float] = []
        for t, beta in enumerate(betas.tolist()):
            last = t == betas.size - 1
            if not (0.0 < beta < 1.0 or (last and beta == 1.0)):
                wanted = "0 < beta <= 1" if last else "0 < beta < 1"
                raise ContractError(f"noise_schedule: betas[{t}] is {beta}; expected {wanted}")
            previous, product = product, product * (1.0 - beta)
            if not product < previous or (product == 0.0 and beta != 1.0):
                raise ContractError(
                    f"noise_schedule: alphas_cumprod[{t}] is {product}; "
                    f"expected less than alphas_cumprod[{t - 1}] = {previous} and more than 0"
                )
            products.append(product)
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "alphas_cumprod", _read_only(products))

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of timesteps of the forward process."""
        return int(self.betas.size)

    def alpha(self, t: SupportsIndex) -> float:
        """The share of signal at timestep t, ``sqrt(alphas_cumprod[t])``, a Python float."""
        return math.sqrt(self._product(t))

    def sigma(self, t: SupportsIndex) -> float:
        """The standard deviation of the noise at timestep t, ``sqrt(1 - alphas_cumprod[t])``, a Python float."""
        return math.sqrt(1.0 - self._product(t))

    def _product(self, t: SupportsIndex) -> float:
        index = whole_number(t, "t", "noise_schedule", 0, self.num_train_timesteps - 1)
        return float(self.alphas_cumprod[index])

    def rescaled_to_zero_terminal_snr(self) -> NoiseSchedule:
        """The schedule whose last timestep is pure noise (Lin et al. 2024, algorithm 1).

        ``alpha(t)`` is shifted and scaled so that ``alpha(0)`` stays and ``alpha(T - 1)`` is exactly 0.  A prediction
        of the noise says nothing about the sample there: use "v", "sample" or "flow".

        Raises:
            ContractError: the schedule has a single timestep.

        >>> linear_schedule().rescaled_to_zero_terminal_snr().alpha(999)
        0.0
        """
        if self.num_train_timesteps < 2:
            raise ContractError("noise_schedule: num_train_timesteps is 1; expected >= 2 to rescale the terminal SNR")
        roots = [math.sqrt(product) for product in self.alphas_cumprod.tolist()]
        first, last = roots[0], roots[-1]
        scale = first / (first - last)
        products = [((root - last) * scale) * ((root - last) * scale) for root in roots]
        betas = [1.0 - products[0]]
        betas += [1.0 - product / previous for previous, product in pairwise(products)]
        return NoiseSchedule(_read_only(betas))


def _finish(betas: Sequence[float], rescale_zero_terminal_snr: bool) -> NoiseSchedule:
    schedule = NoiseSchedule(_read_only(betas))
    return schedule.rescaled_to_zero_terminal_snr() if rescale_zero_terminal_snr else schedule


def _line(start: float, end: float, count: int) -> list[float]:
    """``count`` evenly spaced values with exact ends."""
    values = [start + (end - start) * (i / (count - 1)) if count > 1 else start for i in range(count)]
    values[-1] = end if count > 1 else start
    return values


def _beta_ends(where: str, beta_start: float, beta_end: float) -> None:
    if not 0.0 < beta_start < 1.0:
        raise ContractError(f"{where}: beta_start is {beta_start}; expected 0 < beta_start < 1")
    if not beta_start <= beta_end < 1.0:
        raise ContractError(f"{where}: beta_end is {beta_end}; expected beta_start = {beta_start} <= beta_end < 1")


def linear_schedule(
    num_train_timesteps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    *,
    rescale_zero_terminal_snr: bool = False,
) -> NoiseSchedule:
    """Betas on a straight line (Ho et al. 2020, section 4).

    Raises:
        ContractError: an argument is outside its range.

    >>> linear_schedule(2, 0.1, 0.5).betas.tolist()
    [0.1, 0.5]
    """
    count = whole_number(num_train_timesteps, "num_train_timesteps", "linear_schedule", 1)
    _beta_ends("linear_schedule", beta_start, beta_end)
    return _finish(_line(float(beta_start), float(beta_end), count), rescale_zero_terminal_snr)


def scaled_linear_schedule(
    num_train_timesteps: int = 1000,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    *,
    rescale_zero_terminal_snr: bool = False,
) -> NoiseSchedule:
    """Square roots of betas on a straight line (Rombach et al. 2022, latent diffusion).

    Raises:
        ContractError: an argument is outside its range.

    >>> scaled_linear_schedule(3, 0.04, 0.16).betas.round(12).tolist()
    [0.04, 0.09, 0.16]
    """
    count = whole_number(num_train_timesteps, "num_train_timesteps", "scaled_linear_schedule", 1)
    _beta_ends("scaled_linear_schedule", beta_start, beta_end)
    roots = _line(math.sqrt(beta_start), math.sqrt(beta_end), count)
    return _finish([root * root for root in roots], rescale_zero_terminal_snr)


def cosine_schedule(
    num_train_timesteps: int = 1000, *, max_beta: float = 0.999, rescale_zero_terminal_snr: bool = False
) -> NoiseSchedule:
    """``alphas_cumprod`` following ``cos((t + 0.008) / 1.008 * pi / 2) ** 2`` (Nichol and Dhariwal 2021, equation 17).

    Args:
        num_train_timesteps: T; t runs over 0, 1/T, ..., 1.
        max_beta: the cap on a single beta, 0.999 in the paper.
        rescale_zero_terminal_snr: make the last timestep pure noise.

    Raises:
        ContractError: an argument is outside its range.

    >>> float(cosine_schedule().betas[-1])
    0.999
    """
    count = whole_number(num_train_timesteps, "num_train_timesteps", "cosine_schedule", 1)
    if not 0.0 < max_beta < 1.0:
        raise ContractError(f"cosine_schedule: max_beta is {max_beta}; expected 0 < max_beta < 1")
    levels: list[float] = []
    for i in range(count + 1):
        root = cos((i / count + 0.008) / 1.008 * PI / 2.0)
        levels.append(root * root)
    betas = [min(1.0 - below / above, float(max_beta)) for above, below in pairwise(levels)]
    return _finish(betas, rescale_zero_terminal_snr)


def timestep_grid(
    num_train_timesteps: int,
    num_steps: int,
    *,
    spacing: Spacing = "leading",
    steps_offset: int = 0,
    where: str = "timestep_grid",
) -> Int64Array:
    """The timesteps a sampler visits, from the noisiest down (Lin et al. 2024, table 2).

    - "leading": ``i * (T // N) + steps_offset``; never reaches T - 1.
    - "linspace": ``i * (T - 1) / (N - 1)`` rounded; both ends are visited.  A single step starts from T - 1, where the
      sample is noise, not from 0.
    - "trailing": ``(N - i) * T / N`` rounded, less 1; starts from T - 1.

    Quotients are exact and a tie goes to the even neighbour.

    Args:
        num_train_timesteps: T.
        num_steps: N, from 1 to T.
        spacing: one of the three.
        steps_offset: added to a "leading" grid; refused with another one.
        where: the operator named in a message.

    Returns:
        int64[N], strictly falling, every entry in 0 .. T - 1; read-only.

    Raises:
        ContractError: an argument is outside its range, or the offset moves a timestep past T - 1.

    >>> timestep_grid(1000, 5, spacing="leading", steps_offset=1).tolist()
    [801, 601, 401, 201, 1]
    >>> timestep_grid(1000, 4, spacing="linspace").tolist()
    [999, 666, 333, 0]
    """
    total = whole_number(num_train_timesteps, "num_train_timesteps", where, 1)
    count = whole_number(num_steps, "num_steps", where, 1, total)
    offset = whole_number(steps_offset, "steps_offset", where, 0)
    if spacing == "leading":
        stride = total // count
        last = (count - 1) * stride + offset
        if last >= total:
            raise ContractError(
                f"{where}: steps_offset is {offset}; expected steps_offset <= {total - 1 - (count - 1) * stride} "
                f"for {count} of {total} timesteps"
            )
        grid = [i * stride + offset for i in reversed(range(count))]
    elif offset != 0:
        raise ContractError(f'{where}: steps_offset is {offset}; expected 0 with spacing "{spacing}"')
    elif spacing == "linspace":
        grid = [round(Fraction(i * (total - 1), max(count - 1, 1))) for i in reversed(range(count))]
        grid[0] = total - 1
    elif spacing == "trailing":
        grid = [round(Fraction((count - i) * total, count)) - 1 for i in range(count)]
    else:
        raise ContractError(f'{where}: spacing is {spacing!r}; expected "leading", "linspace" or "trailing"')
    return falling_timesteps(grid, total, where)


def falling_timesteps(timesteps: Any, num_train_timesteps: int, where: str) -> Int64Array:
    """``timesteps`` as a read-only int64 array, refused unless strictly falling inside 0 .. T - 1."""
    values = [whole_number(t, "timesteps[i]", where, 0, num_train_timesteps - 1) for t in timesteps]
    if not values:
        raise ContractError(f"{where}: timesteps is empty; expected at least 1 timestep")
    for i, (above, below) in enumerate(pairwise(values)):
        if below >= above:
            raise ContractError(f"{where}: timesteps[{i + 1}] is {below}; expected less than timesteps[{i}] = {above}")
    grid = np.array(values, dtype=np.int64)
    grid.flags.writeable = False
    return grid
