"""What attention can be asked for, any with any other: windows, soft caps, sinks, distances, lengths, positions, packed
sequences, views of any strides; and additive attention."""

from __future__ import annotations

import math
import re
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

import harness
import mmkernels as mmk
from mmkernels import _core, autograd
from mmkernels.contract import Case
from mmkernels.operator import OPERATORS
from mmkernels.ops.attention import additive_attention, attention, attention_packed, attention_weights
from test_attention import ATTENTION, GRAD, check, equal, normal, operands, relaid, threads

Array = NDArray[Any]


def every_option(b: int, h: int, sq: int, sk: int, dtype: str = "float32") -> dict[str, Any]:
    """All that may be given at once, but for lengths and positions."""
    return {
        "mask": np.random.default_rng(5).random((1, 1, sq, sk)) < 0.9,
        "bias": normal(1, h, sq, sk, seed=3, dtype=dtype), "sink": normal(h, seed=4, dtype=dtype),
        "slopes": np.abs(normal(b, h, seed=5, dtype=dtype)) / 8, "table": normal(h, 21, seed=6, dtype=dtype),
        "softcap": 1.5,
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_options(data: st.DataObject) -> None:
    draw = data.draw
    key_heads, group, b = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    sq, sk = draw(st.integers(1, 70)), draw(st.integers(0, 150))
    dtype, h = draw(st.sampled_from(["float32", "float64"])), key_heads * group
    layout = st.sampled_from(["dense", "heads inside", "reversed", "gaps"])
    q, k, v = (
        relaid(x, draw(layout))
        for x in operands(b, h, key_heads, sq, sk, draw(st.integers(1, 20)), draw(st.integers(1, 20)), dtype)
    )
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    options: dict[str, Any] = {n: x for n, x in every_option(b, h, sq, sk, dtype).items() if draw(st.booleans())}
    options["window"] = (draw(st.integers(-1, 90)), draw(st.integers(-1, 90)))
    options["causal"] = draw(st.integers(0, 2))
    integers = draw(st.sampled_from(["int64", "int32"]))
    if draw(st.booleans()):
        options["key_lengths"] = random.integers(0, sk + 1, b).astype(integers)
    if draw(st.booleans()):
        options["query_lengths"] = random.integers(0, sq + 1, b).astype(integers)
    if options["causal"] != 2 and draw(st.booleans()):
        options["offset"] = random.integers(-sq, sk + 1, draw(st.sampled_from([1, b]))).astype(integers)
    check(q, k, v, **options)


# ---- decoding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [(-1, -1), (40, 0), (150, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_decoding_with_every_option_gives_the_bits_of_prefill(dtype: str, window: tuple[int, int]) -> None:
    """One token at a time, and chunks of several sizes, against a cache of full length."""
    q, k, v = operands(2, 4, 2, 200, 200, 12, 10, dtype)
    options = every_option(2, 4, 200, 200, dtype)
    grids = {n: options.pop(n) for n in ("mask", "bias")}
    y, lse = attention(q, k, v, **grids, **options, causal=True, window=window, return_lse=True)
    pieces = [(i, i + 1) for i in (0, 1, 47, 48, 127, 128, 129, 199)]
    for size in (7, 64, 130):
        pieces += [(i, min(i + size, 200)) for i in range(0, 200, size)]
    for first, last in pieces:
        part = {n: x[:, :, first:last] for n, x in grids.items()}
        for offset in (first, np.array([first, first], np.int32)):
            found = attention(q[:, :, first:last], k, v, **part, **options, causal=True, window=window, offset=offset,
                              return_lse=True)  # fmt: skip
            assert equal(found, (y[:, :, first:last], lse[:, :, first:last])), (first, last)
        # what the cache holds behind the last token does not matter, nor how long it is
        if window[1] <= 0:
            short = {n: x[..., :last] for n, x in part.items()}
            found = attention(q[:, :, first:last], k[:, :, :last], v[:, :, :last], **short, **options, causal=True,
                              window=window, offset=first, return_lse=True)  # fmt: skip
            assert equal(found, (y[:, :, first:last], lse[:, :, first:last])), (first, last)


def test_positions_of_each_item() -> None:
    """A batch of decoders that are at different steps is each of them alone."""
    q, k, v = operands(3, 2, 1, 5, 140, 8, 8)
    options = {n: x for n, x in every_option(1, 2, 5, 140).items() if n not in ("mask", "bias")}
    offset = np.array([0, 131, 60])
    whole = attention(q, k, v, causal=True, offset=offset, window=(70, -1), return_lse=True, **options)
    for b in range(3):
        s = slice(b, b + 1)
        alone = attention(
            q[s], k[s], v[s], causal=True, offset=int(offset[b]), window=(70, -1), return_lse=True, **options
        )
        assert equal(alone, tuple(x[s] for x in whole))


# ---- windows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [0, 1, 2])
@pytest.mark.parametrize(
    ("sq", "sk", "window"), [(9, 9, (2, 1)), (50, 300, (0, 0)), (300, 50, (-1, 4)), (5, 9, (3, -1))]
)
def test_a_window_is_a_mask(sq: int, sk: int, window: tuple[int, int], causal: int) -> None:
    q, k, v = operands(1, 2, 1, sq, sk, 8, 8)
    position = np.arange(sq)[:, None] + (sk - sq if causal == 2 else 0)
    keys = np.arange(sk)
    mask = np.ones((sq, sk), bool)
    if window[0] >= 0:
        mask &= keys >= position - window[0]
    if window[1] >= 0:
        mask &= keys <= position + window[1]
    found = ATTENTION(q, k, v, causal=causal, window=window)
    assert equal(found, ATTENTION(q, k, v, mask[None, None], causal=causal))
    check(q, k, v, causal=causal, window=window)


def test_blocks_outside_the_window_are_not_read() -> None:
    """The cost is that of the window: a call with 64 times the keys takes no 16 times as long."""
    from time import perf_counter

    best = []
    for keys in (512, 32768):
        q, k, v = operands(1, 1, 1, 64, keys, 32, 32)
        times = []
        for _ in range(5):
            start = perf_counter()
            ATTENTION(q, k, v, None, None, None, None, None, np.array([keys - 64]), causal=1, window=(100, 0))
            times.append(perf_counter() - start)
        best.append(min(times))
    assert best[1] < 16 * best[0] + 1e-3


# ---- soft caps, sinks, distances ------------------------------------------------------------------------------------


def test_values_behind_a_mask_under_a_soft_cap() -> None:
    """The cap comes before the mask: the other way round, hidden keys have scores of -cap and are seen."""
    q, k, v = operands(1, 2, 2, 9, 11, 8, 8)
    mask = np.arange(11) < 7
    v[:, :, 7:] = 1000
    y = attention(q, k, v, mask[None, None, None], softcap=2.0)
    assert np.abs(y).max() < 10
    assert equal(y, attention(q, k[:, :, :7], v[:, :, :7], softcap=2.0))


def test_a_large_cap_is_none() -> None:
    q, k, v = operands(1, 1, 1, 9, 20, 8, 8, "float64")
    np.testing.assert_allclose(attention(q, k, v, softcap=1e6), attention(q, k, v), rtol=1e-9)


def test_a_sink_is_a_key_whose_value_is_zero() -> None:
    q, k, v = operands(2, 3, 3, 9, 20, 8, 8, "float64")
    sink = normal(3, seed=9, dtype="float64")
    y, lse = attention(q, k, v, sink=sink, return_lse=True)
    bias = np.concatenate([np.zeros((3, 9, 20)), np.broadcast_to(sink[:, None, None], (3, 9, 1))], 2)[None]
    wide = [np.concatenate([x, np.zeros((2, 3, 1, 8))], 2) for x in (k, v)]
    other = attention(q, *wide, bias=bias, return_lse=True)
    np.testing.assert_allclose(y, other[0], rtol=1e-12)
    np.testing.assert_allclose(lse, other[1], rtol=1e-12)


def test_lse_of_rows_without_keys_is_the_sink() -> None:
    q, k, v = operands(2, 2, 1, 60, 20, 8, 8)
    sink = np.array([0.3, -1.7], np.float32)
    lengths = np.array([60, 3])
    y, lse = attention(q, k, v, causal="bottom-right", sink=sink, query_lengths=lengths, return_lse=True)
    assert not y[0, :, :40].any()
    assert np.array_equal(lse[0, :, :40], np.broadcast_to(sink[:, None], (2, 40)))
    assert np.isneginf(lse[1, :, 3:]).all()
    assert equal(
        attention(q, k, v, sink=np.full(2, -np.inf, np.float32), return_lse=True), attention(q, k, v, return_lse=True)
    )


def test_distances_are_biases() -> None:
    q, k, v = operands(2, 2, 1, 30, 41, 8, 8, "float64")
    slopes, table = np.array([0.5, 0.25]), normal(2, 7, seed=2, dtype="float64")
    distance = np.arange(41) - (np.arange(30)[:, None] + 11)
    added = table[:, np.clip(distance, -3, 3) + 3] - slopes[:, None, None] * np.abs(distance)
    for causal in ("bottom-right", False):
        at = {} if causal else {"offset": 11}
        y = attention(q, k, v, slopes=slopes, table=table, causal=causal, **at)  # type: ignore[arg-type]
        other = attention(q, k, v, bias=added[None], causal=causal)  # type: ignore[arg-type]
        np.testing.assert_allclose(y, other, rtol=1e-11)


def test_gradients_of_a_table_are_sums_of_the_scores() -> None:
    q, k, v = operands(2, 2, 2, 130, 150, 4, 4, "float64")
    table = normal(2, 41, seed=2, dtype="float64")
    distance = np.clip(np.arange(150) - np.arange(130)[:, None], -20, 20) + 20
    found = []
    for relative in (True, False):
        variable = autograd.Variable(table if relative else table[:, distance][None], requires_grad=True)
        y = attention(q, k, v, **{"table" if relative else "bias": variable}, causal=True)  # type: ignore[arg-type]
        (g,) = autograd.grad(mmk.sum(mmk.mul(y, normal(*y.shape, dtype="float64"))), [variable])
        assert g is not None
        found.append(g.data)
    wanted = np.zeros_like(table)
    for h in range(2):
        np.add.at(wanted[h], distance, found[1][0, h])
    np.testing.assert_allclose(found[0], wanted, rtol=1e-9, atol=1e-12)


def test_gradient_of_shared_slopes_is_the_biases() -> None:
    """Slopes (H) of a batch: their gradient is the scores', times distances, summed over items too."""
    q, k, v = operands(3, 2, 1, 70, 90, 8, 8)
    slopes = np.array([0.25, 0.0625], np.float32)
    variable, gy = autograd.Variable(slopes, requires_grad=True), normal(3, 2, 70, 8)
    y = attention(q, k, v, slopes=variable, causal="bottom-right")
    (found,) = autograd.grad(y, [variable], gy)
    distance = -np.abs(np.arange(90) - np.arange(70)[:, None] - 20).astype(np.float32)
    bias = autograd.Variable(slopes[:, None, None] * distance + np.zeros((3, 1, 1, 1), np.float32), requires_grad=True)
    (scores,) = autograd.grad(attention(q, k, v, bias=bias, causal="bottom-right"), [bias], gy)
    assert found is not None and scores is not None and found.shape == (2,)
    np.testing.assert_allclose(found.data, (scores.data * distance).sum((0, 2, 3), dtype=np.float64), rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 21, 33), (1, 1, 21, 33), (1, 2, 1, 33), (1, 1, 33), (3, 1, 1, 33)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradient_of_a_broadcast_bias_is_the_sum_of_the_whole(shape: tuple[int, ...], dtype: str) -> None:
    """Whether items share the bias, and its gradient is summed where it is found, or not."""
    q, k, v = operands(3, 2, 1, 21, 33, 8, 8, dtype)
    gy, values = normal(3, 2, 21, 8, dtype=dtype), normal(*shape, dtype=dtype)
    (found,), (whole,) = (
        autograd.grad(attention(q, k, v, bias=bias, causal=True), [bias], gy)
        for bias in (
            autograd.Variable(values, requires_grad=True),
            autograd.Variable(values + np.zeros((3, 2, 21, 33), dtype), requires_grad=True),
        )
    )
    assert found is not None and whole is not None and found.shape == shape
    axes = tuple(i for i, n in enumerate((1,) * (4 - len(shape)) + shape) if n == 1)
    wanted = whole.data.sum(axes, keepdims=True).reshape(shape)
    np.testing.assert_allclose(found.data, wanted, rtol=1e-4, atol=1e-5 if dtype == "float32" else 1e-13)


def test_gradient_of_a_shared_bias_is_not_made_whole() -> None:
    """3 MiB of memory for results and scratch where the scores of all items take 38."""
    q, k, v = operands(600, 1, 1, 128, 128, 8, 8)
    bias = autograd.Variable(normal(1, 128, 128), requires_grad=True)
    y = attention(q, k, v, bias=bias)
    told = _core.told_by(lambda: autograd.grad(y, [bias], normal(600, 1, 128, 8)))
    named = [line for line in told if line.startswith("attention_")]
    assert [line.partition(":")[0] for line in named] == ["attention_shared_bias_grad"]
    assert int(re.findall(r"scratch (\d+) bytes", named[0])[0]) < 3 << 20


def test_packed_and_additive_write_where_they_are_told() -> None:
    q, k, v = normal(20, 2, 8), normal(30, 1, 8), normal(30, 1, 4)
    starts = np.array([0, 7, 20]), np.array([0, 13, 30])
    y, lse = attention_packed(q, k, v, *starts, causal=True, return_lse=True)
    view = np.full((4, 20, 2), np.nan, np.float32).transpose(1, 2, 0)
    assert attention_packed(q, k, v, *starts, causal=True, out=view) is view
    np.testing.assert_array_equal(view, y)
    both = np.empty_like(y), np.empty_like(lse)
    assert attention_packed(q, k, v, *starts, causal=True, return_lse=True, out=both)[1] is both[1]
    np.testing.assert_array_equal(both[0], y)
    np.testing.assert_array_equal(both[1], lse)
    given = normal(2, 3, 8), normal(2, 5, 8), normal(2, 5, 4), normal(8)
    wanted = additive_attention(*given, return_lse=True, return_weights=True)
    for lse_too, weights_too, kept in ((False, False, (0,)), (True, False, (0, 1)), (False, True, (0, 2)),
                                       (True, True, (0, 1, 2))):  # fmt: skip
        arrays = tuple(np.empty_like(wanted[i]) for i in kept)
        out = arrays if len(arrays) > 1 else arrays[0]
        additive_attention(*given, return_lse=lse_too, return_weights=weights_too, out=out)
        for i, array in zip(kept, arrays, strict=True):
            np.testing.assert_array_equal(array, wanted[i])
        with pytest.raises(mmk.ContractTypeError, match=r"^additive_attention: out= was given a tuple of 4; expected"):
            additive_attention(*given, return_lse=lse_too, return_weights=weights_too, out=(*wanted, wanted[0]))


# ---- lengths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1000.0])
def test_padding_poisons_nothing(poison: float) -> None:
    """Padded tails may hold anything: results are those of the short sequences, gradients of padding are zeros."""
    q, k, v = operands(4, 2, 1, 60, 140, 8, 8)
    gy = normal(4, 2, 60, 8)
    queries, keys = np.array([60, 0, 33, 7]), np.array([140, 129, 0, 20])
    clean = [x.copy() for x in (q, k, v, gy)]
    for b in range(4):
        for x, n in ((q, queries), (k, keys), (v, keys), (gy, queries)):
            x[b, :, n[b] :] = poison
    options = {"causal": 2, "window": (100, 50), "key_lengths": keys, "query_lengths": queries}
    for n in (1, 2):
        with threads(n):
            y, lse = ATTENTION(q, k, v, **options)
            g = GRAD(q, k, v, y, lse, gy, **options)
        for b in range(4):
            sq, sk = slice(0, queries[b]), slice(0, keys[b])
            own = [clean[0][b : b + 1, :, sq], clean[1][b : b + 1, :, sk], clean[2][b : b + 1, :, sk]]
            alone = ATTENTION(*own, causal=2, window=(100, 50))
            assert equal(alone, (y[b : b + 1, :, sq], lse[b : b + 1, :, sq]))
            assert not y[b, :, queries[b] :].any()
            assert np.isneginf(lse[b, :, queries[b] :]).all()
            back = GRAD(*own, *alone, clean[3][b : b + 1, :, sq], causal=2, window=(100, 50))
            assert equal(back, (g[0][b : b + 1, :, sq], g[1][b : b + 1, :, sk], g[2][b : b + 1, :, sk]))
            for x, n in ((g[0], queries), (g[1], keys), (g[2], keys)):
                assert not x[b, :, n[b] :].any()


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_packed_sequences_are_each_alone(data: st.DataObject) -> None:
    draw = data.draw
    lengths = draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 140)), min_size=0, max_size=5))
    margins = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    starts = [np.cumsum([margins[0], *(x[i] for x in lengths)]).astype(draw(st.sampled_from(["int32", "int64"])))
              for i in (0, 1)]  # fmt: skip
    kv = draw(st.integers(1, 2))
    h = kv * draw(st.integers(1, 2))
    q, gy = (normal(int(starts[0][-1]) + margins[1], h, 8, seed=i) for i in (1, 2))
    k, v = (normal(int(starts[1][-1]) + margins[1], kv, 8, seed=i) for i in (3, 4))
    if draw(st.booleans()):  # heads before rows in memory
        q, k = (np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1) for x in (q, k))
    options: dict[str, Any] = {
        "causal": draw(st.integers(0, 2)), "window": (draw(st.integers(-1, 60)), -1),
        "softcap": draw(st.sampled_from([0.0, 2.0])), "scale": 0.4,
    }  # fmt: skip
    slopes = normal(h, seed=6) if draw(st.booleans()) else None
    sink = normal(h, seed=7) if draw(st.booleans()) else None
    if starts[0].dtype != starts[1].dtype:
        starts[1] = starts[1].astype(starts[0].dtype)
    forward, backward = OPERATORS["attention_packed"], OPERATORS["attention_packed_grad"]
    y, lse = forward(q, k, v, *starts, sink, slopes, **options)
    g = backward(q, k, v, y, lse, gy, *starts, None, slopes, **options)
    covered = [np.zeros(len(x), bool) for x in (q, k)]

    def of(x: Array, rows: slice) -> Array:
        return x[rows].swapaxes(0, 1)[None]

    for i in range(len(lengths)):
        rows, keys = (slice(int(s[i]), int(s[i + 1])) for s in starts)
        covered[0][rows] = covered[1][keys] = True
        own = (of(q, rows), of(k, keys), of(v, keys))
        alone = ATTENTION(*own, None, None, sink, slopes, **options)
        assert equal(alone, (of(y, rows), lse[None, :, rows]))
        back = GRAD(*own, *alone, of(gy, rows), None, None, None, slopes, **options)
        assert equal(back, (of(g[0], rows), of(g[1], keys), of(g[2], keys)))
    assert not y[~covered[0]].any()
    assert np.isneginf(lse[:, ~covered[0]]).all()
    assert not g[0][~covered[0]].any()
    assert not g[1][~covered[1]].any()
    assert not g[2][~covered[1]].any()


