"""PyTorch as judge: 200 random configurations per operator, forward and gradients, through the torch door.

Forward: our float32 against torch's float64 on the same operands, within the bound that the contract derives.
Gradients: ours in float64 against torch's, through torch's autograd on both sides. Where the two libraries differ on
purpose is said in docs/torch.md; those configurations are not drawn.
"""

from __future__ import annotations

import math
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
from torch_calls import JUDGED  # noqa: E402  (imports torch)
from torch_calls.draws import Random, normal, size  # noqa: E402

F = torch.nn.functional


@pytest.mark.parametrize("mode", ["linear", "trilinear", "nearest"])
def test_lines_and_volumes(mode: str) -> None:
    """Compositions of the operator that test_against_torch judges: here in float64, forward and gradients."""
    for seed in range(200):
        random = np.random.default_rng([seed, len(mode)])
        axes = {"linear": 1, "trilinear": 3}.get(mode) or int(random.choice([1, 3]))
        x = normal(random, size(random, 1, 2), size(random, 1, 3), *(size(random, 1, 6) for _ in range(axes)))
        align = None if mode == "nearest" else [None, False, True][size(random, 0, 2)]
        to = tuple(size(random, 1, 9) for _ in range(axes))
        a = {"size": to, "mode": mode, "align_corners": align}
        where = f"{mode}, configuration {seed}: {x.shape} {a}"
        wide = torch.from_numpy(x.astype(np.float64))
        error = (mmk.interpolate(wide, **a) - F.interpolate(wide, **a)).abs().max()
        assert float(error) <= 1e-14 * 100, where
        gradients([x], lambda x, a=a: mmk.interpolate(x, **a), lambda x, a=a: F.interpolate(x, **a), random, where)


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
        wanted.append(harness.reference_of("attention")(*exact, **attributes)[1])
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
        if a is not None and a.is_floating_point() and b.grad is None:  # running statistics: taken as they are
            assert a.grad is None, where
            continue
        if b is not None and b.is_floating_point() and b.grad is None:  # detached on both sides
            assert a.grad is None, where
        elif a is not None and a.is_floating_point():
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
