"""The tape: what the laws do not see of it."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import mmkernels as mmk
from mmkernels import arrays, autograd
from mmkernels.autograd import Variable


def variable(*shape: int, seed: int = 0) -> Variable:
    return Variable(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def test_movements_of_data() -> None:
    """reshape, transpose, slices, concat, pad and broadcast against central differences."""
    x, y = variable(2, 3, 4), variable(2, 3, 1, seed=1)
    weight = np.random.default_rng(2).standard_normal((2, 6, 5))

    def f(a: Variable, b: Variable) -> Variable:
        both = arrays.concat([a[:, 0:2].transpose(0, 1, 2), a, arrays.broadcast_to(b, (2, 3, 4))[:, 1:2, :]], axis=1)
        moved = arrays.pad(both, [(0, 0), (0, 0), (1, 0)]).reshape(6, 2, 5).transpose(1, 0, 2)
        return mmk.sum(mmk.mul(moved, weight))  # type: ignore[no-any-return]

    found = autograd.grad(f(x, y), [x, y])
    for v, g in zip((x, y), found, strict=True):
        assert g is not None
        for at in np.ndindex(v.shape):
            step = np.zeros(v.shape)
            step[at] = 1e-3
            up, down = (f(*[Variable(u.data + s * step) if u is v else u for u in (x, y)]) for s in (1, -1))
            assert abs((up.item() - down.item()) / 2e-3 - g.data[at]) < 1e-9  # f is linear


def test_a_variable_used_twice_collects_both_gradients() -> None:
    x = variable(3)
    (g,) = autograd.grad((x * x + x).sum(), [x])
    assert g is not None
    np.testing.assert_allclose(g.data, 2 * x.data + 1, rtol=1e-15)


def test_backward_accumulates() -> None:
    x = variable(3)
    (x * 2.0).sum().backward()
    (x * 3.0).sum().backward()
    assert x.grad.tolist() == [5.0, 5.0, 5.0]


def test_third_derivative() -> None:
    x = variable(4)
    y = (x * x * x * x).sum()
    for _ in range(3):
        (g,) = autograd.grad(y, [x], create_graph=True)
        assert g is not None
        y = g.sum()
    np.testing.assert_allclose(g.data, 24 * x.data, rtol=1e-13)


def test_no_grad_and_detach() -> None:
    x = variable(3)
    with autograd.no_grad():
        assert not (x * 2.0).requires_grad
    assert not (x.detach() * 2.0).requires_grad
    assert (x * 2.0).requires_grad


def test_what_nothing_depends_on_has_no_gradient() -> None:
    x, y = variable(3), variable(3, seed=1)
    assert autograd.grad(x.sum(), [y]) == [None]
    with pytest.raises(ValueError, match="does not depend"):
        autograd.grad(x.detach().sum(), [x])
    with pytest.raises(ValueError, match="expected one element"):
        autograd.grad(x * 2.0, [x])


def test_broadcast_gradients_are_summed() -> None:
    x, scale = variable(4, 3, 5), variable(3, 1, seed=1)
    gx, gs = autograd.grad((x * scale).sum(), [x, scale])
    assert gx is not None and gs is not None
    np.testing.assert_allclose(gs.data, x.data.sum((0, 2), keepdims=False)[:, None], rtol=1e-12)


def test_out_is_refused_on_the_tape() -> None:
    with pytest.raises(TypeError, match="out= was given"):
        mmk.add(variable(2), 1.0, out=np.empty(2))


def test_a_step_leaves_no_garbage() -> None:
    """Graphs hold no cycles: memory goes when the loss goes, without the collector."""
    gc.collect()
    gc.disable()
    try:
        x = variable(10)
        for _ in range(3):
            (x * x).sum().backward()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_slices_only() -> None:
    with pytest.raises(TypeError, match="slices of step 1"):
        variable(3)[0]
