"""The forward process and the step: the stated operations one by one, their composition, and what a step promises."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import harness
import mmkernels as mmk
from mmkernels import _core, autograd
from mmkernels.contract import Case
from mmkernels.diffusion import COLUMNS
from mmkernels.operator import OPERATORS
from mmkernels.ops.diffusion import _mask, add_noise, diffusion_step
from mmkernels.ops.noise import keys_of, philox_fold_in, philox_normal
from mmkernels.ops.pointwise import greater
from mmkernels.verify import instruction_set
from reference import arith

Array = NDArray[Any]
Refused, WrongType = mmk.ContractError, mmk.ContractTypeError
INFINITY = float("inf")


def normal(*shape: int, seed: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(dtype)


def row_of(**columns: float) -> Array:
    return np.array([columns.get(name, 0.0) for name in COLUMNS])


def twin(
    x: Array, branches: tuple[Array, ...], rows: Array, history: tuple[Array, ...], z: Array | None,
    mask: Array | None, known: Array | None,
) -> tuple[Array, Array]:  # fmt: skip
    """The step's float32 operations in the order that csrc/ops/diffusion.h states, in NumPy."""
    fma = arith.fma
    columns = dict(zip(COLUMNS, (c.reshape(-1, *(1,) * (x.ndim - 1)) for c in np.float32(rows).T), strict=True))
    y = branches[0]
    for name, (before, after) in zip(("g1", "g2"), pairwise(branches), strict=False):
        y = fma(columns[name], after - before, y)
    x0 = fma(columns["p"], x, columns["q"] * y)
    x0 = np.where(x0 < columns["lo"], columns["lo"], x0)
    x0 = np.where(x0 > columns["hi"], columns["hi"], x0)
    x_next = fma(columns["E"], y, fma(columns["B"], x0, columns["A"] * x))
    for name, h in zip(("C1", "C2", "C3", "C4"), history, strict=False):
        x_next = fma(columns[name], h, x_next)
    if z is not None:
        x_next = fma(columns["s"], z, x_next)
    if mask is not None and known is not None:
        kept = columns["ka"] * known
        if z is not None:
            kept = fma(columns["kb"], z, kept)
        x_next = mask * kept + (np.float32(1) - mask) * x_next
    return np.asarray(x_next), fma(columns["hc"], y, fma(columns["hb"], x0, columns["ha"] * x))


SHAPES = st.tuples(st.integers(1, 3), st.lists(st.integers(1, 9), max_size=3)).map(lambda s: (s[0], *s[1]))


@st.composite
def steps(draw: st.DrawFn) -> dict[str, Any]:
    """A step with any of its parts, and its operands."""
    shape = draw(st.one_of(SHAPES, st.just((2, 1091))))
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)

    def values(*shape: int) -> Array:
        return random.standard_normal(shape).astype(np.float32)

    rows = values(*draw(st.sampled_from([(20,), (1, 20), (shape[0], 20)])))
    if draw(st.booleans()):
        rows[..., 4], rows[..., 5] = -INFINITY, INFINITY
    step: dict[str, Any] = {
        "x": values(*shape),
        "branches": tuple(values(*shape) for _ in range(draw(st.integers(1, 3)))),
        "rows": rows,
        "history": tuple(values(*shape) for _ in range(draw(st.integers(0, 4)))),
        "noise": None, "seed": None, "mask": None, "known": None,
    }  # fmt: skip
    kind = draw(st.sampled_from(["none", "given", "drawn"]))
    if kind == "given":
        step["noise"] = values(*shape)
    if kind == "drawn":
        step["seed"] = draw(st.integers(0, 2**64 - 1))
    if draw(st.booleans()):
        masked = [n if draw(st.booleans()) else 1 for n in shape]
        step["mask"] = random.random(masked[draw(st.integers(0, len(masked))) :]).astype(np.float32)
        step["known"] = values(*shape)
    return step


