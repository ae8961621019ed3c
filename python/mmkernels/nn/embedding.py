"""Lookup of learned vectors."""

from __future__ import annotations

from typing import Any

from ..autograd import Variable
from ..ops.embed import embedding
from .initial import normal, parameter
from .module import Module, taped

__all__ = ["Embedding"]


class Embedding(Module):
    """One learned vector per token; see mmkernels.embedding.

    ``weight`` (num_embeddings, embedding_dim), float32, drawn from the standard normal distribution. Token ids are
    integers; in training they come as ``Variable(ids)``, as every input of a module does.

    >>> import numpy as np
    >>> from mmkernels import nn
    >>> nn.Embedding(10, 3)(np.array([[1, 2]])).shape
    (1, 2, 3)
    """

    weight: Variable

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        parameter(self, "weight", (num_embeddings, embedding_dim), normal())

    def forward(self, indices: Any) -> Any:
        """indices (*S) to (*S, embedding_dim)."""
        (weight,) = taped(indices, self.weight)
        return embedding(indices, weight)
