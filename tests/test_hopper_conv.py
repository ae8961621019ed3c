"""Convolutions for Hopper (csrc/cuda/conv.sm90.cu) on the emulator: bounds, schedules, free extents, layouts, values
that are not finite, and the calls that are left to the portable kernels."""

from __future__ import annotations

from typing import Any

import ml_dtypes  # noqa: F401  (names bfloat16 for NumPy)
import numpy as np
import pytest

import harness
from emulated import SCHEDULES, Array, Schedule, floor, run_on, scheduled
from floors import call_id, calls
from hopper import CHECKED, call, switched, told
from mmkernels.contract import Case
from mmkernels.interop import device
from mmkernels.operator import OPERATORS, Operator
from mmkernels.ops.conv_contracts import cases_of
from mmkernels.verify import case_operands, run

NAMES = ("conv2d", "conv2d_input_grad", "conv2d_weight_grad")
OURS = "tensor copies and wgmma"


@pytest.fixture(autouse=True)
def _hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    switched(monkeypatch, True)


def case_of(name: str, *args: Any, **kwargs: Any) -> tuple[Operator, Case]:
    cases = dict(zip(NAMES, cases_of("", *args, **kwargs), strict=True))
    return OPERATORS[name], cases[name]


def operands_of(operator: Operator, case: Case, dtype: str, last: bool = True) -> dict[str, Array]:
    operands = case_operands(operator.contract, case, dtype)
    return {n: harness.channels_last(x) if last and x.ndim == 4 else x for n, x in operands.items()}


# Steps of 64 channels, or of twice 32 where channels leave at most 32 over; boxes of at most 64 pixels.
CASES = {
    "1 x 1": ("conv2d", ((1, 64, 8, 8), (1, 1), 64), {}, "float16"),
    "a box for each image": ("conv2d", ((3, 64, 7, 7), (3, 3), 24), {"padding": (1, 1, 1, 1)}, "bfloat16"),
    "a box for several images": ("conv2d", ((7, 64, 3, 5), (3, 3), 72), {"padding": (1, 1, 1, 1)}, "float16"),
    "several boxes": (
        "conv2d",
        ((2, 128, 17, 13), (3, 3), 40),
        {"padding": (1, 1, 1, 1), "activation": "silu", "optional": ("bias", "residual")},
        "bfloat16",
    ),
    "steps of two": (
        "conv2d",
        ((2, 96, 9, 8), (3, 3), 72),
        {"padding": (1, 1, 1, 1), "activation": "relu", "optional": ("bias", "residual")},
        "float16",
    ),
    "half a step is left": ("conv2d", ((1, 32, 9, 20), (3, 1), 264), {"padding": (1, 1, 0, 0)}, "bfloat16"),
    "channels that fill no step": ("conv2d", ((1, 116, 9, 9), (2, 2), 130), {"optional": ("bias",)}, "float16"),
    "stride 2": (
        "conv2d",
        ((2, 40, 11, 10), (3, 3), 20),
        {"stride": (2, 2), "padding": (1, 1, 1, 1), "optional": ("bias",)},
        "bfloat16",
    ),
    "strides, dilations, borders": (
        "conv2d",
        ((1, 64, 23, 22), (3, 2), 136),
        {"stride": (2, 8), "dilation": (4, 3), "padding": (3, 1, 0, 5)},
        "float16",
    ),
    "groups": ("conv2d", ((1, 144, 6, 7), (3, 3), 68), {"groups": 2, "padding": (0, 1, 1, 0)}, "bfloat16"),
    "tiles of 128 x 256": ("conv2d", ((2, 64, 16, 16), (1, 1), 500), {"optional": ("bias",)}, "float16"),
    "slices": (
        "conv2d",
        ((1, 1840, 3, 4), (3, 3), 33),
        {"padding": (1, 1, 1, 1), "activation": "relu", "optional": ("bias", "residual")},
        "bfloat16",
    ),
    "input gradient": ("conv2d_input_grad", ((2, 72, 9, 8), (3, 3), 96), {"padding": (1, 1, 1, 1)}, "bfloat16"),
    "input gradient, stride 2": (
        "conv2d_input_grad",
        ((2, 20, 11, 10), (3, 3), 64),
        {"stride": (2, 2), "padding": (1, 1, 1, 1)},
        "float16",
    ),
    "input gradient, strides and dilations": (
        "conv2d_input_grad",
        ((1, 34, 13, 14), (3, 2), 128),
        {"stride": (2, 4), "dilation": (4, 2), "padding": (3, 1, 1, 2)},
        "bfloat16",
    ),
    "input gradient, groups": (
        "conv2d_input_grad",
        ((1, 68, 6, 7), (3, 3), 144),
        {"groups": 2, "padding": (0, 1, 1, 0)},
        "float16",
    ),
    "input gradient, slices": (
        "conv2d_input_grad",
        ((1, 20, 3, 4), (3, 3), 1840),
        {"padding": (1, 1, 1, 1)},
        "float16",
    ),
    "weight gradient": ("conv2d_weight_grad", ((3, 40, 7, 7), (3, 3), 72), {"padding": (1, 1, 1, 1)}, "float16"),
    "weight gradient, boxes of several images": ("conv2d_weight_grad", ((9, 64, 4, 5), (1, 1), 20), {}, "bfloat16"),
    "weight gradient, parts": (
        "conv2d_weight_grad",
        ((1, 64, 24, 24), (2, 1), 136),
        {"padding": (1, 0, 0, 0)},
        "float16",
    ),
    "weight gradient, strides, dilations, groups": (
        "conv2d_weight_grad",
        ((2, 144, 17, 14), (2, 3), 68),
        {"stride": (2, 1), "dilation": (2, 3), "padding": (0, 1, 2, 0), "groups": 2},
        "bfloat16",
    ),
}