def run(step: dict[str, Any], dtype: Any = np.float32, **more: Any) -> Any:
    def cast(a: Any) -> Any:
        return a.astype(dtype) if isinstance(a, np.ndarray) else a

    prediction = tuple(map(cast, step["branches"]))
    return diffusion_step(
        cast(step["x"]), prediction if len(prediction) > 1 else prediction[0], step["rows"],
        history=tuple(map(cast, step["history"])), noise=cast(step["noise"]), seed=step["seed"],
        mask=cast(step["mask"]), known=cast(step["known"]), **more,
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(steps(), st.sampled_from(_core.available_isas()))
def test_the_twins_bits(step: dict[str, Any], isa: str) -> None:
    z = step["noise"]
    if step["seed"] is not None:
        z = arith.philox_normal(keys_of(step["seed"], len(step["x"])), extents=step["x"].shape[1:], offset=0)
    rows = step["rows"].reshape(-1, 20)
    mask = None if step["mask"] is None else np.broadcast_to(step["mask"], step["x"].shape)
    wanted = twin(step["x"], step["branches"], rows, step["history"], z, mask, step["known"])
    with instruction_set(isa):
        found = run(step, return_history=True)
        alone = run(step)
    assert harness.same_bits(found, wanted)
    assert harness.same_bits((alone,), wanted[:1])


@settings(max_examples=40, deadline=None)
@given(steps(), st.sampled_from([np.float32, np.float64]))
def test_the_compositions_bits(step: dict[str, Any], dtype: Any) -> None:
    """Recording takes the composition; without, the kernel."""
    found = run(step, dtype, return_history=True)
    x = autograd.Variable(step["x"].astype(dtype), requires_grad=True)
    recorded = run({**step, "x": x}, dtype, return_history=True)
    assert all(r.requires_grad for r in recorded)
    assert harness.same_bits(found, tuple(r.data for r in recorded))


@settings(max_examples=40, deadline=None)
@given(
    SHAPES,
    st.sets(st.sampled_from(["y1", "h1", "h2", "h3", "h4"])),
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["float32", "float64"]),
)
def test_against_the_reference(
    shape: tuple[int, ...], some: set[str], noise: int, masked: bool, history: bool, dtype: str
) -> None:
    optional = (
        ("coefficients", *sorted(some)) + ((), ("noise",), ("keys",))[noise] + (("mask", "known") if masked else ())
    )
    case = Case("drawn", {"N": shape[0], "S": shape[1:]}, {"return_history": history}, optional)
    operator = OPERATORS["diffusion_step"]
    harness.check_against_reference(operator, case, harness.case_operands(operator.contract, case, dtype), dtype)


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_drawn_noise_is_given_noise(dtype: str, isa: str) -> None:
    shape = (3, 5, 23, 29)
    x, y, known = (normal(*shape, seed=seed, dtype=dtype) for seed in range(3))
    mask = np.linspace(0, 1, 23 * 29).reshape(23, 29).astype(dtype)
    row = row_of(p=1.1, q=-0.4, lo=-1, hi=1, A=0.5, B=0.4, s=0.3, ka=0.8, kb=0.6)
    with instruction_set(isa):
        z = philox_normal(shape, seed=77, dtype=dtype)
        drawn = diffusion_step(x, y, row, seed=77, mask=mask, known=known)
        np.testing.assert_array_equal(drawn, diffusion_step(x, y, row, noise=z, mask=mask, known=known))
        np.testing.assert_array_equal(
            drawn, diffusion_step(x, y, row, seed=keys_of(77, 3), mask=mask, known=known)
        )  # fmt: skip


