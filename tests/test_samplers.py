"""Samplers: whole trajectories against float64 references, and what a step promises."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import mmkernels.ops.diffusion
import mmkernels.ops.noise
from mmkernels.diffusion import (
    COLUMNS,
    DDIM,
    DDPM,
    NoiseSchedule,
    Sampler,
    cosine_schedule,
    linear_schedule,
    sample,
    scaled_linear_schedule,
)
from mmkernels.errors import ContractError
from reference import noise as noise_reference
from reference import samplers as reference

Array = NDArray[Any]

PREDICTIONS = ("epsilon", "sample", "v", "flow")
VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")
GRIDS = (("leading", 1, 20), ("leading", 0, 20), ("linspace", 0, 30), ("trailing", 0, 50))
CLIPS = (None, (-1.0, 1.0))
SHAPE = (2, 3, 4, 4)
UNIT = 2.0**-24  # rounding unit of float32
# A bound beyond an eighth of a grey level of an 8-bit image in -1 .. 1 would say nothing.
MEANINGFUL = 1e-3
LINEAR = linear_schedule()
ZERO_SNR = linear_schedule(rescale_zero_terminal_snr=True)


def draws(*shape: int, seed: int) -> Array:
    """Standard normal values that float32 holds exactly, as float64."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(np.float64)


MEAN = np.tanh(
    draws(*SHAPE, seed=5)
)  # in -1 .. 1; with a deviation of 0.4 a good share of predicted samples is clipped
FIRST = draws(*SHAPE, seed=6)


def gamma(roundings: int) -> float:
    """Relative error of a product of `roundings` factors 1 + d, |d| <= UNIT."""
    return roundings * UNIT / (1 - roundings * UNIT)


def step_error(row: Array, x: Array, error: Array, slope: float, intercept: Array, scaled_noise: Array) -> Array:
    """Bound of |x' - reference| after one step, given |x - reference| <= error and a prediction slope * x + intercept.

    The error carried by x passes through x0, x and y together, so their coefficients are added with their signs; the
    clamp has slope 0 or 1, and the result lies between.  To this come the roundings of the step: a term passes at
    most 20, those of its coefficients and products, of the sums before it, and of the sum it enters.
    """
    c = dict(zip(COLUMNS, np.abs(row), strict=True))
    signed = dict(zip(COLUMNS, row, strict=True))
    carried = max(
        abs(signed["A"] + share * signed["B"] * (signed["p"] + signed["q"] * slope) + signed["E"] * slope)
        for share in (0.0, 1.0)
    )
    size_x = np.abs(x) + error
    size_y = abs(slope) * size_x + np.abs(intercept)
    prediction_error = gamma(3) * size_y
    terms = c["A"] * size_x + c["B"] * (c["p"] * size_x + c["q"] * size_y) + c["E"] * size_y + np.abs(scaled_noise)
    return np.asarray(carried * error + gamma(20) * terms + (c["B"] * c["q"] + c["E"]) * prediction_error)


def check_trajectory(
    sampler: Sampler,
    step: Callable[..., Any],
    options: dict[str, Any],
    learned: Callable[[int], Array] | None = None,
) -> float:
    """Run sampler and reference side by side with one network and one noise; returns the largest bound used."""
    schedule = sampler.schedule
    abar = schedule.alphas_cumprod
    network = reference.NormalData(abar, MEAN, 0.4)
    timesteps = sampler.timesteps.tolist()
    ends = [*timesteps[1:], None]
    x, x32, error = FIRST, FIRST.astype(np.float32), np.zeros(SHAPE)
    largest = 0.0
    for i, (t, previous) in enumerate(zip(timesteps, ends, strict=True)):
        slope, intercept = network.affine(sampler.prediction_type, t)
        z = draws(*SHAPE, seed=1000 + i)
        y32 = np.float32(slope) * x32 + intercept.astype(np.float32)
        extra: dict[str, Any] = {}
        deviation, deviation_error = sampler.table[i, COLUMNS.index("s")], 0.0
        if learned is not None:
            values = learned(i)
            extra = {"values": values}
            y32 = np.concatenate([y32, values.astype(np.float32)], axis=1)
            # A standard deviation below 1: exp of an argument below 8 in size, 3 roundings of that, 4 of the result.
            deviation_error = gamma(3) * 8 + gamma(4)
        error = step_error(sampler.table[i], x, error, slope, intercept, deviation * z) + deviation_error * np.abs(z)
        x = step(x, slope * x + intercept, abar, t, previous, z, **options, **extra)
        x32, history = sampler.step(i, x32, y32, noise=z.astype(np.float32))
        assert history == ()
        assert x32.dtype == np.float32
        difference = np.abs(x32 - x)
        assert (difference <= error).all(), (i, t, float(difference.max()), float(error.max()))
        largest = max(largest, float(error.max()))
    return largest


