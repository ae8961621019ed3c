"""What tests/test_laws.py does not say of convolutions: random geometry, semantics, kernels against each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import mmkernels as mmk
from harness import channels_last, fortran, strided
from mmkernels import _core, autograd
from mmkernels.operator import OPERATORS
from mmkernels.ops import conv
from mmkernels.ops.conv import conv2d, conv_transpose2d
from mmkernels.verify import instruction_set
from reference import conv as reference

Array = NDArray[Any]

input_grad, weight_grad = OPERATORS["conv2d_input_grad"], OPERATORS["conv2d_weight_grad"]


def normal(shape: tuple[int, ...], seed: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def close(found: Array, wide: Array, magnitude: Array, depth: int) -> None:
    """A dot product's bound: a chain of at most 256, the chunks, bias and residual; and the activation's roundings."""
    unit = float(np.finfo(found.dtype).eps) / 2
    limit = 1.01 * unit * (1.13 * (min(depth, 256) + depth // 128 + 3) * magnitude + 8 * np.abs(wide)) + 1e-300
    assert found.shape == wide.shape
    assert (np.abs(found - wide) <= limit).all()


OTHERS = ["conv1d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]


@st.composite
def other_geometries(draw: st.DrawFn) -> dict[str, Any]:
    """A convolution of another number of dimensions, or a transposed one: operator, extents, plain attributes."""
    name = draw(st.sampled_from(OTHERS))
    dims, groups = int(name[-2]), draw(st.integers(1, 3))
    most = {1: 40, 2: 10, 3: 5}[dims]

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    kernel, stride, dilation = each(1, 4), each(1, 3), each(1, 3)
    padding = tuple(draw(st.integers(0, 3)) for _ in range(2 * dims))
    sides = list(zip(padding[::2], padding[1::2], strict=True))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    attributes: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if "transpose" in name:
        more = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
        attributes["output_padding"] = more
        least = [  # so that the result has no negative extent
            1 + max(0, -(-(a + b - r - m) // s)) for (a, b), r, m, s in zip(sides, reach, more, stride, strict=True)
        ]
    else:
        least = [max(1, r - a - b) for r, (a, b) in zip(reach, sides, strict=True)]
    channels, outputs = groups * draw(st.integers(1, 4)), groups * draw(st.sampled_from([1, 2, 5, 9, 17, 33]))
    return {
        "name": name, "attributes": attributes,
        "x": (draw(st.integers(1, 2)), channels, *(n + draw(st.integers(0, most)) for n in least)),
        "weight": (channels, outputs // groups, *kernel) if "transpose" in name else (
            outputs, channels // groups, *kernel),
        "activation": draw(st.sampled_from([None, None, "relu", "silu", "gelu"])), "bias": draw(st.booleans()),
        "layout": draw(st.sampled_from([np.ascontiguousarray, fortran, strided, channels_last])),
        "dtype": draw(st.sampled_from([np.float32, np.float64])), "seed": draw(st.integers(0, 2**30)),
    }  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(other_geometries())
def test_random_geometry_in_other_dimensions(g: dict[str, Any]) -> None:
    """Results against the reference; gradients of float64 against those of the plain scalar product."""
    name, a, dtype, seed = g["name"], g["attributes"], g["dtype"], g["seed"]
    wide = np.float64 if dtype == np.float32 else np.longdouble
    x, weight = g["layout"](normal(g["x"], seed, dtype)), g["layout"](normal(g["weight"], seed + 1, dtype))
    operator, judge = OPERATORS[name], getattr(reference, name)
    filters = weight.shape[1] * a["groups"] if "transpose" in name else weight.shape[0]
    bias = normal((filters,), seed + 2, dtype) if g["bias"] else None
    found = operator(x, weight, bias, activation=g["activation"], **a)
    given_ = [None if o is None else o.astype(wide) for o in (x, weight, bias)]
    exact = judge(*given_, activation=g["activation"], **a)
    most = judge(*(None if o is None else np.abs(o) for o in given_), activation=None, **a)
    close(found, exact, most, weight.size // (a["groups"] if "transpose" in name else weight.shape[0]))

    variables = [autograd.Variable(o.astype(np.float64), requires_grad=True) for o in (x, weight)]
    y = operator(*variables, **a)
    gy = normal(y.shape, seed + 3, np.float64)
    gradients = autograd.grad(y, variables, autograd.Variable(gy))
    # y is linear in each operand: <gy, y(x, w)> is its derivative along itself
    for operand, gradient in zip((x, weight), gradients, strict=True):
        assert gradient.shape == operand.shape
        total = float((y.data * gy).sum())
        size = float((np.abs(judge(np.abs(x), np.abs(weight), **a)) * np.abs(gy)).sum())
        assert abs(float((gradient.data * operand).sum()) - total) <= 1e-12 * (1 + size)


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    """A convolution that exists, small enough for a reference."""
    groups = draw(st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 5)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    padding = draw(st.tuples(*[st.integers(0, 4)] * 4))
    least = [
        max(1, d * (k - 1) + 1 - a - b)
        for d, k, a, b in zip(dilation, kernel, padding[::2], padding[1::2], strict=True)
    ]
    return {
        "x": (draw(st.integers(1, 3)), groups * draw(st.integers(1, 4)),
              least[0] + draw(st.integers(0, 8)), least[1] + draw(st.integers(0, 20))),
        "outputs": groups * draw(st.sampled_from([1, 2, 3, 5, 8, 9, 16, 17, 33])),
        "kernel": kernel, "stride": stride, "dilation": dilation, "padding": padding, "groups": groups,
        "activation": draw(st.sampled_from([None, None, "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu"])),
        "bias": draw(st.booleans()), "residual": draw(st.booleans()),
        "layout": draw(st.sampled_from([np.ascontiguousarray, fortran, strided, channels_last])),
        "dtype": draw(st.sampled_from([np.float32, np.float64])), "seed": draw(st.integers(0, 2**30)),
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(geometries())
def test_random_geometry(g: dict[str, Any]) -> None:
    dtype, layout, seed = g["dtype"], g["layout"], g["seed"]
    wide = np.float64 if dtype == np.float32 else np.longdouble
    geometry = {k: g[k] for k in ("stride", "padding", "dilation", "groups")}
    x = layout(normal(g["x"], seed, dtype))
    weight = layout(normal((g["outputs"], g["x"][1] // g["groups"], *g["kernel"]), seed + 1, dtype))
    plain = reference.conv2d(x.astype(wide), weight.astype(wide), activation=None, **geometry)
    bias = normal((g["outputs"],), seed + 2, dtype) if g["bias"] else None
    residual = layout(normal(plain.shape, seed + 3, dtype)) if g["residual"] else None

    def widen(a: Array | None) -> Array | None:
        return None if a is None else a.astype(wide)

    def size(a: Array | None) -> Array | None:
        return None if a is None else np.abs(a).astype(wide)

    found = conv2d(x, weight, bias, g["stride"], (g["padding"][:2], g["padding"][2:]), g["dilation"], g["groups"],
                   activation=g["activation"], residual=residual)  # fmt: skip
    exact = reference.conv2d(
        widen(x), widen(weight), widen(bias), widen(residual), activation=g["activation"], **geometry
    )
    most = reference.conv2d(size(x), size(weight), size(bias), size(residual), activation=None, **geometry)
    close(found, exact, most, weight[0].size)

    gy = layout(normal(plain.shape, seed + 4, dtype))
    more = {**geometry, "height": x.shape[2], "width": x.shape[3]}
    close(
        input_grad(gy, weight, **more), reference.conv2d_input_grad(widen(gy), widen(weight), **more),
        reference.conv2d_input_grad(size(gy), size(weight), **more), weight[:, 0].size // g["groups"],
    )  # fmt: skip
    more = {**geometry, "kernel": g["kernel"]}
    close(
        weight_grad(x, gy, **more), reference.conv2d_weight_grad(widen(x), widen(gy), **more),
        reference.conv2d_weight_grad(size(x), size(gy), **more), gy[:, 0].size,
    )  # fmt: skip


def test_worked_example() -> None:
    x = np.array([[9, 4, 1, 2, 2], [1, 1, 1, 0, 4], [1, 2, 1, 0, 6], [1, 0, 0, 2, 2], [9, 6, 7, 4, 4]], np.float32)
    weight = np.array([[0, 2, 1], [4, 1, 0], [1, 0, 1]], np.float32)
    assert conv2d(x[None, None], weight[None, None])[0, 0, 0, 0] == 16


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("columns", range(1, 42))
def test_every_tile(isa: str, columns: int) -> None:
    """Integers small enough that every order of summation is exact: whatever tiles are chosen, no row is lost."""
    draw = np.random.default_rng(columns)
    x = draw.integers(-4, 5, (1, 3, 2, columns)).astype(np.float32)
    with instruction_set(isa):
        for outputs in (1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 33):
            weight = draw.integers(-4, 5, (outputs, 3, 2, 1)).astype(np.float32)
            wanted = np.einsum("kcr,ncrq->nkq", weight[..., 0], x)[:, :, None]
            assert (conv2d(x, weight) == wanted).all()
            sums = np.einsum("nkq,ncrq->kcr", wanted[:, :, 0], x)[..., None]
            assert (weight_grad(x, wanted, kernel=(2, 1)) == sums).all()


def chain(products: Array, chunk: int) -> np.float32:
    """The definition: chains of fma from +0 over chunks, then the chunks in order, then + 0."""
    total: Any = None
    for begin in range(0, len(products), chunk):
        sum = np.float32(0)
        for a, b in products[begin : begin + chunk]:
            # a double holds the product; the sum of two doubles, rounded twice, is right here unless it lies on a tie
            sum = np.float32(float(a) * float(b) + float(sum))
        total = sum if total is None else np.float32(total + sum)
    return np.float32(total + np.float32(0))


@pytest.mark.parametrize("outputs", [3, 20])
def test_order_of_the_definition(outputs: int) -> None:
    """Chunks of whole channels: 28 of them with 9 taps each. Lanes along pixels and along outputs agree."""
    x, weight = normal((1, 60, 4, 5), 0), normal((outputs, 60, 3, 3), 1)
    y = conv2d(x, weight, padding=1)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for k, p, q in ((0, 0, 0), (1, 2, 3), (2, 3, 4)):
        window = padded[0, :, p : p + 3, q : q + 3].reshape(-1)
        assert y[0, k, p, q] == chain(np.stack([window, weight[k].reshape(-1)], 1), 28 * 9)
    gy = normal((1, 40, 4, 5), 2)
    weight = normal((40, outputs, 3, 3), 3)
    gx = input_grad(gy, weight, height=4, width=5, padding=(1, 1, 1, 1))
    around = np.pad(gy, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for c, h, w in ((0, 0, 0), (2, 1, 2)):
        window = around[0, :, h : h + 3, w : w + 3][:, ::-1, ::-1].reshape(-1)
        assert gx[0, c, h, w] == chain(np.stack([window, weight[:, c].reshape(-1)], 1), 28 * 9)
    x, gy = normal((3, 2, 11, 13), 4), normal((3, outputs, 11, 13), 5)
    pairs = np.stack([x[:, 1].reshape(-1), gy[:, 2].reshape(-1)], 1)
    assert weight_grad(x, gy, kernel=(1, 1))[2, 1, 0, 0] == chain(pairs, 256)


def test_a_filter_does_not_depend_on_its_neighbours() -> None:
    """Few filters and many take different kernels; each filter's result has the same bits."""
    x, weight = normal((2, 30, 7, 9), 0), normal((40, 30, 3, 3), 1)
    whole = conv2d(x, weight, stride=2, padding=1)
    for part in (slice(0, 1), slice(3, 8), slice(8, 25)):
        assert (conv2d(x, weight[part], stride=2, padding=1) == whole[:, part]).all()


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("channels", [5, 16, 70])
def test_weight_gradients_by_every_kernel(isa: str, channels: int) -> None:
    """Few filters, many, and groups of one channel each: every weight's gradient has the same bits."""
    geometry = {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 0, 1, 1)}
    x, gy = normal((3, channels, 13, 10), 0), normal((3, 20, 6, 11), 1)
    with instruction_set(isa):
        whole = weight_grad(x, gy, **geometry)
        for part in (slice(0, 1), slice(4, 7), slice(7, 11)):
            assert (weight_grad(x, gy[:, part], **geometry) == whole[part]).all()
        groups = min(channels, 20)
        single = weight_grad(x[:, :groups], gy[:, :groups], groups=groups, **geometry)
        assert (single[:, 0] == whole[range(groups), range(groups)]).all()