def test_packed_gradients_reach_the_tape() -> None:
    q, k, v = (autograd.Variable(normal(9, 2, 4, seed=i, dtype="float64"), requires_grad=True) for i in range(3))
    sink = autograd.Variable(normal(2, dtype="float64"), requires_grad=True)
    starts = np.array([0, 4, 9])
    total = mmk.sum(attention_packed(q, k, v, starts, starts, causal=True, sink=sink))
    parts = []
    for rows in (slice(0, 4), slice(4, 9)):
        own = [x[rows].transpose(1, 0, 2).reshape(1, 2, -1, 4) for x in (q, k, v)]
        parts.append(mmk.sum(attention(*own, causal=True, sink=sink)))
    for a, b in zip(
        autograd.grad(total, [q, k, v, sink]), autograd.grad(mmk.add(*parts), [q, k, v, sink]), strict=True
    ):
        assert a is not None and b is not None
        np.testing.assert_allclose(a.data, b.data, rtol=1e-12, atol=1e-14)


# ---- views ----------------------------------------------------------------------------------------------------------


def test_attention_over_time_copies_nothing() -> None:
    """(B, T, rows, columns, H, D) as a view, results too: the bits of a dense copy, no scratch of their size."""
    video = [normal(2, 6, 3, 4, 2, 8, seed=i) for i in range(4)]
    q, k, v, gy = (x.transpose(0, 2, 3, 4, 1, 5) for x in video)
    dense = [np.ascontiguousarray(x).reshape(-1, 2, 6, 8) for x in (q, k, v, gy)]
    y, lse = ATTENTION(*dense[:3], causal=1)
    found = ATTENTION(q, k, v, causal=1)
    assert equal(found, (y.reshape(q.shape), lse.reshape(q.shape[:-1])))
    back = GRAD(*dense[:3], y, lse, dense[3], causal=1)
    assert equal(GRAD(q, k, v, *found, gy, causal=1), tuple(x.reshape(q.shape) for x in back))
    out = np.empty_like(video[0])
    view = out.transpose(0, 2, 3, 4, 1, 5)
    assert attention(q, k, v, causal=True, out=view) is view
    assert equal(view, y.reshape(q.shape))
    large = [np.broadcast_to(x, (64, *x.shape[1:])) for x in (x[:1] for x in video)]
    q, k, v = (np.ascontiguousarray(x).transpose(0, 2, 3, 4, 1, 5) for x in large[:3])
    with threads(1):
        scratch = int(re.findall(r"scratch (\d+) bytes", mmk.plan("attention", q, k, v))[0])
    assert scratch < q.nbytes


