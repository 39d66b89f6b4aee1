"""The host twin of every primitive of csrc/cuda/ptx against numpy."""

from __future__ import annotations

import numpy as np
import pytest

SEEDS = range(5)


@pytest.fixture
def primitives(emulator):
    return emulator.primitives


def call(emulator, name, *inputs, out=np.float32, shape=None, seed=0):
    """The primitive's kernel on arrays; each element (or lane) gives one of the output."""
    result = np.zeros(inputs[0].shape if shape is None else shape, out)
    getattr(emulator.primitives, name)(emulator.Run(seed=seed), *inputs, result)
    return result


def interesting() -> np.ndarray:
    """fp32 numbers: of every exponent, next to ties of fp16 and bf16, at the ends, and special."""
    rng = np.random.default_rng(0)
    random = rng.integers(0, 2**32, 20_000, dtype=np.uint64).astype(np.uint32)
    halves = np.arange(2**16, dtype=np.uint32)
    with np.errstate(invalid="ignore", over="ignore"):
        widened = halves.astype(np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    ties = np.concatenate([widened + np.uint32(shift) for shift in (0, 1, 0xFFF, 0x1000, 0x1001, 0xFFFFFFFF)])
    brain = np.concatenate([(halves << 16) + shift for shift in (0, 0x7FFF, 0x8000, 0x8001)]).astype(np.uint32)
    special = np.array([0, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 1, 0x80000001], np.uint32)
    bits = np.concatenate([random, ties, brain, special])
    return bits[: len(bits) // 32 * 32].view(np.float32)


def same_bits(found: np.ndarray, expected: np.ndarray, nan: int) -> None:
    """Equal to the bit; where `expected` is NaN, the one NaN of the hardware."""
    kind = {2: np.uint16, 4: np.uint32}[found.itemsize]
    wanted = np.where(np.isnan(expected), kind(nan), expected.view(kind))
    wrong = np.flatnonzero(found.view(kind) != wanted)
    assert not len(wrong), f"{len(wrong)} differ, first {wrong[0]}: {found[wrong[0]]} and not {expected[wrong[0]]}"


def bfloat16(x: np.ndarray) -> np.ndarray:
    """The bits of the nearest bf16 numbers, by exact arithmetic in fp64; NaN as the hardware has it."""
    with np.errstate(invalid="ignore", over="ignore"):
        exact = x.astype(np.float64)
        unit = np.exp2(np.maximum(np.frexp(exact)[1] - 8.0, -133.0))
        rounded = np.rint(exact / unit) * unit  # rint takes ties to even
        bits = rounded.astype(np.float32).view(np.uint32) >> 16
    bits = np.where(np.isinf(exact), x.view(np.uint32) >> 16, bits)
    return np.where(np.isnan(exact), 0x7FFF, bits).astype(np.uint16)


# ---- conversions ----


def test_widen_half(emulator):
    x = np.arange(2**16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    same_bits(call(emulator, "widen_half", x), x.astype(np.float32), 0x7FFFFFFF)


def test_widen_bfloat16(emulator):
    x = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    np.testing.assert_array_equal(call(emulator, "widen_bfloat16", x).view(np.uint32), x.astype(np.uint32) << 16)


def test_narrow_half(emulator):
    x = interesting()
    with np.errstate(over="ignore", invalid="ignore"):
        same_bits(call(emulator, "narrow_half", x, out=np.float16), x.astype(np.float16), 0x7FFF)


def test_narrow_bfloat16(emulator):
    x = interesting()
    np.testing.assert_array_equal(call(emulator, "narrow_bfloat16", x, out=np.uint16), bfloat16(x))


@pytest.mark.parametrize("kind", ["half", "bfloat16"])
def test_pack(emulator, kind):
    x = interesting()
    low, high = x, x[::-1].copy()
    narrow = [call(emulator, f"narrow_{kind}", part, out=np.uint16).astype(np.uint32) for part in (low, high)]
    found = call(emulator, f"pack_{kind}", low, high, out=np.uint32)
    np.testing.assert_array_equal(found, narrow[1] << 16 | narrow[0])


# ---- arithmetic ----


def test_exp2_approx(emulator):
    x = np.linspace(-160, 140, 32 * 300, dtype=np.float32)
    expected = np.exp2(x.astype(np.float64))
    found = call(emulator, "exp2_approx", x)
    flushed = expected < 2.0**-126
    assert (found[flushed] == 0).all()
    finite = ~flushed & (expected < 2.0**127.99)
    np.testing.assert_allclose(found[finite], expected[finite], rtol=2e-7)
    special = np.array([-np.inf, np.inf, 0, -0.0] * 8, np.float32)
    np.testing.assert_array_equal(call(emulator, "exp2_approx", special), np.array([0, np.inf, 1, 1] * 8, np.float32))
    same_bits(
        call(emulator, "exp2_approx", np.full(32, np.nan, np.float32)), np.full(32, np.nan, np.float32), 0x7FFFFFFF
    )


def test_log2_approx(emulator):
    x = np.geomspace(1e-44, 3e38, 32 * 300).astype(np.float32)
    np.testing.assert_allclose(call(emulator, "log2_approx", x), np.log2(x.astype(np.float64)), rtol=2e-7, atol=1e-7)
    special = call(emulator, "log2_approx", np.array([0, -0.0, np.inf, 1] * 8, np.float32))
    np.testing.assert_array_equal(special, np.array([-np.inf, -np.inf, np.inf, 0] * 8, np.float32))
    same_bits(call(emulator, "log2_approx", np.full(32, -1, np.float32)), np.full(32, np.nan, np.float32), 0x7FFFFFFF)


def test_reciprocal(emulator):
    x = interesting()
    with np.errstate(all="ignore"):
        same_bits(call(emulator, "reciprocal", x), np.float32(1) / x, 0x7FFFFFFF)


def test_fused_rounds_once(emulator):
    rng = np.random.default_rng(1)
    a = rng.standard_normal(32 * 500).astype(np.float32)
    b = (-1 / a * (1 + rng.standard_normal(a.shape) * 1e-6)).astype(np.float32)  # a b is near -1
    found = call(emulator, "fused_one", a, b, out=np.float32)
    # the product is exact in fp64, and so is the sum, for the two cancel
    expected = (a.astype(np.float64) * b + 1).astype(np.float32)
    np.testing.assert_array_equal(found, expected)
    assert (a * b + np.float32(1) != expected).any()  # rounding twice would show


def test_maximum(emulator):
    values = np.array([0.0, -0.0, 1.5, -2.0, np.inf, -np.inf, np.nan, 1e-45], np.float32)
    a, b = (x.ravel().copy() for x in np.meshgrid(values, values))
    expected = np.fmax(a, b)
    expected[(a == 0) & (b == 0)] = np.where(np.signbit(a) & np.signbit(b), -0.0, 0.0)[(a == 0) & (b == 0)]
    same_bits(call(emulator, "maximum", a, b), expected, 0x7FFFFFFF)


# ---- lanes ----


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mask", [1, 2, 4, 8, 16, 21])
def test_shuffle_xor(emulator, mask, seed):
    x = np.random.default_rng(2).integers(0, 2**32, 32, dtype=np.uint64).astype(np.uint32)
    expected = x[np.arange(32) ^ mask]
    np.testing.assert_array_equal(call(emulator, f"shuffle_xor_{mask}", x, out=np.uint32, seed=seed), expected)
    real = np.random.default_rng(3).standard_normal(32, dtype=np.float32)
    found = call(emulator, f"shuffle_xor_float_{mask}", real, seed=seed)
    np.testing.assert_array_equal(found, real[np.arange(32) ^ mask])


@pytest.mark.parametrize("seed", SEEDS)
def test_shuffle(emulator, seed):
    x = np.arange(64, dtype=np.float32)
    expected = x.reshape(2, 32)[:, (np.arange(32) - 3) % 32].ravel()
    np.testing.assert_array_equal(call(emulator, "shuffle_up_3", x, seed=seed), expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_warp_or_and(emulator, seed):
    rng = np.random.default_rng(4)
    few = (np.uint32(1) << rng.integers(0, 32, 64).astype(np.uint32)).astype(np.uint32)
    expected = np.repeat(np.bitwise_or.reduce(few.reshape(2, 32), 1), 32)
    np.testing.assert_array_equal(call(emulator, "warp_or", few, out=np.uint32, seed=seed), expected)
    np.testing.assert_array_equal(call(emulator, "warp_and", ~few, out=np.uint32, seed=seed), ~expected)


def test_indices(emulator):
    x, y, z, threads = 3, 2, 2, 64
    found = np.zeros((z, y, x, threads, 6), np.int32)
    emulator.primitives.indices(emulator.Run(), found, x, y, z, threads)
    thread = np.arange(threads)
    for block in np.ndindex(z, y, x):
        expected = np.stack([thread, thread % 32, thread // 32, *(np.full(threads, i) for i in block[::-1])], 1)
        np.testing.assert_array_equal(found[block], expected)


# ---- memory ----


@pytest.mark.parametrize("bytes", [2, 4, 8, 16])
def test_shared(emulator, bytes):
    kind = {2: np.uint16}.get(bytes, np.uint32)
    x = np.arange(32 * bytes // np.dtype(kind).itemsize).astype(kind).reshape(32, -1)
    np.testing.assert_array_equal(call(emulator, f"shared_{bytes}", x, out=kind), x[::-1])


@pytest.mark.parametrize("seed", SEEDS)
def test_copy16(emulator, seed):
    x = np.arange(1, 129, dtype=np.uint32).reshape(32, 4)
    inside = np.arange(32) % 3 != 0
    found = call(emulator, "copy16", x, inside, out=np.uint32, shape=x.shape, seed=seed)
    np.testing.assert_array_equal(found, np.where(inside[:, None], x, 0))


def test_copy16_reads_nothing_outside(emulator):
    x = np.arange(1, 65, dtype=np.uint32).reshape(16, 4)  # half of what the lanes point to
    found = call(emulator, "copy16", x, np.arange(32) < 16, out=np.uint32, shape=(32, 4))
    np.testing.assert_array_equal(found, np.concatenate([x, np.zeros_like(x)]))


def test_move16(emulator):
    x = np.random.default_rng(5).integers(0, 2**32, (32, 4), dtype=np.uint64).astype(np.uint32)
    np.testing.assert_array_equal(call(emulator, "move16", x, out=np.uint32), x)


# ---- tensor core ----

LANE = np.arange(32)
GROUP, PAIR = LANE // 4, LANE % 4 * 2


def words(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return low.view(np.uint16).astype(np.uint32) | high.view(np.uint16).astype(np.uint32) << 16


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("transposed", [False, True])
def test_load_matrices(emulator, transposed, seed):
    x = np.arange(256, dtype=np.uint16).reshape(4, 8, 8)
    m = x.transpose(0, 2, 1) if transposed else x
    expected = np.stack([words(m[i, GROUP, PAIR], m[i, GROUP, PAIR + 1]) for i in range(4)], 1)
    name = "load_matrices_transposed" if transposed else "load_matrices"
    found = call(emulator, name, x.reshape(32, 8), out=np.uint32, shape=(32, 4), seed=seed)
    np.testing.assert_array_equal(found, expected)


def fragments(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words of each lane, as csrc/cuda/ptx/matrix.h describes them; a and b as uint16."""
    a_words = [words(a[GROUP + r, PAIR + k], a[GROUP + r, PAIR + k + 1]) for r, k in ((0, 0), (8, 0), (0, 8), (8, 8))]
    b_words = [words(b[PAIR + k, GROUP], b[PAIR + k + 1, GROUP]) for k in (0, 8)]
    c_numbers = [c[GROUP + r, PAIR + j] for r in (0, 8) for j in (0, 1)]
    return np.stack(a_words, 1), np.stack(b_words, 1), np.stack(c_numbers, 1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["half", "bfloat16"])
def test_multiply_add(emulator, kind, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((16, 16), np.float32), rng.standard_normal((16, 8), np.float32)
    c = rng.standard_normal((16, 8), np.float32)
    if kind == "half":
        a, b = (x.astype(np.float16) for x in (a, b))
        bits = [x.view(np.uint16) for x in (a, b)]
    else:
        bits = [bfloat16(x) for x in (a, b)]
        a, b = ((x.astype(np.uint32) << 16).view(np.float32) for x in bits)
    a_words, b_words, numbers = fragments(*bits, c)
    found = numbers.copy()
    getattr(emulator.primitives, f"multiply_add_{kind}")(emulator.Run(seed=seed), a_words, b_words, found)
    a, b = a.astype(np.float64), b.astype(np.float64)
    exact = fragments(*bits, c + a @ b)[2]
    bound = fragments(*bits, np.abs(c) + np.abs(a) @ np.abs(b))[2] * 17 * 2.0**-24
    assert (np.abs(found - exact) <= bound).all()


def test_multiply_add_of_small_integers_is_exact(emulator):
    rng = np.random.default_rng(6)
    a, b = rng.integers(-8, 9, (16, 16)), rng.integers(-8, 9, (16, 8))
    c = rng.integers(-100, 100, (16, 8)).astype(np.float32)
    bits = [x.astype(np.float16).view(np.uint16) for x in (a, b)]
    a_words, b_words, found = fragments(*bits, c)
    emulator.primitives.multiply_add_half(emulator.Run(), a_words, b_words, found)
    np.testing.assert_array_equal(found, fragments(*bits, c + a @ b)[2])
