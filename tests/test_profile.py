"""The profiler: what it counts, and that it leaves nothing behind."""

import time

import numpy as np
import pytest

import mmkernels as mmk
from mmkernels.autograd import Variable
from mmkernels.operator import OPERATORS
from mmkernels.profile import family_of, profile


def test_every_operator_has_a_family():
    families = {family_of(name) for name in OPERATORS}
    assert {"conv", "pool", "attention", "norm", "activation", "pointwise", "matmul", "noise"} <= families
    assert family_of("conv2d_weight_grad") == "conv" and family_of("softmax_grad") == "activation"
    with pytest.raises(KeyError):
        family_of("nothing")


def test_calls_on_the_tape_count_once():
    x = Variable(np.ones((4, 4), np.float32), requires_grad=True)
    with profile() as times:
        loss = mmk.sum(mmk.mul(x, x))
        loss.backward()
    assert times.operators["mul"].calls == 3 and times.operators["sum"].calls == 1
    assert all(total.seconds > 0 for total in times.operators.values())


def test_seconds_are_the_operators():
    x = np.ones((64, 64, 32, 32), np.float32)
    with profile() as times:
        mmk.add(x, x)
        time.sleep(0.2)
    inside = sum(total.seconds for total in times.families().values())
    assert 0 < inside < times.wall - 0.2


def test_nothing_stays_behind_even_after_an_error():
    before = {name: operator.call for name, operator in OPERATORS.items()}
    with pytest.raises(mmk.ContractError), profile() as times:
        mmk.add(np.ones(2), np.ones(3))
    assert {name: operator.call for name, operator in OPERATORS.items()} == before
    assert times.operators == {}