def test_one_head_without_a_batch() -> None:
    q, k, v = operands(1, 2, 2, 5, 9, 4, 4)
    assert equal(attention(q[0], k[0], v[0]), attention(q, k, v)[0])


# ---- weights --------------------------------------------------------------------------------------------------------


def test_weights_are_what_values_are_weighed_with() -> None:
    q, k, v = operands(2, 4, 2, 30, 140, 8, 8, "float64")
    options = {**every_option(2, 4, 30, 140, "float64"), "causal": True, "offset": 100, "window": (90, -1)}
    p = attention_weights(q, k, **options)
    assert p.shape == (2, 4, 30, 140)
    np.testing.assert_allclose(p @ np.repeat(v, 2, 1), attention(q, k, v, **options), rtol=0, atol=1e-13)
    assert (p[..., 0] == 0).all()
    plain = attention_weights(q.astype(np.float32), k.astype(np.float32))
    np.testing.assert_allclose(plain.sum(3), 1, rtol=1e-5)


# ---- additive attention ---------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_additive_random_calls(data: st.DataObject) -> None:
    draw = data.draw
    b, tq, tk = draw(st.integers(1, 3)), draw(st.integers(1, 140)), draw(st.integers(0, 140))
    width, columns = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    dtype = draw(st.sampled_from(["float32", "float64"]))
    found: dict[str, Array] = {
        n: normal(*s, seed=i, dtype=dtype)
        for i, (n, s) in enumerate(
            {"q": (b, tq, width), "k": (b, tk, width), "v": (b, tk, columns), "weight": (width,)}.items()
        )
    }
    if draw(st.booleans()):
        shape = (draw(st.sampled_from([1, b])), draw(st.sampled_from([1, tq])), tk)
        found["mask"] = np.random.default_rng(draw(st.integers(0, 99))).random(shape) < draw(
            st.sampled_from([0.1, 0.8])
        )
    case = Case("given", {}, {}, ("mask", "glse"))
    forward, backward = OPERATORS["additive_attention"], OPERATORS["additive_attention_grad"]
    harness.check_against_reference(forward, case, found, dtype)
    y, lse = forward(*found.values())
    found |= {"y": y, "lse": lse, "gy": normal(*y.shape, seed=7, dtype=dtype)}
    harness.check_against_reference(backward, case, {**found, "glse": normal(*lse.shape, dtype=dtype)}, dtype)
    harness.check_against_reference(OPERATORS["additive_attention_weights"], case, found, dtype)


