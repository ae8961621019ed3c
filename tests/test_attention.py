"""Attention against its reference, and the promises that attention is known to break elsewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
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
from mmkernels.ops.attention import attention
from mmkernels.verify import instruction_set, run

Array = NDArray[Any]
ATTENTION, GRAD, BIAS_GRAD = (OPERATORS[n] for n in ("attention", "attention_grad", "attention_bias_grad"))
TABLE_GRAD, SINK_GRAD = OPERATORS["attention_table_grad"], OPERATORS["attention_sink_grad"]


def normal(*shape: int, seed: int = 0, dtype: str = "float32") -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def operands(b: int, h: int, hkv: int, sq: int, sk: int, d: int, dv: int, dtype: str = "float32") -> list[Array]:
    shapes = ((b, h, sq, d), (b, hkv, sk, d), (b, hkv, sk, dv))
    return [normal(*s, seed=i, dtype=dtype) for i, s in enumerate(shapes)]


def gradients(q: Array, k: Array, v: Array, gy: Array, mask: Any = None, bias: Any = None, **attributes: Any) -> Any:
    y, lse = ATTENTION(q, k, v, mask, bias, **attributes)
    return GRAD(q, k, v, y, lse, gy, mask, bias, None, **attributes)


def equal(a: Any, b: Any) -> bool:
    return harness.same_bits(tuple(a) if isinstance(a, tuple) else (a,), tuple(b) if isinstance(b, tuple) else (b,))


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = mmk.get_num_threads()
    mmk.set_num_threads(n)
    try:
        yield
    finally:
        mmk.set_num_threads(before)


def check(
    q: Array,
    k: Array,
    v: Array,
    mask: Any = None,
    bias: Any = None,
    *,
    sink: Any = None,
    causal: int = 0,
    scale: float | None = None,
    window: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    **options: Any,
) -> tuple[Array, Array]:
    """Forward and gradients of this call, within the contracts' bounds of the reference."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    attributes = {"causal": causal, "scale": scale, "window": window, "softcap": softcap}
    given = {"q": q, "k": k, "v": v, "mask": mask, "bias": bias, "sink": sink, **options}
    found = {n: x for n, x in given.items() if x is not None}
    case = Case("given", {}, attributes, tuple(found))
    dtype = str(q.dtype)
    harness.check_against_reference(ATTENTION, case, found, dtype)
    y, lse = run(ATTENTION, case, found)
    gy, glse = normal(*y.shape, seed=7, dtype=dtype), normal(*lse.shape, seed=8, dtype=dtype)
    found |= {"y": y, "lse": lse, "gy": gy, "glse": glse}
    backward = Case("given", {}, attributes, tuple(found))
    for operator in (GRAD, BIAS_GRAD, *([TABLE_GRAD] if "table" in found else [])):
        harness.check_against_reference(operator, backward, found, dtype)
    if sink is not None:
        harness.check_against_reference(SINK_GRAD, Case("given", {}, {}, ("glse",)), found, dtype)
    return y, lse


def relaid(x: Array, how: str) -> Array:
    """The same values, elsewhere in memory: heads inside, reversed, or with gaps."""
    if how == "heads inside":
        return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    if how == "reversed":
        return np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1]
    return harness.strided(x) if how == "gaps" else x


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_random_calls(data: st.DataObject) -> None:
    draw = data.draw
    key_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    b, sq, sk = draw(st.integers(1, 2)), draw(st.integers(1, 70)), draw(st.integers(0, 150))
    d, dv = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    dtype = draw(st.sampled_from(["float32", "float64"]))
    layout = st.sampled_from(["dense", "heads inside", "reversed", "gaps"])
    q, k, v = (relaid(x, draw(layout)) for x in operands(b, key_heads * group, key_heads, sq, sk, d, dv, dtype))

    def grid() -> tuple[int, ...]:
        return (*(draw(st.sampled_from([1, n])) for n in (b, key_heads * group, sq)), sk)

    seed = draw(st.integers(0, 2**32 - 1))
    share = draw(st.sampled_from([0.05, 0.5, 0.99]))
    mask = np.random.default_rng(seed).random(grid()) < share if draw(st.booleans()) else None
    bias = normal(*grid(), seed=seed, dtype=dtype) if draw(st.booleans()) else None
    scale = draw(st.one_of(st.none(), st.floats(-0.5, 0.5)))
    check(q, k, v, mask, bias, causal=draw(st.integers(0, 2)), scale=scale)


