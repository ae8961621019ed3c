"""References of the embedding family."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def embedding(indices: Array, weight: Array, /) -> Array:
    """Row indices[*S] of weight[V D]; an index outside [0, V) gives zeros."""
    result = np.zeros((*indices.shape, weight.shape[1]), weight.dtype)
    inside = (indices >= 0) & (indices < weight.shape[0])
    result[inside] = weight[indices[inside]]
    return result


@np.errstate(all="ignore")
def embedding_grad(indices: Array, gy: Array, /, *, rows: int) -> Array:
    """gweight[v] = sum of gy over the tokens v, in token order; an index outside [0, rows) adds nothing."""
    gweight = np.zeros((rows, gy.shape[-1]), gy.dtype)
    inside = (indices >= 0) & (indices < rows)
    np.add.at(gweight, indices[inside], gy[inside])
    return gweight


@np.errstate(all="ignore")
def sinusoidal_features(t: Array, /, *, dim: int, max_period: float, order: str, shift: float) -> Array:
    """sin and cos of t * max_period^(-i / (half - shift)), i < half = dim // 2; the last column of an odd dim is 0.

    Vaswani et al., arXiv 1706.03762, 3.5; Ho et al., arXiv 2006.11239, with shift 1.
    """
    half = dim // 2
    exponents = -np.arange(half, dtype=t.dtype) / (half - shift)
    angles = t[:, None] * np.power(np.asarray(max_period, t.dtype), exponents)
    sine, cosine = np.sin(angles), np.cos(angles)
    if order not in ("sin-cos", "cos-sin"):
        raise ValueError(f"sinusoidal_features: order is {order!r}")
    parts = [sine, cosine] if order == "sin-cos" else [cosine, sine]
    return np.concatenate([*parts, np.zeros((t.shape[0], dim % 2), t.dtype)], axis=1)


@np.errstate(all="ignore")
def fourier_features(t: Array, frequencies: Array, /) -> Array:
    """[sin(2 pi t f), cos(2 pi t f)] of t[N] and f[F] (Tancik et al., arXiv 2006.10739); pi in the operands' dtype."""
    product = t[:, None] * frequencies
    angles = 8 * np.arctan(np.ones((), product.dtype)) * product
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