def test_additive_traps() -> None:
    """A row without keys gives 0 (Keras: query_mask); hidden keys may hold NaN (value_mask); weights are softmax's."""
    q, k, v, weight = normal(2, 3, 8), normal(2, 140, 8), normal(2, 140, 5), normal(8)
    mask = np.ones((2, 3, 140), bool)
    mask[0, 1] = False
    mask[:, :, 100:130] = False
    clean = additive_attention(q, k, v, weight, mask, return_lse=True, return_weights=True)
    k[:, 100:130], v[:, 100:130] = np.nan, np.inf
    found = additive_attention(q, k, v, weight, mask, return_lse=True, return_weights=True)
    assert equal(found, clean)
    y, lse, weights = found
    assert not y[0, 1].any() and np.isneginf(lse[0, 1]) and not weights[0, 1].any()
    np.testing.assert_allclose(weights.sum(2)[mask.any(2)], 1, rtol=1e-5)
    decoder = additive_attention(q[:, 2:], k, v, weight, mask[:, 2:])
    assert equal(decoder, y[:, 2:])


def test_additive_memory() -> None:
    """T x T x A floats would be 256 MiB, T x T 1 MiB."""
    q, k, v, weight = normal(1, 512, 256), normal(1, 512, 256), normal(1, 512, 16), normal(256)
    y, lse = OPERATORS["additive_attention"](q, k, v, weight)
    for text in (
        mmk.plan("additive_attention", q, k, v, weight),
        mmk.plan("additive_attention_grad", q, k, v, weight, y, lse, y),
    ):
        assert int(re.findall(r"scratch (\d+) bytes", text)[0]) < 1 << 20, text


