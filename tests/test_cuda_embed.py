"""The embedding gradient on the CUDA floor beyond the contract's cases: lists of tokens longer than a block, tables of
several lists, one row that most tokens are, indices that lie outside."""

from __future__ import annotations

import ml_dtypes  # noqa: F401  (names bfloat16 for NumPy)
import numpy as np
import pytest

import harness
from emulated import Array, Schedule, floor, run_on, scheduled
from mmkernels.contract import Case
from mmkernels.operator import OPERATORS
from mmkernels.verify import case_operands, run
from reference.embed import embedding, sinusoidal_features
from test_emulated import check_floor

ROWS = 300


def tokens(kind: str, count: int) -> Array:
    rng = np.random.default_rng(3)
    anywhere = rng.integers(0, ROWS, count)
    return np.where(rng.random(count) < (0.9 if kind == "padding" else 0), 299, anywhere).astype(np.int32)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize(("kind", "width"), [("anywhere", 8), ("padding", 5)])
def test_lists(kind: str, width: int, dtype: str) -> None:
    operator, count = OPERATORS["embedding_grad"], 2500
    case = Case(kind, {"S": (count,), "D": width}, {"rows": ROWS})
    operands = {**case_operands(operator.contract, case, dtype), "indices": tokens(kind, count)}
    wanted = run(operator, case, operands)
    for schedule in (Schedule(), Schedule("reverse"), Schedule("random", 1)):
        found = check_floor("_emulated", operator, case, dtype, schedule, operands, wanted=wanted)
        assert harness.same_bits(found, wanted)
    check_floor("_emulated_check", operator, case, dtype, Schedule("random", 2), operands, check=True, wanted=wanted)


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_outside(index: type) -> None:
    """An index outside the table gives zeros, adds nothing, and is never followed."""
    indices = np.array([-1, 0, 4, 5, 6, -(2**31), 2**31 - 1, 4], index)
    module, rng = floor("_emulated_check"), np.random.default_rng(0)
    weight, gy = rng.standard_normal((5, 3)).astype(np.float32), rng.standard_normal((8, 3)).astype(np.float32)
    with scheduled(module, Schedule("random", 1), True):
        forward, back = OPERATORS["embedding"], OPERATORS["embedding_grad"]
        y = run_on(module, forward, Case("", {"S": (8,), "V": 5, "D": 3}), {"indices": indices, "weight": weight})[0]
        case = Case("", {"S": (8,), "D": 3}, {"rows": 5})
        gweight = run_on(module, back, case, {"indices": indices, "gy": gy})[0]
    assert (y == embedding(indices, weight)).all()
    wanted = np.zeros((5, 3), np.float32)
    wanted[0], wanted[4] = gy[1], gy[2] + gy[7]
    assert (gweight == wanted).all()


def test_waves_of_large_times() -> None:
    """float64 angles keep their digits where t is large. The reference's long double has few more than ours: what is
    compared relatively is the frequency 1, and all others at the last time step of a usual schedule."""
    operator = OPERATORS["sinusoidal_features"]
    t = np.array([999.0, 1e6, -12345.678, 3e9, 0.0])
    case = Case("large", {"N": 5}, {"dim": 66, "max_period": 10000.0})
    found = run_on(floor("_emulated"), operator, case, {"t": t})[0]
    wanted = sinusoidal_features(t.astype(np.longdouble), dim=66, max_period=10000.0, order="sin-cos", shift=0.0)
    for column in (0, 33):
        assert (np.abs(found[:, column] - wanted[:, column]) <= 2.0**-51 * np.abs(wanted[:, column])).all()
    assert (np.abs(found[0] - wanted[0]) <= 2.0**-51).all()  # 999 times the long double's 2^-64 for its power
