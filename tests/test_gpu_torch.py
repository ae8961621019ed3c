"""Torch's own machinery around the real CUDA floor: autograd, streams, captured graphs; CuPy's streams.

Collected where MMK_GPU is set (gpu_places.py). In a rehearsal the gradients and the sampling loop run on the CPU, so
that the tests themselves are known to work.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import harness
import mmkernels as mmk
from floors import call_id, calls
from gpu_places import REHEARSAL, TorchPlace, image_of, places
from mmkernels.contract import Case
from mmkernels.diffusion import DDIM, linear_schedule
from mmkernels.operator import Operator
from mmkernels.ops.diffusion import diffusion_step
from mmkernels.ops.noise import keys_of
from mmkernels.verify import case_operands

torch = pytest.importorskip("torch")
DEVICE = next(p for p in places() if isinstance(p, TorchPlace))
HOST = TorchPlace("cpu")
needs_device = pytest.mark.skipif(REHEARSAL, reason="a rehearsal has no device")


# ---- autograd -------------------------------------------------------------------------------------------------------


def differentiable(operator: Operator) -> bool:
    return bool(operator.contract.vjp) or operator.contract.composition is not None


def gradients(place: TorchPlace, operator: Operator, case: Case) -> tuple[Any, ...]:
    """By torch's autograd, of every float operand that the contract differentiates, from fixed weights."""
    contract = operator.contract
    operands = case_operands(contract, case)
    covered = {name for key in contract.vjp for name in key.split()}
    tensors = {name: place.put(image_of(x)) for name, x in operands.items()}
    inputs = [
        tensors[name].requires_grad_(True)
        for name, x in operands.items()
        if x.dtype == np.float32 and (contract.composition is not None or name in covered)
    ]
    if not inputs:
        return ()
    result = operator(*[tensors.get(a.name) for a in contract.inputs], **case.attributes)
    results = result if isinstance(result, tuple) else (result,)
    roots = [y for y in results if y.requires_grad]
    random = np.random.default_rng(7)
    weights = [place.put(image_of(random.standard_normal(tuple(y.shape)).astype(np.float32))) for y in roots]
    if not roots:
        return ()
    found = torch.autograd.grad(roots, inputs, weights, allow_unused=True)
    return tuple(None if g is None else place.get(g) for g in found)


@pytest.mark.parametrize(
    ("operator", "case"),
    [pytest.param(o, c, id=call_id(o, c, d)) for o, c, d in calls("float32") if differentiable(o)],
)
def test_gradients(operator: Operator, case: Case) -> None:
    """The same bits on the device as on the CPU: gradients are operators like any other."""
    wanted, found = gradients(HOST, operator, case), gradients(DEVICE, operator, case)
    assert [g is None for g in found] == [g is None for g in wanted]
    for y, w in zip(found, wanted, strict=True):
        assert w is None or harness.same_bits((y,), (w,)), f"{np.abs(y - w).max() if y.size else y.shape}"


def test_second_derivatives() -> None:
    """Of a gradient penalty through convolution, normalisation and activation."""
    random = np.random.default_rng(3)
    arrays = [random.standard_normal(s).astype(np.float32) for s in ((2, 4, 6, 6), (8, 4, 3, 3), (8,), (8,))]
    results = []
    for place in (HOST, DEVICE):
        x, w, gamma, beta = (place.put(image_of(a)).requires_grad_(True) for a in arrays)
        y = mmk.sum(mmk.group_norm(mmk.conv2d(x, w, padding=1), 2, gamma, beta, activation="silu"))
        (first,) = torch.autograd.grad(y, x, create_graph=True)
        second = torch.autograd.grad(mmk.sum(mmk.mul(first, first)), (w, gamma))
        results.append(tuple(map(place.get, (first, *second))))
    assert harness.same_bits(*results)


# ---- a sampling loop as one graph -----------------------------------------------------------------------------------

SHAPE, STEPS = (2, 4, 8, 8), 6


