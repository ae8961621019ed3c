"""Diffusion sampling: noise schedules, grids of timesteps and samplers.

A sampler is a table of coefficients; each of its steps is one kernel that combines guidance, conversion of the
prediction, clipping, noise and mask blend.  A seed fixes the images, one by one: image n is the same alone or in any
batch.

>>> from mmkernels.diffusion import DDIM, linear_schedule, sample
>>> schedule = linear_schedule(1000)
>>> sampler = DDIM(schedule, 20, spacing="trailing")
>>> def denoise(x, t):  # the exact network of normally distributed data
...     return x * schedule.sigma(t)
>>> images = sample(sampler, denoise, (2, 3, 8, 8), seed=7)
>>> images.shape
(2, 3, 8, 8)
>>> first = sample(sampler, denoise, (1, 3, 8, 8), seed=7)
>>> bool((first[0] == images[0]).all())
True
"""

from mmkernels.diffusion.samplers import COLUMNS, DDIM, DDPM, PredictionType, Sampler, VarianceType, sample
from mmkernels.diffusion.schedules import (
    NoiseSchedule,
    Spacing,
    cosine_schedule,
    linear_schedule,
    scaled_linear_schedule,
    timestep_grid,
)

__all__ = [
    "COLUMNS",
    "DDIM",
    "DDPM",
    "NoiseSchedule",
    "PredictionType",
    "Sampler",
    "Spacing",
    "VarianceType",
    "cosine_schedule",
    "linear_schedule",
    "sample",
    "scaled_linear_schedule",
    "timestep_grid",
]
