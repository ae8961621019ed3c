"""The emulator of CUDA kernels: sound kernels pass under every schedule, each defect is found and named."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from libraries import emulated

SOURCE = Path(__file__).resolve().parent / "simt" / "kernels.cu"
IN_ORDER, REVERSE, RANDOM = range(3)


class Emulator:
    """A compiled file of kernels and its memory."""

    def __init__(self, checked: bool, runtime: tuple[str, ...] = ()) -> None:
        self.library = emulated(SOURCE, checked, runtime)
        self.library.simt_allocate.restype = ctypes.c_void_p
        self.checked = checked
        self.live: list[int] = []

    def configure(
        self, order: int = IN_ORDER, seed: int = 1, late: bool = True, preempt: int = 0, check: bool | None = None
    ) -> None:
        on = self.checked if check is None else check
        self.library.simt_configure(order, ctypes.c_uint64(seed), int(late), preempt, int(on))

    def put(self, x: np.ndarray, read_only: bool = True) -> int:
        pointer = self.empty(x.nbytes)
        ctypes.memmove(pointer, np.ascontiguousarray(x).ctypes.data, x.nbytes)
        self.library.simt_mark_written(ctypes.c_void_p(pointer), ctypes.c_size_t(x.nbytes))
        self.library.simt_set_read_only(ctypes.c_void_p(pointer), int(read_only))
        return pointer

    def empty(self, size: int) -> int:
        pointer = int(self.library.simt_allocate(ctypes.c_size_t(size)))
        self.live.append(pointer)
        return pointer

    def get(self, pointer: int, like: np.ndarray) -> np.ndarray:
        out = np.empty_like(like)
        ctypes.memmove(out.ctypes.data, pointer, out.nbytes)
        return out

    def run(self, name: str, pointers: list[int], numbers: list[int] | None = None, bug: int = 0) -> int:
        p = (ctypes.c_void_p * 8)(*pointers)
        n = (ctypes.c_long * 8)(*(numbers or []))
        return int(self.library.simt_run(name.encode(), bug, p, n))

    def reports(self) -> str:
        text = ctypes.create_string_buffer(20000)
        self.library.simt_reports(text, ctypes.c_size_t(len(text)))
        return text.value.decode()

    def release(self) -> None:
        for pointer in self.live:
            self.library.simt_release(ctypes.c_void_p(pointer))
        self.live.clear()


@pytest.fixture(scope="module")
def emulators() -> Callable[[bool], Emulator]:
    built: dict[bool, Emulator] = {}

    def get(checked: bool) -> Emulator:
        if checked not in built:
            built[checked] = Emulator(checked)
        return built[checked]

    return get


@pytest.fixture
def fast(emulators: Callable[[bool], Emulator]) -> Iterator[Emulator]:
    emulator = emulators(False)
    emulator.configure()
    yield emulator
    emulator.release()
    emulator.reports()


@pytest.fixture
def checked(emulators: Callable[[bool], Emulator]) -> Iterator[Emulator]:
    emulator = emulators(True)
    emulator.configure()
    yield emulator
    emulator.release()
    emulator.reports()


def bf16(x: np.ndarray) -> np.ndarray:
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


# Sound kernels: each puts its operands, runs, and compares. They return the launch's result instead of asserting it, so
# that the same functions serve the defects.


def run_matmul(e: Emulator, bug: int) -> tuple[int, bool]:
    m, n, k = 50, 37, 45
    rng = np.random.default_rng(0)
    a, b = rng.integers(-9, 9, (m, k)).astype(np.float32), rng.integers(-9, 9, (k, n)).astype(np.float32)
    c = e.empty(m * n * 4)
    error = e.run("matmul", [e.put(a), e.put(b), c], [m, n, k], bug)
    return error, np.array_equal(e.get(c, np.empty((m, n), np.float32)), a @ b)


def run_centre_rows(e: Emulator, bug: int) -> tuple[int, bool]:
    x = np.random.default_rng(1).integers(-50, 50, (5, 300)).astype(np.float32)
    x[:, -1] -= x.sum(1) % 300  # means are integers, sums exact in any order
    y = e.empty(x.size * 2)
    error = e.run("centre_rows", [e.put(x), y], list(x.shape), bug)
    centred = x - x.sum(1, keepdims=True) / np.float32(300)
    expected = centred / (np.abs(centred).sum(1, keepdims=True) / np.float32(300))
    return error, np.array_equal(e.get(y, np.empty(x.shape, np.uint16)), bf16(expected))


def product(e: Emulator, name: str, m: int, n: int, k: int, transposed: bool, bug: int) -> tuple[int, bool]:
    rng = np.random.default_rng(2)
    a = rng.integers(-5, 6, (m, k)).astype(np.float32)
    b = rng.integers(-5, 6, (n, k) if transposed else (k, n)).astype(np.float32)
    c = e.empty(m * n * 4)
    error = e.run(name, [e.put(bf16(a)), e.put(bf16(b)), c], [m, n, k], bug)
    return error, np.array_equal(e.get(c, np.empty((m, n), np.float32)), a @ (b.T if transposed else b))


def run_gemm_mma(e: Emulator, bug: int) -> tuple[int, bool]:
    return product(e, "gemm_mma", 100, 72, 96, False, bug)


def run_gemm_wgmma(e: Emulator, bug: int) -> tuple[int, bool]:
    return product(e, "gemm_wgmma", 100, 72, 328, True, bug)


def run_gemm_wgmma_pipelined(e: Emulator, bug: int) -> tuple[int, bool]:
    return product(e, "gemm_wgmma.pipelined", 64, 72, 328, True, bug)


def run_last_block_sums(e: Emulator, bug: int) -> tuple[int, bool]:
    x = np.arange(1000, dtype=np.float32)
    total = e.empty(4)
    pointers = [e.put(x), e.empty(7 * 64 * 4), total, e.put(np.zeros(1, np.uint32), False)]
    error = e.run("last_block_sums", pointers, [x.size], bug)
    return error, bool(e.get(total, np.empty(1, np.float32))[0] == x.sum())


def run_last_warp_sums(e: Emulator, bug: int) -> tuple[int, bool]:
    x = np.arange(256, dtype=np.float32)
    total = e.empty(4)
    error = e.run("last_warp_sums", [e.put(x), total], [], bug)
    return error, bool(e.get(total, np.empty(1, np.float32))[0] == x.sum())


def run_count_positive(e: Emulator, bug: int) -> tuple[int, bool]:
    x = np.random.default_rng(3).normal(size=300).astype(np.float32)
    x[128:256] = 1
    counts, total = e.empty(12), e.put(np.zeros(1, np.uint32), False)
    error = e.run("count_positive", [e.put(x), counts, total], [x.size], bug)
    expected = [int((x[i : i + 128] > 0).sum()) for i in (0, 128, 256)]
    got = e.get(counts, np.empty(3, np.uint32))
    right = [int(g) for g in got] == [c | 1 << 16 | int(c == 128) << 17 for c in expected]
    return error, right and int(e.get(total, np.empty(1, np.uint32))[0]) == sum(expected)


def run_warp_operations(e: Emulator, bug: int) -> tuple[int, bool]:
    x = np.random.default_rng(4).integers(-100, 100, 32).astype(np.int32)
    out = e.empty(15 * 32 * 8)
    error = e.run("warp_operations", [e.put(x), out], [], bug)
    lane = np.arange(32)
    positive = sum(1 << i for i in range(32) if x[i] > 0)
    expected = [
        np.full(32, x[5]),
        x[(lane & -8) | ((lane + 3) & 7)],
        x[lane ^ 9],
        x[lane ^ 3],
        x[np.where(lane >= 3, lane - 3, lane)],
        x[np.where(lane % 16 >= 3, lane - 3, lane)],
        x[np.where(lane + 7 < 32, lane + 7, lane)],
        x[np.where(lane % 8 + 2 < 8, lane + 2, lane)],
        np.full(32, int(x[31]) << 33),
        np.full(32, x[1]),
        np.full(32, positive),
        np.full(32, 1),
        np.full(32, 1),
        np.where(lane < 16, x[lane ^ 1], positive & 0xFFFF0000),
        x,
    ]
    return error, np.array_equal(e.get(out, np.empty((15, 32), np.int64)), np.array(expected, np.int64))


def run_reverse_warps(e: Emulator, bug: int) -> tuple[int, bool]:
    x = np.arange(256, dtype=np.int32)
    y = e.empty(x.nbytes)
    error = e.run("reverse_warps", [e.put(x), y], [], bug)
    return error, np.array_equal(e.get(y, x), x.reshape(8, 32)[:, ::-1].ravel())


def run_elementwise(e: Emulator, bug: int) -> tuple[int, bool]:
    y = e.empty(700 * 4)
    error = e.run("elementwise", [y], [700], bug)
    return error, np.array_equal(e.get(y, np.empty(700, np.float32)), np.array([3, 1, 4, 1] * 175) + 1010)


def run_spin(e: Emulator, bug: int) -> tuple[int, bool]:
    y = e.empty(256)
    error = e.run("spin", [y], [], bug)
    return error, bool((e.get(y, np.empty(64, np.uint32)) == 1).all())


def run_atomics(e: Emulator, bug: int) -> tuple[int, bool]:
    n = 150
    x = np.random.default_rng(5).integers(1, 10**6, n).astype(np.int32)
    i32 = np.concatenate([[0, -5, 10**9], np.arange(n)]).astype(np.int32)
    u32 = np.concatenate([np.array([0, 2**32 - 1, 0, 0, 2**32 - 1, 0, 0, 0]), np.arange(n)]).astype(np.uint32)
    u64 = np.zeros(2, np.uint64)
    p = [e.put(x), e.put(i32, False), e.put(u32, False), e.put(u64, False)]
    error = e.run("atomics", p, [n], bug)
    gi, gu, gl = e.get(p[1], i32), e.get(p[2], u32), e.get(p[3], u64)
    right = list(gi[:3]) == [x.sum(), x.max(), x.min()] and np.array_equal(gi[3:], np.arange(n) - x)
    bits = [np.bitwise_or.reduce(np.uint32(1) << (x & 31).astype(np.uint32))]
    bits += [
        ~np.bitwise_or.reduce(np.uint32(1) << (x & 7).astype(np.uint32)),
        np.bitwise_xor.reduce(x),
        x.max(),
        x.min(),
    ]
    right = right and [int(v) for v in gu[:5]] == [int(b) & 0xFFFFFFFF for b in bits]
    right = right and np.array_equal(gu[8:], np.arange(n) + x)
    return error, bool(right and int(gl[0]) == int(x.sum()) << 20 and int(gl[1]) == x.max())


SOUND = [
    run_matmul,
    run_centre_rows,
    run_gemm_mma,
    run_gemm_wgmma,
    run_gemm_wgmma_pipelined,
    run_last_block_sums,
    run_last_warp_sums,
    run_count_positive,
    run_warp_operations,
    run_reverse_warps,
    run_elementwise,
    run_spin,
    run_atomics,
]
WAYS = [(order, seed, late) for order, seed in ((IN_ORDER, 1), (REVERSE, 1), (RANDOM, 1), (RANDOM, 2), (RANDOM, 3))
        for late in (True, False)]  # fmt: skip


@pytest.mark.parametrize("case", SOUND, ids=lambda c: c.__name__)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_sound(fast: Emulator, case: Callable[[Emulator, int], tuple[int, bool]], way: tuple[int, int, bool]) -> None:
    order, seed, late = way
    fast.configure(order, seed, late)
    error, right = case(fast, 0)
    assert error == 0, fast.reports()
    assert right


@pytest.mark.parametrize("case", SOUND, ids=lambda c: c.__name__)
@pytest.mark.parametrize("way", [*WAYS[:6], (RANDOM, 9, True)], ids=str)
def test_sound_checked(
    checked: Emulator, case: Callable[[Emulator, int], tuple[int, bool]], way: tuple[int, int, bool]
) -> None:
    """No false alarm, also with preemption."""
    order, seed, late = way
    checked.configure(order, seed, late, preempt=5 if order == RANDOM else 0)
    error, right = case(checked, 0)
    assert error == 0, checked.reports()
    assert right
    assert checked.reports() == ""


# Defects in them, and what is said

DEFECTS = [
    (run_matmul, 1, "race: this thread|uninitialised: reads byte .* of b_tile"),
    (run_matmul, 2, "race: this thread"),
    (run_matmul, 3, "array index 16 is out of bounds"),
    (run_matmul, 4, "out of bounds: writes memory|race: this thread writes"),
    (run_centre_rows, 5, "race: this thread"),
    (run_gemm_mma, 6, "has not arrived"),
    (run_gemm_mma, 7, "race: "),
    (run_gemm_wgmma, 8, "receives more in one phase|race|has not arrived"),
    (run_gemm_wgmma, 9, "has not arrived|uninitialised"),
    (run_count_positive, 10, "race: this thread"),
    (run_gemm_wgmma, 12, "which the tensor cores read at"),
    (run_count_positive, 14, "out of bounds: reads"),
    (run_warp_operations, 17, "lane 0 is not in its own mask fffffffe"),
    (run_warp_operations, 18, "reads lane 20, which takes no part"),
    (run_warp_operations, 29, "gives mask"),
    (run_reverse_warps, 19, "race: this thread|uninitialised: reads byte .* of slots"),
    (run_last_block_sums, 20, "race: this thread reads .* of block"),
    (run_last_block_sums, 21, "race: this thread reads .* of block"),
    (run_last_warp_sums, 26, "race: this thread reads"),
    (run_gemm_wgmma, 22, "is not initialised|race"),
    (run_gemm_wgmma, 23, "deadlock.*and -?[0-9]+ bytes"),
    (run_gemm_wgmma, 24, "ends before the bulk copy at"),
    (run_gemm_wgmma_pipelined, 27, "which the tensor cores read at"),
    (run_gemm_wgmma, 25, "race: what it starts reads|uninitialised"),
]


@pytest.mark.parametrize(("case", "bug", "words"), DEFECTS, ids=lambda v: str(getattr(v, "__name__", v)))
@pytest.mark.parametrize("order", [IN_ORDER, REVERSE, RANDOM])
def test_defect(
    checked: Emulator, case: Callable[[Emulator, int], tuple[int, bool]], bug: int, words: str, order: int
) -> None:
    checked.configure(order, seed=5)
    error, _ = case(checked, bug)
    report = checked.reports()
    assert error != 0
    assert re.search(words, report), report
    assert "kernels.cu:" in report or bug == 24, report


# Defects of their own: what x and y hold (None: nothing was written), n, and what is said
ALONE = [
    (100, 64, 64, "out of bounds: reads memory [0-9]+ bytes past the end of a buffer of 256 bytes"),
    (101, 64, 0, "out of bounds: reads 4 bytes before a buffer of 256 bytes"),
    (102, 64, 0, "writes byte .* of a buffer of 256 bytes, which is an input"),
    (103, 64, 0, "uninitialised: reads byte .* of a buffer of 256 bytes"),
    (104, 64, 0, "uninitialised: reads byte .* of slots"),
    (105, 64, 0, "race: this thread writes byte 0 .* wrote at"),
    (106, 64, 0, "race: |uninitialised: reads byte .* of slots"),
    (107, 64, 0, "misaligned"),
    (108, 64, 0, "misaligned"),
    (109, 64, 0, "divergent barrier: this thread comes to line .* wait at line"),
    (110, 64, 0, "deadlock: 64 of 64 threads wait .*__syncthreads at .*a named barrier at"),
    (111, 64, 0, "barrier 1: this thread expects (32|64) threads, others expect (32|64)|deadlock"),
    (112, 64, 0, "barrier 16 does not exist"),
    (113, 64, 0, "40 threads; expected a multiple of 32"),
    (114, 64, 0, "is not initialised"),
    (115, 64, 0, "deadlock: .*misses 1 of 2 arrivals and 0 bytes"),
    (116, 64, 0, "an mbarrier of 1 arrivals receives more in one phase: 0 are missing, 1 arrive"),
    (117, 64, 0, "a block ends while a bulk copy to its shared memory is under way"),
    (118, 64, 0, "mbarrier.init of a live mbarrier"),
    (119, 64, 0, "race: this thread writes byte .* of slots, which a bulk copy to global memory read at"),
    (120, 64, 0, "deadlock: .*ldmatrix of lanes ffffffff|ldmatrix needs all 32 lanes"),
    (121, 64, 0, "cp.async: an address is not a multiple of 16"),
    (122, 64, 0, "must be multiples of 16"),
    (123, 64, 64, "out of bounds: reads memory [0-9]+ bytes past the end"),
    (124, 64, 0, "reads byte .* of slots, where the asynchronous copy of .* has not arrived"),
    (125, 64, 0, "reads a local variable of thread \\(0,0,0\\)"),
    (126, 64, 0, "array index [0-9]+ is out of bounds"),
    (127, 64, 0, "SHARED arrays take [0-9]+ bytes; at most 48 KB"),
    (128, 64, 0, "race: this thread (writes|updates)"),
    (129, 64, 0, "comes to __(ballot|shfl)_sync while lane .* is at __(ballot|shfl)_sync"),
    (130, 64, 0, "race: |uninitialised: reads byte .* of slots"),
    (131, 64, 1, "array index 64 is out of bounds|out of bounds: writes shared memory 0 bytes past the end of slots"),
]


@pytest.mark.parametrize(("bug", "size", "n", "words"), ALONE, ids=lambda v: str(v) if isinstance(v, int) else "")
@pytest.mark.parametrize("order", [IN_ORDER, REVERSE, RANDOM])
def test_defect_alone(checked: Emulator, bug: int, size: int, n: int, words: str, order: int) -> None:
    checked.configure(order, seed=6)
    x, y = checked.put(np.ones(size, np.float32)), checked.empty(size * 4)
    assert checked.run("defects", [x, y], [n], bug) != 0
    report = checked.reports()
    assert re.search(words, report), report
    assert len(report.splitlines()) == 1, report
    assert re.match(r"kernel defects(, block \(0,0,0\), thread \(\d+,0,0\), kernels.cu:\d+)?: ", report), report


def test_lines_are_named(checked: Emulator) -> None:
    """Both sites of a race, with their lines in the source."""
    lines = SOURCE.read_text().splitlines()
    run_matmul(checked, 2)
    places = [int(n) for n in re.findall(r"kernels\.cu:(\d+)", checked.reports())]
    assert len(places) == 2
    assert "sum = __fmaf_rn" in lines[places[0] - 1]  # reads what
    assert "_tile[ty][tx] =" in lines[places[1] - 1]  # another has overwritten


# Without the checker


@pytest.mark.parametrize(("at", "side"), [(64, "past the end of"), (-1, "before the start of")])
def test_red_zones(fast: Emulator, at: int, side: str) -> None:
    y = fast.empty(256)
    assert fast.run("stray_writes", [y], [at, 0]) != 0
    assert f"kernel stray_writes: wrote {side} a buffer of 256 bytes" in fast.reports()
    assert fast.run("stray_writes", [y], [0, 0]) == 0  # reported once


@pytest.mark.parametrize(("at", "where"), [(16, 1), (-1, 1), (16, 2), (-1, 2)])
def test_shared_red_zones(fast: Emulator, at: int, where: int) -> None:
    assert fast.run("stray_writes", [fast.empty(256)], [at, where]) != 0
    assert "shared array" in fast.reports()


def test_late_copies_show(fast: Emulator) -> None:
    """Without the wait, tiles hold NaN when copies are late; early ones hide the defect."""
    results = []
    for late in (True, False):
        fast.configure(late=late)
        results.append(run_gemm_mma(fast, 6)[1])
    assert results == [False, True]


def test_preemption_shows(checked: Emulator) -> None:
    """A lost update needs another thread between the read and the write."""
    right = []
    for preempt in (0, 3):
        for seed in range(8):
            checked.configure(RANDOM, seed, preempt=preempt, check=False)
            right.append(run_count_positive(checked, 10)[1])
    assert all(right[:8]) and not all(right[8:])


def test_portable_switch() -> None:
    """Machines that have no switch of their own use the C library's contexts."""
    emulator = Emulator(False, ("-DSIMT_UCONTEXT",))
    for case in (run_matmul, run_warp_operations, run_gemm_wgmma):
        assert case(emulator, 0) == (0, True), emulator.reports()
    emulator.release()