@pytest.mark.parametrize("d", [1, 8, 40, 59, 80, 96, 111, 160, 192, 224, 256, 512])
def test_head_dimensions(d: int) -> None:
    check(*operands(1, 1, 1, 9, 19, d, d), causal=1)


@pytest.mark.parametrize(
    ("sq", "sk", "causal"),
    [(1, 1, 0), (1, 77, 0), (40, 1, 1), (9, 5, 1), (9, 5, 2), (5, 9, 1), (5, 9, 2), (64, 64, 1), (192, 192, 2),
     (49, 257, 2), (130, 128, 1)],
)  # fmt: skip
def test_lengths(sq: int, sk: int, causal: int) -> None:
    check(*operands(1, 2, 1, sq, sk, 16, 16), causal=causal)


@pytest.mark.parametrize(
    "extents", [(0, 2, 2, 3, 5, 4, 4), (2, 0, 3, 3, 5, 4, 4), (2, 2, 1, 0, 5, 4, 4), (2, 2, 1, 3, 5, 4, 0)], ids=str
)
@pytest.mark.parametrize("n", [1, 3])
def test_empty_extents(extents: tuple[int, ...], n: int) -> None:
    """Keys that no query reads have gradients of zero, however their memory looked before."""
    q, k, v = operands(*extents)
    with threads(n):
        y, lse = ATTENTION(q, k, v)
        gq, gk, gv = gradients(q, k, v, y)
    assert y.shape == (*q.shape[:3], v.shape[3])
    assert lse.shape == q.shape[:3]
    assert (gq.shape, gk.shape, gv.shape) == (q.shape, k.shape, v.shape)
    assert not gq.any()
    assert not gk.any()
    assert not gv.any()
    if lse.size:
        assert equal(lse, ATTENTION(q, k, np.ones_like(k))[1])


@pytest.mark.parametrize("sk", [7, 63, 129])
def test_bias_of_any_length(sk: int) -> None:
    check(*operands(2, 2, 2, 17, sk, 8, 8), None, normal(1, 2, 17, sk, seed=3))


def test_half_a_block_with_a_mask_and_small_lse() -> None:
    """Sk % 128 == 64, a mask and lse below -88.7: p = exp(s - lse) must not overflow on its way."""
    q, k, v = operands(1, 2, 2, 64, 192, 16, 16)
    mask = np.random.default_rng(0).random((1, 1, 64, 192)) < 0.5
    y, lse = check(q, k, v, mask, np.full((1, 1, 1, 192), -100, np.float32))
    assert lse.max() < -88.7
    assert np.abs(y).max() > 0.1


def test_one_query_and_lse_of_minus_122() -> None:
    q, k, v = operands(1, 1, 1, 1, 64, 32, 32)
    _, lse = check(q, k, v, None, np.full((1, 1, 1, 64), -126, np.float32))
    assert -123 < lse[0, 0, 0] < -120


def test_as_many_heads_as_a_grid_has_blocks() -> None:
    q, k, v = operands(4096, 16, 16, 2, 3, 1, 2)
    y, lse = ATTENTION(q, k, v)
    p = np.exp(q.astype(np.float64) @ k.swapaxes(2, 3))
    np.testing.assert_allclose(y, p / p.sum(3, keepdims=True) @ v, rtol=0, atol=2e-6)
    np.testing.assert_allclose(lse, np.log(p.sum(3)), rtol=0, atol=3e-6)
    assert equal(ATTENTION(q[-1:, -1:], k[-1:, -1:], v[-1:, -1:])[0], y[-1:, -1:])


@pytest.mark.parametrize("group", [1, 2, 3, 4, 8, 16])
def test_grouped_queries_are_repeated_keys(group: int) -> None:
    q, k, v = operands(2, 2 * group, 2, 7, 9, 8, 4)
    wide = [np.repeat(x, group, 1) for x in (k, v)]
    assert equal(ATTENTION(q, k, v), ATTENTION(q, *wide))
    check(q, k, v)