@pytest.mark.parametrize("spacing", GRIDS)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", VARIANCES[:4])
def test_ddpm_trajectory(variance: Any, prediction: Any, clip: Any, spacing: Any) -> None:
    kind, offset, count = spacing
    sampler = DDPM(
        LINEAR,
        count,
        spacing=kind,
        steps_offset=offset,
        prediction_type=prediction,
        clip_range=clip,
        variance_type=variance,
    )
    options = {"prediction": prediction, "clip": clip, "variance_type": variance}
    assert check_trajectory(sampler, reference.ddpm_step, options) < MEANINGFUL


def learned_values(i: int) -> Array:
    """Logarithms of variances between exp(-6) and exp(-2), exact in float32."""
    return np.asarray(np.round(-4 + 2 * np.tanh(draws(*SHAPE, seed=2000 + i)), 3).astype(np.float32).astype(np.float64))


def learned_shares(i: int) -> Array:
    """Interpolation between the two logarithms of variances, -1 .. 1, exact in float32."""
    return np.asarray(np.tanh(draws(*SHAPE, seed=3000 + i)).astype(np.float32).astype(np.float64))


@pytest.mark.parametrize("spacing", GRIDS)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", VARIANCES[4:])
def test_ddpm_trajectory_with_learned_variance(variance: Any, prediction: Any, clip: Any, spacing: Any) -> None:
    kind, offset, count = spacing
    sampler = DDPM(
        LINEAR,
        count,
        spacing=kind,
        steps_offset=offset,
        prediction_type=prediction,
        clip_range=clip,
        variance_type=variance,
    )
    options = {"prediction": prediction, "clip": clip, "variance_type": variance}
    values = learned_values if variance == "learned" else learned_shares
    assert check_trajectory(sampler, reference.ddpm_step, options, values) < MEANINGFUL


@pytest.mark.parametrize("spacing", GRIDS)
@pytest.mark.parametrize(("clip", "from_clipped"), [(None, False), ((-1.0, 1.0), False), ((-1.0, 1.0), True)])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("to_one", [True, False])
def test_ddim_trajectory(
    to_one: bool, eta: float, prediction: Any, clip: Any, from_clipped: bool, spacing: Any
) -> None:
    kind, offset, count = spacing
    sampler = DDIM(
        LINEAR,
        count,
        spacing=kind,
        steps_offset=offset,
        prediction_type=prediction,
        clip_range=clip,
        eta=eta,
        use_clipped_model_output=from_clipped,
        set_alpha_to_one=to_one,
    )
    options = {
        "prediction": prediction,
        "clip": clip,
        "eta": eta,
        "use_clipped_model_output": from_clipped,
        "final_abar": 1.0 if to_one else LINEAR.alphas_cumprod[0],
    }
    assert check_trajectory(sampler, reference.ddim_step, options) < MEANINGFUL


@pytest.mark.parametrize("schedule", [scaled_linear_schedule(), cosine_schedule(), ZERO_SNR])
@pytest.mark.parametrize("prediction", ["sample", "v", "flow"])
def test_other_schedules(schedule: NoiseSchedule, prediction: Any) -> None:
    ddpm = DDPM(schedule, 25, spacing="trailing", prediction_type=prediction)
    options = {"prediction": prediction, "clip": (-1.0, 1.0)}
    assert check_trajectory(ddpm, reference.ddpm_step, {**options, "variance_type": "fixed_small"}) < MEANINGFUL
    ddim = DDIM(schedule, 25, spacing="trailing", prediction_type=prediction, eta=0.5)
    more = {"eta": 0.5, "use_clipped_model_output": False, "final_abar": 1.0}
    assert check_trajectory(ddim, reference.ddim_step, {**options, **more}) < MEANINGFUL


