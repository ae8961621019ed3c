"""Stateless samplers: a table of coefficients on the host, one kernel call per step.

Every sampler here is one linear form (`mmkernels.diffusion_step`); what differs is a row of 20 numbers per step:

    y  = y0 + g1 (y1 - y0) + g2 (y2 - y1)            guidance
    x0 = clamp(p x + q y, lo, hi)                    prediction to sample
    x' = A x + B x0 + E y + C1 h1 + .. + C4 h4 + s z
    x' = m (ka known + kb z) + (1 - m) x'            with a mask

A sampler computes its rows once, in float64, and holds nothing else: a step may be taken at any index, in any order,
for any array library, and the same step on the same arrays always gives the same bits.

Noise comes from keys.  The keys of step i are ``philox_fold_in(keys of the seed, i)``, one key per sample: one seed
gives the whole trajectory, and sample n is the same image alone or in any batch.  The first noise is that of
``philox_normal(shape, seed=seed)``; folding uses another counter word than drawing, so the two never meet.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, SupportsIndex, get_args

import numpy as np
import numpy.typing as npt

from mmkernels.diffusion.host_math import log
from mmkernels.diffusion.schedules import (
    Float64Array,
    Int64Array,
    NoiseSchedule,
    Spacing,
    falling_timesteps,
    timestep_grid,
    whole_number,
)
from mmkernels.errors import ContractError

__all__ = ["COLUMNS", "DDIM", "DDPM", "PredictionType", "Sampler", "VarianceType", "sample"]

PredictionType = Literal["epsilon", "sample", "v", "flow"]
VarianceType = Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"]
Seed = int | Sequence[int] | npt.NDArray[np.uint64]
Guidance = float | tuple[float, float]

COLUMNS: Final = (
    *("g1", "g2", "p", "q", "lo", "hi", "A", "B", "E", "C1", "C2", "C3", "C4"),
    *("s", "ka", "kb", "ha", "hb", "hc", "reserved"),
)
"""The names of the 20 coefficients, in the order of a row."""

_G1, _G2, _S, _KA, _KB = (COLUMNS.index(name) for name in ("g1", "g2", "s", "ka", "kb"))

# The floor of a posterior variance before its logarithm is taken, as in the published implementations of DDPM.
_SMALLEST_VARIANCE: Final = 1e-20


def _row(**columns: float) -> list[float]:
    """A row with the named coefficients; the others are 0."""
    assert columns.keys() <= set(COLUMNS)
    return [columns.get(name, 0.0) for name in COLUMNS]


class Sampler(ABC):
    """What samplers share: the grid, the table and the step.  Immutable; see `DDPM` and `DDIM`.

    Attributes:
        name: the word that begins its error messages.
        prediction_type: what the network predicts, with ``x = a x0 + s eps`` (a = alpha(t), s = sigma(t)):
            "epsilon": eps (Ho et al. 2020); "sample": x0; "v": ``a eps - s x0`` (Salimans and Ho 2022, appendix D);
            "flow": ``eps - x0`` (the velocity of the straight path; with a = 1 - s this is rectified flow).
        clip_range: the bounds of the predicted sample, or None.
    """

    name: str = "sampler"

    def __init__(
        self,
        schedule: NoiseSchedule,
        num_steps: int | None,
        spacing: Spacing,
        steps_offset: int,
        timesteps: Sequence[int] | None,
        prediction_type: PredictionType,
        clip_range: tuple[float, float] | None,
    ) -> None:
        if prediction_type not in get_args(PredictionType):
            raise ContractError(
                f"{self.name}: prediction_type is {prediction_type!r}; "
                f"expected one of {', '.join(get_args(PredictionType))}"
            )
        total = schedule.num_train_timesteps
        if timesteps is None:
            count = total if num_steps is None else num_steps
            grid = timestep_grid(total, count, spacing=spacing, steps_offset=steps_offset, where=self.name)
        elif num_steps is not None:
            raise ContractError(f"{self.name}: num_steps and timesteps are both given; expected one of them")
        else:
            grid = falling_timesteps(timesteps, total, self.name)
        self.schedule: Final = schedule
        self.prediction_type: Final = prediction_type
        self.clip_range: Final = self._checked_range(clip_range)
        self._timesteps: Final = grid
        self._previous: Final = np.append(grid[1:], np.int64(-1))
        self._previous.flags.writeable = False

    def _build(self) -> None:
        """Fill the table; called once, at the end of a constructor."""
        bounds = (-math.inf, math.inf) if self.clip_range is None else self.clip_range
        rows = []
        for t, previous in zip(self._timesteps.tolist(), self._previous.tolist(), strict=True):
            row = self._coefficients(t, previous, bounds)
            with np.errstate(over="ignore"):
                rounded = np.array(row, dtype=np.float32)
            if np.isnan(rounded).any() or np.isinf(np.delete(rounded, [4, 5])).any():
                raise ContractError(
                    f"{self.name}: alphas_cumprod[{t}] is {float(self.schedule.alphas_cumprod[t])}; "
                    f'expected coefficients within float32 for prediction_type "{self.prediction_type}"'
                )
            rows.append(row)
        self._table = np.array(rows, dtype=np.float64)
        self._rows = self._table.astype(np.float32)
        self._table.flags.writeable = False
        self._rows.flags.writeable = False

    def _checked_range(self, clip_range: tuple[float, float] | None) -> tuple[float, float] | None:
        if clip_range is None:
            return None
        try:
            low, high = (float(bound) for bound in clip_range)
        except (TypeError, ValueError):
            raise ContractError(f"{self.name}: clip_range is {clip_range!r}; expected (low, high) or None") from None
        if not low <= high:
            raise ContractError(f"{self.name}: clip_range is {clip_range!r}; expected low <= high")
        return low, high

    @property
    def timesteps(self) -> Int64Array:
        """int64[steps], strictly falling, read-only: the timestep the network sees at each step."""
        return self._timesteps

    @property
    def previous_timesteps(self) -> Int64Array:
        """int64[steps], read-only: the timestep each step arrives at, the next entry of the grid; -1 after the last."""
        return self._previous

    @property
    def table(self) -> Float64Array:
        """float64[steps, 20], read-only, columns named by `COLUMNS`; guidance columns are 0 until a step fills them."""
        return self._table

    @property
    def num_steps(self) -> int:
        """The number of steps, and of network evaluations, of a trajectory."""
        return len(self._timesteps)

    @abstractmethod
    def _coefficients(self, t: int, previous: int, bounds: tuple[float, float]) -> list[float]:
        """The row that carries a sample from timestep t to `previous` (-1: to the end)."""

    def _conversion(self, t: int) -> tuple[float, float, float, float]:
        """(p, q, k, l): the predicted sample is ``p x + q y``, the predicted noise ``k x + l y``, before clipping."""
        a, s = self.schedule.alpha(t), self.schedule.sigma(t)
        if self.prediction_type == "epsilon":
            if a == 0.0:
                raise ContractError(
                    f'{self.name}: prediction_type is "epsilon"; expected "sample", "v" or "flow" '
                    f"because alphas_cumprod[{t}] is 0 and noise alone does not determine the sample"
                )
            return 1.0 / a, -s / a, 0.0, 1.0
        if self.prediction_type == "sample":
            return 0.0, 1.0, 1.0 / s, -a / s
        if self.prediction_type == "v":
            return a, -s, s, a
        total = a + s
        return 1.0 / total, -s / total, 1.0 / total, a / total

    def noise_keys(self, seed: Seed, i: SupportsIndex, batch: int) -> npt.NDArray[np.uint64]:
        """The keys of the noise of step i: ``philox_fold_in(keys of the seed, i)``.

        Args:
            seed: one int, or one key per sample.
            i: the step.
            batch: the number of samples; a smaller batch has the first keys of a larger one.

        Returns:
            uint64[batch].

        Raises:
            ContractError: i is not a step of this sampler, or seed does not hold one key per sample.
        """
        from mmkernels.ops.noise import keys_of, philox_fold_in

        index = self._index(i)
        keys: npt.NDArray[np.uint64] = philox_fold_in(keys_of(seed, batch), np.full(batch, index, dtype=np.uint64))
        return keys

    def add_noise(self, x: Any, noise: Any, i: SupportsIndex) -> Any:
        """The forward process: x with the noise of step i (Ho et al. 2020, equation 4).

        Args:
            x: (N, \\*S), clean samples.
            noise: (N, \\*S), standard normal.
            i: the step; the result is what the network sees there.

        Returns:
            ``alpha(t) x + sigma(t) noise`` with ``t = timesteps[i]``.

        Raises:
            ContractError: i is not a step of this sampler, or the shapes differ.
        """
        from mmkernels.ops.diffusion import add_noise

        t = int(self._timesteps[self._index(i)])
        return add_noise(x, noise, self.schedule.alpha(t), self.schedule.sigma(t))

    def step(
        self,
        i: SupportsIndex,
        x: Any,
        prediction: Any,
        history: Sequence[Any] = (),
        *,
        noise: Any = None,
        seed: Seed | None = None,
        guidance: Guidance | None = None,
        mask: Any = None,
        known: Any = None,
    ) -> tuple[Any, tuple[Any, ...]]:
        """Carry x from ``timesteps[i]`` to ``previous_timesteps[i]`` in one kernel.

        Args:
            i: the step, 0 for the noisiest.
            x: (N, C, \\*S), the sample at ``timesteps[i]``.
            prediction: what the network predicts of x, an array like x, or a tuple for guidance: (unconditional,
                conditional), or (unconditional, image, image and text).
            history: what the step before returned; these samplers need none.
            noise: like x, standard normal; or
            seed: from which the step's keys are folded and the same noise is drawn inside the kernel.  A step that
                adds no noise (the last one of DDPM, all of DDIM with eta 0) reads neither.
            guidance: the scale g of ``u + g (c - u)`` (Ho and Salimans 2022), or the two scales (g1, g2) of
                ``u + g1 (i - u) + g2 (c - i)`` (Brooks et al. 2023, equation 3).
            mask: broadcast to x; 1 where the sample is known, 0 where it is generated.
            known: like x, the clean known sample; it is noised to the level the step arrives at, by the noise of the
                step (Lugmayr et al. 2022, equation 8).

        Returns:
            (x', history): x' like x; the history to hand to the next step.

        Raises:
            ContractError: an argument is out of place, and all that `mmkernels.diffusion_step` refuses.
        """
        from mmkernels.ops.diffusion import diffusion_step

        index = self._index(i)
        if len(history) != 0:
            raise ContractError(f"{self.name}: history has {len(history)} arrays; expected none")
        if (mask is None) != (known is None):
            given, absent = ("known", "mask") if mask is None else ("mask", "known")
            raise ContractError(f"{self.name}: {absent} is None; expected an array because {given} is given")
        branches = tuple(prediction) if isinstance(prediction, (tuple, list)) else (prediction,)
        row = self._guided_row(index, len(branches), guidance)

        keys = None
        if not (self._adds_noise(index) or (mask is not None and row[_KB] != 0.0)):
            noise = None
        elif noise is None:
            if seed is None:
                raise ContractError(
                    f"{self.name}: noise and seed are both None; expected one of them because step {index} adds noise"
                )
            keys = self.noise_keys(seed, index, x.shape[0])
        elif seed is not None:
            raise ContractError(f"{self.name}: noise and seed are both given; expected one of them")

        branches, row, noise, keys, known = self._finish_noise(index, x, branches, row, noise, keys, known)
        x_next = diffusion_step(
            x,
            branches if len(branches) > 1 else branches[0],
            row,
            noise=noise,
            seed=keys,
            mask=mask,
            known=known,
            return_history=False,
        )
        return x_next, ()

    def _index(self, i: SupportsIndex) -> int:
        return whole_number(i, "i", self.name, 0, self.num_steps - 1)

    def _adds_noise(self, index: int) -> bool:
        return bool(self._rows[index, _S] != 0.0)

    def _guided_row(self, index: int, branches: int, guidance: Guidance | None) -> npt.NDArray[np.float32]:
        """The float32 row of a step with the guidance scales in their columns."""
        scales: tuple[float, ...]
        if guidance is None:
            scales = ()
        elif isinstance(guidance, (tuple, list)):
            scales = tuple(float(g) for g in guidance)
        else:
            scales = (float(guidance),)
        if len(scales) > 2 or branches != len(scales) + 1:
            found = "one array" if branches == 1 else f"{branches} arrays"
            raise ContractError(
                f"{self.name}: prediction is {found} and guidance is {guidance!r}; "
                "expected one array and None, 2 arrays and a scale, or 3 arrays and 2 scales"
            )
        if not all(abs(g) < math.inf for g in scales):
            raise ContractError(f"{self.name}: guidance is {guidance!r}; expected finite numbers")
        row: npt.NDArray[np.float32] = self._rows[index]
        if scales:
            row = row.copy()
            row[[_G1, _G2][: len(scales)]] = scales
        return row

    def _finish_noise(
        self, index: int, x: Any, branches: tuple[Any, ...], row: Any, noise: Any, keys: Any, known: Any
    ) -> tuple[tuple[Any, ...], Any, Any, Any, Any]:
        """(branches, row, noise, keys, known) as the kernel takes them; a deviation that is an array enters here."""
        return branches, row, noise, keys, known

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_steps} steps, {self.prediction_type})"


class DDPM(Sampler):
    """Ancestral sampling of denoising diffusion probabilistic models (Ho et al. 2020, equations 6 and 7, algorithm 2).

    On a grid of fewer than T steps the formulas are those of the process that the grid itself defines (Nichol and
    Dhariwal 2021, section 4): from t to the next entry u, ``beta = 1 - alphas_cumprod[t] / alphas_cumprod[u]``.  The
    last step arrives at the predicted sample, whatever its timestep, and adds no noise.

    Args:
        schedule: the noise schedule of the training.
        num_steps: the number of steps, 1 .. T; None for all T.
        spacing, steps_offset: the grid, see `timestep_grid`.
        timesteps: a strictly falling grid of one's own instead of num_steps.
        prediction_type: "epsilon", "sample", "v" or "flow", see `Sampler`.
        clip_range: bounds of the predicted sample; None for data without bounds, such as latents.
        variance_type: the variance of the noise of a step.
            "fixed_small", "fixed_small_log": the posterior's, ``beta (1 - abar_u) / (1 - abar_t)``;
            "fixed_large", "fixed_large_log": beta (the logarithms belong to training, the samples are the same);
            "learned": the network predicts 2C channels, the second half being the logarithm of the variance;
            "learned_range": the second half, in -1 .. 1, interpolates between the two logarithms (Nichol and
            Dhariwal 2021, equation 15).

    With a learned variance the standard deviation is an array: it is computed by the operators exp, mul and add and
    multiplied into the noise before the step, whose own coefficient s is then 1: several kernels in place of one.
    Under guidance the variance is that of the last, most conditioned branch.

    Raises:
        ContractError: an argument is out of range, or prediction_type "epsilon" meets ``alphas_cumprod[t] = 0``.

    >>> from mmkernels.diffusion import DDPM, linear_schedule
    >>> DDPM(linear_schedule(), 4, spacing="trailing").timesteps.tolist()
    [999, 749, 499, 249]
    """

    name = "ddpm"

    def __init__(
        self,
        schedule: NoiseSchedule,
        num_steps: int | None = None,
        *,
        spacing: Spacing = "leading",
        steps_offset: int = 0,
        timesteps: Sequence[int] | None = None,
        prediction_type: PredictionType = "epsilon",
        clip_range: tuple[float, float] | None = (-1.0, 1.0),
        variance_type: VarianceType = "fixed_small",
    ) -> None:
        super().__init__(schedule, num_steps, spacing, steps_offset, timesteps, prediction_type, clip_range)
        if variance_type not in get_args(VarianceType):
            raise ContractError(
                f"{self.name}: variance_type is {variance_type!r}; expected one of {', '.join(get_args(VarianceType))}"
            )
        self.variance_type: Final = variance_type
        self._build()

    @property
    def _learned(self) -> bool:
        return self.variance_type in ("learned", "learned_range")

    def _variances(self, t: int, previous: int) -> tuple[float, float]:
        """(beta, posterior variance) of a step (Ho et al. 2020, equation 7)."""
        products = self.schedule.alphas_cumprod
        here = float(products[t])
        there = float(products[previous]) if previous >= 0 else 1.0
        beta = 1.0 - here / there
        return beta, max((1.0 - there) / (1.0 - here) * beta, _SMALLEST_VARIANCE)

    def _coefficients(self, t: int, previous: int, bounds: tuple[float, float]) -> list[float]:
        products = self.schedule.alphas_cumprod
        here = float(products[t])
        there = float(products[previous]) if previous >= 0 else 1.0
        beta, posterior = self._variances(t, previous)
        if previous < 0:
            deviation = 0.0
        elif self._learned:
            deviation = 1.0
        else:
            deviation = math.sqrt(posterior if self.variance_type in ("fixed_small", "fixed_small_log") else beta)
        p, q, _, _ = self._conversion(t)
        return _row(
            p=p,
            q=q,
            lo=bounds[0],
            hi=bounds[1],
            A=math.sqrt(here / there) * (1.0 - there) / (1.0 - here),
            B=math.sqrt(there) * beta / (1.0 - here),
            s=deviation,
            ka=math.sqrt(there),
            kb=math.sqrt(1.0 - there),
        )

    def _log_deviation(self, index: int) -> tuple[float, float]:
        """(c0, c1): the logarithm of the standard deviation is ``c0 + c1 v``, v what the network predicts."""
        if self.variance_type == "learned":
            return 0.0, 0.5
        beta, posterior = self._variances(int(self._timesteps[index]), int(self._previous[index]))
        large, small = log(beta), log(posterior)
        return 0.25 * (large + small), 0.25 * (large - small)

    def _finish_noise(
        self, index: int, x: Any, branches: tuple[Any, ...], row: Any, noise: Any, keys: Any, known: Any
    ) -> tuple[tuple[Any, ...], Any, Any, Any, Any]:
        if not self._learned:
            return branches, row, noise, keys, known
        channels = x.shape[1]
        for y in branches:
            if y.shape[1] != 2 * channels:
                raise ContractError(
                    f"{self.name}: prediction.shape[1] is {y.shape[1]}; expected 2 * x.shape[1] = {2 * channels} "
                    f'with variance_type "{self.variance_type}"'
                )
        values = branches[-1][:, channels:]
        branches = tuple(y[:, :channels] for y in branches)
        if not self._adds_noise(index):
            return branches, row, noise, keys, known

        from mmkernels.ops.activation import exp
        from mmkernels.ops.diffusion import add_noise
        from mmkernels.ops.noise import philox_normal
        from mmkernels.ops.pointwise import add, mul

        z = philox_normal(x.shape, seed=keys, dtype=x.dtype, like=x) if noise is None else noise
        if known is not None:
            # The kernel's z is scaled by the learned deviation, the known part's must not be: it is noised here.
            known = add_noise(known, z, float(row[_KA]), float(row[_KB]))
            row = row.copy()
            row[[_KA, _KB]] = 1.0, 0.0
        constant, slope = self._log_deviation(index)
        deviation = exp(add(mul(values, slope), constant))
        return branches, row, mul(deviation, z), None, known


class DDIM(Sampler):
    """Denoising diffusion implicit models (Song et al. 2021, equations 12 and 16).

    A step goes from t to the next entry u of the grid, which is never computed as ``t - T // num_steps``.

    Args:
        schedule: the noise schedule of the training.
        num_steps: the number of steps, 1 .. T; None for all T.
        spacing, steps_offset: the grid, see `timestep_grid`.
        timesteps: a strictly falling grid of one's own instead of num_steps.
        prediction_type: "epsilon", "sample", "v" or "flow", see `Sampler`.
        clip_range: bounds of the predicted sample; None for data without bounds, such as latents.
        eta: 0 for the deterministic sampler, 1 for the variance of DDPM.
        use_clipped_model_output: derive the predicted noise from the clipped sample instead of the unclipped one. Set
            it when guidance meets clip_range: otherwise what guidance pushes out of range is lost anew in every step.
        set_alpha_to_one: the last step arrives at the predicted sample; if False it arrives at the noise of timestep 0
            (and changes nothing if it starts there).

    Raises:
        ContractError: an argument is out of range, or prediction_type "epsilon" meets ``alphas_cumprod[t] = 0``.

    >>> from mmkernels.diffusion import DDIM, linear_schedule
    >>> DDIM(linear_schedule(), 4, spacing="trailing").previous_timesteps.tolist()
    [749, 499, 249, -1]
    """

    name = "ddim"

    def __init__(
        self,
        schedule: NoiseSchedule,
        num_steps: int | None = None,
        *,
        spacing: Spacing = "leading",
        steps_offset: int = 0,
        timesteps: Sequence[int] | None = None,
        prediction_type: PredictionType = "epsilon",
        clip_range: tuple[float, float] | None = (-1.0, 1.0),
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        set_alpha_to_one: bool = True,
    ) -> None:
        super().__init__(schedule, num_steps, spacing, steps_offset, timesteps, prediction_type, clip_range)
        if not 0.0 <= eta <= 1.0:
            raise ContractError(f"{self.name}: eta is {eta}; expected 0 <= eta <= 1")
        self.eta: Final = float(eta)
        self.use_clipped_model_output: Final = bool(use_clipped_model_output)
        self.set_alpha_to_one: Final = bool(set_alpha_to_one)
        self._build()

    def _coefficients(self, t: int, previous: int, bounds: tuple[float, float]) -> list[float]:
        products = self.schedule.alphas_cumprod
        here = float(products[t])
        final = 1.0 if self.set_alpha_to_one else float(products[0])
        there = float(products[previous]) if previous >= 0 else final
        variance = (1.0 - there) / (1.0 - here) * (1.0 - here / there)
        deviation = self.eta * math.sqrt(variance)
        direction = math.sqrt(max(1.0 - there - deviation * deviation, 0.0))
        p, q, noise_x, noise_y = self._conversion(t)
        a, s = self.schedule.alpha(t), self.schedule.sigma(t)
        # The predicted noise is linear in x and y, or in x and the clipped sample; its share goes to their
        # coefficients.
        if self.use_clipped_model_output:
            from_x, from_sample, from_y = direction / s, -direction * a / s, 0.0
        else:
            from_x, from_sample, from_y = direction * noise_x, 0.0, direction * noise_y
        return _row(
            p=p,
            q=q,
            lo=bounds[0],
            hi=bounds[1],
            A=from_x,
            B=math.sqrt(there) + from_sample,
            E=from_y,
            s=deviation,
            ka=math.sqrt(there),
            kb=math.sqrt(1.0 - there),
        )


def sample(
    sampler: Sampler,
    denoise: Callable[[Any, int], Any],
    shape: Sequence[int],
    *,
    seed: Seed,
    guidance: Guidance | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
    mask: Any = None,
    known: Any = None,
    like: Any = None,
) -> Any:
    """Draw samples: noise, then one network evaluation and one kernel per step.

    Args:
        sampler: a `DDPM` or `DDIM`.
        denoise: called as ``denoise(x, t)`` with x of the given shape and t an int; returns the prediction, or the
            tuple of predictions that `guidance` combines.
        shape: (N, C, \\*S).
        seed: one int, or one key per sample; sample n depends on its key alone.
        guidance: see `Sampler.step`.
        progress: wraps the iterable of steps, such as ``tqdm.tqdm``; closed when the loop ends, also by an exception or
            Ctrl-C, which pass through.  The sampler holds no state, so it can be used again at once.
        mask, known: see `Sampler.step`.
        like: an array whose library and device the result takes; by default those of known, or NumPy.

    Returns:
        The samples, of the given shape.

    Raises:
        ContractError: see `Sampler.step`.

    >>> from mmkernels.diffusion import DDIM, linear_schedule, sample
    >>> schedule = linear_schedule()
    >>> x = sample(DDIM(schedule, 5), lambda x, t: x * schedule.sigma(t), (2, 1, 4, 4), seed=3)
    >>> x.shape
    (2, 1, 4, 4)
    """
    from mmkernels.ops.noise import philox_normal

    if not isinstance(sampler, Sampler):
        raise ContractError(f"sample: sampler is a {type(sampler).__name__}; expected a Sampler such as DDIM(...)")
    x = philox_normal(shape, seed=seed, like=known if like is None else like)
    history: tuple[Any, ...] = ()
    timesteps = sampler.timesteps.tolist()
    steps: Iterable[int] = range(sampler.num_steps)
    if progress is not None:
        steps = progress(steps)
    try:
        for i in steps:
            prediction = denoise(x, timesteps[i])
            x, history = sampler.step(i, x, prediction, history, seed=seed, guidance=guidance, mask=mask, known=known)
    finally:
        close = getattr(steps, "close", None)
        if close is not None:
            close()
    return x
