"""Sums of bilinear samples: the products' chains, the samples' own roundings, and positions that are rounded.

A position of size s is rounded by at most u * s (attention: once, after an exact product), so a sample, which is
continuous and piecewise linear, moves by at most the sum of its slopes times that: each slope is at most twice the
largest element of the plane. A slope moves by the difference of two slopes. Positions next to a whole number, where
slopes jump, are not drawn."""

from __future__ import annotations

import numpy as np

from reference import deform as reference

from .call import Array, Call, long_sum_depth

SAMPLE = 8  # roundings of a sample: fraction, two weights, their product, four terms
SLOPE = 6


def _unit_positions(call: Call, height: int, width: int) -> float:
    """How far rounding moves a position that is inside, along both axes together."""
    return call.unit * (height + width + 2)


def _columns_bound(
    call: Call, x: Array, offset: Array, mask: Array | None, kernel: tuple[int, int]
) -> tuple[Array, Array]:
    """Of mask * sample: its magnitude, and how far it may be off, [N, C, tap, P, Q]."""
    geometry = {k: call.attributes[k] for k in ("stride", "padding", "dilation")}
    at = reference.positions(offset, kernel, **geometry)
    size = reference.sampled(np.abs(x), *at, None if mask is None else np.abs(mask))
    if x.size == 0:
        return size, size
    most = np.max(np.abs(x), axis=(2, 3))[:, :, None, None, None]
    moved = 2 * most * _unit_positions(call, *x.shape[2:])
    if mask is not None:
        sets = at[0].shape[1]
        moved = moved * np.repeat(np.abs(mask).reshape(*at[0].shape), x.shape[1] // sets, 1)
    return size, (SAMPLE + 1) * call.unit * size + moved


def deform_conv2d(call: Call) -> list[Array]:
    x, offset, weight, bias, mask = call.operands
    assert x is not None and offset is not None and weight is not None
    K, D, R, S = weight.shape
    groups = x.shape[1] // D
    size, error = _columns_bound(call, x, offset, mask, (R, S))
    N, _, _, P, Q = size.shape

    def products(columns: Array) -> Array:
        matrices = np.abs(weight).reshape(groups, K // groups, D * R * S)
        return (matrices @ columns.reshape(N, groups, D * R * S, P * Q)).reshape(N, K, P, Q)

    terms = products(size)
    whole = terms if bias is None else terms + np.abs(bias)[:, None, None]
    scale = 1.13 if call.attributes.get("activation") is not None else 1.0
    limit = scale * (call.depth * call.unit * whole + products(error))
    return [limit + 2 * call.ulp * call.unit * np.abs(call.results[0])]


def deform_weight(call: Call) -> list[Array]:
    x, offset, gy, mask = call.operands
    assert x is not None and offset is not None and gy is not None
    R, S = call.attributes["kernel"]
    groups = call.attributes["groups"]
    size, error = _columns_bound(call, x, offset, mask, (R, S))
    N, K, P, Q = gy.shape
    columns = (call.depth * call.unit * size + error).reshape(N, groups, x.shape[1] // groups * R * S, P * Q)
    total = np.abs(gy).reshape(N, groups, K // groups, P * Q) @ np.swapaxes(columns, 2, 3)
    return [np.sum(total, axis=0).reshape(call.results[0].shape)]


def deform_input(call: Call) -> list[Array]:
    """`depth` counts the roundings of z and of the chain over samples; a corner's weight, at most 1, is off by what a
    position is."""
    gy, offset, weight, mask = call.operands
    assert gy is not None and offset is not None and weight is not None
    operands = (np.abs(gy), offset, np.abs(weight), None if mask is None else np.abs(mask))
    terms = reference.deform_conv2d_input_grad(*operands, **call.attributes)
    reached = reference.deform_conv2d_input_grad(*operands, **call.attributes, hats=False)
    moved = _unit_positions(call, call.attributes["height"], call.attributes["width"])
    return [(call.depth + 5) * call.unit * terms + moved * reached]


def deform_offset(call: Call) -> list[Array]:
    x, offset, weight, gy, mask = call.operands
    assert x is not None and offset is not None and weight is not None and gy is not None
    N, C = x.shape[:2]
    _, D, R, S = weight.shape
    geometry = {k: call.attributes[k] for k in ("stride", "padding", "dilation")}
    at = reference.positions(offset, (R, S), **geometry)
    sets = at[0].shape[1]
    z = reference.pulled_back(np.abs(gy), np.abs(weight), C // D).reshape(N, sets, C // sets, *at[0].shape[2:])
    if x.size == 0 or gy.size == 0:
        return [np.zeros(y.shape) for y in call.results]
    most = np.max(np.abs(x), axis=(2, 3)).reshape(N, sets, C // sets, 1, 1, 1)
    depth = call.depth + long_sum_depth(C // sets) + 2
    moved = _unit_positions(call, *x.shape[2:])
    slope = np.sum(z * most, axis=2) * (2 * (depth + SLOPE) * call.unit + 4 * moved)
    sampled = np.sum(z * most, axis=2) * ((depth + SAMPLE) * call.unit + 2 * moved)
    if mask is not None:
        slope = slope * np.abs(mask).reshape(slope.shape)
    limits = [np.repeat(slope[:, :, :, None], 2, 3).reshape(offset.shape)]
    return [*limits, sampled.reshape(mask.shape)] if mask is not None else limits


def deform_mask(call: Call) -> list[Array]:
    x, offset, weight, gy = call.operands
    ones = np.ones(call.results[0].shape)
    whole = Call(
        [x, offset, weight, gy, ones], call.attributes, call.names, call.reference, [np.zeros(0), ones], call.unit,
        call.depth, call.ulp,
    )  # fmt: skip
    return deform_offset(whole)[1:] if call.results[0].size else [ones]


# ---- attention: the same, level by level ----------------------------------------------------------------------------


def _levels(call: Call, locations: Array) -> list[tuple[int, int, int, Array, Array]]:
    return reference.level_places(locations, call.attributes["spatial_shapes"])


def ms_attention(call: Call) -> list[Array]:
    value, locations, weights = call.operands
    assert value is not None and locations is not None and weights is not None
    attributes = call.attributes
    terms = reference.ms_deform_attention(np.abs(value), locations, np.abs(weights), **attributes)
    moved = np.zeros((value.shape[0], locations.shape[1], value.shape[2], value.shape[3]))
    for level, (start, rows, columns, *_) in enumerate(_levels(call, locations)):
        most = np.max(np.abs(value[:, start : start + rows * columns]), axis=1, initial=0)  # B, H, D
        share = np.sum(np.abs(weights[:, :, :, level]), axis=-1)  # B, Q, H
        moved = moved + 2 * _unit_positions(call, rows, columns) * share[..., None] * most[:, None]
    return [(call.depth + SAMPLE) * call.unit * terms + moved.reshape(terms.shape)]


def ms_value(call: Call) -> list[Array]:
    gy, locations, weights = call.operands
    assert gy is not None and locations is not None and weights is not None
    operands = (np.abs(gy), locations, np.abs(weights))
    terms = reference.ms_deform_attention_value_grad(*operands, **call.attributes)
    reached = reference.ms_deform_attention_value_grad(*operands, **call.attributes, hats=False)
    moved = np.zeros(terms.shape)
    for start, rows, columns, *_ in _levels(call, locations):
        part = slice(start, start + rows * columns)
        moved[:, part] = _unit_positions(call, rows, columns) * reached[:, part]
    return [(call.depth + 5) * call.unit * terms + moved]


def ms_points(call: Call) -> list[Array]:
    value, locations, weights, gy = call.operands
    assert value is not None and locations is not None and weights is not None and gy is not None
    B, _, H, D = value.shape
    g = np.abs(gy).reshape(B, locations.shape[1], H, D)
    depth = long_sum_depth(D) + 4
    moved_locations, moved_weights = np.zeros(locations.shape), np.zeros(weights.shape)
    for level, (start, rows, columns, *_) in enumerate(_levels(call, locations)):
        most = np.max(np.abs(value[:, start : start + rows * columns]), axis=1, initial=0)  # B, H, D
        reached = np.sum(g * most[:, None], axis=-1)[..., None]  # B, Q, H, 1
        moved = _unit_positions(call, rows, columns)
        slope = reached * (2 * (depth + SLOPE) * call.unit + 4 * moved) * np.abs(weights[:, :, :, level])
        for axis, extent in enumerate((columns, rows)):
            moved_locations[:, :, :, level, :, axis] = slope * extent
        moved_weights[:, :, :, level] = reached * ((depth + SAMPLE) * call.unit + 2 * moved)
    return [moved_locations, moved_weights]


def ms_weights(call: Call) -> list[Array]:
    value, locations, gy = call.operands
    ones = np.ones(call.results[0].shape)
    whole = Call(
        [value, locations, ones, gy], call.attributes, call.names, call.reference, [], call.unit, call.depth, call.ulp
    )
    return ms_points(whole)[1:]