def test_groups_are_convolutions_of_their_own() -> None:
    x, weight = normal((2, 12, 6, 6), 0), normal((30, 4, 3, 3), 1)
    whole = conv2d(x, weight, groups=3)
    parts = [conv2d(x[:, 4 * g : 4 * g + 4], weight[10 * g : 10 * g + 10]) for g in range(3)]
    assert (whole == np.concatenate(parts, 1)).all()


def test_a_batch_is_its_samples() -> None:
    x, weight, gy = normal((5, 20, 8, 8), 0), normal((24, 20, 3, 3), 1), normal((5, 24, 8, 8), 2)
    y = conv2d(x, weight, padding=1, activation="silu")
    geometry = {"height": 8, "width": 8, "padding": (1, 1, 1, 1)}
    gx = input_grad(gy, weight, **geometry)
    for i in range(5):
        assert (conv2d(x[i : i + 1], weight, padding=1, activation="silu") == y[i : i + 1]).all()
        assert (input_grad(gy[i : i + 1], weight, **geometry) == gx[i : i + 1]).all()


@pytest.mark.parametrize("outputs", [3, 19])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu"])
def test_fused_is_the_composition(activation: str | None, outputs: int) -> None:
    """Bit for bit; the activation alone is a convolution with the identity, whose sums are exact."""
    x, weight = normal((2, 5, 6, 7), 0), normal((outputs, 5, 3, 3), 1)
    bias, residual = normal((outputs,), 2), normal((2, outputs, 6, 7), 3)
    fused = conv2d(x, weight, bias, padding=1, activation=activation, residual=residual)
    plain = mmk.add(mmk.add(conv2d(x, weight, padding=1), bias[:, None, None]), residual)
    identity = np.eye(outputs, dtype=np.float32)[:, :, None, None]
    assert (fused == conv2d(plain, identity, activation=activation)).all()


