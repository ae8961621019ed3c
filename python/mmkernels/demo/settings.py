"""How much of everything the demo does."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FULL", "QUICK", "Settings"]


@dataclass(frozen=True)
class Settings:
    """The demo's sizes; equal settings and seeds give equal bits."""

    lenet_epochs: int = 20
    lenet_batch: int = 64
    channels: int = 32
    train_steps: int = 1500
    batch: int = 64
    learning_rate: float = 1e-3
    warm_up_steps: int = 100
    ema_decay: float = 0.995
    label_dropout: float = 0.1
    timesteps: int = 1000
    sampling_steps: int = 25
    guidance: float = 2.0
    samples_per_digit: int = 10


FULL = Settings()
QUICK = Settings(lenet_epochs=3, train_steps=60, warm_up_steps=10, sampling_steps=10)
"""A run to see that everything works; what it draws is not yet digits."""
