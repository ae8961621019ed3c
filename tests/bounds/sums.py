"""Single operations, sums and sums of products."""

from __future__ import annotations

import numpy as np

from .call import Array, Call, long_sum_depth


def exact(call: Call) -> list[Array]:
    return [np.zeros(np.shape(y)) for y in call.results]


def elementwise(call: Call) -> list[Array]:
    return [2 * call.ulp * call.unit * np.abs(y) for y in call.results]


def sum(call: Call) -> list[Array]:
    depth = long_sum_depth(call.depth) * call.unit
    return [
        depth * m + 2 * call.ulp * call.unit * np.abs(y) for m, y in zip(call.magnitude(), call.results, strict=True)
    ]


def dot(call: Call) -> list[Array]:
    """Chunked products, `depth` roundings on the longest path; a fused activation passes errors on with a slope of at
    most 1.13 (GELU's)."""
    fused = call.attributes.get("activation") is not None
    terms = call.magnitude(activation=None) if fused else call.magnitude()
    scale = (1.13 if fused else 1.0) * call.depth * call.unit
    return [scale * m + 2 * call.ulp * call.unit * np.abs(y) for m, y in zip(terms, call.results, strict=True)]


def terms(call: Call) -> list[Array]:
    """A sum in whose every term at most `depth` roundings take part."""
    return [call.depth * call.unit * m for m in call.magnitude()]


def cancelling(call: Call) -> list[Array]:
    """A function of each element whose factors' errors do not shrink where they cancel: relative to its value, or to
    that at the absolute operands, where nothing cancels, whichever is larger."""
    return [
        2 * call.ulp * call.unit * np.maximum(np.abs(m), np.abs(y))
        for m, y in zip(call.magnitude(), call.results, strict=True)
    ]


def chain(call: Call) -> list[Array]:
    """Terms added one after another: depth of them at most."""
    scale, rounding = call.depth * call.unit, 2 * call.ulp * call.unit
    return [scale * np.abs(m) + rounding * np.abs(y) for m, y in zip(call.magnitude(), call.results, strict=True)]


def tensor_dot(call: Call) -> list[Array]:
    """Products of 16-bit numbers or of TF32 (which the reference rounds to), exact in float32, added by tensor cores, g
    products at a time and the sum before them (16 bits: g is 8 on sm_80, 16 on sm_90; TF32: half of that). Addends are
    cut off 24 fraction bits or more below the largest: each loses at most 2^-24 of the sum of absolute terms, and the
    rounded sum, cut off too, 2^-23. A group loses g + 3 units, at most 1.75 for each of its products; in any other
    order an addition that is cut off loses two units. So two units for each product hold for every device and for
    slices of a long sum, whose additions are far fewer. `depth` is that of the chunked product (dot_depth), from which
    the number of products is bounded."""
    products = call.depth if call.depth <= 258 else 256 * (call.depth - 258)
    fused = call.attributes.get("activation") is not None
    terms = call.magnitude(activation=None) if fused else call.magnitude()
    scale = (1.13 if fused else 1.0) * 2 * (products + 3) * call.unit
    return [scale * m + 2 * call.ulp * call.unit * np.abs(y) for m, y in zip(terms, call.results, strict=True)]
