"""A second opinion that shares nothing with mmkernels: scikit-learn's support vector machine on 8x8 pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .data import Digits, Labels

__all__ = ["support_vector_machine"]


def support_vector_machine(digits: Digits) -> Callable[[Any], Labels]:
    """Trained on the digits; the result reads images (N, 1, 8, 8) in [-1, 1]."""
    from sklearn.svm import SVC

    def pixels(images: Any) -> Any:
        return ((images + 1) * 8).reshape(len(images), -1)  # levels 0 to 16, as in the data set

    machine = SVC(gamma=0.001, C=10).fit(pixels(digits.images), digits.labels)

    def read(images: Any) -> Labels:
        labels: Labels = machine.predict(pixels(images))
        return labels

    return read