def test_padding_forms() -> None:
    x, weight = normal((1, 2, 6, 9), 0), normal((3, 2, 2, 4), 1)

    def same(a: Any, b: Any) -> bool:
        found, wanted = (conv2d(x, weight, padding=padding, dilation=(1, 2)) for padding in (a, b))
        return bool((found == wanted).all())

    assert same("valid", 0) and same(2, (2, 2)) and same((1, 2), ((1, 1), (2, 2)))
    assert same(((0, 1), (3, 2)), (0, 1, 3, 2))
    assert same("same", ((0, 1), (3, 3)))  # the odd row goes to the end
    assert conv2d(x, weight, padding="same", dilation=(1, 2)).shape == (1, 3, 6, 9)


def test_zeros_of_the_border_meet_the_weights() -> None:
    """0 * inf is NaN on the border of conv2d; in the input gradient the border takes no part."""
    x, weight = np.ones((1, 1, 3, 3), np.float32), np.ones((1, 1, 3, 3), np.float32)
    for value in (np.inf, np.nan):
        weight[0, 0, 0, 0] = value
        y = conv2d(x, weight, padding=1)[0, 0]
        assert np.isnan(y[0]).all() and np.isnan(y[:, 0]).all()
        assert (np.isinf if value == np.inf else np.isnan)(y[1:, 1:]).all()
        gx = input_grad(x, weight, height=3, width=3, padding=(1, 1, 1, 1))[0, 0]
        assert np.isfinite(gx[2]).all() and np.isfinite(gx[:, 2]).all() and not np.isfinite(gx[:2, :2]).any()
        # no residue of a stride meets a tap that it does not have
        gx = input_grad(x, weight, height=6, width=6, stride=(2, 2), padding=(1, 0, 1, 0))[0, 0]
        assert (~np.isfinite(gx)).sum() == 4


