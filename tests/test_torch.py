"""PyTorch as judge: 200 random configurations per operator, forward and gradients, through the torch door.

Forward: our float32 against torch's float64 on the same operands, within the bound that the contract derives.
Gradients: ours in float64 against torch's, through torch's autograd on both sides. Where the two libraries differ on
purpose is said in docs/torch.md; those configurations are not drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import harness
import mmkernels as mmk
from mmkernels.contract import Case
from mmkernels.diffusion import DDPM, linear_schedule, sample
from mmkernels.operator import OPERATORS
from mmkernels.ops.diffusion import add_noise, diffusion_step
from mmkernels.ops.noise import keys_of, philox_normal

torch = pytest.importorskip("torch")
F = torch.nn.functional
Random = np.random.Generator
# (operand arrays, our function, torch's function, contract's name, plain attributes)
Config = tuple[list[Any], Callable[..., Any], Callable[..., Any], str, dict[str, Any]]


def normal(random: Random, *shape: int) -> Any:
    return random.standard_normal(shape).astype(np.float32)


def maybe(random: Random, x: Any) -> Any:
    return x if random.random() < 0.6 else None


def size(random: Random, low: int, high: int) -> int:
    return int(random.integers(low, high + 1))


def pair(random: Random, low: int, high: int) -> tuple[int, int]:
    return size(random, low, high), size(random, low, high)


def conv2d(random: Random) -> Config:
    groups = int(random.choice([1, 1, 2, 3]))
    c, k = groups * size(random, 1, 5), groups * size(random, 1, 6)
    kernel, dilation, stride = pair(random, 1, 4), pair(random, 1, 2), pair(random, 1, 3)
    padding = pair(random, 0, 3)
    h, w = (
        size(random, max(1, d * (r - 1) + 1 - 2 * p), 11) for r, d, p in zip(kernel, dilation, padding, strict=True)
    )
    x, weight, bias = normal(random, size(random, 1, 3), c, h, w), normal(random, k, c // groups, *kernel), maybe(
        random, normal(random, k))  # fmt: skip
    a = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return ([x, weight, bias], lambda x, w, b: mmk.conv2d(x, w, b, **a), lambda x, w, b: F.conv2d(x, w, b, **a),
            "conv2d", {**a, "padding": (padding[0], padding[0], padding[1], padding[1])})  # fmt: skip


def pooling(random: Random) -> tuple[Any, tuple[int, int], tuple[int, int], tuple[int, int]]:
    kernel, stride = pair(random, 1, 4), pair(random, 1, 3)
    padding = (size(random, 0, kernel[0] // 2), size(random, 0, kernel[1] // 2))
    h, w = (size(random, k, 12) for k in kernel)
    return normal(random, size(random, 1, 2), size(random, 1, 4), h, w), kernel, stride, padding


def max_pool2d(random: Random) -> Config:
    x, kernel, stride, padding = pooling(random)
    dilation = (1, 1) if random.random() < 0.5 else tuple(
        1 if n + 2 * p < 2 * (k - 1) + 1 else 2 for n, p, k in zip(x.shape[2:], padding, kernel, strict=True))  # fmt: skip
    a = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": bool(random.integers(2)),
         "return_indices": True}  # fmt: skip
    return ([x], lambda x: mmk.max_pool2d(x, kernel, **a), lambda x: F.max_pool2d(x, kernel, **a),
            "max_pool2d", {"kernel": kernel, **a})  # fmt: skip


def avg_pool2d(random: Random) -> Config:
    x, kernel, stride, padding = pooling(random)
    divisor = None if random.random() < 0.7 else size(random, 1, 9)
    a = {"stride": stride, "padding": padding, "ceil_mode": bool(random.integers(2)),
         "count_include_pad": bool(random.integers(2)), "divisor_override": divisor}  # fmt: skip
    return ([x], lambda x: mmk.avg_pool2d(x, kernel, **a), lambda x: F.avg_pool2d(x, kernel, **a),
            "avg_pool2d", {"kernel": kernel, **a, "divisor_override": divisor or 0})  # fmt: skip


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


def group_norm(random: Random) -> Config:
    groups = size(random, 1, 4)
    c = groups * size(random, 1, 4)
    x = normal(random, size(random, 1, 3), c, *(size(random, 1, 7) for _ in range(size(random, 1, 3))))
    ones = torch.ones(c, dtype=torch.float64)  # torch's own backward fails for a bias without a weight
    if x[0].size // groups < 2:
        x = np.repeat(x, 2, axis=2)
    return ([x, maybe(random, normal(random, c)), maybe(random, normal(random, c))],
            lambda x, w, b: mmk.group_norm(x, groups, w, b), lambda x, w, b: F.group_norm(x, groups, ones if w is None and b is not None else w, b),
            "group_norm", {"num_groups": groups, "eps": 1e-5, "activation": None})  # fmt: skip


def layer_norm(random: Random) -> Config:
    shape = [size(random, 1, 6) for _ in range(size(random, 1, 3))] + [size(random, 2, 40)]
    axes = size(random, 1, len(shape))
    x = normal(random, *shape)
    return ([x, maybe(random, normal(random, *shape[-axes:])), maybe(random, normal(random, *shape[-axes:]))],
            lambda x, w, b: mmk.layer_norm(x, shape[-axes:], w, b), lambda x, w, b: F.layer_norm(x, shape[-axes:], w, b),
            "layer_norm", {"axes": axes, "eps": 1e-5})  # fmt: skip


def any_shape(random: Random) -> Any:
    return np.asarray(3 * normal(random, *(size(random, 1, 6) for _ in range(size(random, 0, 4)))), np.float32)


def unary(name: str, **attributes: Any) -> Callable[[Random], Config]:
    def config(random: Random) -> Config:
        return ([any_shape(random)], lambda x: getattr(mmk, name)(x, **attributes),
                lambda x: getattr(F if hasattr(F, name) else torch, name)(x, **attributes), name, attributes)  # fmt: skip

    return config


def soft(name: str) -> Callable[[Random], Config]:
    def config(random: Random) -> Config:
        x = 3 * normal(random, *(size(random, 1, 8) for _ in range(size(random, 1, 4))))
        dim = size(random, 0, x.ndim - 1)
        return ([x], lambda x: getattr(mmk, name)(x, dim), lambda x: getattr(F, name)(x, dim), name, {"dim": dim})

    return config


def binary(name: str) -> Callable[[Random], Config]:
    def config(random: Random) -> Config:
        shape = [size(random, 1, 5) for _ in range(size(random, 1, 4))]
        other = [1 if random.random() < 0.3 else n for n in shape][size(random, 0, len(shape) - 1) :]
        b = normal(random, *other)
        return (
            [normal(random, *shape), np.sign(b) * (np.abs(b) + 0.5)],
            getattr(mmk, name),
            getattr(torch, name),
            name,
            {},
        )

    return config


def reduction(name: str) -> Callable[[Random], Config]:
    def config(random: Random) -> Config:
        x = normal(random, *(size(random, 1, 40) for _ in range(size(random, 1, 3))))
        dims = tuple(sorted(random.choice(x.ndim, size(random, 1, x.ndim), replace=False).tolist()))
        keep = bool(random.integers(2))
        return ([x], lambda x: getattr(mmk, name)(x, dims, keep), lambda x: getattr(torch, name)(x, dims, keep),
                name, {"dims": dims, "keepdim": keep})  # fmt: skip

    return config


def matmul(random: Random) -> Config:
    m, k, n = size(random, 1, 20), size(random, 0, 300), size(random, 1, 40)
    batch = [size(random, 1, 3) for _ in range(size(random, 0, 2))]
    other = [1 if random.random() < 0.3 else s for s in batch]
    return [normal(random, *batch, m, k), normal(random, *other, k, n)], mmk.matmul, torch.matmul, "matmul", {}


def linear(random: Random) -> Config:
    i, o = size(random, 1, 300), size(random, 1, 40)
    x = normal(random, *(size(random, 1, 5) for _ in range(size(random, 0, 3))), i)
    return [x, normal(random, o, i), maybe(random, normal(random, o))], mmk.linear, F.linear, "linear", {}


def interpolate(random: Random) -> Config:
    x = normal(random, size(random, 1, 2), size(random, 1, 3), *pair(random, 1, 9))
    to = pair(random, 1, 20)
    return ([x], lambda x: mmk.interpolate(x, to), lambda x: F.interpolate(x, to), "interpolate",
            {"size": to, "mode": "nearest",
             "scale": tuple(float(np.float32(n) / np.float32(s)) for n, s in zip(x.shape[2:], to, strict=True))})  # fmt: skip


def embedding(random: Random) -> Config:
    rows, width = size(random, 1, 20), size(random, 1, 20)
    indices = random.integers(0, rows, [size(random, 1, 5) for _ in range(size(random, 0, 3))])
    return [np.asarray(indices), normal(random, rows, width)], mmk.embedding, F.embedding, "embedding", {}


JUDGED: dict[str, Callable[[Random], Config]] = {
    "conv2d": conv2d, "max_pool2d": max_pool2d, "avg_pool2d": avg_pool2d, "attention": attention,
    "group_norm": group_norm, "layer_norm": layer_norm, "matmul": matmul, "linear": linear,
    "interpolate": interpolate, "embedding": embedding, "softmax": soft("softmax"), "log_softmax": soft("log_softmax"),
    "relu": unary("relu"), "leaky_relu": unary("leaky_relu", negative_slope=0.2), "sigmoid": unary("sigmoid"),
    "tanh": unary("tanh"), "silu": unary("silu"), "gelu": unary("gelu", approximate="none"),
    "gelu tanh": unary("gelu", approximate="tanh"), "add": binary("add"), "sub": binary("sub"), "mul": binary("mul"),
    "div": binary("div"), "sum": reduction("sum"), "mean": reduction("mean"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(JUDGED))
def test_against_torch(name: str) -> None:
    for seed in range(200):
        random = np.random.default_rng([seed, len(name), *name.encode()])
        operands, ours, theirs, operator, attributes = JUDGED[name](random)
        where = f"{name}, configuration {seed}: {[None if o is None else o.shape for o in operands]} {attributes}"
        forward(OPERATORS[operator], operands, theirs, attributes, where)
        gradients(operands, ours, theirs, random, where)


def tensors(operands: list[Any], gradient: bool) -> list[Any]:
    result = []
    for o in operands:
        t = None if o is None else torch.from_numpy(o.astype(np.float64) if o.dtype.kind == "f" else o.copy())
        result.append(t.requires_grad_(gradient) if t is not None and t.is_floating_point() else t)
    return result


def forward(operator: Any, operands: list[Any], theirs: Any, attributes: dict[str, Any], where: str) -> None:
    judged = theirs(*tensors(operands, False))
    wanted = [t.numpy() for t in (judged if isinstance(judged, tuple) else (judged,))]
    named = {a.name: o for a, o in zip(operator.contract.inputs, operands, strict=False) if o is not None}
    case = Case(where, {}, attributes, tuple(named))
    if operator.name == "attention":  # torch returns no lse: the reference's stands in
        exact = [None if o is None else o.astype(np.float64) if o.dtype.kind == "f" else o for o in operands]
        wanted.append(harness.reference_of("attention")(*exact, None, **attributes)[1])
    harness.check_against_reference(operator, case, named, "float32", wanted)


def gradients(operands: list[Any], ours: Any, theirs: Any, random: Random, where: str) -> None:
    mine, other = tensors(operands, True), tensors(operands, True)
    results = []
    for function, given in ((ours, mine), (theirs, other)):
        y = function(*given)
        results.append(y[0] if isinstance(y, tuple) else y)
    weight = torch.from_numpy(np.asarray(random.standard_normal(tuple(results[0].shape))))
    for y in results:
        assert isinstance(y, torch.Tensor) and y.requires_grad, where
        (y * weight).sum().backward()
    for a, b in zip(mine, other, strict=True):
        if a is not None and a.is_floating_point():
            assert a.grad is not None and a.grad.shape == b.grad.shape, where
            scale = 1 + float(b.grad.abs().max()) if b.grad.numel() else 1.0
            error = float((a.grad - b.grad).abs().max()) if b.grad.numel() else 0.0
            assert error <= 1e-11 * scale * math.sqrt(1 + weight.numel()), f"{error} of {scale}\n{where}"


def test_results_are_tensors() -> None:
    y = mmk.add(torch.ones(3), 1.0)
    assert isinstance(y, torch.Tensor) and y.dtype == torch.float32
    out = torch.empty(3)
    assert mmk.add(torch.ones(3), 1.0, out=out) is out and out.tolist() == [2.0] * 3


def test_a_diffusion_step_through_the_door() -> None:
    """Tensors give the arrays' bits, drawn noise and samplers included; a recorded step is the same step."""
    row = np.linspace(-1, 1, 20)
    row[4:6] = -1, 1
    row.flags.writeable = False
    x, u, c, known = (torch.randn(2, 3, 5, 7) for _ in range(4))
    mask = torch.rand(5, 7) > 0.5

    def step(x: Any) -> Any:
        return diffusion_step(x, (u, c), row, seed=3, mask=mask, known=known)

    arrays = diffusion_step(
        x.numpy(), (u.numpy(), c.numpy()), row, seed=3, mask=mask.numpy(), known=known.numpy()
    )  # fmt: skip
    recorded = step(x.clone().requires_grad_())
    assert recorded.requires_grad
    np.testing.assert_array_equal(step(x).numpy(), arrays)
    np.testing.assert_array_equal(recorded.detach().numpy(), arrays)
    wide = [t.double().requires_grad_() for t in (x, u, c)]
    assert torch.autograd.gradcheck(lambda x, u, c: diffusion_step(x, (u, c), row, seed=3), wide)
    assert torch.autograd.gradcheck(lambda x, u: add_noise(x, u, 0.5, torch.ones(2, dtype=torch.float64)), wide[:2])


