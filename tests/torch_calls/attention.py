"""Attention with every option, packed and additive."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import mmkernels as mmk
from mmkernels.ops.attention import additive_attention, attention_packed
from mmkernels.ops.attention import attention as mmk_attention

from .draws import Config, Random, maybe, normal, size

F = torch.nn.functional


def attention(random: Random) -> Config:
    b, kv, group = size(random, 1, 2), size(random, 1, 3), size(random, 1, 3)
    s, t, d, e = size(random, 1, 40), size(random, 1, 150), size(random, 1, 24), size(random, 1, 24)
    q, k, v = normal(random, b, kv * group, s, d), normal(random, b, kv, t, d), normal(random, b, kv, t, e)
    causal = random.random() < 0.3
    mask = None
    if not causal and random.random() < 0.5:
        mask = random.random((b if random.random() < 0.5 else 1, 1, s, t)) < 0.7
        mask[..., 0, :] = False  # a row that sees nothing: 0, and gradient 0, in both
    scale = float(random.uniform(0.1, 1.0))
    return ([q, k, v, mask], lambda q, k, v, m: mmk.attention(q, k, v, m, causal=causal, scale=scale),
            lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m, is_causal=causal, scale=scale, enable_gqa=True),
            "attention", {"causal": int(causal), "scale": scale})  # fmt: skip


def attention_options(random: Random) -> Config:
    """Every option with any other, as masks and biases built from their formulas."""
    b, kv, group = size(random, 1, 3), size(random, 1, 2), size(random, 1, 3)
    h, s, t, d, e = kv * group, size(random, 1, 60), size(random, 1, 150), size(random, 1, 24), size(random, 1, 24)
    causal, scale = size(random, 0, 2), float(random.uniform(0.1, 1.0))
    window = (size(random, -1, 80), size(random, -1, 80)) if random.random() < 0.5 else (-1, -1)
    softcap = float(random.uniform(0.5, 5)) if random.random() < 0.4 else 0.0
    a = {"causal": causal, "scale": scale, "window": window, "softcap": softcap}
    key_lengths = maybe(random, random.integers(0, t + 1, b))
    query_lengths = maybe(random, random.integers(0, s + 1, b))
    offset = maybe(random, random.integers(-s, t + 1, b)) if causal != 2 else None
    operands = [
        normal(random, b, h, s, d), normal(random, b, kv, t, d), normal(random, b, kv, t, e),
        maybe(random, random.random((size(random, 0, 1) * (b - 1) + 1, 1, s, t)) < 0.8), maybe(random, normal(random, 1, h, s, t)),
        maybe(random, normal(random, h)), maybe(random, np.abs(normal(random, b, h)) / 8),
        maybe(random, normal(random, h, 2 * size(random, 0, 30) + 1)), offset, key_lengths, query_lengths,
    ]  # fmt: skip

    def theirs(q: Any, k: Any, v: Any, mask: Any, bias: Any, sink: Any, slopes: Any, table: Any, *integers: Any) -> Any:
        first, keys, queries = integers
        keys = torch.full((b,), t) if keys is None else keys
        queries = torch.full((b,), s) if queries is None else queries
        if first is None:
            first = keys - queries if causal == 2 else torch.zeros(b, dtype=torch.int64)
        j = torch.arange(t)
        distance = j - (first[:, None] + torch.arange(s))[:, :, None]
        seen = (j < keys[:, None, None]) & (torch.arange(s)[None, :, None] < queries[:, None, None])
        seen = seen & ((distance <= 0) if causal else torch.ones(1, dtype=torch.bool))
        seen = (
            seen
            & (distance >= -window[0] if window[0] >= 0 else True)
            & (distance <= window[1] if window[1] >= 0 else True)
        )
        seen = seen[:, None] & (True if mask is None else mask)
        added = torch.zeros(b, h, s, t, dtype=torch.float64) if bias is None else bias.expand(b, h, s, t)
        if slopes is not None:
            added = added - slopes.detach()[:, :, None, None] * distance[:, None].abs()
        if table is not None:
            radius = table.shape[1] // 2
            added = added + table[:, distance.clamp(-radius, radius) + radius].transpose(0, 1)
        added = added.masked_fill(~seen, -math.inf)
        if sink is not None:  # a key of zeros, whose score is the sink, and whose value is zero
            added = torch.cat([added, sink[:, None, None].expand(b, h, s, 1)], 3)
            k, v = (torch.cat([x, torch.zeros(b, kv, 1, x.shape[3], dtype=x.dtype)], 2) for x in (k, v))
        if not softcap:
            return F.scaled_dot_product_attention(q, k, v, added, scale=scale, enable_gqa=True)
        k, v = (x.repeat_interleave(group, 1) for x in (k, v))
        scores = softcap * torch.tanh(q @ k.transpose(2, 3) * (scale / softcap)) + added
        alive = (added > -math.inf).any(3, keepdim=True)
        return torch.softmax(scores.masked_fill(~alive, 0.0), 3).masked_fill(~alive, 0.0) @ v

    def ours(q: Any, k: Any, v: Any, mask: Any, bias: Any, sink: Any, slopes: Any, *rest: Any) -> Any:
        names = ("table", "offset", "key_lengths", "query_lengths")
        slopes = None if slopes is None else slopes.detach()
        causal_name = (False, "top-left", "bottom-right")[causal]
        return mmk_attention(q, k, v, mask, bias=bias, sink=sink, slopes=slopes, **dict(zip(names, rest, strict=True)),
                             **{**a, "causal": causal_name})  # fmt: skip

    return operands, ours, theirs, "attention", a


def packed(random: Random) -> Config:
    lengths = [(size(random, 0, 40), size(random, 0, 150)) for _ in range(size(random, 1, 4))]
    starts = [np.cumsum([0, *(x[i] for x in lengths)]) for i in (0, 1)]
    kv, d, causal, scale = size(random, 1, 2), size(random, 1, 16), size(random, 0, 2), float(random.uniform(0.1, 1.0))
    h = kv * size(random, 1, 2)
    operands = [normal(random, starts[0][-1], h, d), normal(random, starts[1][-1], kv, d), normal(random, starts[1][-1], kv, 5),
                *starts]  # fmt: skip

    def theirs(q: Any, k: Any, v: Any, query_starts: Any, key_starts: Any) -> Any:
        ys, lses = [], []
        for i in range(len(lengths)):
            rows, others = slice(*query_starts[i : i + 2].tolist()), slice(*key_starts[i : i + 2].tolist())
            a, b, c = (
                x.transpose(0, 1)[None].repeat_interleave(h // x.shape[1], 1) for x in (q[rows], k[others], v[others])
            )
            sq, sk = a.shape[2], b.shape[2]
            last = torch.arange(sq)[:, None] + (sk - sq if causal == 2 else 0)
            seen = torch.arange(sk) <= (last if causal else sk)
            ys.append(F.scaled_dot_product_attention(a, b, c, seen.expand(sq, sk), scale=scale)[0].transpose(0, 1))
            lses.append(torch.logsumexp((a @ b.transpose(2, 3) * scale).masked_fill(~seen, -math.inf), 3)[0])
        return torch.cat(ys), torch.cat(lses, 1)

    def ours(*given: Any) -> Any:
        return attention_packed(*given, causal=(False, "top-left", "bottom-right")[causal], scale=scale)  # type: ignore[arg-type]

    return operands, ours, theirs, "attention_packed", {"causal": causal, "scale": scale}


def additive(random: Random) -> Config:
    b, s, t, a, e = (
        size(random, 1, 3),
        size(random, 1, 20),
        size(random, 1, 150),
        size(random, 1, 40),
        size(random, 1, 20),
    )
    mask = maybe(random, random.random((b, size(random, 0, 1) * (s - 1) + 1, t)) < 0.7)
    if mask is not None:
        mask[..., 0] = True

    def theirs(q: Any, k: Any, v: Any, weight: Any, mask: Any) -> Any:
        scores = torch.tanh(q[:, :, None] + k[:, None]) @ weight
        scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)
        return torch.softmax(scores, 2) @ v, torch.logsumexp(scores, 2)

    operands = [normal(random, b, s, a), normal(random, b, t, a), normal(random, b, t, e), normal(random, a), mask]
    return operands, additive_attention, theirs, "additive_attention", {}


JUDGED: dict[str, Callable[[Random], Config]] = {
    "attention": attention, "attention options": attention_options, "attention packed": packed,
    "additive attention": additive,
}  # fmt: skip
