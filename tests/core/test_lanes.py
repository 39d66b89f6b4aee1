"""csrc/cpu/simd.h and gemm.h on every instruction set this processor runs, against numpy in fp64 or exact bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

ALL_HALVES = np.arange(2**16, dtype=np.uint16)


def ulps(found: np.ndarray, exact: np.ndarray) -> float:
    """Largest distance in units of the last place of the fp32 number nearest to `exact`."""
    return float(np.max(np.abs(found - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)))


def every_float(first: float, last: float, step: int = 1) -> np.ndarray:
    """Each `step`-th float32 between two numbers of one sign."""
    bits = np.sort(np.array([first, last], np.float32).view(np.uint32))
    return np.arange(bits[0], bits[1] + 1, step, dtype=np.uint32).view(np.float32)


@pytest.mark.parametrize("step", [997, pytest.param(7, marks=pytest.mark.slow)])
def test_exponential(lanes, step):
    for x in (every_float(-87.3, -1e-9, step), every_float(1e-9, 88.0, step)):
        assert ulps(lanes.exponential(x).astype(np.float64), np.exp(x.astype(np.float64))) <= 1.3


def test_exponential_at_its_edges(lanes):
    x = np.array([0.0, -0.0, -np.inf, -1e38, -87.4, np.nan, 88.0, np.inf], np.float32)
    y = lanes.exponential(x)
    assert (y[:2] == 1).all()
    assert (y[2:5] == 0).all()
    assert np.isnan(y[5])
    assert y[7] == y[6] and np.isfinite(y[6])


@pytest.mark.parametrize("step", [997, pytest.param(7, marks=pytest.mark.slow)])
def test_softmax_weight(lanes, step):
    for first, last, most in ((-16.0, -1e-9, 1.3), (-87.3, -16.0, 5.0), (1e-9, 1.0, 1.3)):
        x = every_float(first, last, step)
        assert ulps(lanes.softmax_weight(x).astype(np.float64), np.exp(x.astype(np.float64))) <= most


def test_softmax_weight_at_its_edges(lanes):
    x = np.array([0.0, -0.0, -np.inf, -1e38, -88.0, np.nan, 88.0, -87.3], np.float32)
    y = lanes.softmax_weight(x)
    assert (y[:2] == 1).all()
    assert (y[2:5] == 0).all() and not np.signbit(y[2:5]).any()
    assert np.isnan(y[5])
    assert np.isfinite(y[6]) and y[7] > 0


@pytest.mark.parametrize("step", [997, pytest.param(7, marks=pytest.mark.slow)])
def test_tanh(lanes, step):
    for sign in (1, -1):
        x = sign * every_float(1e-9, 20.0, step)
        y = lanes.hyperbolic_tangent(x)
        assert ulps(y.astype(np.float64), np.tanh(x.astype(np.float64))) <= 1.5
        assert (np.abs(y) <= 1).all()
    edges = lanes.hyperbolic_tangent(np.array([0.0, np.inf, -np.inf, np.nan, 1e38], np.float32))
    assert edges[0] == 0 and edges[1] == 1 and edges[2] == -1 and np.isnan(edges[3]) and edges[4] == 1


def test_every_half_widens_exactly(lanes):
    for widen, dtype in ((lanes.widen_bfloat16, torch.bfloat16), (lanes.widen_float16, torch.float16)):
        exact = torch.from_numpy(ALL_HALVES.view(np.int16)).view(dtype).float().numpy()
        np.testing.assert_array_equal(widen(ALL_HALVES), exact)  # NaN equals NaN here
        assert (np.signbit(widen(ALL_HALVES)) == np.signbit(exact))[~np.isnan(exact)].all()


def hard_to_narrow(dtype: torch.dtype) -> np.ndarray:
    """Every half, the points half-way between neighbours, their own fp32 neighbours, and random bit patterns."""
    halves = torch.from_numpy(ALL_HALVES.view(np.int16)).view(dtype).float().numpy()
    finite = np.sort(halves[np.isfinite(halves)]).astype(np.float64)
    between = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
    with np.errstate(over="ignore"):
        close = [np.nextafter(between, np.float32(side)) for side in (-np.inf, np.inf)]
    patterns = np.random.default_rng(0).integers(0, 2**32, 2**18, dtype=np.uint32).view(np.float32)
    return np.concatenate([halves, between, *close, patterns])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrowing_rounds_to_nearest_even(lanes, dtype):
    x = hard_to_narrow(dtype)
    found = (lanes.narrow_bfloat16 if dtype == torch.bfloat16 else lanes.narrow_float16)(x)
    exact = torch.from_numpy(x).to(dtype)
    nan = exact.isnan().numpy()
    assert torch.from_numpy(found.view(np.int16)).view(dtype).isnan().numpy()[nan].all()
    np.testing.assert_array_equal(found[~nan], exact.view(torch.int16).numpy().view(np.uint16)[~nan])


def halves(x: np.ndarray) -> np.ndarray:
    """The bits of bf16 nearest to fp32 numbers."""
    return torch.from_numpy(x).bfloat16().view(torch.int16).numpy().view(np.uint16)


def numbers(bits: np.ndarray) -> np.ndarray:
    """The numbers that bits of bf16 are."""
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float().numpy()


def test_pairs_are_rounded_to_nearest_even(lanes):
    x = hard_to_narrow(torch.bfloat16)
    x = x[np.abs(x) >= np.finfo(np.float32).tiny]  # smaller ones may become 0
    x = x[: len(x) // 32 * 32]
    expected = halves(x).astype(np.uint32)
    np.testing.assert_array_equal(lanes.pair(x, x[::-1].copy()), expected << 16 | expected[::-1])
    np.testing.assert_array_equal(lanes.pair_neighbours(x), expected[::2] << 16 | expected[1::2])
    np.testing.assert_array_equal(
        lanes.pair_halves(ALL_HALVES, ALL_HALVES[::-1].copy()),
        ALL_HALVES.astype(np.uint32) << 16 | ALL_HALVES[::-1],
    )
    nan = np.full(32, np.nan, np.float32)
    for words in (lanes.pair(nan, nan), lanes.pair_neighbours(nan)):
        assert np.isnan(numbers(words.view(np.uint16))).all()


def test_a_product_of_pairs_is_two_links_of_a_chain(lanes):
    """First the high halves, then the low ones, each sum rounded: a zero half changes nothing."""
    rng = np.random.default_rng(0)
    size = 2**16
    a, b = (rng.standard_normal((2, size), np.float32) for _ in range(2))
    a, b = halves(a), halves(b)
    c = rng.standard_normal(size, np.float32)
    words = [h[0].astype(np.uint32) << 16 | h[1] for h in (a, b)]
    exact = [numbers(a[i]).astype(np.float64) * numbers(b[i]) for i in range(2)]
    after_high = (c + exact[0]).astype(np.float32)
    expected = (after_high + exact[1]).astype(np.float32)
    np.testing.assert_array_equal(lanes.multiply_add_pairs(*words, c), expected)
    np.testing.assert_array_equal(_two_links(lanes, *words, c), expected)

    # the same of sums and products that are too small for fp32, however a processor rounds those
    a, b = (halves(numbers(each) * np.float32(2.0**-63)) for each in (a, b))
    words = [h[0].astype(np.uint32) << 16 | h[1] for h in (a, b)]
    for small in (np.zeros_like(c), c * np.float32(2.0**-126), c * np.float32(2.0**-122)):
        np.testing.assert_array_equal(lanes.multiply_add_pairs(*words, small), _two_links(lanes, *words, small))


def _two_links(lanes, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The high halves alone, then the low ones."""
    high = lanes.multiply_add_pairs(a & np.uint32(0xFFFF0000), b & np.uint32(0xFFFF0000), c)
    return lanes.multiply_add_pairs(a & np.uint32(0xFFFF), b & np.uint32(0xFFFF), high)


