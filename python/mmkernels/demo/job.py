"""The demo from beginning to end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import __arithmetic__, nn
from ..profile import Times, profile
from . import extras, painter, pictures, reader
from .data import load
from .judge import support_vector_machine
from .settings import FULL, Settings

__all__ = ["Report", "run"]


@dataclass(frozen=True)
class Report:
    """What a run found: shares between 0 and 1, and where the time went."""

    lenet_accuracy: float
    lenet_reads: float
    svm_accuracy: float
    svm_reads: float
    times: Times


def run(
    out: str | Path,
    seed: int = 0,
    settings: Settings = FULL,
    *,
    verbose: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> Report:
    """Trains, draws, judges, and writes digits.png, process.gif, digits.npz and model.safetensors to ``out``.

    digits.npz holds images (N, 8, 8) float32 in [0, 1], labels (N,) int64 and ``arithmetic``, the version of
    mmkernels' arithmetic; seed, settings and that version fix its bytes. Ctrl-C during the training of the diffusion
    model leaves checkpoint.safetensors, from which the next run with the same seed and settings goes on to the same
    bytes. ``on_step`` is called with the number of finished training steps. Raises BackendError if a package of the
    demo extra is missing.
    """
    extras.require()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.safetensors"
    bars = _Bars(verbose, on_step)

    with profile() as times:
        digits, unseen = load()
        lenet = reader.train(digits, seed, settings, bars.over("LeNet-5 learns to read"))
        unet = painter.train(digits, seed, settings, checkpoint, bars.training, __arithmetic__)
        images, labels, frames = painter.draw(unet, seed, settings, bars.over("drawing"))
        lenet_accuracy = reader.accuracy(reader.read(lenet, unseen.images), unseen.labels)
        lenet_reads = reader.accuracy(reader.read(lenet, images), labels)
        svm = support_vector_machine(digits)
        svm_accuracy = reader.accuracy(svm(unseen.images), unseen.labels)
        svm_reads = reader.accuracy(svm(images), labels)

        np.savez(
            folder / "digits.npz",
            images=np.clip(images[:, 0] * np.float32(0.5) + np.float32(0.5), 0, 1).astype(np.float32),
            labels=labels.astype(np.int64),
            arithmetic=np.array(__arithmetic__),
        )
        nn.save(unet, folder / "model.safetensors")
        pictures.save_grid(folder / "digits.png", images, labels)
        pictures.save_process(folder / "process.gif", frames, labels)
        checkpoint.unlink(missing_ok=True)
    return Report(lenet_accuracy, lenet_reads, svm_accuracy, svm_reads, times)


class _Bars:
    """Progress bars, or none."""

    def __init__(self, verbose: bool, on_step: Callable[[int], None] | None) -> None:
        from tqdm import tqdm

        self._bar: Callable[..., Any] = partial(tqdm, disable=not verbose, file=sys.stderr, leave=True)
        self._on_step = on_step

    def over(self, name: str) -> Callable[[Iterable[int]], Iterable[int]]:
        """A bar around an iterable."""
        return partial(self._bar, desc=name)

    def training(self, start: int, total: int) -> Any:
        """A bar that is moved by hand, and tells on_step."""
        bar = self._bar(desc="U-Net learns to draw", initial=start, total=total, unit="step")
        return _Told(bar, start, self._on_step) if self._on_step else bar


class _Told:
    def __init__(self, bar: Any, start: int, on_step: Callable[[int], None]) -> None:
        self._bar, self._done, self._on_step = bar, start, on_step
        self.close = bar.close

    def update(self) -> None:
        self._bar.update()
        self._done += 1
        self._on_step(self._done)
