"""Convolutions on the CUDA floor that the contracts' cases do not reach: several tiles, groups of many outputs, strides
in the gradients of tiles, channels-last images, depthwise kernels of every step, weights that are not finite."""

from __future__ import annotations

from typing import Any

import ml_dtypes  # noqa: F401  (names bfloat16 for NumPy)
import numpy as np
import pytest

import harness
from emulated import Array, Schedule, floor, run_on, scheduled
from mmkernels.contract import Case
from mmkernels.interop import device
from mmkernels.operator import OPERATORS
from mmkernels.ops.conv_contracts import cases_of, transposed_case
from mmkernels.verify import case_operands, run
from test_emulated import check_floor

OPERATOR_NAMES = ("conv2d", "conv2d_input_grad", "conv2d_weight_grad")


def _calls(*args: Any, dims: int = 2, **kwargs: Any) -> dict[str, Case]:
    names = (name.replace("2", str(dims)) for name in OPERATOR_NAMES)
    return dict(zip(names, cases_of(*args, **kwargs), strict=True))


CASES = {
    name: _calls(name, *args, **kwargs)
    for name, args, kwargs in (
        ("several tiles", ((2, 40, 9, 8), (3, 3), 72), {"padding": (1, 1, 1, 1), "activation": "silu",
                                                        "optional": ("bias", "residual")}),
        ("stride 2", ((2, 24, 11, 10), (3, 3), 40), {"stride": (2, 2), "padding": (1, 1, 1, 1), "optional": ("bias",)}),
        ("strides and dilations that share a factor", ((1, 18, 13, 14), (3, 2), 20),
         {"stride": (2, 4), "dilation": (4, 2), "padding": (3, 1, 0, 2)}),
        ("groups of many outputs", ((1, 36, 6, 7), (3, 3), 34), {"groups": 2, "padding": (0, 1, 1, 0)}),
        ("1 x 1", ((3, 72, 5, 4), (1, 1), 136), {"optional": ("bias",), "activation": "relu"}),
        ("stem", ((1, 3, 20, 18), (7, 7), 24), {"stride": (2, 2), "padding": (3, 3, 3, 3), "optional": ("bias",)}),
        ("few outputs, several chunks", ((1, 60, 6, 5), (3, 3), 3), {"padding": (1, 1, 1, 1)}),
        ("few channels in groups", ((2, 8, 7, 9), (3, 3), 12), {"groups": 2, "padding": (1, 1, 1, 1)}),
        ("depthwise", ((2, 24, 11, 10), (3, 3), 24), {"groups": 24, "padding": (1, 1, 1, 1), "optional": ("bias",),
                                                      "activation": "relu"}),
        ("depthwise 5 x 5, stride 2", ((1, 24, 12, 11), (5, 5), 24),
         {"groups": 24, "stride": (2, 2), "padding": (2, 2, 2, 2), "optional": ("bias", "residual")}),
        ("depthwise 5 x 5", ((1, 16, 9, 10), (5, 5), 16), {"groups": 16, "padding": (2, 2, 2, 2)}),
        ("depthwise, dilated", ((1, 16, 9, 10), (3, 3), 16), {"groups": 16, "dilation": (2, 3)}),
    )
}  # fmt: skip