def test_trajectories_clip_and_the_bound_notices_a_wrong_schedule() -> None:
    options = {"prediction": "epsilon", "clip": None, "variance_type": "fixed_small"}
    with pytest.raises(AssertionError):
        check_trajectory(DDPM(LINEAR, 20, clip_range=(-1, 1)), reference.ddpm_step, options)
    with pytest.raises(AssertionError):
        check_trajectory(DDPM(LINEAR, 20, clip_range=None, variance_type="fixed_large"), reference.ddpm_step, options)


@pytest.mark.parametrize("make", [DDPM, DDIM])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_the_previous_timestep_is_the_next_of_the_grid(make: Any, spacing: Any) -> None:
    sampler = make(LINEAR, 30, spacing=spacing)
    assert sampler.timesteps.shape == (30,)
    assert sampler.timesteps.dtype == np.int64
    np.testing.assert_array_equal(sampler.previous_timesteps, [*sampler.timesteps[1:], -1])
    # The level that known pixels are noised to is the level of the previous timestep.
    levels = [math.sqrt(LINEAR.alphas_cumprod[t]) for t in sampler.timesteps[1:]]
    np.testing.assert_array_equal(sampler.table[:, COLUMNS.index("ka")], [*levels, 1.0])


def test_a_grid_of_ones_own() -> None:
    sampler = DDIM(LINEAR, timesteps=[990, 500, 499, 3], clip_range=None, eta=0.5)
    assert sampler.timesteps.tolist() == [990, 500, 499, 3]
    options = {"eta": 0.5, "use_clipped_model_output": False, "final_abar": 1.0}
    check_trajectory(sampler, reference.ddim_step, {"prediction": "epsilon", "clip": None, **options})


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("spacing", GRIDS)
def test_ddpm_adds_no_noise_at_the_end(variance: Any, spacing: Any) -> None:
    kind, offset, count = spacing
    sampler = DDPM(LINEAR, count, spacing=kind, steps_offset=offset, variance_type=variance)
    deviations = sampler.table[:, COLUMNS.index("s")]
    assert deviations[-1] == 0.0
    assert (deviations[:-1] > 0.0).all()
    x = FIRST.astype(np.float32)
    y = np.concatenate([x, x], axis=1) if variance.startswith("learned") else x
    bad = np.full_like(x, np.nan)
    last, _ = sampler.step(count - 1, x, y, noise=bad)
    assert np.isfinite(last).all()
    np.testing.assert_array_equal(last, sampler.step(count - 1, x, y)[0])


def test_ddim_without_eta_reads_no_noise() -> None:
    sampler = DDIM(LINEAR, 10)
    x = FIRST.astype(np.float32)
    for i in range(10):
        np.testing.assert_array_equal(
            sampler.step(i, x, x, noise=np.full_like(x, np.nan))[0], sampler.step(i, x, x, seed=1)[0]
        )


def test_last_alpha() -> None:
    column = COLUMNS.index
    one = DDIM(LINEAR, 10, steps_offset=1, clip_range=None).table[-1]
    assert one[column("B")] == 1.0
    assert [one[column(name)] for name in ("A", "E", "s")] == [0.0, 0.0, 0.0]
    first = DDIM(LINEAR, 10, steps_offset=1, clip_range=None, set_alpha_to_one=False).table[-1]
    assert first[column("B")] == math.sqrt(LINEAR.alphas_cumprod[0])
    assert first[column("E")] == math.sqrt(1 - LINEAR.alphas_cumprod[0])
    # Starting at timestep 0 there is nowhere left to go.
    sampler = DDIM(LINEAR, 10, clip_range=None, set_alpha_to_one=False, eta=1.0)
    assert sampler.timesteps[-1] == 0
    x, y = FIRST.astype(np.float32), draws(*SHAPE, seed=7).astype(np.float32)
    stay, _ = sampler.step(9, x, y)
    np.testing.assert_allclose(stay, x, rtol=0, atol=gamma(20) * 3 * (np.abs(x) + np.abs(y)).max())


