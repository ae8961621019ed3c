"""Losses as compositions of operators; each returns one number on the tape of its first argument."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import arrays
from ..errors import ContractError
from ..ops.activation import log_softmax
from ..ops.pointwise import mean, mul, sub
from ..ops.pointwise import sum as total

__all__ = ["cross_entropy", "mse_loss"]


def mse_loss(prediction: Any, target: Any) -> Any:
    """The mean of (prediction - target)^2 over all elements. Shapes are equal. Stable.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> float(nn.mse_loss(np.array([1.0, 2.0]), np.array([1.0, 4.0])))
    2.0
    """
    if arrays.shape_of(prediction) != arrays.shape_of(target):
        raise ContractError(
            f"mse_loss: target.shape is {arrays.shape_of(target)}; expected {arrays.shape_of(prediction)}"
        )
    difference = sub(prediction, target)
    return mean(mul(difference, difference))


def cross_entropy(logits: Any, target: Any) -> Any:
    """The mean of -log softmax(logits)[target] over the batch: logits (N, K) real, target (N,) integers below K.

    Raises ContractError for other shapes or a class out of range. Stable.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> round(float(nn.cross_entropy(np.zeros((2, 4), np.float32), np.array([0, 3]))), 6)  # log 4
    1.386294
    """
    shape, classes = arrays.shape_of(logits), np.asarray(target)
    if len(shape) != 2 or classes.shape != shape[:1]:
        raise ContractError(f"cross_entropy: target.shape is {classes.shape}; expected (N,) for logits of {shape}")
    if classes.dtype.kind not in "iu" or ((classes < 0) | (classes >= shape[1])).any():
        raise ContractError(
            f"cross_entropy: target has a value that is no class; expected integers 0 to {shape[1] - 1}"
        )
    chosen = np.zeros(shape, logits.dtype)
    chosen[np.arange(shape[0]), classes] = 1
    return mul(total(mul(log_softmax(logits, 1), chosen)), -1.0 / max(shape[0], 1))