def test_a_table_and_a_step_are_the_row_and_the_folded_keys() -> None:
    """One step for all samples, and one per sample, the last of the table among them; gradients reach its rows."""
    shape = (4, 3, 5, 7)
    x, u, c = (normal(*shape, seed=seed) for seed in range(3))
    table, keys = normal(9, 20, seed=4), keys_of(5, 4)
    for step in (3, np.array([3]), np.array([8, 0, 0, 5])):
        rows = np.broadcast_to(table[step], (4, 20))
        folded = philox_fold_in(keys, np.broadcast_to(np.asarray(step, np.uint64), 4))
        wanted = diffusion_step(x, (u, c), rows, seed=folded)
        np.testing.assert_array_equal(diffusion_step(x, (u, c), table, seed=5, step=step), wanted)

        def loss(rows: Any, seed: Any, step: Any = None) -> list[Any]:
            rows = autograd.Variable(rows, requires_grad=True)
            y = diffusion_step(x, (u, c), rows, seed=seed, step=step)
            return autograd.grad(mmk.sum(mmk.mul(y, y)), [rows])

        (by_table,), (by_row,) = loss(table, 5, step), loss(np.array(rows), folded)
        summed = np.zeros((9, 20))
        np.add.at(summed, np.broadcast_to(step, 4), np.asarray(getattr(by_row, "data", by_row)))
        np.testing.assert_allclose(np.asarray(getattr(by_table, "data", by_table)), summed, rtol=1e-4, atol=1e-5)
    with pytest.raises(mmk.ContractError, match=r"step.flat\[0\] is 9; expected 0 <= value < T = 9"):
        diffusion_step(x, u, table, step=9)
    with pytest.raises(mmk.ContractTypeError, match=r"step is 1\.5; expected an integer"):
        diffusion_step(x, u, table, step=1.5)


def test_a_sample_depends_on_its_data_row_and_key_alone() -> None:
    shape = (4, 3, 33, 21)
    x, u, c, h, known = (normal(*shape, seed=seed) for seed in range(5))
    mask = (normal(4, 1, 33, 21, seed=6) > 0).astype(np.float32)
    rows, keys = normal(4, 20, seed=7), keys_of(5, 4)
    whole = diffusion_step(x, (u, c), rows, history=(h,), seed=keys, mask=mask, known=known, return_history=True)
    for n in range(4):
        one = slice(n, n + 1)
        alone = diffusion_step(
            x[one], (u[one], c[one]), rows[n], history=(h[one],), seed=keys[one], mask=mask[one], known=known[one],
            return_history=True,
        )  # fmt: skip
        assert harness.same_bits(alone, (whole[0][one], whole[1][one]))
    order = [2, 0, 3, 1]
    mixed = diffusion_step(
        x[order], (u[order], c[order]), rows[order], history=(h[order],), seed=keys[order], mask=mask[order],
        known=known[order],
    )  # fmt: skip
    np.testing.assert_array_equal(mixed, whole[0][order])


def test_one_large_image_on_many_threads() -> None:
    shape = (1, 3, 200, 171)
    x, y = normal(*shape, seed=1), normal(*shape, seed=2)
    row = row_of(p=1.1, q=-0.4, lo=-1, hi=1, A=0.5, B=0.4, s=0.3)
    before = mmk.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 7):
            mmk.set_num_threads(threads)
            results.append(diffusion_step(x, y, row, seed=3))
    finally:
        mmk.set_num_threads(before)
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()


