"""scikit-learn's handwritten digits, split once and for all."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..nn import key_of
from ..ops.noise import philox_uniform

__all__ = ["Digits", "load", "permutation"]

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

_TEST_IMAGES = 360  # a fifth of 1,797


class Digits(NamedTuple):
    """Images (N, 1, 8, 8) float32 in [-1, 1] and labels (N,) int64."""

    images: Images
    labels: Labels


def load() -> tuple[Digits, Digits]:
    """(training, test): the same split whatever the demo's seed, so accuracies can be compared."""
    from sklearn.datasets import load_digits

    raw: Any = load_digits()
    images = (raw.images.astype(np.float32) / np.float32(8) - np.float32(1))[:, None]  # exact: levels are 0 to 16
    labels = raw.target.astype(np.int64)
    order = permutation(len(labels), key_of(0, "split"))
    train, test = order[_TEST_IMAGES:], order[:_TEST_IMAGES]
    return Digits(images[train], labels[train]), Digits(images[test], labels[test])


def permutation(n: int, key: int) -> Labels:
    """The numbers below n in an order drawn with this key."""
    draws = philox_uniform((1, n), seed=np.array([key], np.uint64))[0]
    order: Labels = np.argsort(draws, kind="stable").astype(np.int64)  # stable: equal draws have one order
    return order