def channels_of(operator: Operator, case: Case) -> int:
    groups = int(case.attributes["groups"])
    return int(case.extents["C" if operator.name == "conv2d" else "K"]) // groups


@pytest.mark.parametrize("last", [True, False], ids=["channels last", "planes"])
@pytest.mark.parametrize("name", CASES)
def test_schedules(name: str, last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the bound and always the same bits; on the emulator with those of mma.sync, whose order is the same for
    channels by 16."""
    which, args, kwargs, dtype = CASES[name]
    operator, case = case_of(which, *args, **kwargs)
    operands = operands_of(operator, case, dtype, last)
    module, first, ways = floor("_emulated"), None, told(monkeypatch)
    for schedule in SCHEDULES if last and "slices" not in name else SCHEDULES[4:6]:
        with scheduled(module, schedule):
            found = run_on(module, operator, case, operands)
        first = first or found
        assert harness.same_bits(found, first), f"{schedule} gives other bits than {SCHEDULES[0]}"
    assert any(OURS in way for way in ways) and ("tiles of" not in name or name[9:] in ways[-1])
    harness.check_against_reference(operator, case, operands, dtype, found=first, bound="tensor_dot")
    switched(monkeypatch, False)
    portable = call(operator, case, operands)
    if which != "conv2d_weight_grad" and channels_of(operator, case) % 16 == 0 and "slices" not in name:
        assert harness.same_bits(portable, first or ())


@pytest.mark.parametrize("last", [True, False], ids=["channels last", "planes"])
@pytest.mark.parametrize("name", [n for n in CASES if "slices" not in n])
def test_checked(name: str, last: bool) -> None:
    """No race, nothing out of bounds, nothing read before it was delivered."""
    which, args, kwargs, dtype = CASES[name]
    operator, case = case_of(which, *args, **kwargs)
    operands = operands_of(operator, case, dtype, last)
    module = floor("_emulated_check")
    with scheduled(module, CHECKED if last else Schedule("reverse", late=False), check=True):
        run_on(module, operator, case, operands)


CONTRACTED = [c for c in calls("float16", "bfloat16") if c[0].name in NAMES]


@pytest.mark.parametrize(("operator", "case", "dtype"), CONTRACTED, ids=[call_id(*c) for c in CONTRACTED])
def test_contract(operator: Operator, case: Case, dtype: str) -> None:
    """The contracts' cases, whichever kernel serves them."""
    operands = case_operands(operator.contract, case, dtype)
    found = call(operator, case, operands, checked=True)
    harness.check_against_reference(operator, case, operands, dtype, found=found, bound="tensor_dot")


@pytest.mark.parametrize("name", ["several boxes", "a box for several images", "input gradient, stride 2"])
def test_samples(name: str) -> None:
    """A sample has the same bits alone and in any batch, whose boxes are others."""
    which, args, kwargs, dtype = CASES[name]
    operator, case = case_of(which, *args, **kwargs)
    operands = operands_of(operator, case, dtype)
    many = {k: np.concatenate([x] * 5) if k in ("x", "gy", "residual") else x for k, x in operands.items()}
    samples = int(case.extents["N"])
    larger = Case("", {**case.extents, "N": 5 * samples}, case.attributes, case.optional)
    whole = call(operator, larger, many)[0]
    assert harness.same_bits((whole[-samples:],), call(operator, case, operands))
    one = {k: x[:1] if k in ("x", "gy", "residual") else x for k, x in operands.items()}
    single = Case("", {**case.extents, "N": 1}, case.attributes, case.optional)
    assert harness.same_bits((whole[:1],), call(operator, single, one))


@pytest.mark.parametrize("name", ["several boxes", "steps of two", "input gradient"])
def test_layouts(name: str) -> None:
    """Planes, channels last, strides that tensor copies do not walk and an odd first element: the same bits."""
    which, args, kwargs, dtype = CASES[name]
    operator, case = case_of(which, *args, **kwargs)
    operands = operands_of(operator, case, dtype, False)
    wanted = call(operator, case, operands)
    door = device.library(floor("_emulated").__name__)

    def backwards(x: Array) -> Array:
        """Channels last, rows and columns from the end."""
        if x.ndim < 4:
            return x
        return harness.channels_last(np.ascontiguousarray(x[:, :, ::-1, ::-1]))[:, :, ::-1, ::-1]

    for layout in (harness.channels_last, harness.fortran, harness.strided, harness.reversed_memory, backwards):
        for first in (0, 1):
            given = {n: door.place(layout(x), first) for n, x in operands.items()}
            assert harness.same_bits(call(operator, case, given), wanted), (layout, first)


def test_out() -> None:
    """Channels-last results that tensor copies cannot write, and ones they can, in a larger array."""
    operator, case = case_of("conv2d", (2, 64, 7, 6), (3, 3), 44, padding=(1, 1, 1, 1), optional=("residual",))
    operands = operands_of(operator, case, "float16")
    wanted = call(operator, case, operands)
    door = device.library(floor("_emulated_check").__name__)
    for channels, first in ((44, 0), (45, 0), (48, 0), (48, 8), (48, 1)):
        memory = door.from_numpy(np.zeros((2, 8, 9, channels + first), np.float16), None)
        out = memory[:, :-1, 2:-1, first : first + 44].transpose(0, 3, 1, 2)
        assert harness.same_bits(call(operator, case, operands, checked=True, out=out), wanted), (channels, first)
        around = door.to_numpy(memory)
        around[:, :-1, 2:-1, first : first + 44] = 0
        assert not around.any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["steps of two", "half a step is left", "input gradient", "input gradient, stride 2"])
