"""Noise schedules, grids of timesteps, and the float64 functions their tables are made of."""

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest

from mmkernels.diffusion import (
    NoiseSchedule,
    cosine_schedule,
    linear_schedule,
    scaled_linear_schedule,
    timestep_grid,
)
from mmkernels.diffusion import host_math as hm
from mmkernels.errors import ContractError
from reference import samplers as reference

SPACINGS = ("leading", "linspace", "trailing")


def ulps(found: float, exact: Decimal) -> float:
    return float(abs(Decimal(found) - exact) / Decimal(math.ulp(float(exact))))


def test_exp_is_within_two_units_in_the_last_place() -> None:
    draw = np.random.default_rng(1)
    points = [*draw.uniform(-745, 709.7, 1500), *draw.uniform(-1, 1, 500), *draw.uniform(-1e-9, 1e-9, 50), 1.0, -708.4]
    # Half-way between two multiples of ln 2 the polynomial has its longest way to go.
    points += [(k + 0.5) * math.log(2) * (1 + turn) for k in range(-60, 60) for turn in (-1e-12, 1e-12)]
    with localcontext() as context:
        context.prec = 50
        errors = [ulps(hm.exp(float(x)), Decimal(float(x)).exp()) for x in points]
    assert max(errors) <= 2.0


def test_log_is_within_two_units_in_the_last_place() -> None:
    draw = np.random.default_rng(2)
    near_one = 1.0 + draw.uniform(-1, 1, 500) * 10.0 ** draw.uniform(-15, -1, 500)
    points = [*draw.uniform(0.4, 2.1, 1000), *near_one, *(2.0 ** draw.uniform(-1060, 1023, 500)), 5e-324, 0.5, 2.0]
    # Around the square root of 1/2 the mantissa is furthest from 1.
    points += [math.sqrt(0.5) * 2.0**k * (1 + turn) for k in range(-60, 60) for turn in (-1e-12, 1e-12)]
    with localcontext() as context:
        context.prec = 50
        errors = [ulps(hm.log(float(x)), Decimal(float(x)).ln()) for x in points if x != 1.0]
    assert max(errors) <= 2.0
    assert hm.log(1.0) == 0.0


@pytest.mark.parametrize(("ours", "library"), [(hm.exp, math.exp), (hm.sin, math.sin), (hm.cos, math.cos)])
def test_agrees_with_the_c_library(ours: Callable[[float], float], library: Callable[[float], float]) -> None:
    draw = np.random.default_rng(3)
    wide = [] if library is math.exp else [*draw.uniform(-1e6, 1e6, 500), *draw.uniform(-1e18, 1e18, 200)]
    # Multiples of pi / 2 rounded to float64 lose every digit in a reduction that is not exact.
    # Odd multiples of pi / 4 are the ends of the polynomials' interval.
    quarter_turns = [n * math.pi / 4 for n in range(-80, 81)]
    for x in [*draw.uniform(-7, 7, 2000).tolist(), *map(float, wide), *quarter_turns]:
        # 2 units of ours and less than 1 of the library's.
        assert abs(ours(x) - library(x)) <= 3 * math.ulp(library(x)), x


def test_special_values() -> None:
    inf, nan = math.inf, math.nan
    assert [hm.exp(x) for x in (0.0, inf, -inf, 709.79, -746.0)] == [1.0, inf, 0.0, inf, 0.0]
    assert hm.exp(709.782712893384) == pytest.approx(math.exp(709.782712893384), rel=2**-51)
    assert hm.log(0.0) == -inf
    assert hm.log(inf) == inf
    assert math.isnan(hm.exp(nan))
    assert math.isnan(hm.log(nan))
    assert math.isnan(hm.log(-1.0))
    for bad in (nan, inf, 2.0**65):
        with pytest.raises(ValueError, match=r"expected \|x\| <= 2\*\*64"):
            hm.sin(bad)


@pytest.mark.parametrize(
    ("schedule", "betas"),
    [
        (linear_schedule(), reference.linear_betas()),
        (scaled_linear_schedule(), reference.scaled_linear_betas()),
        (cosine_schedule(), reference.cosine_betas()),
        (linear_schedule(17, 0.1, 0.3), reference.linear_betas(17, 0.1, 0.3)),
    ],
)
def test_schedules_follow_the_papers(schedule: NoiseSchedule, betas: np.ndarray) -> None:
    # A beta of the cosine schedule is 1 - ratio: a few roundings of numbers near 1.
    np.testing.assert_allclose(schedule.betas, betas, rtol=1e-13, atol=16 * 2.0**-53)
    # 1000 factors, each wrong by a few 2^-53, or by 1000 times that where 1 - beta = 0.001.
    np.testing.assert_allclose(schedule.alphas_cumprod, np.cumprod(1 - betas), rtol=1e-11, atol=0)
    assert schedule.num_train_timesteps == len(betas)
    t = len(betas) // 2
    assert schedule.alpha(t) == math.sqrt(schedule.alphas_cumprod[t])
    assert schedule.sigma(t) == math.sqrt(1 - schedule.alphas_cumprod[t])


def test_cosine_betas_are_capped() -> None:
    assert cosine_schedule().betas.max() == 0.999
    assert cosine_schedule(max_beta=0.5).betas.max() == 0.5


def test_products_are_sequential() -> None:
    schedule = scaled_linear_schedule(50)
    product = 1.0
    for beta, found in zip(schedule.betas.tolist(), schedule.alphas_cumprod.tolist(), strict=True):
        product *= 1.0 - beta
        assert found == product


