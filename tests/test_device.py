"""Arrays in device memory at the door: who serves them, what is refused, gradients on the tape; on the emulated floor.

The models at the end are the same Python as on the CPU: one training step gives the same bits on both floors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mmkernels as mmk
from emulated import Schedule, floor, scheduled
from mmkernels import autograd
from mmkernels.contract import Operand
from mmkernels.interop import device


@pytest.fixture
def door() -> Any:
    module = floor("_emulated")
    with scheduled(module, Schedule()):
        yield device.library(module.__name__)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_results_are_of_the_library(door: Any) -> None:
    x = door.from_numpy(normal(3, 4), None)
    y = mmk.add(x, 1.0)
    assert type(y) is type(x)
    np.testing.assert_array_equal(door.to_numpy(y), normal(3, 4) + np.float32(1))


def test_plan_tells(door: Any) -> None:
    x = door.from_numpy(normal(3, 4), None)
    assert mmk.plan("add", x, 1.0) == "add: cuda, plain (the only one), scratch 0 bytes"


def test_libraries_do_not_mix(door: Any) -> None:
    x = door.from_numpy(normal(3, 4), None)
    with pytest.raises(mmk.ContractTypeError, match=r"^add: operands of _emulated and numpy; expected one library$"):
        mmk.add(x, normal(3, 4))


def test_contract_speaks_first(door: Any) -> None:
    x = door.from_numpy(normal(3, 4), None)
    with pytest.raises(mmk.ContractError, match=r"^matmul: b.shape\[0\] is 3; expected K = 4$"):
        mmk.matmul(x, x)
    with pytest.raises(mmk.ContractTypeError, match=r"^add: a.dtype is int32"):
        mmk.add(door.from_numpy(np.arange(3, dtype=np.int32), None), 1)


def test_out_may_not_overlap(door: Any) -> None:
    x = door.from_numpy(normal(8), None)
    with pytest.raises(mmk.ContractError, match=r"^add: out overlaps a; expected memory of its own$"):
        mmk.add(x[:4], 1.0, out=x[2:6])
    y = door.empty(Operand((8,), (1,), "float32"), 0)
    assert mmk.add(x, 1.0, out=y) is y
    with pytest.raises(mmk.ContractError, match=r"^add: out.shape is \(8,\); expected \(4,\)$"):
        mmk.add(x[:4], 1.0, out=y)


def test_values_are_defined_or_told(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = door.from_numpy(normal(5, 3), None)
    indices = door.from_numpy(np.array([0, 7, -1, 4]), None)
    found = door.to_numpy(mmk.embedding(indices, weight))
    np.testing.assert_array_equal(found[[0, 3]], normal(5, 3)[[0, 4]])
    assert not found[[1, 2]].any()
    monkeypatch.setenv("MMK_CHECK_VALUES", "1")
    with pytest.raises(mmk.ContractError, match=r"^embedding: indices.flat\[1\] is 7; expected 0 <= value < V = 5$"):
        mmk.embedding(indices, weight)


def test_no_device_is_told() -> None:
    try:
        device.cuda()
    except mmk.BackendError as error:
        assert "no CUDA floor" in str(error) or "no CUDA device" in str(error)
    else:
        pytest.skip("this machine has a CUDA device")

    class Array:
        __mmkernels_library__ = "cupy"
        shape = (3,)

    with pytest.raises(mmk.BackendError, match=r"^relu: .*CUDA"):
        mmk.relu(Array())


def test_gradients_on_the_tape(door: Any) -> None:
    """A small network's loss and gradients: the same bits on both floors."""

    def step(place: Any) -> list[Any]:
        x, w, b = place(normal(2, 3, 8, 8)), place(normal(4, 3, 3, 3, seed=1)), place(normal(4, seed=2))
        v, c = place(normal(10, 4 * 16, seed=3)), place(normal(10, seed=4))
        parameters = [autograd.Variable(p, requires_grad=True) for p in (w, b, v, c)]
        w, b, v, c = parameters
        y = mmk.relu(mmk.conv2d(x, w, b, padding=1))
        y = mmk.max_pool2d(y, 2)
        y = mmk.linear(y.reshape((2, 64)), v, c)
        loss = mmk.mean(mmk.log_softmax(y, dim=1))
        return [loss.data, *autograd.grad(loss, parameters)]

    found = step(lambda x: door.from_numpy(x, None))
    wanted = step(lambda x: x)
    for y, w in zip(found, wanted, strict=True):
        y = getattr(y, "data", y) if type(y).__module__ == "mmkernels.autograd" else y
        w = getattr(w, "data", w) if type(w).__module__ == "mmkernels.autograd" else w
        assert door.to_numpy(y).tobytes() == np.asarray(w).tobytes()


def test_elements_lie_at_multiples_of_their_size(door: Any) -> None:
    """A device faults at others; no copy could be made of them there."""
    bytes_ = door.from_numpy(np.zeros(17, np.uint8), None)
    with pytest.raises(mmk.ContractError, match=r"^relu: x begins at 0x\w+; expected a multiple of its 4 bytes$"):
        mmk.relu(bytes_[1:].view(np.float32))
