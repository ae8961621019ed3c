"""Philox: the published answers, the bits of the NumPy twin, independence of everything but key and position."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import mmkernels as mmk
from mmkernels import _core
from mmkernels.operator import OPERATORS
from mmkernels.ops.noise import keys_of, philox4x32, philox_fold_in, philox_normal, philox_uniform
from mmkernels.verify import instruction_set
from reference import arith
from reference import noise as reference

Array = NDArray[Any]
Refused, WrongType = mmk.ContractError, mmk.ContractTypeError
KEYS = st.integers(0, 2**64 - 1)
DRAWS = {"philox_normal": philox_normal, "philox_uniform": philox_uniform}


def twin(name: str, keys: Array, extents: tuple[int, ...], offset: int) -> Array:
    """The same bits by NumPy."""
    of = arith.philox_normal if name == "philox_normal" else reference.philox_uniform
    return np.asarray(of(keys, extents=extents, offset=offset))


# The known answers of Random123, for counters and keys of all zeros, all ones and the digits of pi.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter: list[int], key: list[int], words: list[int], isa: str) -> None:
    with instruction_set(isa):
        found = philox4x32(np.array([counter], np.uint32), np.array([key], np.uint32))
    assert found.tolist() == [words]


@pytest.mark.parametrize("isa", _core.available_isas())
def test_elements_are_the_words_of_the_counters(isa: str) -> None:
    """Counters have 64 bits: the second word counts too."""
    offset, key = 2**32 - 3, 0x299F31D0A4093822
    counters = [[c & 0xFFFFFFFF, c >> 32, 0, 0] for c in range(offset, offset + 40)]
    words = philox4x32(np.array(counters, np.uint32), np.array([[key & 0xFFFFFFFF, key >> 32]], np.uint32))
    with instruction_set(isa):
        found = philox_uniform((1, 160), seed=[key], offset=offset)
    np.testing.assert_array_equal(found[0], (words.reshape(-1) & 0xFFFFFF).astype(np.float32) * np.float32(2**-24))


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(sorted(DRAWS)),
    st.lists(KEYS, min_size=0, max_size=4),
    st.lists(st.integers(0, 9), max_size=3).map(tuple),
    st.one_of(st.integers(0, 100), st.integers(-(2**63), 2**64 - 1)),
    st.sampled_from(_core.available_isas()),
)
def test_the_twins_bits(name: str, keys: list[int], extents: tuple[int, ...], offset: int, isa: str) -> None:
    words = np.array(keys, np.uint64)
    with instruction_set(isa):
        found = DRAWS[name]((len(keys), *extents), seed=keys, offset=offset)
    wanted = twin(name, words, extents, offset)
    assert found.dtype == np.float32 and found.shape == wanted.shape
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("name", sorted(DRAWS))
def test_long_samples_have_the_twins_bits(name: str) -> None:
    """Beyond one block and one thread; every instruction set."""
    keys = np.array([1, 2**64 - 1, 0x123456789ABCDEF0], np.uint64)
    wanted = twin(name, keys, (40_009,), 5)
    for isa in _core.available_isas():
        with instruction_set(isa):
            assert DRAWS[name]((3, 40_009), seed=keys, offset=5).tobytes() == wanted.tobytes(), isa


@pytest.mark.parametrize("name", sorted(DRAWS))
def test_prefix_batch_and_offset(name: str) -> None:
    draw = DRAWS[name]
    whole = draw((5, 3, 7, 11), seed=99)
    flat = whole.reshape(5, -1)
    for count in (0, 1, 2, 3, 4, 63, 64, 65, 230):
        np.testing.assert_array_equal(draw((5, count), seed=99), flat[:, :count])
    np.testing.assert_array_equal(draw((2, 3, 7, 11), seed=99), whole[:2])
    np.testing.assert_array_equal(draw((1, 3, 7, 11), seed=[int(keys_of(99, 5)[3])]), whole[3:4])
    for skipped in (1, 16, 17):
        np.testing.assert_array_equal(draw((5, 60), seed=99, offset=skipped), flat[:, 4 * skipped : 4 * skipped + 60])
    around = draw((1, 16), seed=[7], offset=2**64 - 2)
    np.testing.assert_array_equal(around, draw((1, 16), seed=[7], offset=-2))
    np.testing.assert_array_equal(around[:, 8:], draw((1, 8), seed=[7]))


@pytest.mark.parametrize("name", sorted(DRAWS))
def test_threads_layouts_and_dtypes_change_nothing(name: str) -> None:
    draw = DRAWS[name]
    wanted = draw((3, 5, 4099), seed=4)
    before = mmk.get_num_threads()
    try:
        for threads in (1, 2, 5):
            mmk.set_num_threads(threads)
            np.testing.assert_array_equal(draw((3, 5, 4099), seed=4), wanted)
    finally:
        mmk.set_num_threads(before)
    out = np.empty((4099, 3, 5), np.float32).transpose(1, 2, 0)
    assert draw(wanted.shape, seed=4, out=out) is out
    np.testing.assert_array_equal(out, wanted)
    wide = draw(wanted.shape, seed=4, dtype="float64")
    assert wide.dtype == np.float64
    np.testing.assert_array_equal(wide, wanted)
    out64 = np.empty(wanted.shape)
    assert draw(wanted.shape, seed=4, dtype="float64", out=out64) is out64
    np.testing.assert_array_equal(out64, wanted)
    keys = np.repeat(keys_of(4, 3), 2)[::2][::-1]  # strided, then reversed
    np.testing.assert_array_equal(draw(wanted.shape, seed=keys)[::-1], wanted)


def test_folding() -> None:
    keys, data = np.arange(6, dtype=np.uint64), np.array([0, 1, 2**32, 2**63, 2**64 - 1, 5], np.uint64)
    np.testing.assert_array_equal(philox_fold_in(keys, data), reference.philox_fold_in(keys, data))
    table = philox_fold_in(keys[:, None], data)
    assert table.shape == (6, 6) and len(np.unique(table)) == 36
    np.testing.assert_array_equal(table[2], philox_fold_in(2, data))
    np.testing.assert_array_equal(table[:, 3], philox_fold_in(keys, -(2**63)))
    assert int(philox_fold_in(-1, -2)) == int(philox_fold_in(2**64 - 1, 2**64 - 2))
    # The counter (data, 0, 1) itself.
    words = philox4x32(np.array([[7, 0, 0, 1]], np.uint32), np.array([[9, 0]], np.uint32))[0]
    assert int(philox_fold_in(9, 7)) == int(words[0]) | int(words[1]) << 32


def test_keys() -> None:
    np.testing.assert_array_equal(keys_of(42, 5), reference.philox_fold_in(np.array([42]), np.arange(5)))
    np.testing.assert_array_equal(keys_of(-1, 3), keys_of(2**64 - 1, 3))
    np.testing.assert_array_equal(keys_of(np.int32(7), 3), keys_of(7, 3))
    assert keys_of([1, -1, 2**64 - 1], 3).tolist() == [1, 2**64 - 1, 2**64 - 1]
    assert keys_of(np.array([1, -1]), 2).tolist() == [1, 2**64 - 1]
    assert keys_of((), 0).dtype == np.uint64 and keys_of(3, 0).shape == (0,)
    given_keys = np.array([5, 6], np.uint64)
    assert keys_of(given_keys, 2) is given_keys


# ---- statistics, of fixed seeds: thresholds are 5 standard deviations of the estimate --------------------------------

COUNT = 1 << 20


def kolmogorov(values: Array, distribution: Array) -> float:
    """sqrt(n) times the largest distance of the empirical distribution from the one that the sorted values have."""
    n = len(values)
    steps = np.arange(n + 1) / n
    return float(np.sqrt(n) * max((steps[1:] - distribution).max(), (distribution - steps[:-1]).max()))


# Of the limiting law: P(K > 2.7) = 2 exp(-2 * 2.7^2) = 1e-6, as rare as five standard deviations.
KOLMOGOROV = 2.7


def test_normal_statistics() -> None:
    z = philox_normal((4, COUNT // 4), seed=2024).reshape(-1).astype(np.float64)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((z**power).mean() - moment) <= 5 * math.sqrt(variance / COUNT), power
    some = np.sort(z[: 1 << 17])
    assert kolmogorov(some, np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in some])) < KOLMOGOROV
    assert kolmogorov(some, np.array([0.5 * math.erfc(-(v - 0.02) / math.sqrt(2)) for v in some])) > KOLMOGOROV
    assert 4.5 < np.abs(z).max() <= 6.77
    # A pair's angle is uniform over 64 sectors, with 63 degrees of freedom: mean 63, variance 126.
    angle = np.floor((np.arctan2(z[1::2], z[0::2]) / (2 * math.pi) + 0.5) * 64).astype(int) % 64
    counts = np.bincount(angle, minlength=64)
    expected = len(angle) / 64
    assert ((counts - expected) ** 2 / expected).sum() <= 63 + 5 * math.sqrt(126)


def test_uniform_statistics() -> None:
    u = philox_uniform((4, COUNT // 4), seed=11).reshape(-1).astype(np.float64)
    assert (u >= 0).all() and (u < 1).all() and (u * 2**24 == np.floor(u * 2**24)).all()
    assert abs(u.mean() - 0.5) <= 5 * math.sqrt(1 / 12 / COUNT)
    assert abs((u**2).mean() - 1 / 3) <= 5 * math.sqrt(4 / 45 / COUNT)
    assert kolmogorov(np.sort(u), np.sort(u)) < KOLMOGOROV
    for bit in range(24):  # every bit is fair
        ones = (np.floor(u * 2 ** (bit + 1)) % 2).mean()
        assert abs(ones - 0.5) <= 5 * 0.5 / math.sqrt(COUNT), bit


def test_neighbours_are_uncorrelated() -> None:
    """Elements at small distances, samples of neighbouring keys, folded or not, and of neighbouring seeds."""
    z = philox_normal((16, 1 << 16), seed=list(range(16))).astype(np.float64)
    limit = 5 / math.sqrt(z[0].size)
    for lag in (1, 2, 3, 4, 63, 64):
        assert abs((z[:, lag:] * z[:, :-lag]).mean()) <= 5 / math.sqrt(z[:, lag:].size)
    folded = philox_normal((8, 1 << 16), seed=0).astype(np.float64)
    other = philox_normal((8, 1 << 16), seed=1).astype(np.float64)
    for a, b in ((z[:-1], z[1:]), (z[:8], folded), (folded, other), (folded[:-1], folded[1:])):
        assert (np.abs((a * b).mean(axis=1)) <= limit).all()
        assert (np.abs((a**2 * b**2).mean(axis=1) - 1) <= limit * math.sqrt(8)).all()


def test_the_largest_value() -> None:
    """u is at least 2^-33, so R is at most sqrt(66 ln 2); the angle 0 reaches it."""
    cosine, sine = arith.box_muller(np.zeros(1, np.uint32), np.zeros(1, np.uint32))
    assert abs(float(cosine[0]) - math.sqrt(66 * math.log(2))) < 1e-6 and float(sine[0]) == 0


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: philox_normal((), seed=1), Refused, "philox_normal: shape is ()"),
        (lambda: philox_normal((2, -1), seed=1), Refused, "philox_normal: shape is (2, -1)"),
        (lambda: philox_normal((1,) * 9, seed=1), Refused, "philox_normal: extents is (1, 1, 1, 1, 1"),
        (
            lambda: philox_uniform((2, 3), seed=[1, 2, 3]),
            Refused,
            "philox_uniform: seed has shape (3,); expected one int, or one per sample: (2,)",
        ),
        (
            lambda: philox_uniform((2, 3), seed=1.5),
            WrongType,
            "philox_uniform: seed is 1.5; expected an int",
        ),
        (lambda: philox_uniform((2, 3), seed=True), WrongType, "philox_uniform: seed is True; expected"),
        (
            lambda: philox_uniform((2,), seed=[1, 2.0]),
            WrongType,
            "philox_uniform: seed[1] is 2.0; expected",
        ),
        (
            lambda: philox_uniform((2,), seed=np.ones(2)),
            WrongType,
            "philox_uniform: seed.dtype is float64; expected integers",
        ),
        (
            lambda: philox_normal((2,), seed=2**64),
            Refused,
            "philox_normal: seed is 18446744073709551616; expected -2**63 <= value < 2**64",
        ),
        (
            lambda: philox_normal((2,), seed="a"),
            WrongType,
            "philox_normal: seed is 'a'; expected an integer",
        ),
        (lambda: philox_normal((2,), seed=1, offset=0.5), WrongType, "philox_normal: offset is 0.5"),
        (
            lambda: philox_normal((2,), seed=1, dtype="float16"),
            WrongType,
            "philox_normal: dtype is float16; expected float32 or float64",
        ),
        (
            lambda: philox_normal((2,), seed=1, like=[0.0]),
            WrongType,
            "philox_normal: like is a list; expected an array",
        ),
        (lambda: philox_normal((2,), seed=1, out=[0.0]), WrongType, "philox_normal: out is a list; expected an array"),
        (
            lambda: philox_normal((2,), seed=1, like=[0.0]),
            WrongType,
            "philox_normal: like is a list; expected an array",
        ),
        (lambda: philox_normal((2,), seed=1, out=[0.0]), WrongType, "philox_normal: out is a list; expected an array"),
        (lambda: philox_fold_in(0.5, 1), WrongType, "philox_fold_in: key is 0.5; expected an integer"),
        (lambda: philox_fold_in([1, 2], [1, 2, 3]), Refused, "philox_fold_in: data.shape is (3,)"),
        (
            lambda: philox_normal((2, 3), seed=1, dtype="float64", out=np.empty((2, 3), np.float32)),
            Refused,
            "philox_normal: out is float32 (2, 3); expected float64 (2, 3)",
        ),
        (
            lambda: philox_normal((2, 3), seed=1, out=np.empty((2, 4), np.float32)),
            Refused,
            "philox_normal: out.shape is (2, 4); expected (2, 3)",
        ),
    ],
)
def test_messages(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value).startswith(message), caught.value


def test_plain_forms_are_operators() -> None:
    keys = keys_of(3, 2)
    plain = OPERATORS["philox_normal"](keys, extents=(2, 3), offset=1)
    np.testing.assert_array_equal(plain, philox_normal((2, 2, 3), seed=3, offset=1))


def test_shapes_are_sequences_of_integers() -> None:
    for draw in (philox_uniform, philox_normal):
        assert np.array_equal(draw(np.array([2, 3]), seed=1), draw((2, 3), seed=1))  # type: ignore[arg-type]
        for shape in (None, 3, 1.5, "ab", (2, 1.5), (None,)):
            with pytest.raises(mmk.ContractTypeError, match=rf"^{draw.__name__}: shape is .*; expected"):
                draw(shape, seed=1)  # type: ignore[arg-type]
