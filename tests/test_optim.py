"""Optimisers against their formulas, written out number by number in float32."""

import math

import numpy as np
import pytest

from mmkernels import ContractError, nn, optim


def some(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(make, steps=5, shape=(7, 3)):
    theta = nn.Parameter(some(0, *shape))
    optimizer = make([theta])
    for k in range(steps):
        theta.grad = some(k + 1, *shape)
        optimizer.step()
    return theta.data


def test_sgd_has_the_rate_inside_the_velocity():
    rates = [0.1, 0.1, 0.01, 0.01, 0.01]
    theta, v = some(0, 7, 3), np.zeros((7, 3), np.float32)
    for k, rate in enumerate(rates):
        v = v * np.float32(0.9) - some(k + 1, 7, 3) * np.float32(rate)
        theta = theta + v
    found = run(lambda p: optim.SGD(p, lr=lambda k: rates[k], momentum=0.9))
    assert (found == theta).all()


def test_sgd_weight_decay_pulls_to_zero():
    theta = nn.Parameter(np.array([2.0, -4.0], np.float32))
    optimizer = optim.SGD([theta], lr=0.5, weight_decay=0.5)
    theta.grad = np.zeros(2, np.float32)
    optimizer.step()
    assert theta.data.tolist() == [1.5, -3.0]


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.25])
def test_adam(decoupled, decay):
    b1, b2, eps, lr = 0.9, 0.99, 1e-8, 0.05
    theta, m, v = some(0, 7, 3).astype(np.float64), np.zeros((7, 3)), np.zeros((7, 3))
    for k in range(5):
        g = some(k + 1, 7, 3).astype(np.float64)
        if decoupled:
            theta = theta * (1 - lr * decay)
        else:
            g = g + decay * theta
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        theta = theta - lr * (m / (1 - b1 ** (k + 1))) / (np.sqrt(v / (1 - b2 ** (k + 1))) + eps)
    kind = optim.AdamW if decoupled else optim.Adam
    found = run(lambda p: kind(p, lr, (b1, b2), eps, decay))
    # 5 steps of about 15 roundings each of numbers below 4
    np.testing.assert_allclose(found, theta, rtol=0, atol=5 * 15 * 4 * 2.0**-24)
    assert found.dtype == np.float32


def test_a_parameter_without_gradient_is_left_alone():
    still, moving = nn.Parameter(some(0, 4)), nn.Parameter(some(0, 4))
    optimizer = optim.Adam([still, moving])
    moving.grad = some(1, 4)
    optimizer.step()
    assert (still.data == some(0, 4)).all() and (moving.data != some(0, 4)).all()


@pytest.mark.parametrize(
    "make", [lambda p: optim.SGD(p, 0.1, momentum=0.9), lambda p: optim.Adam(p, optim.CosineDecay(0.1, 0.0, 8))]
)
def test_resuming_gives_the_same_bits(make):
    whole = run(make, steps=8)
    theta = nn.Parameter(some(0, 7, 3))
    first = make([theta])
    for k in range(8):
        if k == 3:  # another optimiser takes over
            second = make([theta])
            second.load_state_dict(first.state_dict())
            first = second
        theta.grad = some(k + 1, 7, 3)
        first.step()
    assert (theta.data == whole).all()


def test_state_of_other_parameters_is_refused():
    optimizer = optim.Adam([nn.Parameter(some(0, 4))])
    with pytest.raises(ContractError, match=r"0\.first_moment is \(5,\); expected \(4,\)"):
        optimizer.load_state_dict(optim.Adam([nn.Parameter(some(0, 5))]).state_dict())
    with pytest.raises(ContractError, match=r"0\.velocity"):
        optimizer.load_state_dict(optim.SGD([nn.Parameter(some(0, 4))]).state_dict())


def test_average_of_weights():
    theta = nn.Parameter(some(0, 5))
    ema = optim.EMA([theta], 0.9)
    expected = some(0, 5)
    for k in range(4):
        theta.data[...] = some(k + 1, 5)
        ema.update()
        expected = expected + (theta.data - expected) * np.float32(1.0 - 0.9)
    assert (ema.averages[0] == expected).all()
    again = optim.EMA([nn.Parameter(some(9, 5))], 0.9)
    again.load_state_dict(ema.state_dict())
    assert again.steps == 4 and (again.averages[0] == expected).all()
    with pytest.raises(RuntimeError), ema.applied():
        assert (theta.data == expected).all()
        raise RuntimeError
    assert (theta.data == some(4, 5)).all()


def test_warm_average_forgets_the_start():
    theta = nn.Parameter(np.zeros(1, np.float32))
    warm, cold = optim.EMA([theta], 0.999, warm_up=True), optim.EMA([theta], 0.999)
    theta.data[...] = 1
    for _ in range(20):
        warm.update()
        cold.update()
    assert warm.averages[0][0] > 0.99 > 0.03 > cold.averages[0][0]


def test_rates():
    linear = optim.LinearDecay(1.0, 0.01, tau=100)
    assert [linear(k) for k in (0, 50, 100, 10**6)] == [1.0, 0.505, 0.01, 0.01]
    cosine = optim.CosineDecay(2.0, 1.0, steps=100)
    for k in range(0, 101, 7):
        assert cosine(k) == pytest.approx(1.5 + 0.5 * math.cos(math.pi * k / 100), rel=1e-14)
    warm = optim.WarmUp(optim.StepDecay(1.0, every=10, factor=0.1), steps=5)
    assert [warm(k) for k in (0, 4, 9)] == [0.2, 1.0, 1.0] and warm(25) == pytest.approx(0.01)


def test_clipping():
    a, b, unused = (nn.Parameter(some(k, 3)) for k in range(3))
    a.grad, b.grad = np.array([3, 0, 0], np.float32), np.array([0, 4, 0], np.float32)
    assert optim.clip_grad_norm([a, b, unused], 10.0) == 5.0
    assert a.grad[0] == 3
    assert optim.clip_grad_norm([a, b, unused], 2.5) == 5.0
    assert (a.grad[0], b.grad[1]) == (1.5, 2.0) and unused.grad is None
    a.grad = np.array([np.nan, 1, 1], np.float32)
    assert math.isnan(optim.clip_grad_norm([a, b], 1.0)) and b.grad[1] == 2.0