def test_weights_that_are_not_finite_change_no_other_channel() -> None:
    """The kernel for such weights gives the bits of the others."""
    gy, weight = normal((2, 40, 5, 6), 0), normal((40, 11, 3, 2), 1)
    geometry = {"height": 9, "width": 13, "stride": (2, 2), "padding": (1, 1, 0, 0)}
    before = input_grad(gy, weight, **geometry)
    weight[7, 10, 1, 1] = np.nan
    after = input_grad(gy, weight, **geometry)
    assert (after[:, :10] == before[:, :10]).all() and np.isnan(after[:, 10]).any()


def test_no_negative_zero() -> None:
    """-0 + 0 is +0: a sum that begins with +0, and the last addition."""
    x, weight = np.full((1, 2, 3, 3), -0.0, np.float32), np.ones((9, 2, 1, 1), np.float32)
    for y in (conv2d(x, weight), conv2d(x, weight[:2]), input_grad(x, weight[:2], height=3, width=3),
              weight_grad(x, np.ones((1, 3, 3, 3), np.float32), kernel=(1, 1))):  # fmt: skip
        assert not np.signbit(y).any()
    assert np.signbit(conv2d(x, weight, residual=conv2d(x, -weight) - np.float32(1e-38))).all()


def test_no_channels_no_samples() -> None:
    bias = np.array([1, -2], np.float32)
    y = conv2d(np.empty((2, 0, 3, 3), np.float32), np.empty((2, 0, 2, 2), np.float32), bias, activation="relu")
    assert y.shape == (2, 2, 2, 2) and (y[:, 0] == 1).all() and (y[:, 1] == 0).all()
    none = weight_grad(np.empty((0, 3, 4, 4), np.float32), np.empty((0, 5, 3, 3), np.float32), kernel=(2, 2))
    assert none.shape == (5, 3, 2, 2) and (none == 0).all()
    one = np.ones((1, 1, 1, 1), np.float32)
    far = input_grad(one, one, height=3, width=3, stride=(3, 3))
    assert far[0, 0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_channels_last() -> None:
    x, weight = normal((2, 5, 6, 7), 0), normal((9, 5, 3, 3), 1)
    y = conv2d(channels_last(x), channels_last(weight), residual=normal((2, 9, 4, 5), 2))
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    assert (y == conv2d(x, weight, residual=normal((2, 9, 4, 5), 2))).all()


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"groups": 2}, "conv2d: groups is 2; expected a divisor of C = 3"),
        ({"groups": 3, "weight": (4, 1, 3, 3)}, "conv2d: groups is 3; expected a divisor of K = 4"),
        ({"groups": 0}, "conv2d: groups is 0; expected 1 or more"),
        ({"weight": (4, 2, 3, 3)}, r"conv2d: weight.shape\[1\] is 2; expected C // groups = 3"),
        ({"weight": (4, 3, 9, 3)}, "conv2d: the kernel 9 x 3 with dilation .1, 1. is larger than the input 6 x 6 with"),
        ({"weight": (4, 3, 0, 3)}, "conv2d: the kernel is 0 x 3; expected 1 x 1 or more"),
        ({"padding": -1}, "conv2d: padding is .-1, -1, -1, -1.; expected 0 or more"),
        ({"padding": (1, 2, 3)}, "conv2d: padding is .1, 2, 3.; expected one integer"),
        ({"padding": "full"}, "conv2d: padding is 'full'; expected 'same', 'valid' or numbers"),
        ({"padding": "same", "stride": 2}, "conv2d: padding is 'same' and stride is .2, 2.; expected stride 1"),
        ({"stride": 0}, "conv2d: stride is .0, 0.; expected 1 or more"),
        ({"stride": (1, 2, 3)}, "conv2d: stride is .1, 2, 3.; expected one integer, or two"),
        ({"dilation": (1, 0)}, "conv2d: dilation is .1, 0.; expected 1 or more"),
        ({"activation": "swish"}, "conv2d: activation is 'swish'; expected one of None, 'relu'"),
        ({"algorithm": "fft"}, "conv2d: algorithm is 'fft'; expected None, 'direct' or 'tf32'"),
        ({"x": (3, 6, 6)}, "conv2d: x has 3 extents .* expected 4: N C H W"),
        ({"residual": (2, 4, 6, 6)}, r"conv2d: residual.shape\[2\] is 6; expected P = 4"),
        ({"bias": (3,)}, r"conv2d: bias.shape\[0\] is 3; expected K = 4"),
    ],
)
def test_errors(changed: dict[str, Any], text: str) -> None:
    shapes = {"x": (2, 3, 6, 6), "weight": (4, 3, 3, 3)}
    arguments: dict[str, Any] = {**shapes, **changed}
    for name in ("x", "weight", "bias", "residual"):
        if name in arguments:
            arguments[name] = np.zeros(arguments[name], np.float32)
    with pytest.raises(mmk.ContractError, match="^" + text):
        conv2d(**arguments)