@functools.cache
def network() -> tuple[Any, ...]:
    """Weights of a small denoiser: convolution, time, normalisation with SiLU, attention over places, convolution."""
    random = np.random.default_rng(5)
    shapes = ((8, 4, 3, 3), (8,), (STEPS, 8, 1, 1), (8,), (8,), (4, 8, 3, 3), (4,))
    return tuple((random.standard_normal(s) * 0.3).astype(np.float32) for s in shapes)


def predict(weights: Sequence[Any], x: Any, time: Any) -> Any:
    w1, b1, _, gamma, beta, w2, b2 = weights
    h = mmk.add(mmk.conv2d(x, w1, b1, padding=1), time)
    h = mmk.group_norm(h, 4, gamma, beta, activation="silu")
    tokens = h.reshape(2, 2, 4, 64)
    tokens = tokens.permute(0, 1, 3, 2) if hasattr(tokens, "permute") else tokens.transpose(0, 1, 3, 2)
    a = mmk.attention(tokens, tokens, tokens)
    a = a.permute(0, 1, 3, 2) if hasattr(a, "permute") else a.transpose(0, 1, 3, 2)
    h = mmk.add(h, a.reshape(2, 8, 8, 8))
    return mmk.conv2d(h, w2, b2, padding=1)


def draw(weights: Sequence[Any], rows: Any, keys: Any, x: Any) -> Any:
    """A DDIM trajectory. All that varies from one to the next is in arrays: x, rows of coefficients, keys of noise."""
    for i in range(STEPS):
        x = diffusion_step(x, predict(weights, x, weights[2][i]), rows[i], seed=keys[i])
    return x


def draw_one(weights: Sequence[Any], table: Any, keys: Any, step: Any, x: Any) -> Any:
    """One step of a trajectory; which one is in an array too, and its keys are folded in the kernel."""
    time = mmk.embedding(step, weights[2].reshape(STEPS, 8)).reshape(8, 1, 1)
    return diffusion_step(x, predict(weights, x, time), table, seed=keys, step=step)


def drawing(seed: int) -> tuple[Any, Any, Any]:
    """rows, keys and the first x of a seed; eta 1, so that every step but the last adds noise."""
    sampler = DDIM(linear_schedule(), STEPS, eta=1.0)
    keys = np.stack([sampler.noise_keys(seed, i, SHAPE[0]) for i in range(STEPS)])
    x = np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)
    return sampler.table.astype(np.float32), keys, x


def test_sampling_as_on_the_cpu() -> None:
    rows, keys, x = drawing(7)
    wanted = draw(network(), rows, keys, x)
    found = draw(*device_arrays(rows, keys, x))
    assert harness.same_bits((DEVICE.get(found),), (wanted,))


def device_arrays(rows: Any, keys: Any, x: Any) -> tuple[Any, ...]:
    weights = tuple(DEVICE.put(image_of(w)) for w in network())
    return (weights, *(DEVICE.put(image_of(a)) for a in (rows, keys, x)))