def test_channels_last() -> None:
    """The values of the contiguous layout, in the layout of x, with noise or without."""
    shape = (2, 3, 20, 30)
    x, u, c, z = (normal(*shape, seed=seed) for seed in range(4))
    row = row_of(g1=2, p=1.1, q=-0.4, lo=-1, hi=1, A=0.5, B=0.4, s=0.3)
    for named in ({}, {"noise": z}, {"seed": 3}):
        wanted = diffusion_step(x, (u, c), row, **named)
        last = {k: harness.channels_last(v) if isinstance(v, np.ndarray) else v for k, v in named.items()}
        found = diffusion_step(
            harness.channels_last(x), (harness.channels_last(u), harness.channels_last(c)), row, **last
        )
        assert np.moveaxis(found, 1, -1).flags.c_contiguous
        np.testing.assert_array_equal(found, wanted)
        mixed = diffusion_step(x, (harness.channels_last(u), c[..., ::-1].copy()[..., ::-1]), row, **last)
        np.testing.assert_array_equal(mixed, wanted)
    operator = OPERATORS["diffusion_step"]
    rows = row[None].astype(np.float32)
    same = operator.describe(*operator.arguments(*map(harness.channels_last, (x, u, c)), coefficients=rows))
    assert "memory order" in same and "scratch 0 bytes" in same
    drawn = operator.arguments(*map(harness.channels_last, (x, u, c)), coefficients=rows, keys=keys_of(1, 2))
    assert "memory order" not in operator.describe(*drawn)


@pytest.mark.parametrize(
    "extents",
    [(7, 64), (1, 1, 7, 64), (3, 1, 7, 64), (3, 1, 1, 1), (1, 5, 1, 1), (3, 5, 7, 1), (64,), (1, 1, 7, 1), ()],
)
def test_masks_broadcast(extents: tuple[int, ...]) -> None:
    shape = (3, 5, 7, 64)
    x, y, known = (normal(*shape, seed=seed) for seed in range(3))
    row = row_of(A=0.7, ka=0.9, kb=0.3, s=0.2, lo=-INFINITY, hi=INFINITY)
    mask = np.asarray(normal(*extents, seed=9) > 0)
    full = np.broadcast_to(mask, shape).astype(np.float32)
    wanted = diffusion_step(x, y, row, seed=1, mask=full, known=known)
    for given_mask in (mask, mask.astype(np.float32)):  # bool counts as 0 and 1
        np.testing.assert_array_equal(diffusion_step(x, y, row, seed=1, mask=given_mask, known=known), wanted)
    z = philox_normal(shape, seed=1)
    free, kept = diffusion_step(x, y, row, noise=z), arith.fma(np.float32(0.3), z, np.float32(0.9) * known)
    np.testing.assert_array_equal(wanted, np.where(full > 0, kept, free))


def test_clipping() -> None:
    """x0 is held within its bounds; infinite ones are none, and NaN passes whatever the bounds."""
    for dtype in (np.float32, np.float64):
        values = np.array([[-3.0, -1.0, 0.5, 1.0, 3.0, np.nan, 1e30, -1e30]], dtype)
        zeros = np.zeros_like(values)
        clipped = np.array([[-1.0, -1.0, 0.5, 1.0, 1.0, np.nan, 1.0, -1.0]], dtype)
        for columns in ({"q": 1.0}, {"p": 1.0}):
            operands = (zeros, values) if "q" in columns else (values, zeros)
            bounded = row_of(**columns, lo=-1, hi=1, B=1, hb=1)
            for found in diffusion_step(*operands, bounded, return_history=True):
                np.testing.assert_array_equal(found, clipped)
            free = row_of(**columns, lo=-INFINITY, hi=INFINITY, B=1)
            np.testing.assert_array_equal(diffusion_step(*operands, free), values)
    # A term is a product, so an infinite prediction is NaN where its own coefficient E is 0; the clamp held it.
    infinite = np.full((1, 1), INFINITY, np.float32)
    assert np.isnan(diffusion_step(0 * clipped[:, :1].astype(np.float32), infinite, row_of(q=1, lo=-1, hi=1, B=1)))


