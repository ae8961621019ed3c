"""Means over regions. Positions are rounded too: an error d of a sample's position moves what it sees by d times the
slope between neighbours, or moves a share d of its gradient from one element to the next."""

from __future__ import annotations

import numpy as np

from reference import roi as reference

from .call import Array, Call, as_tuple


def _boxes(call: Call) -> Array:
    """The operand that is neither a map nor what was chosen."""
    return next(o for o in call.operands if o is not None and o.ndim == 2)


def _magnitude(call: Call) -> list[Array]:
    """The reference on absolute maps, whose boxes stay where they are."""
    absolute = [np.abs(o) if o is not None and o.ndim == 4 and o.dtype.kind == "f" else o for o in call.operands]
    return as_tuple(call.reference(*absolute, **call.attributes))


def _position_errors(call: Call) -> tuple[Array, Array]:
    """Of each region's samples, along y and x: with A the largest position and the length of a region, the corner has
    two roundings of A, the length five with those of both corners, and a bin's share of it seven more."""
    boxes, scales = _boxes(call), call.attributes.get("spatial_scales", call.attributes.get("spatial_scale"))
    corners = np.abs(boxes[:, 1:5]) * np.max(scales) + 1
    corners = np.where(np.isfinite(corners), corners, 0)
    return tuple(14 * call.unit * (corners[:, i] + corners[:, i + 2]) for i in (1, 0))  # type: ignore[return-value]


def region_means(call: Call) -> list[Array]:
    """Roundings of the weighted sum, and the positions' errors by the largest slope of the map."""
    maps, (rows, columns) = [o for o in call.operands if o is not None and o.ndim == 4], _position_errors(call)
    slope = max(2 * float(np.max(np.abs(x), initial=0)) for x in maps if x.dtype.kind == "f")
    moved = ((rows + columns) * slope)[:, None, None, None]
    return [call.depth * call.unit * m + moved for m in _magnitude(call)]


def region_shares(call: Call) -> list[Array]:
    """Roundings of the sum, and for each bin that has samples within a pixel of an element, the share of those that
    positions' errors can move."""
    gy, boxes = call.operands[0], _boxes(call)
    assert gy is not None
    a, (rows, columns) = call.attributes, _position_errors(call)
    results = []
    for k, m in enumerate(_magnitude(call)):
        moved = np.zeros_like(m)
        scale = a["spatial_scales"][k] if "spatial_scales" in a else a["spatial_scale"]
        for r, (number, x1, y1, x2, y2) in enumerate(boxes):
            n = reference.image_of(number, len(m))
            if n < 0:
                continue
            near = []
            for low, high, bins, extent in ((y1, y2, gy.shape[2], m.shape[2]), (x1, x2, gy.shape[3], m.shape[3])):
                if "sampling_ratio" in a:
                    aligned = a.get("aligned", True)
                    at = reference.positions(low, high, bins, scale, a["sampling_ratio"], aligned)
                    at = np.clip(at, 0, max(extent - 1, 0))[:, :, None]
                    near.append(np.mean(np.abs(at - np.arange(extent)) < 1.01, axis=1) if at.size else 0 * at[:, 0])
                else:
                    near.append(np.ones((bins, extent)))
            if near[0].shape[1] != m.shape[2] or near[1].shape[1] != m.shape[3]:
                continue
            gradient = np.abs(gy[r])
            if m.shape[1] != gy.shape[1]:  # a map for every channel and bin
                planes = gradient[..., None, None] * near[0][:, None, :, None] * near[1][None, :, None, :]
                moved[n] += (rows[r] + columns[r]) * planes.reshape(m.shape[1:])
            else:
                moved[n] += (rows[r] + columns[r]) * np.einsum("cpq,ph,qw->chw", gradient, *near)
        results.append(call.depth * call.unit * m + moved)
    return results


def _turned_errors(call: Call) -> Array:
    """Of a rotated region's samples, along either axis: with A the centre's and the sides' sum, seven roundings on the
    way to a sample of the region, the angle's three (it is below 8 in radians) and sine's and cosine's two, and four of
    the turn."""
    boxes = _boxes(call)
    sizes = np.sum(np.abs(boxes[:, 1:5]), axis=1) * call.attributes["spatial_scale"] + 1
    return 40 * call.unit * np.where(np.isfinite(sizes), sizes, 0)  # type: ignore[no-any-return]


def rotated_means(call: Call) -> list[Array]:
    x = call.operands[0]
    assert x is not None
    moved = (2 * _turned_errors(call) * 2 * np.max(np.abs(x), initial=0))[:, None, None, None]
    return [call.depth * call.unit * m + moved for m in _magnitude(call)]


def rotated_shares(call: Call) -> list[Array]:
    """Every sample of a bin may be near an element."""
    gy, boxes = call.operands[:2]
    assert gy is not None and boxes is not None
    (m,) = _magnitude(call)
    moved = np.zeros_like(m)
    for r, error in enumerate(2 * _turned_errors(call)):
        n = reference.image_of(boxes[r, 0], len(m))
        if n >= 0:
            moved[n] += (error * np.sum(np.abs(gy[r]), axis=(1, 2)))[:, None, None]
    return [call.depth * call.unit * m + moved]
