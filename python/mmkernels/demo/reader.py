"""LeNet-5 learns to read digits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..autograd import Variable
from ..models import LeNet5
from ..nn import cross_entropy, key_of
from ..ops.resample import interpolate
from ..optim import Adam, CosineDecay
from .data import Digits, Labels, permutation
from .settings import Settings

__all__ = ["accuracy", "read", "train"]


def train(digits: Digits, seed: int, settings: Settings, progress: Callable[[Iterable[int]], Iterable[int]]) -> LeNet5:
    """A LeNet-5 trained on the digits, enlarged four times to the 32x32 that it takes."""
    model = LeNet5(seed=key_of(seed, "lenet"))
    images = _enlarged(digits.images)
    batches = len(images) // settings.lenet_batch
    optimizer = Adam(model.parameters(), CosineDecay(2e-3, 2e-5, settings.lenet_epochs * batches))
    for epoch in progress(range(settings.lenet_epochs)):
        order = permutation(len(images), key_of(seed, "lenet shuffle", epoch))
        for batch in np.split(order[: batches * settings.lenet_batch], batches):
            loss = cross_entropy(model(Variable(images[batch])), digits.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def read(model: LeNet5, images: Any) -> Labels:
    """The digits that the model sees in images (N, 1, 8, 8) in [-1, 1]."""
    labels: Labels = model(_enlarged(images)).argmax(axis=1)
    return labels


def accuracy(found: Any, wanted: Any) -> float:
    """The share of equal labels."""
    return int(np.count_nonzero(found == wanted)) / len(wanted)


def _enlarged(images: Any) -> Any:
    return interpolate(images, (32, 32), mode="nearest")