@pytest.mark.parametrize("make", [linear_schedule, scaled_linear_schedule, cosine_schedule])
def test_zero_terminal_snr(make: Callable[..., NoiseSchedule]) -> None:
    plain, rescaled = make(), make(rescale_zero_terminal_snr=True)
    expected = reference.zero_terminal_snr(plain.alphas_cumprod)
    # The root of a level near 0 is a difference of numbers of size 1e-2 and less: absolute, not relative, error.
    np.testing.assert_allclose(rescaled.alphas_cumprod, expected, rtol=1e-10, atol=1e-15)
    assert rescaled.alphas_cumprod[-1] == 0.0
    assert rescaled.betas[-1] == 1.0
    assert rescaled.alpha(999) == 0.0
    assert rescaled.sigma(999) == 1.0
    assert rescaled.alphas_cumprod[0] == pytest.approx(plain.alphas_cumprod[0], rel=1e-14)
    assert np.isfinite(rescaled.betas).all()


def test_schedules_cannot_be_changed() -> None:
    betas = np.array([0.1, 0.2])
    schedule = NoiseSchedule(betas)
    betas[0] = 0.5
    assert schedule.betas[0] == 0.1
    for array in (schedule.betas, schedule.alphas_cumprod):
        assert array.dtype == np.float64
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0.5
    with pytest.raises(FrozenInstanceError):
        schedule.betas = betas  # type: ignore[misc]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("count", [2, 7, 20, 30, 50, 999, 1000])
def test_grids_follow_the_table(spacing: Any, count: int) -> None:
    grid = timestep_grid(1000, count, spacing=spacing)
    assert grid.dtype == np.int64
    np.testing.assert_array_equal(grid, reference.grid(1000, count, spacing))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_grid_falls_inside_the_schedule(spacing: Any) -> None:
    for total in (1, 2, 10, 97):
        for count in range(1, total + 1):
            grid = timestep_grid(total, count, spacing=spacing)
            assert grid.shape == (count,)
            assert (np.diff(grid) < 0).all()
            assert grid.min() >= 0
            assert grid.max() <= total - 1
            if spacing != "leading":
                assert grid[0] == total - 1
            if spacing == "linspace" and count > 1:
                assert grid[-1] == 0


def test_known_grids() -> None:
    assert timestep_grid(1000, 5, spacing="leading").tolist() == [800, 600, 400, 200, 0]
    assert timestep_grid(1000, 5, spacing="leading", steps_offset=1).tolist() == [801, 601, 401, 201, 1]
    assert timestep_grid(1000, 5, spacing="linspace").tolist() == [999, 749, 500, 250, 0]
    assert timestep_grid(1000, 5, spacing="trailing").tolist() == [999, 799, 599, 399, 199]
    assert timestep_grid(1000, 1, spacing="linspace").tolist() == [999]
    assert timestep_grid(10, 4, spacing="trailing").tolist() == [9, 7, 4, 1]  # 7.5 and 2.5 go to the even 8 and 2


def test_grids_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        timestep_grid(1000, 5)[0] = 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: timestep_grid(1000, 0), "timestep_grid: num_steps is 0; expected 1 <= num_steps <= 1000"),
        (lambda: timestep_grid(1000, 1001), "timestep_grid: num_steps is 1001; expected 1 <= num_steps <= 1000"),
        (
            lambda: timestep_grid(1000, 2.5),  # type: ignore[arg-type]
            "timestep_grid: num_steps is 2.5; expected an integer, 1 <= num_steps <= 1000",
        ),
        (
            lambda: timestep_grid(1000, 1000, steps_offset=1),
            "timestep_grid: steps_offset is 1; expected steps_offset <= 0 for 1000 of 1000 timesteps",
        ),
        (
            lambda: timestep_grid(1000, 10, spacing="trailing", steps_offset=1),
            'timestep_grid: steps_offset is 1; expected 0 with spacing "trailing"',
        ),
        (
            lambda: timestep_grid(1000, 10, spacing="karras"),  # type: ignore[arg-type]
            'timestep_grid: spacing is \'karras\'; expected "leading", "linspace" or "trailing"',
        ),
        (lambda: linear_schedule(0), "linear_schedule: num_train_timesteps is 0; expected num_train_timesteps >= 1"),
        (lambda: linear_schedule(10, 0.0), "linear_schedule: beta_start is 0.0; expected 0 < beta_start < 1"),
        (
            lambda: scaled_linear_schedule(10, 0.2, 0.1),
            "scaled_linear_schedule: beta_end is 0.1; expected beta_start = 0.2 <= beta_end < 1",
        ),
        (lambda: cosine_schedule(max_beta=1.0), "cosine_schedule: max_beta is 1.0; expected 0 < max_beta < 1"),
        (lambda: NoiseSchedule(np.array([])), "noise_schedule: betas.shape is (0,); expected (T,) with T >= 1"),
        (lambda: NoiseSchedule(np.array([1.0, 0.1])), "noise_schedule: betas[0] is 1.0; expected 0 < beta < 1"),
        (lambda: NoiseSchedule(np.array([0.1, math.nan])), "noise_schedule: betas[1] is nan; expected 0 < beta <= 1"),
        (lambda: linear_schedule().alpha(1000), "noise_schedule: t is 1000; expected 0 <= t <= 999"),
        (lambda: linear_schedule().alpha(-1), "noise_schedule: t is -1; expected 0 <= t <= 999"),
    ],
)
def test_messages(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ContractError) as caught:
        call()
    assert str(caught.value) == message
