"""A class-conditional diffusion model learns to draw digits, and draws them.

v-prediction (Salimans and Ho 2022, appendix D) on the cosine schedule (Nichol and Dhariwal 2021), with classifier-free
guidance (Ho and Salimans 2022) and DDIM (Song et al. 2021).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .. import _core
from ..autograd import Variable
from ..diffusion import DDIM, NoiseSchedule, cosine_schedule, sample
from ..models import UNet
from ..nn import key_of, mse_loss
from ..ops.diffusion import add_noise
from ..ops.noise import philox_normal, philox_uniform
from ..optim import EMA, Adam, CosineDecay, WarmUp
from . import checkpoint
from .data import Digits, permutation
from .interrupt import Interrupt
from .settings import Settings

__all__ = ["draw", "train"]

Progress = Callable[[Iterable[int]], Iterable[int]]


def train(
    digits: Digits,
    seed: int,
    settings: Settings,
    file: Path,
    progress: Callable[[int, int], Any],
    arithmetic: str,
) -> UNet:
    """The averaged model after ``settings.train_steps`` steps, continued from ``file`` if that belongs to this run.

    ``progress(start, total)`` gives an object with ``update()`` and ``close()``. Ctrl-C saves to ``file`` and raises
    KeyboardInterrupt; the end of the training is saved too, as drawing can be interrupted as well.
    """
    model = UNet(channels=settings.channels, seed=key_of(seed, "unet"))
    parameters = list(model.parameters())
    rate = WarmUp(CosineDecay(settings.learning_rate, 0.0, settings.train_steps), settings.warm_up_steps)
    optimizer = Adam(parameters, rate)
    ema = EMA(parameters, settings.ema_decay, warm_up=True)
    parts: dict[str, Any] = {"model": model, "adam": optimizer, "ema": ema}
    run = json.dumps({"seed": seed, "arithmetic": arithmetic, "version": _core.version, **asdict(settings)})
    checkpoint.load(file, run, parts)

    schedule = cosine_schedule(settings.timesteps)
    bar = progress(optimizer.steps, settings.train_steps)
    with Interrupt() as interrupt:
        try:
            while optimizer.steps < settings.train_steps and not interrupt.asked:
                loss = _loss(model, digits, schedule, seed, optimizer.steps, settings)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                ema.update()
                bar.update()
        finally:
            bar.close()
        checkpoint.save(file, run, parts)
    if interrupt.asked:
        raise KeyboardInterrupt
    for p, average in zip(parameters, ema.averages, strict=True):
        p.data = average
    return model.eval()


def _loss(model: UNet, digits: Digits, schedule: NoiseSchedule, seed: int, step: int, settings: Settings) -> Variable:
    """The loss of one step; every draw depends on (seed, purpose, step) alone, so a run can be cut anywhere."""
    size = min(settings.batch, len(digits.labels))
    epoch, position = divmod(step, len(digits.labels) // size)
    chosen = permutation(len(digits.labels), key_of(seed, "shuffle", epoch))[position * size : (position + 1) * size]

    def unit(purpose: str) -> Any:
        return philox_uniform((1, size), seed=np.array([key_of(seed, purpose, step)], np.uint64))[0]

    x = digits.images[chosen]
    t = np.floor(unit("timestep") * np.float32(schedule.num_train_timesteps)).astype(np.int64)
    labels = np.where(unit("label") < settings.label_dropout, model.null_class, digits.labels[chosen])
    noise = philox_normal(x.shape, seed=key_of(seed, "noise", step))
    products = schedule.alphas_cumprod[t]
    alpha, sigma = np.sqrt(products).astype(np.float32), np.sqrt(1.0 - products).astype(np.float32)
    prediction = model(Variable(add_noise(x, noise, alpha, sigma)), t, labels)
    loss: Variable = mse_loss(prediction, add_noise(noise, x, alpha, -sigma))  # v = alpha noise - sigma x
    return loss


def draw(model: UNet, seed: int, settings: Settings, progress: Progress | None = None) -> tuple[Any, Any, list[Any]]:
    """(images (N, 1, 8, 8) in [-1, 1], labels (N,), what the images were before each step and at the end)."""
    labels = np.repeat(np.arange(10), settings.samples_per_digit)
    nothing = np.full_like(labels, model.null_class)
    both = np.concatenate([nothing, labels])
    frames = []

    def denoise(x: Any, t: int) -> tuple[Any, Any]:
        frames.append(x)
        prediction = model(np.concatenate([x, x]), np.full(len(both), t), both)
        return prediction[: len(labels)], prediction[len(labels) :]

    sampler = DDIM(
        cosine_schedule(settings.timesteps),
        settings.sampling_steps,
        spacing="trailing",
        prediction_type="v",
        clip_range=(-1.0, 1.0),
        use_clipped_model_output=True,  # else what guidance pushes out of range is lost anew in every step
    )
    shape = (len(labels), 1, 8, 8)
    images = sample(sampler, denoise, shape, seed=key_of(seed, "draw"), guidance=settings.guidance, progress=progress)
    return images, labels, [*frames, images]