def test_noise_through_the_door() -> None:
    for dtype in ("float32", "float64"):
        wanted = philox_normal((2, 5), seed=1, dtype=dtype)
        found = philox_normal(
            (2, 5), seed=torch.from_numpy(keys_of(1, 2)), dtype=getattr(torch, dtype), like=torch.ones(1)
        )
        assert isinstance(found, torch.Tensor)
        np.testing.assert_array_equal(found.numpy(), wanted)
        out = torch.empty(2, 5, dtype=getattr(torch, dtype))
        assert philox_normal((2, 5), seed=1, dtype=dtype, out=out) is out
        np.testing.assert_array_equal(out.numpy(), wanted)
    sampler = DDPM(linear_schedule(), 5)
    images = sample(sampler, lambda x, t: x * 0.5, (2, 3, 4, 4), seed=1, like=torch.ones(1))
    assert isinstance(images, torch.Tensor)
    np.testing.assert_array_equal(
        images.numpy(), sample(sampler, lambda x, t: x * np.float32(0.5), (2, 3, 4, 4), seed=1)
    )


def test_gradients_twice_through_the_door() -> None:
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, 4, 3, 3, dtype=torch.float64, requires_grad=True)

    def network(x: Any, w: Any) -> Any:
        return mmk.avg_pool2d(mmk.silu(mmk.group_norm(mmk.conv2d(x, w, padding=1), 2)), 2)

    assert torch.autograd.gradcheck(network, (x, w)) and torch.autograd.gradgradcheck(network, (x, w))


def test_lazy_views_are_resolved() -> None:
    z = torch.tensor([1 + 2j, 3 - 4j])
    assert mmk.add(z.conj().imag, 0.0).tolist() == [-2.0, 4.0]


def test_what_the_door_refuses() -> None:
    for tensor, kind, text in (
        (torch.ones(2, dtype=torch.bfloat16), mmk.ContractTypeError, "add: a.dtype is torch.bfloat16"),
        (torch.ones(2, device="meta"), mmk.BackendError, "add: a is on meta"),
        (torch.ones(2).to_sparse(), mmk.ContractTypeError, "add: a has layout"),
    ):
        with pytest.raises(kind, match=text):
            mmk.add(tensor, 1.0)
    with pytest.raises(mmk.ContractTypeError, match="operands of numpy and torch"):
        mmk.add(torch.ones(2), np.ones(2))
    with pytest.raises(mmk.ContractTypeError, match="out= was given"):
        mmk.add(torch.ones(2, requires_grad=True), 1.0, out=torch.empty(2))
