"""Every wrapper of csrc/cuda/ptx.cuh against formulas that know nothing of the emulator: exact comparison.

On the emulator by default, checked and unchecked; with MMK_GPU=1 on the device, where the same must hold.
"""

from __future__ import annotations

import ctypes
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from libraries import ON_DEVICE, device_messages, emulated, on_device

SOURCE = Path(__file__).resolve().parent / "conformance" / "wrappers.cu"
POISON = 0xCD
IN_ORDER, REVERSE, RANDOM = range(3)
# order, seed, late, checked
WAYS = [(IN_ORDER, 1, 1, True), (REVERSE, 1, 0, True), (RANDOM, 3, 1, False), (RANDOM, 4, 0, False)]


class Device:
    """The compiled file, and how it is run."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        library.conformance_run.argtypes = [
            ctypes.c_char_p,
            *[ctypes.c_void_p, ctypes.c_size_t] * 2,
            ctypes.POINTER(ctypes.c_int),
        ]
        library.conformance_tensor.argtypes = [
            *[ctypes.c_int] * 3,
            *[ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t],
            ctypes.POINTER(ctypes.c_int),
        ]

    def complaint(self, error: int) -> str:
        if ON_DEVICE:
            return f"CUDA error {error}"
        text = ctypes.create_string_buffer(10000)
        self.library.simt_reports(text, ctypes.c_size_t(len(text)))
        return f"{error}: {text.value.decode()}"

    def run(self, name: str, operand: np.ndarray, out_bytes: int, numbers: list[int] | None = None) -> np.ndarray:
        operand = np.ascontiguousarray(operand)
        out = np.full(out_bytes, POISON, np.uint8)
        padded = (ctypes.c_int * 16)(*(numbers or []))
        error = self.library.conformance_run(
            name.encode(), operand.ctypes.data, operand.nbytes, out.ctypes.data, out.nbytes, padded
        )
        assert error == 0, self.complaint(error)
        return out

    def tensor(
        self,
        storing: bool,
        tensor: np.ndarray,
        image: np.ndarray,
        box: list[int],
        steps: list[int],
        swizzle: int,
        coordinates: list[int],
        box_bytes: int,
        offset: int,
    ) -> int:
        """Box, steps and coordinates innermost first; the tensor's last axis is the innermost."""
        rank = tensor.ndim
        extents = list(tensor.shape[::-1])
        strides = [tensor.itemsize * int(np.prod(extents[:i])) for i in range(1, rank)]
        pad = [*extents, *[1] * (5 - rank), *strides, *[16] * (5 - rank), *box, *[1] * (5 - rank)]
        geometry = np.array([*pad, *steps, *[1] * (5 - rank)], np.uint64)
        numbers = (ctypes.c_int * 16)(rank, box_bytes, image.nbytes, offset, *coordinates)
        return int(
            self.library.conformance_tensor(
                int(storing), tensor.itemsize, swizzle, geometry.ctypes.data,
                tensor.ctypes.data, tensor.nbytes, image.ctypes.data, image.nbytes, numbers,
            )
        )  # fmt: skip


@pytest.fixture(scope="session")
def libraries() -> Callable[[bool], Device]:
    built: dict[bool, Device] = {}

    def get(checked: bool) -> Device:
        if checked not in built:
            built[checked] = Device(on_device(SOURCE) if ON_DEVICE else emulated(SOURCE, checked))
        return built[checked]

    return get


@pytest.fixture(params=[None] if ON_DEVICE else WAYS, ids=str)
def device(request: pytest.FixtureRequest, libraries: Callable[[bool], Device]) -> Device:
    if ON_DEVICE:
        return libraries(False)
    order, seed, late, checked = request.param
    found = libraries(checked)
    found.library.simt_configure(order, ctypes.c_uint64(seed), late, 7 if checked else 0, int(checked))
    return found


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize("architecture", ["80", "90a"])
@pytest.mark.parametrize("source", [SOURCE, SOURCE.parent.parent / "simt" / "kernels.cu"], ids=lambda p: p.stem)
def test_devices_take_it(source: Path, architecture: str) -> None:
    """For old devices, too; and ptxas neither serialises a wgmma (C7510 to C7519) nor ignores setmaxnreg (C7508)."""
    messages = device_messages(source, architecture)
    assert "(C75" not in messages and "error" not in messages, messages


LANES = np.arange(32)
G, T = LANES // 4, LANES % 4


# Formats