# ---- the same bits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_decoding_gives_the_bits_of_prefill(dtype: str) -> None:
    q, k, v = operands(2, 4, 2, 300, 300, 24, 24, dtype)
    y, lse = ATTENTION(q, k, v, causal="top-left")
    for i in (0, 1, 15, 47, 48, 126, 127, 128, 200, 255, 256, 299):
        one = ATTENTION(q[:, :, i : i + 1], k[:, :, : i + 1], v[:, :, : i + 1], causal="bottom-right")
        assert equal(one, (y[:, :, i : i + 1], lse[:, :, i : i + 1])), i
    for begin, end in ((0, 50), (50, 131), (131, 300)):
        part = ATTENTION(q[:, :, begin:end], k[:, :, :end], v[:, :, :end], causal="bottom-right")
        assert equal(part, (y[:, :, begin:end], lse[:, :, begin:end]))


def test_keys_behind_the_last_visible_one_are_free() -> None:
    q, k, v = operands(1, 2, 2, 20, 300, 8, 8)
    mask = np.arange(300) < 140
    wide = ATTENTION(q, k, v, mask[None, None, None])
    assert equal(wide, ATTENTION(q, k[:, :, :140], v[:, :, :140]))


def test_a_batch_is_its_samples() -> None:
    q, k, v = operands(5, 4, 2, 61, 140, 20, 12)
    gy = normal(5, 4, 61, 12)
    mask = np.random.default_rng(0).random((5, 1, 61, 140)) < 0.6
    y, lse = ATTENTION(q, k, v, mask, causal=2)
    g = gradients(q, k, v, gy, mask, causal=2)
    for b in range(5):
        s = slice(b, b + 1)
        assert equal(ATTENTION(q[s], k[s], v[s], mask[s], causal=2), (y[s], lse[s]))
        assert equal(gradients(q[s], k[s], v[s], gy[s], mask[s], causal=2), tuple(x[s] for x in g))
    for kh in range(2):
        h = slice(2 * kh, 2 * kh + 2)
        alone = (q[:, h], k[:, kh : kh + 1], v[:, kh : kh + 1])
        assert equal(ATTENTION(*alone, mask, causal=2), (y[:, h], lse[:, h]))
        expected = (g[0][:, h], g[1][:, kh : kh + 1], g[2][:, kh : kh + 1])
        assert equal(gradients(*alone, gy[:, h], mask, causal=2), expected)


def test_rows_do_not_know_their_neighbours() -> None:
    q, k, v = operands(1, 1, 1, 120, 150, 19, 23)
    mask = np.random.default_rng(1).random((1, 1, 120, 150)) < 0.3
    bias = normal(1, 1, 120, 150, seed=5)
    y, lse = ATTENTION(q, k, v, mask, bias)
    for rows in ([3], [119, 0, 64], list(range(1, 120, 2)), list(range(47, 50))):
        found = ATTENTION(q[:, :, rows], k, v, mask[:, :, rows], bias[:, :, rows])
        assert equal(found, (y[:, :, rows], lse[:, :, rows]))


@pytest.mark.parametrize(("key_heads", "causal"), [(1, 0), (1, 2), (3, 1)])
def test_threads_and_passes_change_no_bit(key_heads: int, causal: int) -> None:
    """One thread owns whole heads in one pass; several share few heads in two passes."""
    q, k, v = operands(1, 2 * key_heads, key_heads, 110, 270, 24, 40)
    gy, mask = normal(1, 2 * key_heads, 110, 40), np.random.default_rng(0).random((1, 1, 1, 270)) < 0.8
    y, lse = ATTENTION(q, k, v, mask, causal=causal)
    plans, results = set(), []
    for n in (1, 2, 3, 7):
        with threads(n):
            results.append((*ATTENTION(q, k, v, mask, causal=causal), *gradients(q, k, v, gy, mask, causal=causal)))
            text = mmk.plan("attention_grad", q, k, v, y, lse, gy, mask, causal=causal)
            plans.update(re.findall("one pass|two passes", text))
    assert plans == {"one pass", "two passes"}
    assert all(equal(r, results[0]) for r in results)