def test_host_threads(checked: Emulator) -> None:
    """Launches take turns; instrumented host code on other threads is not taken for a kernel's."""
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: run_matmul(checked, 0), range(24)))
    assert results == [(0, True)] * 24, checked.reports()


def test_check_needs_instrumented_kernels(fast: Emulator) -> None:
    """Without the compiler's calls nothing is known of what was written: no alarm, red zones still work."""
    fast.configure(check=True)
    assert run_gemm_mma(fast, 0) == (0, True), fast.reports()
    assert fast.run("stray_writes", [fast.empty(256)], [64, 0]) != 0


def test_poison(fast: Emulator) -> None:
    x = fast.get(fast.empty(64), np.empty(16, np.float32))
    assert np.isnan(x).all()


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([0, 1, 32, 0], "a grid of (0,1,1) blocks is refused"),
        ([1, 65536, 32, 0], "a grid of (1,65536,1) blocks is refused"),
        ([1, 1, 1025, 0], "a block of (1025,1,1) threads is refused"),
        ([1, 1, 32, 232449], "232449 bytes of dynamic shared memory are refused"),
    ],
)
def test_launch_is_refused(fast: Emulator, numbers: list[int], words: str) -> None:
    assert fast.run("shape", [fast.empty(4)], numbers) != 0
    assert words in fast.reports()
    assert fast.run("shape", [fast.empty(4)], [2, 1, 1, 0]) == 0