# Other numbers of dimensions, and transposed convolutions.
OTHERS = {
    f"{operator}: {name}": (operator, case)
    for name, args, kwargs in (
        ("long sequence", ((1, 20, 300), (3,), 24), {"stride": (2,), "padding": (4, 0), "optional": ("bias",)}),
        ("several tiles", ((2, 40, 3, 5, 8), (3, 3, 3), 72), {"padding": (1,) * 6, "activation": "silu",
                                                             "optional": ("bias", "residual")}),
        ("strides", ((1, 24, 6, 7, 8), (3, 2, 3), 40), {"stride": (2, 3, 2), "dilation": (2, 1, 1),
                                                        "padding": (3, 1, 0, 2, 1, 1)}),
        ("images as lines", ((2, 24, 7, 4, 5), (3, 1, 1), 40), {"padding": (2, 0, 0, 0, 0, 0), "stride": (2, 1, 1),
                                                               "optional": ("residual",)}),
        ("slices are cut off", ((2, 20, 9, 3, 4), (2, 2, 1), 18), {"stride": (4, 1, 1)}),
        ("depthwise, an image at a time", ((2, 8, 3, 6, 7), (1, 3, 3), 8),
         {"groups": 8, "padding": (0, 0, 1, 1, 1, 1), "optional": ("bias", "residual")}),
        ("depthwise, channels by lanes", ((2, 136, 3, 4, 5), (2, 3, 3), 136),
         {"groups": 136, "padding": (1, 0, 1, 1, 2, 0), "stride": (1, 1, 2), "optional": ("bias", "residual")}),
        ("depthwise, several blocks", ((2, 3, 1100), (4,), 3), {"groups": 3, "padding": (3, 0), "activation": "silu"}),
        ("few outputs", ((2, 12, 4, 5, 6), (3, 2, 2), 6), {"groups": 2, "padding": (1, 2, 0, 1, 0, 0)}),
    )
    for operator, case in _calls(name, *args, dims=len(args[1]), **kwargs).items()
} | {
    f"conv_transpose{len(args[1])}d: {name}": (
        f"conv_transpose{len(args[1])}d", transposed_case(name, *args, **kwargs))
    for name, args, kwargs in (
        ("several tiles", ((2, 40, 6, 7), (4, 4), 72), {"stride": (2, 2), "padding": (1, 1, 1, 1), "activation": "silu",
                                                        "optional": ("bias",)}),
        ("taps that share a factor", ((1, 24, 4, 5), (3, 2), 20), {"stride": (2, 4), "dilation": (4, 2),
                                                                   "padding": (3, 1, 0, 2), "optional": ("bias",)}),
        ("images as lines", ((2, 24, 5, 3, 4), (4, 1, 1), 40), {"stride": (2, 1, 1), "padding": (1, 1, 0, 0, 0, 0),
                                                               "optional": ("bias",), "activation": "relu"}),
        ("several tiles", ((1, 24, 3, 4, 5), (3, 3, 3), 70), {"stride": (2, 2, 2), "padding": (1,) * 6,
                                                              "output_padding": (1, 1, 0), "optional": ("bias",)}),
        ("depthwise", ((2, 16, 7, 6), (3, 3), 16), {"groups": 16, "padding": (1, 1, 1, 1), "activation": "gelu",
                                                    "optional": ("bias",)}),
    )
}  # fmt: skip


def _operands(operator: str, case: Case, dtype: str, channels_last: bool) -> dict[str, Array]:
    operands = case_operands(OPERATORS[operator].contract, case, dtype)
    if not channels_last:
        return operands
    return {name: harness.channels_last(x) if x.ndim > 2 else x for name, x in operands.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
@pytest.mark.parametrize("operator", OPERATOR_NAMES)
@pytest.mark.parametrize("name", CASES)
def test_kernels(name: str, operator: str, channels_last: bool, dtype: str) -> None:
    case = CASES[name][operator]
    operands = _operands(operator, case, dtype, channels_last)
    wanted = run(OPERATORS[operator], case, operands)
    first = None
    for schedule in (Schedule(), Schedule("random", 2, late=False)):
        found = check_floor("_emulated", OPERATORS[operator], case, dtype, schedule, operands, wanted=wanted)
        first = first or found
        assert harness.same_bits(found, first)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_dimensions(name: str, channels_last: bool, dtype: str) -> None:
    operator, case = OTHERS[name]
    operands = _operands(operator, case, dtype, channels_last)
    check_floor("_emulated", OPERATORS[operator], case, dtype, Schedule("random", 1, late=False), operands)


@pytest.mark.parametrize("name", [name for name in OTHERS if "lines" in name or "conv3d: strides" in name])
def test_other_dimensions_checked(name: str) -> None:
    operator, case = OTHERS[name]
    operands = _operands(operator, case, "float16", True)
    check_floor("_emulated_check", OPERATORS[operator], case, "float16", Schedule("random", 5), operands, check=True)


@pytest.mark.parametrize("name", [name for name in OTHERS if "images as lines" in name])
def test_lines_have_the_bits_of_volumes(name: str) -> None:
    """Images that are dense are taken for lines, others are not: tensor cores sum in the same order."""
    operator, case = OTHERS[name]
    module, found = floor("_emulated"), []
    operands = _operands(operator, case, "float16", False)
    for layout in (np.ascontiguousarray, harness.strided):
        with scheduled(module, Schedule()):
            found.append(run_on(module, OPERATORS[operator], case, {k: layout(x) for k, x in operands.items()}))
    assert harness.same_bits(found[1], found[0])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("name", "operator"),
    [("depthwise", "conv2d"), ("depthwise", "conv2d_input_grad"), ("stride 2", "conv2d_input_grad"),
     ("few outputs, several chunks", "conv2d"), ("1 x 1", "conv2d_weight_grad")],
)  # fmt: skip
def test_checked(name: str, operator: str, dtype: str) -> None:
    case = CASES[name][operator]
    operands = _operands(operator, case, dtype, channels_last=True)
    check_floor("_emulated_check", OPERATORS[operator], case, dtype, Schedule("random", 3), operands, check=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["several tiles", "stem", "1 x 1"])