def test_instruction_sets_change_no_bit() -> None:
    q, k, v = operands(1, 2, 1, 51, 131, 19, 35)
    gy, mask = normal(1, 2, 51, 35), np.random.default_rng(0).random((1, 1, 51, 131)) < 0.9
    results = []
    for isa in _core.available_isas():
        with instruction_set(isa):
            results.append((*ATTENTION(q, k, v, mask, causal=2), *gradients(q, k, v, gy, mask, causal=2)))
    assert all(equal(r, results[0]) for r in results)


# ---- hidden keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1000.0])
@pytest.mark.parametrize("hidden_by", ["mask", "key mask", "top-left"])
def test_hidden_keys_poison_nothing(hidden_by: str, poison: float) -> None:
    q, k, v = operands(2, 2, 2, 37, 140, 20, 24)
    gy = normal(2, 2, 37, 24)
    if hidden_by == "top-left":
        mask, causal, unseen = None, 1, np.broadcast_to(np.arange(140) >= 37, (2, 140))
    else:
        shape = (2, 1, 37 if hidden_by == "mask" else 1, 140)
        mask, causal = np.random.default_rng(2).random(shape) < 0.5, 0
        mask[..., 20:30] = False
        unseen = ~mask.any((1, 2))
    assert unseen.any()
    clean = (ATTENTION(q, k, v, mask, causal=causal), gradients(q, k, v, gy, mask, causal=causal))
    for b in range(2):
        k[b, :, unseen[b]] = poison
        v[b, :, unseen[b]] = poison
    assert equal(ATTENTION(q, k, v, mask, causal=causal), clean[0])
    found = gradients(q, k, v, gy, mask, causal=causal)
    assert equal(found, clean[1])
    for b in range(2):
        assert not found[1][b, :, unseen[b]].any()
        assert not found[2][b, :, unseen[b]].any()


def test_a_key_that_some_queries_see() -> None:
    """NaN in a key or value reaches exactly the rows that see it; NaN in a row's gradient exactly its keys."""
    q, k, v = operands(1, 1, 1, 70, 70, 8, 8)
    gy = normal(1, 1, 70, 8)
    mask = np.random.default_rng(3).random((1, 1, 70, 70)) < 0.5
    clean, g = ATTENTION(q, k, v, mask), gradients(q, k, v, gy, mask)
    sees = mask[0, 0, :, 33]
    for x in (k, v):
        before = x[0, 0, 33, 5]
        x[0, 0, 33, 5] = np.nan
        y, _ = ATTENTION(q, k, v, mask)
        assert np.array_equal(np.isnan(y[0, 0]).any(1), sees)
        assert equal(y[0, 0][~sees], clean[0][0, 0][~sees])
        x[0, 0, 33, 5] = before
    gy[0, 0, 11] = np.nan
    found = gradients(q, k, v, gy, mask)
    seen_by_row = mask[0, 0, 11]
    for x, wanted in ((found[1], g[1]), (found[2], g[2])):
        assert np.array_equal(np.isnan(x[0, 0]).all(1), seen_by_row)
        assert equal(x[0, 0][~seen_by_row], wanted[0, 0][~seen_by_row])
    assert np.array_equal(np.isnan(found[0][0, 0]).all(1), np.arange(70) == 11)