def test_unchecked_launches_leave_nothing_unwritten(checked: Emulator) -> None:
    """What an unchecked launch wrote is not called uninitialised afterwards."""
    x, y = checked.put(np.ones(64, np.float32)), checked.empty(256)
    checked.configure(check=False)
    assert checked.run("defects", [x, y], [0], 103) == 0
    checked.configure()
    assert checked.run("defects", [x, y], [0], 103) == 0


def test_partly_written_buffer(checked: Emulator) -> None:
    x, y = checked.put(np.ones(64, np.float32)), checked.empty(256)
    checked.library.simt_mark_written(ctypes.c_void_p(y), ctypes.c_size_t(252))
    assert checked.run("defects", [x, y], [0], 103) != 0
    assert "thread (63,0,0)" in checked.reports()


def test_counts(checked: Emulator) -> None:
    counts = [(ctypes.c_uint64 * 3)(), (ctypes.c_uint64 * 3)()]
    checked.library.simt_counts(counts[0])
    run_reverse_warps(checked, 0)
    checked.library.simt_counts(counts[1])
    launches, switches, accesses = (b - a for a, b in zip(*counts, strict=True))
    assert (launches, accesses) == (1, 4 * 256) and switches >= 256


# Arithmetic


def test_integers(fast: Emulator) -> None:
    special = [0, 1, -1, 2**31 - 1, -(2**31), 0x7F800000, -0x800000, 0x7FC00000, 0x4F000000, 0x3F000000, 0x00000001]
    x = np.array([*special, *np.random.default_rng(7).integers(-(2**31), 2**31, 200)], np.int64).astype(np.int32)
    out = fast.empty(len(x) * 128)
    assert fast.run("integers", [fast.put(x), out], [len(x)]) == 0
    got = fast.get(out, np.empty((len(x), 16), np.int64))
    for v, row in zip(x, got, strict=True):
        s, u = int(v), int(v) & 0xFFFFFFFF
        f = np.float64(v.view(np.float32))

        def signed(w: int) -> int:
            return (w & 0xFFFFFFFF) - (1 << 32 if w & 0x80000000 else 0)

        def clamped(w: float, low: int, high: int) -> int:
            return 0 if np.isnan(w) else low if w <= low else high if w >= high else int(w)

        assert row[0] == u.bit_count() and row[1] == 32 - u.bit_length() and row[2] == (u & -u).bit_length()
        assert row[3] == int(f"{u:032b}"[::-1], 2)
        assert row[4] == s * 0x12345678 >> 32 and row[5] == u * 0x9ABCDEF0 >> 32
        pair = 0x80000001 << 32 | u
        assert row[6] == (pair << 5 >> 32) & 0xFFFFFFFF and row[7] == pair >> 5 & 0xFFFFFFFF
        with np.errstate(invalid="ignore"):
            assert row[8] == clamped(np.rint(f), -(2**31), 2**31 - 1)
            assert row[9] == clamped(np.trunc(f), -(2**31), 2**31 - 1)
            assert row[10] == clamped(np.rint(f), 0, 2**32 - 1)
        assert row[11] == min(s, 7) and row[12] == max(u, 7)
        assert row[14] == signed64((s & (2**64 - 1)) * 0xFEDCBA9876543210 >> 64)
        if np.isfinite(f):
            assert row[13] == rounded(Fraction(float(f)) * 3 + 1).view(np.int32)
            with np.errstate(all="ignore"):
                assert row[15] == (np.float32(1) / np.float32(f)).view(np.int32)


def rounded(exact: Fraction) -> np.float32:
    """The nearest float32, of two the even one."""
    with np.errstate(over="ignore"):
        near = np.float32(float(exact))
        if np.isinf(near):
            return near
        around = [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
    finite = [c for c in around if np.isfinite(c)]
    return min(finite, key=lambda c: (abs(Fraction(float(c)) - exact), int(c.view(np.int32)) & 1))


def signed64(w: int) -> int:
    return w - (1 << 64 if w >> 63 else 0)


def test_callers_float_mode_is_not_the_devices(fast: Emulator) -> None:
    """Subnormals are kept on the device whatever mode the caller has set, and the caller's mode comes back."""
    libm = ctypes.CDLL("libm.so.6")
    x = np.array([3], np.int32)  # the bits of a subnormal
    pointers = [fast.put(x), fast.empty(128)]
    upward = 0x800
    before = libm.fegetround()
    libm.fesetround(upward)
    try:
        assert fast.run("integers", pointers, [1]) == 0
        assert libm.fegetround() == upward
    finally:
        libm.fesetround(before)
    row = fast.get(pointers[1], np.empty(16, np.int64))
    assert row[13] == np.float32(1).view(np.int32)  # 3 x + 1, rounded to nearest: not upward