def test_scale_of_a_depth_that_is_no_power_of_two() -> None:
    q, k, v = operands(1, 1, 1, 3, 5, 7, 7)
    assert equal(attention(q, k, v, softcap=3.0), attention(q, k, v, softcap=3.0, scale=1 / math.sqrt(7)))


def test_arguments_of_the_wrong_kind() -> None:
    q, bad = normal(1, 1, 2, 4), np.array([1, 2])
    for k in (None, 1.5, np.float32(1), "k", [[1.0]]):
        with pytest.raises(mmk.ContractTypeError, match=r"^attention_weights: k is .*; expected an array"):
            attention_weights(q, k)
    starts = np.array([0, 2])
    with pytest.raises(mmk.ContractTypeError, match=r"^attention: return_lse is .*; expected True or False"):
        attention(q, q, q, return_lse=bad)  # type: ignore[arg-type]
    with pytest.raises(mmk.ContractTypeError, match=r"^attention_packed: return_lse is .*; expected True or False"):
        attention_packed(q[0], q[0], q[0], starts, starts, return_lse=bad)  # type: ignore[arg-type]
    for name in ("return_lse", "return_weights"):
        with pytest.raises(mmk.ContractTypeError, match=rf"^additive_attention: {name} is .*; expected True or False"):
            additive_attention(q[0], q[0], q[0], np.ones(4, np.float32), **{name: bad})  # type: ignore[arg-type]