@pytest.mark.parametrize("hidden_by", ["mask", "bias", "bottom-right"])
def test_rows_without_keys(hidden_by: str) -> None:
    q, k, v = operands(1, 2, 1, 50, 20, 8, 12)
    empty = np.zeros(50, bool)
    mask = bias = None
    causal = 0
    if hidden_by == "bottom-right":
        empty[:30], causal = True, 2
    else:
        empty[[0, 7, 48, 49]] = True
        if hidden_by == "mask":
            mask = np.broadcast_to(~empty[:, None], (1, 1, 50, 20))
        else:
            bias = np.broadcast_to(np.where(empty[:, None], np.float32(-np.inf), np.float32(0)), (1, 1, 50, 20))
    gy = normal(1, 2, 50, 12)
    y, lse = ATTENTION(q, k, v, mask, bias, causal=causal)
    assert not y[:, :, empty].any()
    assert np.array_equal(np.isneginf(lse), np.broadcast_to(empty, (1, 2, 50)))
    g = gradients(q, k, v, gy, mask, bias, causal=causal)
    assert not g[0][:, :, empty].any()
    alive = ~empty
    some = (None if mask is None else mask[:, :, alive], None if bias is None else bias[:, :, alive])
    if causal == 0:
        assert equal(ATTENTION(q[:, :, alive], k, v, *some)[0], y[:, :, alive])
    gy[:, :, empty] = np.nan
    if bias is None:  # a key under a bias of -inf is seen: a NaN score stays NaN
        q[:, :, empty] = np.nan
    assert equal(gradients(q, k, v, gy, mask, bias, causal=causal), g)


def test_nan_query_is_seen() -> None:
    q, k, v = operands(1, 1, 1, 5, 9, 4, 4)
    q[0, 0, 2, 1] = np.nan
    y, lse = ATTENTION(q, k, v)
    assert np.array_equal(np.isnan(y[0, 0]).all(1), np.arange(5) == 2)
    assert np.array_equal(np.isnan(lse[0, 0]), np.arange(5) == 2)


def test_two_equal_maxima() -> None:
    q = np.full((1, 1, 1, 4), 30, np.float32)
    k = np.ones((1, 1, 2, 4), np.float32)
    v = np.array([[1, 2], [3, 6]], np.float32)[None, None]
    y, lse = ATTENTION(q, k, v)
    assert y[0, 0, 0].tolist() == [2, 4]
    assert lse[0, 0, 0] == np.float32(60 + math.log(2))


def test_large_scores_do_not_overflow() -> None:
    q, k, v = operands(1, 1, 1, 20, 300, 16, 16)
    y, lse = ATTENTION(q * np.float32(300), k, v)
    assert np.isfinite(y).all()
    assert np.isfinite(lse).all()
    assert np.abs(y).max() <= np.abs(v).max() * np.float32(1.000001)


# ---- the public function --------------------------------------------------------------------------------------------


def test_causal_names() -> None:
    q, k, v = operands(1, 1, 1, 4, 6, 8, 8)
    top, bottom = attention(q, k, v, causal="top-left"), attention(q, k, v, causal="bottom-right")
    rows = np.arange(4)[:, None]
    assert equal(attention(q, k, v, causal=True), top)
    assert equal(attention(q, k, v, (np.arange(6) <= rows)[None, None]), top)
    assert equal(attention(q, k, v, (np.arange(6) <= rows + 2)[None, None]), bottom)
    assert equal(attention(q, k, v, causal=False), attention(q, k, v))
    assert equal(attention(q[:, :, :4], k[:, :, :4], v[:, :, :4], causal="bottom-right"), top)
    with pytest.raises(mmk.ContractError, match="causal is 'left'; expected False, True, 'top-left' or 'bottom-right'"):
        attention(q, k, v, causal="left")  # type: ignore[arg-type]


