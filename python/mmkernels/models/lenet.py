"""LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998, section II.B)."""

from __future__ import annotations

from typing import Any

from ..nn import AvgPool2d, Conv2d, Flatten, Linear, Module, Sequential

__all__ = ["LeNet5"]


class LeNet5(Module):
    """Images (N, 1, 32, 32), float32, to logits (N, num_classes): 61,706 parameters for ten classes.

    The layers and their sizes are the paper's: 5x5 convolutions C1, C3 and C5 with sub-sampling S2 and S4 between,
    then F6 and the output. Four things are as later practice has them: sub-sampling is a plain mean without trained
    scale, C3 sees all six maps, the output is linear, and ``activation`` may be any of mmkernels.conv2d (the paper's
    scaled tanh is "tanh" up to its two constants).

    >>> import numpy as np
    >>> from mmkernels.models import LeNet5
    >>> model = LeNet5(seed=0)
    >>> model(np.zeros((2, 1, 32, 32), np.float32)).shape, sum(p.data.size for p in model.parameters())
    ((2, 10), 61706)
    """

    def __init__(self, num_classes: int = 10, activation: str = "tanh", *, seed: int = 0) -> None:
        self.features = Sequential(
            Conv2d(1, 6, 5, activation=activation),  # C1: 6 x 28 x 28
            AvgPool2d(2),  # S2: 14 x 14
            Conv2d(6, 16, 5, activation=activation),  # C3: 16 x 10 x 10
            AvgPool2d(2),  # S4: 5 x 5
            Conv2d(16, 120, 5, activation=activation),  # C5: 120 x 1 x 1
            Flatten(),
        )
        self.classifier = Sequential(Linear(120, 84, activation=activation), Linear(84, num_classes))
        self.initialize(seed)

    def forward(self, x: Any) -> Any:
        """x (N, 1, 32, 32) to (N, num_classes)."""
        return self.classifier(self.features(x))