def test_transpose(lanes):
    x = np.arange(lanes.lanes**2, dtype=np.float32).reshape(lanes.lanes, lanes.lanes)
    np.testing.assert_array_equal(lanes.transpose(x), x.T)


def test_horizontal_maximum(lanes):
    for place in range(lanes.lanes):
        x = -np.arange(1, lanes.lanes + 1, dtype=np.float32)
        x[place] = 3.0
        assert lanes.horizontal_maximum(x) == 3.0
    assert lanes.horizontal_maximum(np.full(lanes.lanes, -np.inf, np.float32)) == -np.inf


def test_sum_in_four_chains(lanes):
    x = np.random.default_rng(0).standard_normal(76, dtype=np.float32)
    chains = np.zeros(4, np.float32)
    for four in x.reshape(-1, 4):
        chains += four
    assert lanes.sum_in_four_chains(x) == (chains[0] + chains[1]) + (chains[2] + chains[3])


@pytest.mark.parametrize("factor_of_row", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("vectors", [1, 2, 3, 5])
@pytest.mark.parametrize("depth", [0, 1, 37])
def test_gemm(lanes, transposed, vectors, depth, factor_of_row):
    rng = np.random.default_rng(depth)
    rows, columns = 19, vectors * lanes.lanes
    a = rng.standard_normal((rows, depth), dtype=np.float32)
    b = rng.standard_normal((depth, columns), dtype=np.float32)
    c = rng.standard_normal((rows, columns), dtype=np.float32)
    factor = rng.standard_normal(rows if factor_of_row else columns, dtype=np.float32)
    whole = lanes.gemm(a.T if transposed else a, transposed, b, c, factor, factor_of_row)
    scaled = c * (factor[:, None] if factor_of_row else factor)
    exact = scaled.astype(np.float64) + a.astype(np.float64) @ b
    assert (np.abs(whole - exact) <= 2**-23 * (depth + 2) * (np.abs(scaled) + np.abs(a) @ np.abs(b))).all()

    # a row's bits know nothing of the other rows, so not of the register tile they were computed in
    for first in range(rows):
        for last in (first + 1, first + 2, rows):
            part = np.ascontiguousarray(a[first:last].T) if transposed else a[first:last]
            own = factor[first:last] if factor_of_row else factor
            found = lanes.gemm(part, transposed, b, c[first:last], own, factor_of_row)
            np.testing.assert_array_equal(found, whole[first:last])


def test_the_library_runs_what_the_tests_run(core):
    from mmkernels import _native

    if not _native.loaded:
        pytest.skip(f"no native library: {_native.why_not_loaded}")
    assert set(torch.ops.mmkernels_cpu.isas().split()) == set(core.lanes())