def test_layouts_of_16_bits(name: str, dtype: str) -> None:
    """Tensor cores sum in one order, whatever the layout and however many samples there are."""
    module = floor("_emulated")
    for operator in OPERATOR_NAMES[:2]:
        case = CASES[name][operator]
        found = []
        for channels_last in (False, True):
            operands = _operands(operator, case, dtype, channels_last)
            with scheduled(module, Schedule()):
                found.append(run_on(module, OPERATORS[operator], case, operands))
        assert harness.same_bits(found[1], found[0])
        many = {k: np.concatenate([x] * 7) if k in ("x", "gy", "residual") else x for k, x in operands.items()}
        larger = Case(case.name, {**case.extents, "N": 7 * case.extents["N"]}, case.attributes, case.optional)
        with scheduled(module, Schedule()):
            batch = run_on(module, OPERATORS[operator], larger, many)
        samples = found[0][0].shape[0]
        assert harness.same_bits((batch[0][-samples:],), found[0])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "name", ["conv3d: several tiles", "conv3d_input_grad: several tiles", "conv_transpose3d: several tiles",
             "conv_transpose3d: images as lines", "conv3d_input_grad: few outputs"],
)  # fmt: skip
def test_weights_that_are_not_finite_in_volumes(name: str, dtype: str) -> None:
    operator, case = OTHERS[name]
    operands = _operands(operator, case, dtype, False)
    operands["weight"] = operands["weight"].copy()
    operands["weight"][1::3, :, -1] = np.inf
    operands["weight"][::5, 0, 1] = np.nan
    wanted = run(OPERATORS[operator], case, operands)
    with scheduled(floor("_emulated"), Schedule()):
        found = run_on(floor("_emulated"), OPERATORS[operator], case, operands)
    for y, w in zip(found, wanted, strict=True):
        assert np.array_equal(np.isnan(y), np.isnan(w)) and np.array_equal(np.isinf(y), np.isinf(w))
    if dtype == "float32":
        assert harness.same_bits(found, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", ["several tiles", "stride 2", "depthwise", "few channels in groups"])
def test_weights_that_are_not_finite(name: str, dtype: str) -> None:
    """A tap on the border of conv2d is a product with zero; in the input gradient it takes no part."""
    module = floor("_emulated")
    for operator in OPERATOR_NAMES[:2]:
        case = CASES[name][operator]
        operands = _operands(operator, case, dtype, False)
        operands["weight"] = operands["weight"].copy()
        operands["weight"][1::3, :, 0, -1] = np.inf
        operands["weight"][::5, 0, 1, 1] = np.nan
        wanted = run(OPERATORS[operator], case, operands)
        with scheduled(module, Schedule()):
            found = run_on(module, OPERATORS[operator], case, operands)
        for y, w in zip(found, wanted, strict=True):
            assert np.array_equal(np.isnan(y), np.isnan(w)) and np.array_equal(np.isinf(y), np.isinf(w))
        if dtype == "float32":
            assert harness.same_bits(found, wanted)


def test_strided_result_of_tiles() -> None:
    """A slice of a larger result, whose rows are no multiple of 16 bytes apart."""
    operator, case = OPERATORS["conv2d"], CASES["several tiles"]["conv2d"]
    operands = _operands("conv2d", case, "float32", False)
    wanted = run(operator, case, operands)
    module = floor("_emulated_check")
    door = device.library(module.__name__)
    with scheduled(module, Schedule("random", 4), True):
        n, k, p, q = wanted[0].shape
        out = door.from_numpy(np.zeros((n, k + 1, p + 1, q + 3), np.float32), None)[:, 1:, 1:, 2:-1]
        found = run_on(module, operator, case, operands, out)
    assert harness.same_bits(found, wanted)
