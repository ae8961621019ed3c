"""References of whole sampling trajectories in float64, written from the equations of the papers, one small step at a
time.

Ho et al. 2020 (DDPM), Song et al. 2021 (DDIM), Nichol and Dhariwal 2021 (learned variances, cosine schedule),
Salimans and Ho 2022 (v), Lin et al. 2024 (zero terminal SNR). `abar` is the running product of the alphas, `previous`
the next entry of the grid, None at its end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def linear_betas(count: int = 1000, start: float = 1e-4, end: float = 0.02) -> Array:
    """Ho et al. 2020, section 4."""
    return np.linspace(start, end, count)


def scaled_linear_betas(count: int = 1000, start: float = 0.00085, end: float = 0.012) -> Array:
    """Rombach et al. 2022."""
    return np.asarray(np.linspace(start**0.5, end**0.5, count) ** 2)


def cosine_betas(count: int = 1000) -> Array:
    """Nichol and Dhariwal 2021, equation 17."""
    level = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.asarray(np.minimum(1 - level[1:] / level[:-1], 0.999))


def zero_terminal_snr(abar: Array) -> Array:
    """Lin et al. 2024, algorithm 1: shift the last root to 0, scale the first one back."""
    root = np.sqrt(abar)
    return np.asarray(((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2)


def grid(total: int, count: int, spacing: str, offset: int = 0) -> NDArray[np.int64]:
    """Lin et al. 2024, table 2, falling; counts without ties in the rounding."""
    if spacing == "leading":
        points: Any = np.arange(count) * (total // count) + offset
    elif spacing == "linspace":
        points = np.linspace(0, total - 1, count).round()
    else:
        points = np.round(np.arange(total, 0, -total / count))[::-1] - 1
    return np.asarray(points[::-1], dtype=np.int64)


def split(prediction: str, x: Array, y: Array, abar_t: float) -> tuple[Array, Array]:
    """The sample and the noise that make up x, given what the network says: x = sqrt(abar) x0 + sqrt(1 - abar) eps."""
    signal, noise = np.sqrt(abar_t), np.sqrt(1 - abar_t)
    if prediction == "epsilon":
        return (x - noise * y) / signal, y
    if prediction == "sample":
        return y, (x - signal * y) / noise
    if prediction == "v":  # v = signal eps - noise x0
        return signal * x - noise * y, noise * x + signal * y
    x0 = (x - noise * y) / (signal + noise)  # velocity: y = eps - x0
    return x0, x0 + y


def ddpm_step(
    x: Array,
    y: Array,
    abar: Array,
    t: int,
    previous: int | None,
    z: Array,
    *,
    prediction: str,
    clip: tuple[float, float] | None,
    variance_type: str,
    values: Array | None = None,
) -> Array:
    """Ho et al. 2020, algorithm 2, on the process of the grid: its beta is 1 - abar_t / abar_previous."""
    abar_t = abar[t]
    abar_u = 1.0 if previous is None else abar[previous]
    alpha = abar_t / abar_u
    beta = 1 - alpha
    if prediction == "epsilon" and clip is None:
        mean = (x - beta / np.sqrt(1 - abar_t) * y) / np.sqrt(alpha)  # equation 11
    else:
        x0, _ = split(prediction, x, y, abar_t)
        if clip is not None:
            x0 = np.minimum(np.maximum(x0, clip[0]), clip[1])
        mean = np.sqrt(abar_u) * beta / (1 - abar_t) * x0 + np.sqrt(alpha) * (1 - abar_u) / (1 - abar_t) * x  # 7
    if previous is None:
        return np.asarray(mean)
    posterior = (1 - abar_u) / (1 - abar_t) * beta  # equation 7
    if variance_type == "fixed_small":
        deviation: Any = np.sqrt(posterior)
    elif variance_type == "fixed_small_log":
        deviation = np.exp(0.5 * np.log(posterior))
    elif variance_type == "fixed_large":
        deviation = np.sqrt(beta)
    elif variance_type == "fixed_large_log":
        deviation = np.exp(0.5 * np.log(beta))
    elif variance_type == "learned":
        assert values is not None
        deviation = np.sqrt(np.exp(values))
    else:
        assert variance_type == "learned_range"
        assert values is not None
        share = (values + 1) / 2
        deviation = np.sqrt(np.exp(share * np.log(beta) + (1 - share) * np.log(posterior)))  # N. & D., equation 15
    return np.asarray(mean + deviation * z)


def ddim_step(
    x: Array,
    y: Array,
    abar: Array,
    t: int,
    previous: int | None,
    z: Array,
    *,
    prediction: str,
    clip: tuple[float, float] | None,
    eta: float,
    use_clipped_model_output: bool,
    final_abar: float,
) -> Array:
    """Song et al. 2021, equation 12 with the sigma of equation 16."""
    abar_t = abar[t]
    abar_u = final_abar if previous is None else abar[previous]
    sigma = eta * np.sqrt((1 - abar_u) / (1 - abar_t)) * np.sqrt(1 - abar_t / abar_u)
    x0, eps = split(prediction, x, y, abar_t)
    if clip is not None:
        x0 = np.minimum(np.maximum(x0, clip[0]), clip[1])
        if use_clipped_model_output:
            eps = (x - np.sqrt(abar_t) * x0) / np.sqrt(1 - abar_t)
    pointing = np.sqrt(max(1 - abar_u - sigma**2, 0.0)) * eps
    return np.asarray(np.sqrt(abar_u) * x0 + pointing + sigma * z)


@dataclass(frozen=True)
class NormalData:
    """The exact network of data distributed as N(mean, deviation^2) in every element: affine in x, so errors can be
    followed.

    The posterior mean of x0 given x is `mean + k (x - a mean)` with k = a d^2 / (a^2 d^2 + s^2); the other predictions
    follow from x = a x0 + s eps.
    """

    abar: Array
    mean: Array
    deviation: float

    def affine(self, prediction: str, t: int) -> tuple[float, Array]:
        """(slope, intercept) of the prediction as a function of x."""
        a, s = np.sqrt(self.abar[t]), np.sqrt(1 - self.abar[t])
        gain = a * self.deviation**2 / (a**2 * self.deviation**2 + s**2)
        rest = (1 - gain * a) * self.mean
        slope_eps, rest_eps = (1 - a * gain) / s, -a * rest / s
        if prediction == "epsilon":
            return float(slope_eps), rest_eps
        if prediction == "sample":
            return float(gain), rest
        if prediction == "v":
            return float(a * slope_eps - s * gain), a * rest_eps - s * rest
        return float(slope_eps - gain), rest_eps - rest


def trajectory(
    step: Callable[..., Array],
    x: Array,
    timesteps: Sequence[int],
    network: Callable[[Array, int], Array],
    noises: Sequence[Array],
    abar: Array,
    **options: Any,
) -> list[Array]:
    """All states of a trajectory, the first noise included."""
    states = [x]
    ends: list[int | None] = [*timesteps[1:], None]
    for t, previous, z in zip(timesteps, ends, noises, strict=True):
        states.append(step(states[-1], network(states[-1], t), abar, t, previous, z, **options))
    return states
