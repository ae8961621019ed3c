"""The machine's conversions of float16 have the bits of the integer code."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import libraries
from mmkernels import _core

FLAGS = {"portable": [], "avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4"]}
DOOR = """
#include "cpu/halves.cpp"
namespace mmk {
Context::Context(Isa i, int t) : isa(i), threads(t) {}
Context::~Context() {}
void run_tasks(int, int64_t count, void (*body)(void*, int64_t, int), void* state) {
    for (int64_t i = 0; i < count; ++i) body(state, i, 0);
}
}
using namespace mmk;
#define DOOR extern "C" __attribute__((visibility("default"))) void
DOOR widened(const uint16_t* from, float* to, int64_t count) {
    Context context(Isa::portable, 1);
    cpu::MMK_ISA::widen({from, to, count, true}, context);
}
DOOR narrowed(const float* from, uint16_t* to, int64_t count) {
    Context context(Isa::portable, 1);
    cpu::MMK_ISA::narrow({from, to, count, true}, context);
}
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler")
@pytest.mark.parametrize("isa", _core.available_isas())
def test_every_half_and_every_kind_of_number(isa: str, tmp_path: Path) -> None:
    source, target = tmp_path / "door.cpp", tmp_path / "door.so"
    source.write_text(DOOR)
    command = ["g++", "-std=c++20", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-w", f"-DMMK_ISA={isa}"]
    libraries.run([*command, *FLAGS[isa], f"-I{libraries.ROOT / 'csrc'}", str(source), "-o", str(target)])
    library = ctypes.CDLL(str(target))

    def converted(name: str, x: NDArray[np.generic], dtype: type) -> NDArray[np.generic]:
        y = np.empty(x.shape, dtype)
        pointers = (ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data))
        getattr(library, name)(*pointers, ctypes.c_int64(x.size))
        return y

    halves = np.concatenate([np.arange(65536), np.arange(0x7BF5, 0x7C0A)]).astype(np.uint16)  # not a multiple of 8
    numbers = halves.view(np.float16)
    bits = numbers.astype(np.float32).view(np.uint32)
    payload = (halves & np.uint32(0x8000)) << 16 | np.uint32(0x7F800000) | (halves & np.uint32(0x3FF)) << 13
    wanted = np.where(np.isnan(numbers), payload, bits)
    np.testing.assert_array_equal(converted("widened", halves, np.float32).view(np.uint32), wanted)

    # every sign, exponent and 7 bits; below them what is cut off: nothing, around a tie, all; subnormals lose more bits
    low = [0, 1, 2, 0xFFF, 0x1000, 0x1001, 0x1FFF, 0x2000, 0x3000, 0x4001, 0x7FFF, 0x8000, 0x8001, 0xC000, 0xFFFF]
    patterns = (np.arange(65536, dtype=np.uint32)[:, None] << 16 | np.array(low, np.uint32)).ravel()
    patterns = np.concatenate([patterns, np.random.default_rng(0).integers(0, 2**32, 99999, np.uint32)])
    x = patterns.view(np.float32)
    with np.errstate(all="ignore"):
        expected = np.where(np.isnan(x), np.uint16(0x7FFF), x.astype(np.float16).view(np.uint16))
    np.testing.assert_array_equal(converted("narrowed", x, np.uint16), expected)