def test_terms_of_absent_operands_are_left_out() -> None:
    """Coefficients without an operand are not read, even if they are NaN."""
    x, y, noise = (normal(2, 70, seed=seed) for seed in range(3))
    row = row_of(A=1, q=1, lo=-1, hi=1, B=0.5)
    spoilt = row.copy()
    for name in ("g1", "g2", "C1", "C2", "C3", "C4", "s", "ka", "kb", "ha", "hb", "hc", "reserved"):
        spoilt[COLUMNS.index(name)] = np.nan
    np.testing.assert_array_equal(diffusion_step(x, y, spoilt), diffusion_step(x, y, row))
    assert np.isnan(diffusion_step(x, y, spoilt, noise=noise)).all()
    third = row.copy()
    third[COLUMNS.index("C3")] = np.nan
    assert np.isfinite(diffusion_step(x, y, third, history=(y, y))).all()
    assert np.isnan(diffusion_step(x, y, third, history=(y, y, y))).all()


def test_coefficients_are_rounded_once() -> None:
    """A float64 row counts as its float32 rounding for float32 samples and as it is for float64."""
    x, y = normal(2, 50, seed=1), normal(2, 50, seed=2)
    row = row_of(g1=0.1, p=1 / 3, q=0.7, lo=-1, hi=1, A=0.1, B=0.2, E=0.3)
    assert (row.astype(np.float32) != row).any()
    rounded = diffusion_step(x, y, row.astype(np.float32))
    np.testing.assert_array_equal(diffusion_step(x, y, row), rounded)
    np.testing.assert_array_equal(diffusion_step(x, y, list(row)), rounded)
    np.testing.assert_array_equal(diffusion_step(x, y, np.stack([row, row])), rounded)
    wide = diffusion_step(x.astype(np.float64), y.astype(np.float64), row)
    exact = 0.1 * x.astype(np.float64) + 0.2 * np.clip(x / 3.0 + 0.7 * y.astype(np.float64), -1, 1) + 0.3 * y
    assert wide.dtype == np.float64 and np.abs(wide - exact).max() < 1e-7
    x64 = np.ones((1, 1))
    assert diffusion_step(x64, x64, row_of(A=0.1, lo=-1, hi=1))[0, 0] == 0.1


def test_guidance_of_two_and_three() -> None:
    u, i, c = (np.full((1, 1), v, np.float32) for v in (1.0, 2.0, 4.0))
    row = row_of(g1=3, g2=5, E=1, lo=-1, hi=1)
    assert diffusion_step(u, u, row)[0, 0] == 1
    assert diffusion_step(u, [u, c], row)[0, 0] == 1 + 3 * 3
    assert diffusion_step(u, (u, i, c), row)[0, 0] == 1 + 3 * 1 + 5 * 2