def test_results_and_out() -> None:
    q, k, v = operands(1, 2, 1, 3, 5, 8, 6)
    y, lse = attention(q, k, v, return_lse=True)
    assert y.shape == (1, 2, 3, 6)
    assert lse.shape == (1, 2, 3)
    assert equal(attention(q, k, v), y)
    out = np.empty_like(y)
    assert attention(q, k, v, out=out) is out
    assert equal(out, y)
    assert equal(attention(q, k, v, scale=1 / math.sqrt(8)), y)
    with pytest.raises(mmk.ContractTypeError, match=r"^attention: out= was given one array; expected a tuple of 2"):
        attention(q, k, v, return_lse=True, out=out)
    both = np.empty_like(y), np.empty_like(lse)
    assert attention(q, k, v, return_lse=True, out=both)[1] is both[1]
    assert equal(both[0], y) and equal(both[1], lse)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"window": (3, -2)}, r"attention: window is \(3, -2\); expected two lengths, -1 if open"),
        ({"window": 3}, r"attention: window is 3; expected 2 numbers"),
        ({"softcap": -30.0}, r"attention: softcap is -30.0; expected 0 or more"),
        (
            {"offset": 1, "causal": "bottom-right"},
            r"attention: causal is 2, bottom-right; expected 0 or 1 beside offset",
        ),
        ({"key_lengths": np.array([6])}, r"attention: key_lengths.flat\[0\] is 6; expected 0 <= value < Sk \+ 1 = 6"),
        ({"table": np.ones((2, 4), np.float32)}, r"attention: table.shape\[1\] is 4; expected an odd number"),
        ({"sink": np.ones(3, np.float32)}, r"attention: sink.shape\[0\] is 3; expected H = 2"),
        ({"mask": np.ones((1, 1, 3, 1), bool)}, r"attention: mask.shape\[3\] is 1; expected Sk = 5"),
        ({"mask": np.ones((3, 5), bool)}, r"attention: mask has 2 extents \(3, 5\); expected 3 or more: \*B H Sq Sk"),
        ({"mask": np.ones((1, 1, 3, 5), np.float32)}, r"attention: mask.dtype is float32; expected bool"),
        ({"bias": np.ones((1, 1, 3, 5))}, r"attention: bias.dtype is float64; expected float32, as q has"),
        ({"scale": "big"}, r"attention: scale is 'big'; expected a number"),
    ],
)
def test_errors(changed: dict[str, Any], text: str) -> None:
    q, k, v = operands(1, 2, 2, 3, 5, 8, 6)
    with pytest.raises((mmk.ContractError, mmk.ContractTypeError), match=text):
        attention(q, k, v, **changed)


def test_gradients_through_lse_alone() -> None:
    """d lse / d score is the softmax."""
    q, k, v = operands(1, 1, 1, 3, 5, 4, 4, "float64")
    variables = [autograd.Variable(x, requires_grad=True) for x in (q, k, v)]
    _, lse = attention(*variables, return_lse=True)
    gq, gk, gv = autograd.grad(mmk.sum(lse), variables)
    p = np.exp(q @ k.swapaxes(2, 3) / 2)
    p /= p.sum(3, keepdims=True)
    assert gq is not None
    assert gk is not None
    assert gv is not None
    np.testing.assert_allclose(gq.data, p @ k / 2, rtol=1e-12)
    np.testing.assert_allclose(gk.data, p.swapaxes(2, 3) @ q / 2, rtol=1e-12)
    assert not gv.data.any()


def test_without_lse_the_tape_computes_it_again() -> None:
    q, k, v = operands(1, 1, 1, 3, 5, 4, 4)
    found = []
    for keep in (True, False):
        variables = [autograd.Variable(x, requires_grad=True) for x in (q, k, v)]
        result = ATTENTION(*variables, return_lse=keep)
        y = result[0] if keep else result
        found.append(tuple(g.data for g in autograd.grad(mmk.sum(y), variables) if g is not None))
    assert len(found[0]) == 3
    assert equal(*found)


def test_second_derivatives_are_refused() -> None:
    variables = [autograd.Variable(x, requires_grad=True) for x in operands(1, 1, 1, 3, 5, 4, 4)]
    first = autograd.grad(mmk.sum(attention(*variables)), variables, create_graph=True)
    assert first[0] is not None
    with pytest.raises(NotImplementedError, match="attention_grad: no gradient is defined for"):
        autograd.grad(mmk.sum(first[0]), variables)


def test_memory_does_not_grow_with_the_square() -> None:
    """Scratch of one head at S = 4096: S x S floats would be 64 MiB, S x D is 0.25 MiB; a broadcast mask is no copy."""
    q, k, v = operands(1, 1, 1, 4096, 4096, 16, 16)
    mask = np.broadcast_to(np.arange(4096) < 4000, (1, 1, 1, 4096))
    with threads(2):
        y, lse = ATTENTION(q, k, v, mask)
        for text in (mmk.plan("attention", q, k, v, mask), mmk.plan("attention_grad", q, k, v, y, lse, y, mask)):
            scratch = int(re.findall(r"scratch (\d+) bytes", text)[0])
            assert scratch < 4 << 20, text