def test_dimensions_share_their_bits() -> None:
    """A sequence is an image of one row, an image a volume of one slice: same bits, and a slice at a time for windows
    of one slice."""
    x, weight = normal((2, 6, 3, 5, 7), 0), normal((20, 3, 1, 3, 2), 1)
    attributes: dict[str, Any] = {"stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2), "groups": 2}
    front = {"stride": (1,), "padding": (0, 0), "dilation": (1,)}
    found = OPERATORS["conv3d"](x, weight, groups=2, **{k: v + attributes[k] for k, v in front.items()})
    for d in range(3):
        image = OPERATORS["conv2d"](x[:, :, d], weight[:, :, 0], **attributes)
        assert (found[:, :, d] == image).all()
    line = conv.conv1d(x[:, :, 0, 0], weight[:, :, 0, 0], groups=2, padding=(1, 0), activation="gelu")
    image = conv2d(x[:, :, 0, :1], weight[:, :, 0, :1], groups=2, padding=(0, 0, 1, 0), activation="gelu")
    assert (line == image[:, :, 0]).all()
    line = conv.conv_transpose1d(x[:, :, 0, 0], weight[:6, :, 0, 0], None, 3, 1, 2, 2)
    image = conv_transpose2d(x[:, :, 0, :1], weight[:6, :, 0, :1], None, (1, 3), (0, 1), (0, 2), 2)
    volume = conv.conv_transpose3d(x[:, :, :1, :1], weight[:6, :, :, :1], None, (1, 1, 3), (0, 0, 1), (0, 0, 2), 2)
    assert (line == image[:, :, 0]).all() and (line == volume[:, :, 0, 0]).all()


def test_transposed_is_the_input_gradient() -> None:
    """Bit for bit, whatever is fused: bias and activation come after the sum."""
    x, weight, bias = normal((2, 20, 4, 5), 0), normal((20, 17, 3, 4), 1), normal((17,), 2)
    a: dict[str, Any] = {"stride": (2, 3), "padding": (1, 0, 2, 1), "dilation": (1, 2)}
    y = OPERATORS["conv_transpose2d"](x, weight, bias, activation="silu", **a)
    gradient = input_grad(x, weight, height=y.shape[2], width=y.shape[3], **a)
    assert (y == mmk.silu(mmk.add(gradient, bias[:, None, None]))).all()
    for value in (np.inf, np.nan):  # taps that meet no element take no part, as in the gradient
        weight[3, 2, 0, 1] = value
        y = OPERATORS["conv_transpose2d"](x, weight, bias, **a)
        gradient = mmk.add(input_grad(x, weight, height=y.shape[2], width=y.shape[3], **a), bias[:, None, None])
        assert (np.isnan(y) == np.isnan(gradient)).all() and not np.isfinite(y[:, 2]).all()
        assert (y[np.isfinite(y)] == gradient[np.isfinite(y)]).all() and np.isfinite(np.delete(y, 2, 1)).all()


def test_panels_of_different_widths_at_the_same_time() -> None:
    """Two threads pack 32 and 8 filters, each in scratch memory of its own."""
    x, weight = normal((1, 400, 2, 3), 0), normal((400, 40, 4, 4), 1)
    threads = mmk.get_num_threads()
    try:
        mmk.set_num_threads(1)
        wanted = conv_transpose2d(x, weight, None, 2)
        mmk.set_num_threads(2)
        for _ in range(10):
            assert (conv_transpose2d(x, weight, None, 2) == wanted).all()
    finally:
        mmk.set_num_threads(threads)


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("outputs", [3, 40])
def test_a_single_input_is_multiplied_by_no_zeros(stride: int, outputs: int) -> None:
    """The bits of an image in which it stands alone."""
    x, weight, bias = normal((2, 70, 1, 1), 0), normal((70, outputs, 4, 5), 1), normal((outputs,), 2)
    alone = np.zeros((2, 70, 2, 3), np.float32)
    alone[:, :, :1, :1] = x
    for padding, dilation in ((0, 1), (1, 2)):
        y = conv_transpose2d(x, weight, bias, stride, padding, 0, 1, dilation)
        wanted = conv_transpose2d(alone, weight, bias, stride, padding, 0, 1, dilation)
        assert (y == wanted[:, :, : y.shape[2], : y.shape[3]]).all()


def test_output_padding() -> None:
    """More elements at the end: those that a larger result has there, and the bias where no tap reaches."""
    x, weight, bias = normal((1, 2, 3, 3), 0), normal((2, 3, 2, 2), 1), normal((3,), 2)
    y = conv_transpose2d(x, weight, bias, 3, 0, (2, 1))
    assert y.shape == (1, 3, 10, 9)
    assert (y[..., 8:, :] == bias[:, None, None]).all() and (y[..., 8] == bias[:, None]).all()
    assert (y[:, :, :8, :8] == conv_transpose2d(x, weight, bias, 3)).all()
    cut, whole = conv_transpose2d(x, weight, bias, 3, 1, 2), conv_transpose2d(x, weight, bias, 3, 0, 2)
    assert (cut == whole[:, :, 1:-1, 1:-1]).all()
    # stride 1 with a dilation, as torch allows it, more than the border cuts off: the gradient's border is cut, too
    one = autograd.Variable(np.ones((1, 1, 1, 1)), requires_grad=True)
    y = conv_transpose2d(one, np.ones((1, 1, 1, 2)), None, 1, ((1, 0), (1, 0)), (2, 2), 1, 3)
    assert y.shape == (1, 1, 2, 5)
    (gradient,) = autograd.grad(mmk.sum(y), [one])
    assert gradient.data.item() == 0 and (y.data == 0).all()


@pytest.mark.parametrize("operator", ["conv1d", "conv_transpose1d"])
def test_long_sequences(operator: str) -> None:
    """Rows are cut into segments where lanes lie along them; integers: every order is exact."""
    draw = np.random.default_rng(0)
    x = draw.integers(-4, 5, (1, 2, 3001)).astype(np.float32)
    weight = draw.integers(-4, 5, (2, 2, 3)).astype(np.float32)
    found, wide = (
        f(x, weight, padding=(1,) * 2, stride=(2,), dilation=(1,), groups=1, **more)
        for f, more in (
            (OPERATORS[operator], {}),
            (getattr(reference, operator), {"output_padding": (0,)} if "transpose" in operator else {}),
        )
    )
    assert (found == wide).all()


def test_padding_forms_in_other_dimensions() -> None:
    x, weight = normal((1, 2, 9), 0), normal((3, 2, 4), 1)
    same = conv.conv1d(x, weight, padding="same")
    assert same.shape == (1, 3, 9) and (same == conv.conv1d(x, weight, padding=((1, 2),))).all()
    assert (same == conv.conv1d(x, weight, padding=(1, 2))).all()
    assert (conv.conv1d(x, weight, padding=(2,)) == conv.conv1d(x, weight, padding=2)).all()
    x, weight = normal((1, 2, 3, 4, 5), 0), normal((3, 2, 2, 3, 1), 1)
    same = conv.conv3d(x, weight, padding="same")
    assert same.shape == (1, 3, 3, 4, 5) and (same == conv.conv3d(x, weight, padding=((0, 1), (1, 1), (0, 0)))).all()
    assert (same == conv.conv3d(x, weight, padding=(0, 1, 1, 1, 0, 0))).all()
    assert conv.conv3d(x, weight, padding=(1, 0, 2)).shape == (1, 3, 4, 2, 9)
    assert conv.conv_transpose3d(x, weight.swapaxes(0, 1), padding="same").shape == (1, 3, 3, 4, 5)


@pytest.mark.parametrize(
    ("name", "changed", "text"),
    [
        ("conv1d", {"x": (1, 3, 6, 6)}, r"conv1d: x has 4 extents \(1, 3, 6, 6\); expected 3: N C W"),
        ("conv1d", {"stride": (1, 2)}, r"conv1d: stride is .1, 2.; expected one integer$"),
        ("conv1d", {"padding": (1, 2, 3)}, r"conv1d: padding is .1, 2, 3.; expected one integer, .width,., ..left, "),
        ("conv1d", {"weight": (4, 3, 9)}, r"conv1d: the kernel 9 with dilation .1,. is larger than the input 6 with"),
        ("conv3d", {"x": (1, 3, 6, 6)}, r"conv3d: x has 4 extents .*; expected 5: N C D H W"),
        ("conv3d", {"dilation": (1, 2)}, r"conv3d: dilation is .1, 2.; expected one integer, or three for depth, "),
        ("conv3d", {"weight": (4, 3, 1, 7, 1)}, r"conv3d: the kernel 1 x 7 x 1 with dilation .1, 1, 1. is larger "),
        ("conv_transpose2d", {"weight": (4, 3, 2, 2)}, r"conv_transpose2d: weight.shape\[0\] is 4; expected C = 3"),
        ("conv_transpose2d", {"groups": 2}, "conv_transpose2d: groups is 2; expected a divisor of C = 3"),
        ("conv_transpose2d", {"bias": (4,)}, r"conv_transpose2d: bias.shape\[0\] is 4; expected K = 5"),
        ("conv_transpose2d", {"x": (1, 3, 0, 6)}, "conv_transpose2d: the input is 0 x 6; expected 1 x 1 or more"),
        ("conv_transpose2d", {"padding": 9}, "conv_transpose2d: y would have P = -10; expected 0 or more"),
        ("conv_transpose2d", {"output_padding": 2, "stride": 2},
         r"conv_transpose2d: output_padding is .2, 2. with stride .2, 2. and dilation .1, 1.; expected 0 or more, and "
         "less than stride or dilation"),
        ("conv_transpose2d", {"activation": "swish"}, "conv_transpose2d: activation is 'swish'; expected one of None"),
    ],
)  # fmt: skip
def test_errors_in_other_dimensions(name: str, changed: dict[str, Any], text: str) -> None:
    dims = int(name[-2])
    arguments: dict[str, Any] = {
        "x": (1, 3, *(6,) * dims), "weight": (3, 5, *(3,) * dims) if "transpose" in name else (4, 3, *(3,) * dims),
        **changed,
    }  # fmt: skip
    for operand in ("x", "weight", "bias"):
        if operand in arguments:
            arguments[operand] = np.zeros(arguments[operand], np.float32)
    with pytest.raises(mmk.ContractError, match="^" + text):
        getattr(conv, name)(**arguments)


def test_padding_that_is_no_number() -> None:
    with pytest.raises(mmk.ContractTypeError, match=r"conv2d: padding is .*; expected an integer"):
        conv2d(np.zeros((1, 1, 3, 3), np.float32), np.zeros((1, 1, 1, 1), np.float32), padding=0.5)


def test_algorithm() -> None:
    x, weight = normal((1, 3, 5, 5), 0), normal((2, 3, 3, 3), 1)
    assert (conv2d(x, weight, algorithm="direct") == conv2d(x, weight)).all()
    assert "lanes along pixels" in mmk.plan("conv2d", x, weight)