@needs_device
def test_sampling_as_one_graph() -> None:
    """Captured once and replayed with other noise, keys and coefficients: the bits of the loop called step by step."""
    weights, rows, keys, x = device_arrays(*drawing(7))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # the first call of a kernel loads it, which a capture does not allow
        draw(weights, rows, keys, x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = draw(weights, rows, keys, x)
    for seed in (7, 8, 7):
        other = drawing(seed)
        _, other_rows, other_keys, other_x = device_arrays(*other)
        other_rows = other_rows * (1.0 if seed == 7 else 0.5)
        eager = DEVICE.get(draw(weights, other_rows, other_keys, other_x))
        for static, value in ((rows, other_rows), (keys, other_keys), (x, other_x)):
            static.copy_(value)
        graph.replay()
        torch.cuda.synchronize()
        assert harness.same_bits((DEVICE.get(y),), (eager,))
    assert harness.same_bits((DEVICE.get(y),), (draw(network(), *drawing(7)),))


def test_a_step_by_number_as_on_the_cpu() -> None:
    """The row of a table and keys folded with the number of the step: the trajectory of rows and keys of each step."""
    table, keys, x = drawing(7)
    weights, rows, _, y = device_arrays(table, keys, x)
    of_seed = DEVICE.put(image_of(keys_of(7, SHAPE[0])))
    for i in range(STEPS):
        y = draw_one(weights, rows, of_seed, DEVICE.put(image_of(np.array([i]))), y)
    assert harness.same_bits((DEVICE.get(y),), (draw(network(), table, keys, x),))


@needs_device
def test_one_step_as_a_graph() -> None:
    """Captured once, replayed for every step of a trajectory: the number of the step is counted on the device."""
    table, keys, first = drawing(7)
    weights, rows, _, x = device_arrays(table, keys, first)
    of_seed, step = (DEVICE.put(image_of(a)) for a in (keys_of(7, SHAPE[0]), np.array([0])))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        draw_one(weights, rows, of_seed, step, x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x.copy_(draw_one(weights, rows, of_seed, step, x))
        step.add_(1)
    for _ in range(STEPS):
        graph.replay()
    torch.cuda.synchronize()
    assert harness.same_bits((DEVICE.get(x),), (draw(network(), table, keys, first),))


@needs_device
@pytest.mark.parametrize(
    ("operator", "case"),
    [pytest.param(o, o.contract.cases[0], id=name) for name, o in sorted(mmk.operator.OPERATORS.items())],
)
def test_every_operator_can_be_captured(operator: Operator, case: Case) -> None:
    operands = case_operands(operator.contract, case)
    given = [DEVICE.put(image_of(operands[a.name])) if a.name in operands else None for a in operator.contract.inputs]
    eager = operator(*given, **case.attributes)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        operator(*given, **case.attributes)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = operator(*given, **case.attributes)
    graph.replay()
    torch.cuda.synchronize()
    pair = [tuple(map(DEVICE.get, y if isinstance(y, tuple) else (y,))) for y in (captured, eager)]
    assert harness.same_bits(*pair)


# ---- streams --------------------------------------------------------------------------------------------------------


@needs_device
def test_torch_current_stream() -> None:
    """A call is queued on the current stream and waits for nothing: the operand is filled behind a long wait there."""
    x = torch.zeros(1 << 20, device=DEVICE.device)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        mmk.mul(x, x)  # loads the kernel and fills the pool of this stream
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # about 50 ms
        x.fill_(3.0)
        y = mmk.mul(x, x)
        assert not stream.query(), "the call waited for the stream"
    stream.synchronize()
    assert bool((y == 9.0).all())


@needs_device
def test_cupy_current_stream() -> None:
    cupy = pytest.importorskip("cupy")
    wait = cupy.RawKernel(
        'extern "C" __global__ void wait(long long n) { const long long t = clock64(); while (clock64() - t < n); }',
        "wait",
    )
    x = cupy.zeros(1 << 20, cupy.float32)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:  # loads the kernels and fills the pool of this stream
        wait((1,), (1,), (np.int64(1),))
        mmk.mul(x, x)
    x.fill(0)
    cupy.cuda.Device().synchronize()
    with stream:
        wait((1,), (1,), (np.int64(100_000_000),))
        x.fill(3.0)
        y = mmk.mul(x, x)
        assert not stream.done, "the call waited for the stream"
    stream.synchronize()
    assert bool((y == 9.0).all())


@needs_device
def test_devices_are_not_mixed() -> None:
    x = torch.ones(3, 4)
    with pytest.raises(mmk.ContractTypeError, match=r"^add: operands on cpu and cuda; expected one device"):
        mmk.add(x, x.to(DEVICE.device))
    with pytest.raises(mmk.ContractTypeError, match=r"^add: operands on cpu and cuda; expected one device"):
        mmk.add(x, x, out=x.to(DEVICE.device))


@needs_device
def test_many_threads() -> None:
    """Calls from many threads, each on a stream of its own, give the bits of one thread's."""
    from concurrent.futures import ThreadPoolExecutor

    x = torch.randn(4, 8, 16, 16, device=DEVICE.device)
    w = torch.randn(8, 8, 3, 3, device=DEVICE.device)
    wanted = DEVICE.get(mmk.conv2d(x, w, padding=1))
    torch.cuda.synchronize()

    def work(_: int) -> bool:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            found = [mmk.conv2d(x, w, padding=1) for _ in range(20)]
        stream.synchronize()
        return all(harness.same_bits((DEVICE.get(y),), (wanted,)) for y in found)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))