def test_history_and_out() -> None:
    x, y = normal(2, 70, seed=1), normal(2, 70, seed=2)
    row = row_of(p=2, lo=-1, hi=1, A=1, C1=0.5, C2=0.25, ha=1, hb=10, hc=100)
    x_next, history = diffusion_step(x, y, row, history=(y, x), return_history=True)
    np.testing.assert_allclose(history, x + 10 * np.clip(2 * x, -1, 1) + 100 * y, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(x_next, x + 0.5 * y + 0.25 * x, rtol=1e-5, atol=1e-6)
    out = np.empty((70, 2), np.float32).T
    assert diffusion_step(x, y, row, history=(y, x), out=out) is out
    np.testing.assert_array_equal(out, x_next)


# ---- gradients -------------------------------------------------------------------------------------------------------


def test_gradients_of_a_step() -> None:
    """Inside the bounds the step is linear in x and y; where x0 is clipped it passes through A and E alone."""
    x = autograd.Variable(np.array([[0.1, 0.2, 3.0]]), requires_grad=True)
    y = autograd.Variable(np.array([[0.3, -0.1, 0.5]]), requires_grad=True)
    row = row_of(p=1.5, q=-0.5, lo=-1, hi=1, A=0.25, B=2, E=0.125, s=0.3)
    gx, gy = autograd.grad(mmk.sum(diffusion_step(x, y, row, seed=1)), [x, y])
    assert gx is not None and gy is not None
    np.testing.assert_allclose(gx.data, [[0.25 + 3, 0.25 + 3, 0.25]])
    np.testing.assert_allclose(gy.data, [[0.125 - 1, 0.125 - 1, 0.125]])


def test_gradients_of_guidance_and_coefficients() -> None:
    u, c = (autograd.Variable(np.ones((2, 3)), requires_grad=True) for _ in range(2))
    rows = autograd.Variable(np.stack([row_of(g1=7, E=1, lo=-1, hi=1)] * 2), requires_grad=True)
    x = np.full((2, 3), 5.0)
    total = mmk.sum(diffusion_step(x, (u, c), rows))
    gu, gc, g_rows = autograd.grad(total, [u, c, rows])
    assert gu is not None and gc is not None and g_rows is not None
    np.testing.assert_allclose(gu.data, np.full((2, 3), -6.0))
    np.testing.assert_allclose(gc.data, np.full((2, 3), 7.0))
    np.testing.assert_allclose(g_rows.data[:, COLUMNS.index("A")], [15, 15])
    np.testing.assert_allclose(g_rows.data[:, COLUMNS.index("E")], [3, 3])


def test_gradients_of_add_noise() -> None:
    x, z = (autograd.Variable(normal(2, 3, 4, seed=s, dtype=np.float64), requires_grad=True) for s in (1, 2))
    alpha = autograd.Variable(np.array([0.5, 0.25]), requires_grad=True)
    gx, gz, ga = autograd.grad(mmk.sum(add_noise(x, z, alpha, 0.75)), [x, z, alpha])
    assert gx is not None and gz is not None and ga is not None
    np.testing.assert_array_equal(gx.data, np.broadcast_to(np.array([0.5, 0.25])[:, None, None], (2, 3, 4)))
    np.testing.assert_array_equal(gz.data, np.full((2, 3, 4), 0.75))
    np.testing.assert_allclose(ga.data, x.data.sum((1, 2)))


# ---- add_noise -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.one_of(SHAPES, st.just((2, 2053))), st.integers(0, 2), st.sampled_from(_core.available_isas()))
def test_add_noise_is_one_product_and_one_fma(shape: tuple[int, ...], kind: int, isa: str) -> None:
    x, z = normal(*shape, seed=1), normal(*shape, seed=2)
    alpha, sigma = normal(shape[0], seed=3), normal(shape[0], seed=4)
    levels: tuple[Any, Any] = ((alpha, sigma), (float(alpha[0]), sigma), (alpha[:1], float(sigma[0])))[kind]
    with instruction_set(isa):
        found = add_noise(x, z, *levels)
    a, s = (np.float32(v).reshape(-1, *(1,) * (len(shape) - 1)) for v in levels)
    assert found.tobytes() == np.asarray(arith.fma(s, z, a * x)).tobytes()


def test_greater() -> None:
    a = np.array([[1.0, np.nan, -0.0, np.inf]], np.float32)
    b = np.array([[0.0], [1.0], [np.nan]], np.float32)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(greater(a, b), a > b)


# ---- errors ----------------------------------------------------------------------------------------------------------

X = normal(2, 3, 4, 4, seed=0)
ROW = row_of(A=1, lo=-1, hi=1)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: diffusion_step(X, (), ROW), Refused, "prediction has 0 arrays; expected 1, 2 or 3"),
        (lambda: diffusion_step(X, (X,) * 4, ROW), Refused, "prediction has 4 arrays; expected 1, 2 or 3"),
        (lambda: diffusion_step(X, X[:1], ROW), Refused, "y0.shape[0] is 1; expected N = 2"),
        (lambda: diffusion_step(X, X, ROW[:19]), Refused, "coefficients.shape[1] is 19; expected 20"),
        (
            lambda: diffusion_step(X, X, np.stack([ROW] * 3)),
            Refused,
            "coefficients.shape[0] is 3; expected N = 2 or 1",
        ),
        (lambda: diffusion_step(X, X, "row"), WrongType, "coefficients.dtype is <U3; expected numbers"),
        (lambda: diffusion_step(X, X, ROW, history=[X] * 5), Refused, "history has 5 arrays; expected at most 4"),
        (
            lambda: diffusion_step(X, X, ROW, history=X),
            WrongType,
            "history is a ndarray; expected a sequence of arrays",
        ),
        (
            lambda: diffusion_step(X, X, ROW, noise=X, seed=1),
            Refused,
            "noise and seed are both given; expected one of them",
        ),
        (
            lambda: diffusion_step(X, X, ROW, seed=[1]),
            Refused,
            "seed has shape (1,); expected one int, or one per sample: (2,)",
        ),
        (lambda: diffusion_step(X, X, ROW, mask=X), Refused, "mask is given and known is not; expected both"),
        (lambda: diffusion_step(X, X, ROW, known=X), Refused, "known is given and mask is not; expected both"),
        (lambda: diffusion_step(X, X, ROW, mask=X[..., :2], known=X), Refused, "mask.shape[3] is 2; expected"),
        (lambda: diffusion_step(X, X, ROW, mask=[1], known=X), WrongType, "mask is a list; expected an array"),
        (
            lambda: diffusion_step(X, X.astype(np.float64), ROW),
            WrongType,
            "y0.dtype is float64; expected float32, as x has",
        ),
        (lambda: diffusion_step([1.0], X, ROW), WrongType, "x is a list; expected an array"),
        (
            lambda: diffusion_step(X, X, ROW, return_history=True, out=np.empty_like(X)),
            WrongType,
            "out= was given one array; expected a tuple of 2, one a result",
        ),
        (lambda: diffusion_step(X, X, ROW, out=X), Refused, "out overlaps operand 0; expected memory of its own"),
        (lambda: add_noise(X, X, "a", 1.0), WrongType, "alpha is 'a'; expected a number or an array"),
        (lambda: add_noise(X, X, np.ones(3, np.float32), 1.0), Refused, "alpha.shape[0] is 3; expected N = 2 or 1"),
        (lambda: add_noise(X, X[0], 1.0, 1.0), Refused, "noise"),
    ],
)
def test_messages(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    name = "add_noise" if "alpha" in message or message == "noise" else "diffusion_step"
    assert str(caught.value).startswith(f"{name}: {message}"), caught.value


def test_tables_of_ragged_rows() -> None:
    x, table, ragged = np.ones((2, 3), np.float32), np.ones((4, 20), np.float32), [[1], [1, 2]]
    with pytest.raises(mmk.ContractTypeError, match=r"^diffusion_step: coefficients is a list; expected numbers"):
        diffusion_step(x, x, ragged)
    with pytest.raises(mmk.ContractTypeError, match=r"^diffusion_step: step is a list; expected numbers"):
        diffusion_step(x, x, table, step=ragged)
    with pytest.raises(mmk.ContractTypeError, match=r"^diffusion_step: seed is .*; expected an integer"):
        diffusion_step(x, x, table, step=1, seed=np.array(1.5))


def test_bool_masks_of_libraries_with_astype() -> None:
    """CuPy's arrays have astype, as NumPy's; only torch's have to()."""
    found = np.array([[True, False]])
    array = type("ndarray", (), {
        "__module__": "cupy", "shape": found.shape, "dtype": found.dtype,
        "astype": lambda self, dtype: found.astype(dtype),
    })()  # fmt: skip
    mask = _mask(array, np.ones((1, 2), np.float32), np.dtype(np.float32))
    assert mask.dtype == np.float32 and mask.tolist() == [[1.0, 0.0]]


def test_out_beside_a_variable() -> None:
    x = autograd.Variable(np.ones((1, 2)))
    with pytest.raises(mmk.ContractTypeError, match=r"^add_noise: out= was given; expected none, as a Variable"):
        add_noise(x, x, 1.0, 1.0, out=np.ones((1, 2)))
