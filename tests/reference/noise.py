"""References of the noise family: Philox4x32-10 (Salmon et al., SC 2011; Random123). Integer words are exact."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(counter: Array, key: Array, /) -> NDArray[np.uint32]:
    """Four random words of each counter uint32[N 4] under its key uint32[N 2]."""
    c0, c1, c2, c3 = (counter[:, word].astype(np.uint64) for word in range(4))
    k0, k1 = (key[:, word].astype(np.uint64) for word in range(2))
    for _ in range(_ROUNDS):
        first, second = c0 * np.uint64(_MULTIPLIERS[0]), c2 * np.uint64(_MULTIPLIERS[1])
        c0, c1, c2, c3 = (second >> _HALF) ^ c1 ^ k0, second & _LOW, (first >> _HALF) ^ c3 ^ k1, first & _LOW
        k0, k1 = (k0 + np.uint64(_KEY_STEPS[0])) & _LOW, (k1 + np.uint64(_KEY_STEPS[1])) & _LOW
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def _split(values: Array) -> tuple[Array, Array]:
    """Low and high words of uint64[N]."""
    return (values & _LOW).astype(np.uint32), (values >> _HALF).astype(np.uint32)


def philox_fold_in(key: Array, data: Array, /) -> NDArray[np.uint64]:
    """A new key uint64[N]: words 0 (low) and 1 (high) of the counter (data low, data high, 0, 1)."""
    keys, counters = np.broadcast_arrays(np.asarray(key, np.uint64), np.asarray(data, np.uint64))
    low, high = _split(counters.ravel())
    counter = np.stack([low, high, np.zeros_like(low), np.ones_like(low)], axis=1)
    words = philox4x32(counter, np.stack(_split(keys.ravel()), axis=1)).astype(np.uint64)
    return (words[:, 0] | (words[:, 1] << _HALF)).reshape(keys.shape)


def _words(keys: Array, count: int, offset: int) -> NDArray[np.uint32]:
    """The first `count` words, rounded up to whole counters, of each key: uint32[N 4*ceil(count / 4)]."""
    keys = np.asarray(keys, np.uint64)
    groups = -(-count // 4)
    low, high = _split(np.arange(groups, dtype=np.uint64) + np.uint64(offset % 2**64))
    counter = np.stack([low, high, np.zeros_like(low), np.zeros_like(low)], axis=1)
    repeated_keys = np.repeat(np.stack(_split(keys), axis=1), groups, axis=0)
    words = philox4x32(np.tile(counter, (keys.shape[0], 1)), repeated_keys)
    return words.reshape(keys.shape[0], 4 * groups)


def philox_uniform(keys: Array, /, *, extents: tuple[int, ...], offset: int) -> NDArray[np.float32]:
    """float32[N *extents] in [0, 1): element i of a sample is the low 24 bits of its word i, times 2^-24."""
    count = math.prod(extents)
    words = _words(keys, count, offset)[:, :count] & np.uint32(0xFFFFFF)
    return (words.astype(np.float32) * np.float32(2**-24)).reshape(len(words), *extents)


def philox_normal(keys: Array, /, *, extents: tuple[int, ...], offset: int) -> NDArray[np.float64]:
    """float64[N *extents]: Box-Muller of the word pairs (0, 1) and (2, 3), each giving R cos(angle), R sin(angle).

    u = word * 2^-32 + 2^-33 is exact and inside (0, 1); angle = 2 pi * next word * 2^-32.
    """
    count = math.prod(extents)
    words = _words(keys, count, offset).astype(np.float64)
    radius = np.sqrt(-2 * np.log(words[:, 0::2] * 2.0**-32 + 2.0**-33))
    angle = 2 * math.pi * (words[:, 1::2] * 2.0**-32)
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2).reshape(words.shape)
    return normals[:, :count].reshape(len(words), *extents)