def test_not_finite(name: str, dtype: str) -> None:
    """NaN and infinities where the CPU floor has them: a border's zeros take part in conv2d and not in its gradient;
    what a copy brings beside the image or behind the last tap reaches nobody."""
    which, args, kwargs, _ = CASES[name]
    operator, case = case_of(which, *args, **kwargs)
    operands = operands_of(operator, case, dtype)
    image = "x" if which == "conv2d" else "gy"
    operands["weight"][1::3, :, 0, -1] = np.inf
    operands["weight"][::5, 0, -1, 0] = np.nan
    operands[image][0, 0] = np.inf
    operands[image][0, 1, -1, -1] = np.nan
    found, wanted = call(operator, case, operands)[0], run(operator, case, operands)[0]
    assert np.array_equal(np.isnan(found), np.isnan(wanted)) and np.array_equal(np.isinf(found), np.isinf(wanted))
    assert np.isfinite(wanted).any() or which == "conv2d"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_nobody_meets(dtype: str) -> None:
    """Elements of x behind the last window take no part in the weight gradient; a border's zeros do."""
    operator, case = case_of("conv2d_weight_grad", (2, 64, 10, 9), (2, 2), 24, stride=(2, 2), padding=(1, 0, 0, 0))
    operands = operands_of(operator, case, dtype)
    clean = call(operator, case, operands)
    operands["x"][:, :, 9] = np.nan
    operands["x"][:, :, :, 8] = np.inf
    assert harness.same_bits(call(operator, case, operands), clean)
    operands["gy"][1, 5, 0, 2] = np.inf
    found, wanted = call(operator, case, operands)[0], run(operator, case, operands)[0]
    assert np.array_equal(np.isnan(found), np.isnan(wanted)) and np.isnan(found[5]).any()


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel runs where it is asked for: 16 bits, 32 channels of a group or more, strides up to 8. Layouts and
    samples decide nothing."""
    ways = told(monkeypatch)

    def ours(*args: Any, dtype: str = "bfloat16", which: str = "conv2d", **kwargs: Any) -> bool:
        operator, case = case_of(which, *args, **kwargs)
        seen = set()
        for last in (True, False):
            call(operator, case, operands_of(operator, case, dtype, last))
            seen.add(OURS in ways[-1])
        assert len(seen) == 1
        return seen.pop()

    for samples in (1, 5):
        assert ours((samples, 40, 6, 5), (3, 3), 20) and ours((samples, 40, 6, 5), (3, 3), 20, dtype="float16")
        assert ours((samples, 20, 6, 5), (3, 3), 40, which="conv2d_input_grad")
        assert ours((samples, 40, 8, 7), (3, 3), 20, which="conv2d_weight_grad", padding=(1, 1, 1, 1))
        assert not ours((samples, 40, 6, 5), (3, 3), 20, dtype="float32")
        assert not ours((samples, 24, 6, 5), (3, 3), 20) and not ours((samples, 40, 6, 5), (3, 3), 16)
        assert not ours((samples, 40, 9, 11), (1, 1), 20, stride=(1, 9))
    switched(monkeypatch, False)
    assert not ours((1, 40, 6, 5), (3, 3), 20)
