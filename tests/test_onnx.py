"""ONNX as judge: every node test that the onnx package carries for the operators that we have, at its own tolerance."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import onnx_nodes

# operator: how many cases of it onnx 1.23 makes. More may come; fewer would mean that they are no longer found.
OPERATORS = {
    "Attention": 93, "AveragePool": 20, "BatchNormalization": 4, "Conv": 6, "ConvTranspose": 11, "DeformConv": 4,
    "Gelu": 4, "GlobalAveragePool": 2, "GlobalMaxPool": 2, "GroupNormalization": 2, "InstanceNormalization": 2,
    "LayerNormalization": 19, "LogSoftmax": 7, "LpPool": 8, "MatMul": 7, "MaxPool": 19, "MaxUnpool": 2,
    "NonMaxSuppression": 10, "RMSNormalization": 19, "RoiAlign": 3, "Softmax": 7,
}  # fmt: skip
# Cases that are not passed, with the reason.
UNMET: dict[str, str] = {}


@functools.cache
def cases() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # making them takes logarithms of zero
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    return {
        case.name: case
        for case in found
        if case.model is not None and len(nodes := case.model.graph.node) == 1 and nodes[0].op_type in OPERATORS
    }


def test_every_case_is_found() -> None:
    found = Counter(case.model.graph.node[0].op_type for case in cases().values())
    assert {name: found[name] for name in OPERATORS if found[name] < OPERATORS[name]} == {}


@pytest.mark.parametrize("name", sorted(set(cases()) - set(UNMET)))
def test_node(name: str) -> None:
    case = cases()[name]
    proto = case.model.graph.node[0]
    attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
    given_names = [value.name for value in case.model.graph.input]
    for arrays, wanted in case.data_sets:
        given = dict(zip(given_names, arrays, strict=True))
        inputs = tuple(None if n == "" else np.asarray(given[n]) for n in proto.input)
        before = [None if x is None else x.copy() for x in inputs]
        found = onnx_nodes.run(proto.op_type, onnx_nodes.Node(attributes, inputs, tuple(proto.output)))
        found = [y for n, y in zip(proto.output, found, strict=False) if n]
        assert len(found) == len(wanted)
        for y, w in zip(found, wanted, strict=True):
            y, w = np.asarray(y), np.asarray(w)
            assert y.shape == w.shape and y.dtype == w.dtype
            if w.dtype.kind in "iub":
                np.testing.assert_array_equal(y, w)
            else:
                np.testing.assert_allclose(
                    y.astype(np.float64), w.astype(np.float64), rtol=_rtol(case, w), atol=case.atol
                )
        for x, b in zip(inputs, before, strict=True):
            assert x is None or x.tobytes() == b.tobytes()  # type: ignore[union-attr]


def _rtol(case: Any, wanted: Any) -> float:
    """The case's; for bfloat16, whose references round every step, what ONNX's own runner allows: two units."""
    return max(float(case.rtol), 2.0**-6 if wanted.dtype.name == "bfloat16" else 0.0)


def test_version() -> None:
    assert tuple(map(int, onnx.__version__.split(".")[:2])) >= (1, 23)