def test_ddpm_arrives_at_the_predicted_sample() -> None:
    for spacing, offset, count in GRIDS:
        row = DDPM(LINEAR, count, spacing=spacing, steps_offset=offset).table[-1]  # type: ignore[arg-type]
        assert [row[COLUMNS.index(name)] for name in ("A", "B", "E", "s")] == [0.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("make", [DDPM, DDIM])
def test_tables_cannot_be_changed(make: Any) -> None:
    sampler = make(LINEAR, 10)
    assert sampler.table.shape == (10, 20)
    assert sampler.table.dtype == np.float64
    for array in (sampler.table, sampler.timesteps, sampler.previous_timesteps):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    with pytest.raises(AttributeError):
        sampler.table = np.zeros((10, 20))
    before = sampler.table.copy()
    x = FIRST.astype(np.float32)
    sampler.step(0, x, (x, x), guidance=7.5, seed=1)
    np.testing.assert_array_equal(sampler.table, before)


@pytest.mark.parametrize("make", [DDPM, DDIM])
@pytest.mark.parametrize("prediction", ["sample", "v", "flow"])
@pytest.mark.parametrize("clip", CLIPS)
def test_zero_terminal_snr_gives_no_nan(make: Any, prediction: Any, clip: Any) -> None:
    sampler = make(ZERO_SNR, 20, spacing="trailing", prediction_type=prediction, clip_range=clip)
    assert sampler.timesteps[0] == 999
    assert not np.isnan(sampler.table).any()
    x = FIRST.astype(np.float32)
    for i in range(20):
        x, _ = sampler.step(i, x, np.tanh(x), seed=3)
        assert np.isfinite(x).all()


def one_step(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the calls of diffusion_step."""
    calls: list[int] = []
    original = mmkernels.ops.diffusion.diffusion_step

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        return original(*arguments, **named)

    monkeypatch.setattr(mmkernels.ops.diffusion, "diffusion_step", counted)
    return calls


def test_a_step_is_one_kernel_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = one_step(monkeypatch)
    x = FIRST.astype(np.float32)
    mask = np.zeros((1, 1, 4, 4), np.float32)
    DDPM(LINEAR, 10).step(0, x, (x, x, x), guidance=(1.5, 7.5), seed=1, mask=mask, known=x)
    assert len(calls) == 1
    DDPM(LINEAR, 10, variance_type="learned_range").step(0, x, np.concatenate([x, x], axis=1), seed=1)
    assert len(calls) == 2
    sample(DDIM(LINEAR, 7), lambda x, t: x, SHAPE, seed=1)
    assert len(calls) == 9


@pytest.mark.parametrize("make", [DDPM, DDIM])
def test_guidance(make: Any) -> None:
    sampler = make(LINEAR, 20, clip_range=None)
    abar, t, previous = LINEAR.alphas_cumprod, int(sampler.timesteps[4]), int(sampler.timesteps[5])
    x, u, i, c, z = (draws(*SHAPE, seed=seed) for seed in (11, 12, 13, 14, 15))
    low_x, low_u, low_i, low_c, low_z = (array.astype(np.float32) for array in (x, u, i, c, z))
    row = dict(zip(COLUMNS, np.abs(sampler.table[4]), strict=True))
    size = np.abs(u) + 1.5 * (np.abs(i) + np.abs(u)) + 7.5 * (np.abs(c) + np.abs(i) + np.abs(u))
    terms = row["A"] * np.abs(x) + row["B"] * (row["p"] * np.abs(x) + row["q"] * size) + row["E"] * size
    bound = gamma(26) * (terms + row["s"] * np.abs(z))  # 6 roundings more than in a plain step
    for scales, branches, y in (
        (7.5, (low_u, low_c), u + 7.5 * (c - u)),
        ((1.5, 7.5), (low_u, low_i, low_c), u + 1.5 * (i - u) + 7.5 * (c - i)),
    ):
        found, _ = sampler.step(4, low_x, branches, guidance=scales, noise=low_z)
        if make is DDPM:
            expected = reference.ddpm_step(
                x, y, abar, t, previous, z, prediction="epsilon", clip=None, variance_type="fixed_small"
            )
        else:
            expected = reference.ddim_step(
                *(x, y, abar, t, previous, z),
                prediction="epsilon",
                clip=None,
                eta=0.0,
                use_clipped_model_output=False,
                final_abar=1.0,
            )
        assert (np.abs(found - expected) <= bound).all()


def test_guidance_of_learned_variance_is_the_last_branchs() -> None:
    sampler = DDPM(LINEAR, 20, variance_type="learned_range")
    x, u, c = (draws(*SHAPE, seed=seed).astype(np.float32) for seed in (11, 12, 13))
    shares = learned_shares(0).astype(np.float32)
    other = learned_shares(1).astype(np.float32)

    def both(y: Array, values: Array) -> Array:
        return np.concatenate([y, values], axis=1)

    found, _ = sampler.step(4, x, (both(u, other), both(c, shares)), guidance=2.0, seed=1)
    expected, _ = sampler.step(4, x, (both(u, shares), both(c, shares)), guidance=2.0, seed=1)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
def test_mask_keeps_what_is_known(variance: Any) -> None:
    sampler = DDPM(LINEAR, 20, variance_type=variance, clip_range=None)
    x, y, known, z = (draws(*SHAPE, seed=seed).astype(np.float32) for seed in (21, 22, 23, 24))
    if variance == "learned_range":
        y = np.concatenate([y, learned_shares(0).astype(np.float32)], axis=1)
    mask = np.zeros((1, 1, 4, 4), np.float32)
    mask[..., :2] = 1.0
    for i in (0, 10, 19):
        free, _ = sampler.step(i, x, y, noise=z)
        blend, _ = sampler.step(i, x, y, noise=z, mask=mask, known=known)
        np.testing.assert_array_equal(blend[..., 2:], free[..., 2:])
        u = int(sampler.previous_timesteps[i])
        level = LINEAR.alphas_cumprod[u] if u >= 0 else 1.0
        expected = np.sqrt(level) * known.astype(np.float64) + np.sqrt(1 - level) * z
        size = np.sqrt(level) * np.abs(known) + np.sqrt(1 - level) * np.abs(z)
        assert (np.abs(blend - expected) <= gamma(6) * size)[..., :2].all()


def test_mask_with_a_deterministic_sampler_noises_the_known_part() -> None:
    sampler = DDIM(LINEAR, 20)
    x = FIRST.astype(np.float32)
    ones = np.ones((1, 1, 1, 1), np.float32)
    with pytest.raises(ContractError, match="step 0 adds noise"):
        sampler.step(0, x, x, mask=ones, known=x)
    masked, _ = sampler.step(0, x, x, mask=ones, known=np.zeros_like(x), seed=1)
    assert np.abs(masked).min() > 0.0
    last, _ = sampler.step(19, x, x, mask=ones, known=x)
    np.testing.assert_array_equal(last, x)


def test_noise_keys_are_folded_seeds() -> None:
    sampler = DDPM(LINEAR, 10)
    samples = np.arange(5, dtype=np.uint64)
    keys = noise_reference.philox_fold_in(np.full(5, 42, np.uint64), samples)
    for i in (0, 3, 9):
        expected = noise_reference.philox_fold_in(keys, np.full(5, i, np.uint64))
        np.testing.assert_array_equal(sampler.noise_keys(42, i, 5), expected)
        np.testing.assert_array_equal(sampler.noise_keys(42, i, 2), expected[:2])
        np.testing.assert_array_equal(sampler.noise_keys([int(key) for key in keys], i, 5), expected)


SAMPLERS = [
    DDPM(LINEAR, 8, spacing="trailing"),
    DDPM(LINEAR, 8, variance_type="learned_range"),
    DDIM(LINEAR, 8, eta=1.0),
    DDIM(ZERO_SNR, 8, spacing="trailing", prediction_type="v"),
]


def network(sampler: Sampler) -> Callable[[Array, int], Array]:
    def denoise(x: Array, t: int) -> Array:
        y = x * np.float32(0.5 + t / 2000)
        learned = getattr(sampler, "variance_type", "").startswith("learned")
        return np.concatenate([y, x * np.float32(0.1)], axis=1) if learned else y

    return denoise


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_a_sample_does_not_depend_on_its_batch(sampler: Sampler) -> None:
    denoise = network(sampler)
    batch = sample(sampler, denoise, (4, 3, 5, 3), seed=9)
    np.testing.assert_array_equal(sample(sampler, denoise, (4, 3, 5, 3), seed=9), batch)
    np.testing.assert_array_equal(sample(sampler, denoise, (1, 3, 5, 3), seed=9), batch[:1])
    keys = noise_reference.philox_fold_in(np.full(4, 9, np.uint64), np.arange(4, dtype=np.uint64))
    for n in (3, 1):
        np.testing.assert_array_equal(sample(sampler, denoise, (1, 3, 5, 3), seed=[int(keys[n])]), batch[n : n + 1])
    assert (sample(sampler, denoise, (4, 3, 5, 3), seed=10) != batch).any()
    assert (batch[0] != batch[1]).any()


def test_noise_given_and_noise_drawn_are_the_same() -> None:
    sampler = DDPM(LINEAR, 8)
    x = FIRST.astype(np.float32)
    drawn = mmkernels.ops.noise.philox_normal(SHAPE, seed=sampler.noise_keys(5, 2, 2))
    np.testing.assert_array_equal(sampler.step(2, x, x, seed=5)[0], sampler.step(2, x, x, noise=drawn)[0])


def test_add_noise() -> None:
    sampler = DDIM(LINEAR, 8, spacing="trailing")
    x, z = draws(*SHAPE, seed=31), draws(*SHAPE, seed=32)
    for i, t in enumerate(sampler.timesteps):
        a, s = math.sqrt(LINEAR.alphas_cumprod[t]), math.sqrt(1 - LINEAR.alphas_cumprod[t])
        found = sampler.add_noise(x.astype(np.float32), z.astype(np.float32), i)
        assert found.dtype == np.float32
        assert (np.abs(found - (a * x + s * z)) <= gamma(3) * (a * np.abs(x) + s * np.abs(z))).all()


class Bar:
    """A progress bar: counts, and knows whether it was closed."""

    def __init__(self, steps: Iterable[int]) -> None:
        self.steps, self.seen, self.closed = steps, 0, False

    def __iter__(self) -> Iterator[int]:
        for step in self.steps:
            self.seen += 1
            yield step

    def close(self) -> None:
        self.closed = True


def test_interrupted_sampling_closes_the_bar_and_can_be_repeated() -> None:
    sampler = DDPM(LINEAR, 8)
    bars: list[Bar] = []

    def progress(steps: Iterable[int]) -> Bar:
        bars.append(Bar(steps))
        return bars[-1]

    def interrupted(x: Array, t: int) -> Array:
        if bars[-1].seen == 4:
            raise KeyboardInterrupt
        return x

    before = sample(sampler, lambda x, t: x, SHAPE, seed=1)
    with pytest.raises(KeyboardInterrupt):
        sample(sampler, interrupted, SHAPE, seed=1, progress=progress)
    assert bars[0].closed
    after = sample(sampler, lambda x, t: x, SHAPE, seed=1, progress=progress)
    assert bars[1].closed
    assert bars[1].seen == 8
    np.testing.assert_array_equal(before, after)


def test_the_network_sees_the_timesteps() -> None:
    sampler = DDIM(LINEAR, 6, spacing="trailing")
    seen: list[int] = []

    def denoise(x: Array, t: int) -> Array:
        assert type(t) is int
        seen.append(t)
        return x

    sample(sampler, denoise, SHAPE, seed=1)
    assert seen == sampler.timesteps.tolist()


X = FIRST.astype(np.float32)
EXPECTED_GUIDANCE = "expected one array and None, 2 arrays and a scale, or 3 arrays and 2 scales"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DDIM(LINEAR, 0), "ddim: num_steps is 0; expected 1 <= num_steps <= 1000"),
        (lambda: DDPM(LINEAR, 1001), "ddpm: num_steps is 1001; expected 1 <= num_steps <= 1000"),
        (
            lambda: DDIM(LINEAR, 1000, steps_offset=1),
            "ddim: steps_offset is 1; expected steps_offset <= 0 for 1000 of 1000 timesteps",
        ),
        (lambda: DDIM(LINEAR, 10, eta=1.5), "ddim: eta is 1.5; expected 0 <= eta <= 1"),
        (lambda: DDIM(LINEAR, 10, eta=math.nan), "ddim: eta is nan; expected 0 <= eta <= 1"),
        (
            lambda: DDIM(LINEAR, 10, prediction_type="x0"),  # type: ignore[arg-type]
            "ddim: prediction_type is 'x0'; expected one of epsilon, sample, v, flow",
        ),
        (
            lambda: DDPM(LINEAR, 10, variance_type="small"),  # type: ignore[arg-type]
            "ddpm: variance_type is 'small'; expected one of " + ", ".join(VARIANCES),
        ),
        (lambda: DDPM(LINEAR, 10, clip_range=(1, -1)), "ddpm: clip_range is (1, -1); expected low <= high"),
        (
            lambda: DDPM(LINEAR, 10, timesteps=[5]),
            "ddpm: num_steps and timesteps are both given; expected one of them",
        ),
        (
            lambda: DDPM(LINEAR, timesteps=[5, 5]),
            "ddpm: timesteps[1] is 5; expected less than timesteps[0] = 5",
        ),
        (
            lambda: DDIM(ZERO_SNR, 10, spacing="trailing"),
            'ddim: prediction_type is "epsilon"; expected "sample", "v" or "flow" because alphas_cumprod[999] is 0 '
            "and noise alone does not determine the sample",
        ),
        (lambda: DDIM(LINEAR, 10).step(10, X, X), "ddim: i is 10; expected 0 <= i <= 9"),
        (lambda: DDIM(LINEAR, 10).step(0, X, X, (X,)), "ddim: history has 1 arrays; expected none"),
        (
            lambda: DDPM(LINEAR, 10).step(0, X, X),
            "ddpm: noise and seed are both None; expected one of them because step 0 adds noise",
        ),
        (
            lambda: DDPM(LINEAR, 10).step(0, X, X, noise=X, seed=1),
            "ddpm: noise and seed are both given; expected one of them",
        ),
        (
            lambda: DDIM(LINEAR, 10).step(0, X, (X, X)),
            f"ddim: prediction is 2 arrays and guidance is None; {EXPECTED_GUIDANCE}",
        ),
        (
            lambda: DDIM(LINEAR, 10).step(0, X, X, guidance=2.0),
            f"ddim: prediction is one array and guidance is 2.0; {EXPECTED_GUIDANCE}",
        ),
        (
            lambda: DDIM(LINEAR, 10).step(0, X, (X, X), guidance=math.inf),
            "ddim: guidance is inf; expected finite numbers",
        ),
        (
            lambda: DDIM(LINEAR, 10).step(0, X, X, mask=X),
            "ddim: known is None; expected an array because mask is given",
        ),
        (
            lambda: DDPM(LINEAR, 10, variance_type="learned").step(0, X, X, seed=1),
            'ddpm: prediction.shape[1] is 3; expected 2 * x.shape[1] = 6 with variance_type "learned"',
        ),
        (
            lambda: sample(3, lambda x, t: x, SHAPE, seed=1),  # type: ignore[arg-type]
            "sample: sampler is a int; expected a Sampler such as DDIM(...)",
        ),
    ],
)
def test_messages(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ContractError) as caught:
        call()
    assert str(caught.value) == message