def f16_bits(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float16).view(np.uint16)


def bf16_bits(x: np.ndarray) -> np.ndarray:
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(x), 0x7FFF, rounded).astype(np.uint16)


def tf32_bits(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32).view(np.uint32)


BITS = {"f16": f16_bits, "bf16": bf16_bits, "tf32": tf32_bits}


def test_conversions(device: Device) -> None:
    special = [0.0, -0.0, 1.0, -1.5, 65504.0, 65519.0, 65520.0, 1e-8, 2.0**-24, 2.0**-25, 3 * 2.0**-26, 6e-5, 1e-45]
    special += [np.inf, -np.inf, np.nan, 3.3895e38, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-11, -1e-40]
    x = np.array(special + list(np.random.default_rng(1).normal(size=235)), np.float32).reshape(-1, 2)
    got = device.run("conversions", x, 12 * len(x), [len(x)]).view(np.uint32).reshape(-1, 3)

    def halves(bits: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        parts = np.where(np.isnan(x), 0x7FFF, bits(x)).astype(np.uint32)
        return parts[:, 0] | parts[:, 1] << 16

    np.testing.assert_array_equal(got[:, 0], halves(bf16_bits))
    np.testing.assert_array_equal(got[:, 1], halves(f16_bits))
    bits = x[:, 0].view(np.uint32).astype(np.uint64)
    away = ((bits + 0x1000) & 0xFFFFE000).astype(np.uint32)
    finite = np.isfinite(x[:, 0])
    np.testing.assert_array_equal(got[finite, 2], away[finite])


# Matrices of 8 x 8


def permuted(lane: np.ndarray) -> np.ndarray:
    """The row that a lane gives the address of."""
    return (lane * 5 + 3) % 32


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("matrices", [1, 2, 4])
def test_ldmatrix(device: Device, matrices: int, transposed: bool) -> None:
    rows = np.arange(256, dtype=np.uint16).reshape(32, 8)
    name = f"ldmatrix.{matrices}" + (".transposed" if transposed else "")
    got = device.run(name, rows, 32 * matrices * 4).view(np.uint16).reshape(32, matrices, 2)
    for j, half in itertools.product(range(matrices), range(2)):
        matrix = rows[permuted(8 * j + np.arange(8))]
        row, column = (2 * T + half, G) if transposed else (G, 2 * T + half)
        np.testing.assert_array_equal(got[:, j, half], matrix[row, column])


@pytest.mark.parametrize(("matrices", "transposed"), [(1, False), (2, False), (4, False), (4, True)])
def test_stmatrix(device: Device, matrices: int, transposed: bool) -> None:
    registers = np.arange(64 * matrices, dtype=np.uint16).reshape(32, matrices, 2)
    expected = np.full((32, 8), 0xCDCD, np.uint16)
    for j, half in itertools.product(range(matrices), range(2)):
        row, column = (2 * T + half, G) if transposed else (G, 2 * T + half)
        expected[permuted(8 * j + row), column] = registers[:, j, half]
    name = f"stmatrix.{matrices}" + (".transposed" if transposed else "")
    got = device.run(name, registers, 512).view(np.uint16).reshape(32, 8)
    np.testing.assert_array_equal(got, expected)


def test_movmatrix(device: Device) -> None:
    matrix = np.arange(64, dtype=np.uint16).reshape(8, 8)
    got = device.run("movmatrix", matrix, 128).view(np.uint16).reshape(8, 8)
    np.testing.assert_array_equal(got, matrix.T)


# Products of a warp


def fragments(element: str, k: int, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Registers of A [16][k] and B [k][8], by lane."""
    bits = BITS[element]
    if element == "tf32":
        a_registers = np.stack([bits(a)[G + 8 * (r % 2), T + 4 * (r // 2)] for r in range(4)], 1)
        b_registers = np.stack([bits(b)[T + 4 * r, G] for r in range(2)], 1)
        return a_registers, b_registers
    half = np.arange(2)
    a_halves = [bits(a)[(G + 8 * (r % 2))[:, None], (2 * T + 8 * (r // 2))[:, None] + half] for r in range(k // 4)]
    b_halves = [bits(b)[(2 * T + 8 * r)[:, None] + half, G[:, None]] for r in range(k // 8)]
    pack = [np.ascontiguousarray(np.stack(h, 1)).view(np.uint32)[..., 0] for h in (a_halves, b_halves)]
    return pack[0], pack[1]


def warp_product(device: Device, element: str, k: int, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    rows, columns = zip(*[(G + 8 * (i // 2), 2 * T + i % 2) for i in range(4)], strict=True)
    start = np.stack([np.asarray(c, np.float32)[r, n] for r, n in zip(rows, columns, strict=True)], 1)
    operands = [*fragments(element, k, a, b), start.view(np.uint32)]
    flat = np.concatenate([np.ascontiguousarray(o, np.uint32).ravel() for o in operands])
    got = device.run(f"mma.{element}.{k}", flat, 512).view(np.float32).reshape(32, 4)
    d = np.empty((16, 8), np.float32)
    for i in range(4):
        d[rows[i], columns[i]] = got[:, i]
    return d


MMA = [("f16", 8), ("f16", 16), ("bf16", 8), ("bf16", 16), ("tf32", 8)]


@pytest.mark.parametrize(("element", "k"), MMA)
def test_mma_layout(device: Device, element: str, k: int) -> None:
    rng = np.random.default_rng(k)
    a, b, c = (rng.integers(-11, 12, shape) for shape in ((16, k), (k, 8), (16, 8)))
    np.testing.assert_array_equal(warp_product(device, element, k, a, b, c), a @ b + c)


# One term decides the last place: (products 2^-exponent at these k, the sum's units above 1). They tell cards apart.
SUMS = [([(25, 0), (25, 1), (25, 2), (25, 3)], 1), ([(24, 0), (24, "half")], 1)]
SUMS += [([(23.415, 0)], 0), ([(24, 0), (24, 1)], 1)]


@pytest.mark.parametrize(("element", "k"), [("f16", 16), ("bf16", 16), ("tf32", 8)])
@pytest.mark.parametrize(("terms", "units"), SUMS)
def test_mma_sum(device: Device, element: str, k: int, terms: list[tuple[float, int | str]], units: int) -> None:
    """As sm_90 adds: one group, 25 fraction bits, truncation. 2^-23.415 stands for 1.5 x 2^-24."""
    a, b = np.zeros((16, k)), np.zeros((k, 8))
    for exponent, at in terms:
        index = k // 2 if at == "half" else int(at)
        a[0, index] = 1.5 * 2.0**-12 if exponent == 23.415 else 2.0**-12
        b[index, 0] = 2.0**-12 if exponent == 23.415 else 2.0 ** (12 - exponent)
    d = warp_product(device, element, k, a, b, np.ones((16, 8)))
    assert (d[0, 0] - 1) / 2.0**-23 == units
    assert (d.ravel()[1:] == 1).all()


def test_mma_special(device: Device) -> None:
    a, b, c = np.zeros((16, 16)), np.zeros((16, 8)), np.zeros((16, 8))
    a[0, 0], a[1, 0], a[2, 0], b[0, 0] = np.inf, np.nan, 2.0**-14, 1.0
    b[0, 1], c[3, 0] = 2.0**-24, -np.inf
    d = warp_product(device, "f16", 16, a, b, c)
    assert d[0, 0] == np.inf and d[3, 0] == -np.inf and d[2, 1] == 2.0**-38
    assert d.view(np.uint32)[1, 0] == 0x7FFFFFFF and d.view(np.uint32)[0, 2] == 0x7FFFFFFF


# Copies and barriers


@pytest.mark.parametrize("name", ["cp_async.4", "cp_async.8", "cp_async.16", "cp_async.16.barrier"])
def test_cp_async(device: Device, name: str) -> None:
    size = int(name.split(".")[1])
    x = np.arange(1, 32 * size + 1, dtype=np.uint32).astype(np.uint8).reshape(32, size)
    got = device.run(name, x, 32 * size).reshape(32, size)
    valid = (LANES % (size + 1))[:, None]
    np.testing.assert_array_equal(got, np.where(np.arange(size) < valid, x, 0))


def test_cp_async_groups(device: Device) -> None:
    x = np.arange(64, dtype=np.uint32)
    np.testing.assert_array_equal(device.run("cp_async.groups", x, 256).view(np.uint32), x)


@pytest.mark.parametrize("laps", [1, 2, 5])
def test_named_barriers(device: Device, laps: int) -> None:
    x = np.arange(laps * 32, dtype=np.uint32).reshape(laps, 32)
    got = device.run("named_barriers", x, x.nbytes, [laps]).view(np.uint32).reshape(laps, 32)
    np.testing.assert_array_equal(got, x[:, ::-1])


@pytest.mark.parametrize("laps", range(1, 10))
@pytest.mark.parametrize("stages", [2, 3, 4])
def test_bulk_ring(device: Device, stages: int, laps: int) -> None:
    x = np.arange(laps * 32, dtype=np.uint32).reshape(laps, 32)
    got = device.run("bulk_ring", x, x.nbytes, [stages, laps]).view(np.uint32).reshape(laps, 32)
    np.testing.assert_array_equal(got, x[:, ::-1])


def test_bulk_stores(device: Device) -> None:
    x = np.arange(128, dtype=np.uint32)
    np.testing.assert_array_equal(device.run("bulk_stores", x, 512).view(np.uint32), x)


def test_setmaxnreg(device: Device) -> None:
    x = np.arange(256, dtype=np.uint32)
    np.testing.assert_array_equal(device.run("setmaxnreg", x, 1024).view(np.uint32), x)


def test_exp2_of_integers(device: Device) -> None:
    x = np.arange(-126, 128, dtype=np.float32)
    np.testing.assert_array_equal(device.run("exp2", x, x.nbytes, [len(x)]).view(np.float32), 2.0**x)


# Tensor copies


def swizzled(address: int, width: int) -> int:
    if width == 0:
        return address
    rows_between = 128 // width  # how many rows one 128-byte line holds
    line, chunk = address // 128, address % 128 // 16
    pattern = {128: line % 8, 64: line % 4, 32: line % 2}[width]
    assert rows_between in (1, 2, 4)
    return line * 128 + (chunk ^ pattern) * 16 + address % 16


def places(
    shape: tuple[int, ...], box: list[int], steps: list[int], start: list[int], size: int, width: int, offset: int
) -> list[tuple[int, tuple[int, ...] | None]]:
    """(byte in shared memory, index into the tensor or None outside it) of every element of the box."""
    rank = len(shape)
    pitch = width if width else box[0] * size
    found: list[tuple[int, tuple[int, ...] | None]] = []
    counts = [box[0], *[-(-box[i] // steps[i]) for i in range(1, rank)]]
    for row, outer in enumerate(itertools.product(*[range(n) for n in counts[:0:-1]])):
        for column in range(counts[0]):
            at = [start[0] + column, *[start[i] + outer[::-1][i - 1] * steps[i] for i in range(1, rank)]]
            index = tuple(at[::-1])
            inside = all(0 <= i < n for i, n in zip(index, shape, strict=True))
            found.append((swizzled(offset + row * pitch + column * size, width) - offset, index if inside else None))
    return found


# shape (innermost last), element bytes, box, steps, start (innermost first), swizzle, offset in shared memory
BOXES = [
    ((100,), 4, [32], [1], [8], 0, 0),
    ((100,), 4, [32], [1], [-5], 0, 0),
    ((24, 64), 2, [16, 8], [1, 1], [16, 3], 32, 0),
    ((24, 64), 2, [16, 16], [1, 1], [-3, -2], 32, 128),
    ((24, 64), 2, [32, 16], [1, 1], [32, 16], 64, 0),
    ((24, 64), 2, [32, 12], [1, 1], [-8, 2], 64, 256),
    ((24, 64), 2, [64, 24], [1, 1], [0, 0], 128, 0),
    ((24, 64), 2, [64, 16], [1, 1], [24, 12], 128, 128),
    ((24, 64), 2, [64, 16], [1, 1], [0, -4], 0, 0),
    ((24, 64), 4, [8, 16], [1, 1], [4, 2], 128, 0),  # narrower than the swizzle: rows still lie 128 bytes apart
    ((24, 64), 4, [4, 16], [1, 1], [4, 2], 64, 0),
    ((20, 128), 1, [128, 9], [1, 1], [0, 5], 128, 384),
    ((9, 11, 32), 4, [32, 5, 3], [1, 1, 1], [0, 9, 7], 128, 0),
    ((9, 11, 32), 4, [16, 5, 3], [1, 2, 1], [16, 1, -1], 64, 0),
    ((5, 6, 7, 8), 4, [8, 3, 4, 2], [1, 1, 1, 1], [0, 5, -1, 4], 32, 0),
    ((5, 6, 7, 8), 4, [8, 3, 4, 2], [1, 3, 2, 1], [0, 1, 1, 1], 0, 0),
    ((3, 4, 5, 6, 8), 4, [8, 3, 2, 2, 2], [1, 1, 1, 1, 1], [2, 4, 4, 3, -1], 32, 128),
]


@pytest.mark.parametrize("case", BOXES, ids=str)
def test_tensor_load(device: Device, case: tuple) -> None:
    shape, size, box, steps, start, width, offset = case
    dtype = {1: np.uint8, 2: np.uint16, 4: np.uint32}[size]
    tensor = (np.arange(np.prod(shape)) + 1).astype(dtype).reshape(shape)
    elements = places(shape, box, steps, start, size, width, offset)
    image = np.full(-(-(max(at for at, _ in elements) + size) // 128) * 128, POISON, np.uint8)
    expected = image.copy()
    for at, index in elements:
        value = tensor[index] if index is not None else dtype(0)
        expected[at : at + size] = np.frombuffer(value.tobytes(), np.uint8)
    error = device.tensor(False, tensor, image, box, steps, width, start, len(elements) * size, offset)
    assert error == 0, device.complaint(error)
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("case", [c for c in BOXES if min(c[4]) >= 0], ids=str)
def test_tensor_store(device: Device, case: tuple) -> None:
    shape, size, box, steps, start, width, offset = case
    dtype = {1: np.uint8, 2: np.uint16, 4: np.uint32}[size]
    tensor = np.full(shape, 77, dtype)
    expected = tensor.copy()
    elements = places(shape, box, steps, start, size, width, offset)
    image = np.arange(-(-(max(at for at, _ in elements) + size) // 128) * 128, dtype=np.uint32).astype(np.uint8)
    for at, index in elements:
        if index is not None:
            expected[index] = image[at : at + size].view(dtype)[0]
    error = device.tensor(True, tensor, image, box, steps, width, start, len(elements) * size, offset)
    assert error == 0, device.complaint(error)
    np.testing.assert_array_equal(tensor, expected)


def test_tensor_map_is_refused(device: Device) -> None:
    tensor, image = np.zeros((8, 64), np.uint16), np.zeros(1024, np.uint8)
    for box, swizzle in (([4, 8], 0), ([64, 8], 32), ([64, 300], 0)):
        assert device.tensor(False, tensor, image, box, [1, 1], swizzle, [0, 0], 1024, 0) == -3


# wgmma


def operand_image(x: np.ndarray, element: str, transposed: bool, width: int) -> tuple[np.ndarray, int, int, int]:
    """Shared memory of x [rows][k]; leading and stride in bytes, and what one step of 32 bytes along k adds.

    k contiguous: atoms of 8 rows x `width` bytes (none: 8 rows x 16 bytes), rows first, then along k.
    rows contiguous (transposed): atoms of `width` bytes of rows (none: 16 bytes) x 8 k, k first, then along rows.
    """
    bits = BITS[element](x)
    size, (rows, depth) = bits.itemsize, x.shape
    atoms_along_k = 1 if transposed else -(-depth * size // (width or 16))
    image = np.zeros(bits.nbytes if transposed else rows * (width or 16) * atoms_along_k, np.uint8)
    unit = (width or 16) // size  # elements of one atom's contiguous side
    atom = 8 * (width or 16)
    if not transposed:
        stride, across = atom, atom * rows // 8  # the next 8 rows; the next `unit` elements of k
        leading, advance = (16, 32) if width else (across, 2 * across)
    else:
        down, across = atom, atom * depth // 8  # the next 8 of k; the next `unit` rows
        leading, stride = (across, down) if width else (down, across)
        advance = 2 * down
    for m, k in itertools.product(range(rows), range(depth)):
        if transposed:
            at = k % 8 * (width or 16) + k // 8 * down + m % unit * size + m // unit * across
        else:
            at = m % 8 * (width or 16) + m // 8 * stride + k % unit * size + k // unit * across
        at = swizzled(at, width)
        image[at : at + size] = np.frombuffer(bits[m, k].tobytes(), np.uint8)
    return image, leading, stride, advance


def unpack_accumulators(registers: np.ndarray, n: int) -> np.ndarray:
    w, i = np.meshgrid(np.arange(128), np.arange(n // 2), indexing="ij")
    d = np.empty((64, n), np.float32)
    d[16 * (w // 32) + w % 32 // 4 + 8 * (i // 2 % 2), 8 * (i // 4) + 2 * (w % 4) + i % 2] = registers.reshape(128, -1)
    return d


def pack_accumulators(d: np.ndarray) -> np.ndarray:
    n = d.shape[1]
    w, i = np.meshgrid(np.arange(128), np.arange(n // 2), indexing="ij")
    return d.astype(np.float32)[16 * (w // 32) + w % 32 // 4 + 8 * (i // 2 % 2), 8 * (i // 4) + 2 * (w % 4) + i % 2]


def group_product(
    device: Device, element: str, layout: str, n: int, width: int, a: np.ndarray, b: np.ndarray, c: np.ndarray | None
) -> np.ndarray:
    """a [64][k] times b [n][k] transposed; without c the accumulators start as NaN and are not to be used."""
    b_image, b_leading, b_stride, b_advance = operand_image(b, element, layout[1] == "n", width)
    start = pack_accumulators(np.full((64, n), np.nan) if c is None else c).astype(np.float32)
    step = 8 if element == "tf32" else 16
    if layout[0] == "r":
        registers = [fragments(element, step, a[16 * w : 16 * w + 16], np.zeros((step, 8)))[0] for w in range(4)]
        numbers = [b_image.nbytes, 0, 1, 0, 0, b_leading, b_stride, 0, 0, width, c is not None]
        parts = [np.concatenate(registers).astype(np.uint32), b_image, start]
    else:
        a_image, a_leading, a_stride, a_advance = operand_image(a, element, layout[0] == "m", width)
        gap = np.zeros(-a_image.nbytes % 1024, np.uint8)
        offset = a_image.nbytes + gap.nbytes
        numbers = [offset + b_image.nbytes, offset, a.shape[1] // step, a_leading, a_stride, b_leading, b_stride]
        numbers += [a_advance, b_advance, width, c is not None]
        parts = [a_image, gap, b_image, start]
    operand = np.concatenate([np.ascontiguousarray(p).view(np.uint8).ravel() for p in parts])
    numbers += [0] * (15 - len(numbers)) + [n]
    got = device.run(f"wgmma.{element}.{layout}", operand, 128 * n * 2, [int(v) for v in numbers])
    return unpack_accumulators(got.view(np.float32), n)


WGMMA = [(e, layout, n, w) for w in (0, 32, 64, 128) for e in ("f16", "bf16") for layout in ("kk", "mn") for n in (64,)]
WGMMA += [("bf16", layout, 128, w) for w in (0, 32, 64, 128) for layout in ("kk", "mk", "kn", "mn", "rk", "rn")]
WGMMA += [("f16", layout, 64, 128) for layout in ("rk", "rn")]
WGMMA += [("tf32", layout, n, w) for w in (0, 32, 64, 128) for layout in ("kk", "rk") for n in (64,)]
WGMMA += [(e, "kk", n, 128) for e in BITS for n in (8, 24, 256)]


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(("element", "layout", "n", "width"), WGMMA)
def test_wgmma(device: Device, element: str, layout: str, n: int, width: int, add: bool) -> None:
    """Integers in the operands: every sum is exact, and one misplaced element shows."""
    step, size = (8, 4) if element == "tf32" else (16, 2)
    # as deep as the swizzle's atom, where one descriptor's start can be advanced by the same amount at every step
    depth = step if layout[0] == "r" else max(step, width // size) if "k" in layout and width else 4 * step
    rng = np.random.default_rng(n + width)
    a, b = rng.integers(-9, 10, (64, depth)), rng.integers(-9, 10, (n, depth))
    c = rng.integers(-99, 100, (64, n)) if add else None
    d = group_product(device, element, layout, n, width, a, b, c)
    np.testing.assert_array_equal(d, a @ b.T + (0 if c is None else c))


@pytest.mark.parametrize("element", ["f16", "bf16", "tf32"])
@pytest.mark.parametrize(("terms", "units"), SUMS)
def test_wgmma_sum(device: Device, element: str, terms: list[tuple[float, int | str]], units: int) -> None:
    k = 8 if element == "tf32" else 16
    a, b = np.zeros((64, k)), np.zeros((64, k))
    for exponent, at in terms:
        index = k // 2 if at == "half" else int(at)
        a[0, index] = 1.5 * 2.0**-12 if exponent == 23.415 else 2.0**-12
        b[0, index] = 2.0**-12 if exponent == 23.415 else 2.0 ** (12 - exponent)
    d = group_product(device, element, "kk", 64, 32, a, b, np.ones((64, 64)))
    assert (d[0, 0] - 1) / 2.0**-23 == units
    assert (d.ravel()[1:] == 1).all()
