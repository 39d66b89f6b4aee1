"""The real PTX of every function of csrc/cuda/ptx (primitives.cu) against plain numpy, bit for bit."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.device.compile import ROOT, nvcc, ptx_of
from tests.device.ptx import Module, PtxError
from tests.device.ptx.parse import Block, Statement

pytestmark = pytest.mark.skipif(nvcc() is None, reason="no nvcc on the PATH to compile CUDA with")
SOURCE = ROOT / "tests" / "device" / "primitives.cu"
RNG = np.random.default_rng(0)
BITS = RNG.integers(0, 2**32, 512, np.uint64).astype(np.uint32)
NUMBERS = (RNG.standard_normal(96) * 2.0 ** RNG.integers(-20, 20, 96)).astype(np.float32)
NUMBERS[:8] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-41, 65519.0, 3e38]


@pytest.fixture(scope="module", params=[80, 90])
def module(request):
    return Module(ptx_of(SOURCE, request.param))


def run(
    module: Module, name: str, out: np.ndarray, *args: np.ndarray, threads: int = 32, shared: int = 0
) -> np.ndarray:
    """One block, in several orders of its warps."""
    found = []
    for seed in range(3):
        out.view(np.uint8)[...] = 0xA5
        module.launch(name, (1, 1, 1), (threads, 1, 1), shared, [*args, out], seed)
        found.append(out.tobytes())
    assert len(set(found)) == 1, "the order of the warps shows in the result"
    return out


def statements(block: Block) -> list[Statement]:
    """Of a block and those in it, in order."""
    found = []
    for item in block.items:
        found += statements(item) if isinstance(item, Block) else [item] if isinstance(item, Statement) else []
    return found


def same(got: np.ndarray, wanted: np.ndarray) -> None:
    """Bit for bit, but any NaN is as good as another."""
    assert got.dtype == wanted.dtype
    nan = np.isnan(wanted)
    np.testing.assert_array_equal(np.isnan(got), nan)
    np.testing.assert_array_equal(got[~nan].view(np.uint8), wanted[~nan].view(np.uint8))


def bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 to bits of bfloat16, ties to even."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), 0x7FFF, rounded).astype(np.uint16)


def test_every_primitive_has_a_kernel():
    """Functions are declared with MMK_DEVICE; constructors of handles (global, operators) are used by the kernels."""
    text = SOURCE.read_text()
    names = set()
    for header in sorted((ROOT / "csrc" / "cuda" / "ptx").glob("*.h")):
        names |= set(re.findall(r"MMK_DEVICE [\w<>: ]*?(\w+)\(", header.read_text()))
    names.discard("operator")
    missing = {name for name in names if not re.search(rf"\b{name}\b", text)}
    assert len(names) > 25 and not missing


def test_indices(module):
    out = np.zeros((2 * 3 * 2, 96, 6), np.int32)
    module.launch("indices", (2, 3, 2), (96, 1, 1), args=[out])
    for block in range(12):
        x, y, z = block % 2, block // 2 % 3, block // 6
        assert out[block].tolist() == [[t, t % 32, t // 32, x, y, z] for t in range(96)]


def test_math(module):
    a, b, c = NUMBERS, np.roll(NUMBERS, 11), np.roll(NUMBERS, 29)
    operands = np.stack([a, b, c], axis=1).copy()
    got = {name: run(module, f"math_{name}", np.zeros(96, np.float32), operands, threads=96).copy()
           for name in ("reciprocal", "fused", "maximum")}  # fmt: skip
    with np.errstate(all="ignore"):
        same(got["reciprocal"], np.float32(1) / a)
        exact = a.astype(np.longdouble) * b + c  # 64 bits hold every product, and nearly every sum
        same(got["fused"], exact.astype(np.float32))
    assert (got["maximum"] == np.fmax(a, b)).all()  # of which NaN loses; the sign of a zero is open


def test_lowest_bit(module):
    bits = np.append(np.uint32(1) << np.arange(32, dtype=np.uint32) | np.uint32(1 << 31), np.uint32(0))
    assert run(module, "math_lowest_bit", np.zeros(33, np.int32), bits, threads=33).tolist() == list(range(33))


def test_warp_any(module):
    votes = np.zeros(96, np.uint32)
    votes[40] = 7
    found = run(module, "warp_votes", np.zeros(96, np.uint32), votes, threads=96)
    assert found.reshape(3, 32).tolist() == [[0] * 32, [1] * 32, [0] * 32]


def test_exp2_and_log2(module):
    a = np.linspace(-140, 60, 96).astype(np.float32)
    a[:3] = -np.inf, 0.0, -127.0
    operands = np.stack([a, a, a], axis=1).copy()
    got = run(module, "math_exp2", np.zeros(96, np.float32), operands, threads=96).copy()
    wanted = np.exp2(a.astype(np.float64))
    wanted[wanted < 2.0**-126] = 0
    assert got[0] == 0 and got[1] == 1 and (np.abs(got - wanted) <= 2.0**-22 * wanted).all()
    got = run(module, "math_log2", np.zeros(96, np.float32), np.abs(operands) * np.float32(0.01), threads=96)
    with np.errstate(divide="ignore"):
        wanted = np.log2(np.abs(a).astype(np.float64) * np.float32(0.01))
    assert got[1] == -np.inf and got[0] == np.inf
    assert (np.abs(got[2:] - wanted[2:]) <= 2.0**-21 * np.maximum(np.abs(wanted[2:]), 1)).all()


def test_conversions(module):
    a = NUMBERS
    halves = BITS[:48].view(np.uint16).copy()
    with np.errstate(all="ignore"):
        half = a.astype(np.float16)
        same(run(module, "narrow_float", np.zeros(96, np.float32), a, threads=96), a)
        same(run(module, "widen_float", np.zeros(96, np.float32), a, threads=96), a)
        same(run(module, "narrow_Half", np.zeros(96, np.float16), a, threads=96), half)
        wide = halves.view(np.float16).astype(np.float32)
    same(run(module, "widen_Half", np.zeros(96, np.float32), halves, threads=96), wide)
    wide = (halves.astype(np.uint32) << 16).view(np.float32)
    same(run(module, "widen_BFloat16", np.zeros(96, np.float32), halves, threads=96), wide)
    assert (run(module, "narrow_BFloat16", np.zeros(96, np.uint16), a, threads=96) == bfloat16(a)).all()
    pairs = a.reshape(-1, 2)
    got = run(module, "pack_Half", np.zeros(48, np.uint32), pairs, threads=48).view(np.float16)
    same(got, half)
    got = run(module, "pack_BFloat16", np.zeros(48, np.uint32), pairs, threads=48).view(np.uint16)
    assert (got == bfloat16(a)).all()


@pytest.mark.parametrize("width", [8, 16, 32, 64, 128])
def test_global_memory(module, width):
    threads = 70
    source = BITS.view(f"u{min(width, 32) // 8}" if width != 64 else "u8")[
        : threads * max(width // 32 if width == 128 else 1, 1)
    ]
    out = np.zeros(len(source), np.uint16 if width == 16 else np.uint32)
    wanted = (source >> np.uint64(32) ^ source) & np.uint64(0xFFFFFFFF) if width == 64 else source
    assert (run(module, f"global_{width}", out, source, threads=threads) == wanted).all()


def test_global_memory_that_the_kernel_wrote(module):
    source, out = NUMBERS[8:40].copy(), np.zeros(32, np.float32)
    module.launch("global_written", (1, 1, 1), (32, 1, 1), args=[source, out])
    assert (out == 2 * NUMBERS[8:40]).all() and (source == out).all()


def test_pointers(module):
    got = run(module, "pointers", np.zeros(32, np.uint32), np.zeros(32, np.float32))
    assert got.tolist() == [3 if t % 4 == 0 else 2 for t in range(32)]


@pytest.mark.parametrize("width", [16, 32, 64, 128])
def test_shared_memory(module, width):
    threads, size = 64, width // 8
    source = BITS.view(np.uint8)[: threads * size].reshape(threads, size)
    got = run(module, f"shared_{width}", np.zeros_like(source), source, threads=threads, shared=threads * size)
    assert (got == source[::-1]).all()


@pytest.mark.parametrize("width", [16, 32, 64, 128])
def test_accesses_out_of_bounds_are_seen(module, width):
    """By the interpreter: each width is that of the access, to the byte."""
    threads, size = 64, width // 8
    source = BITS.view(np.uint8)[: threads * size].reshape(threads, size).copy()
    with pytest.raises(PtxError, match="out of bounds"):
        run(module, f"shared_{width}", np.zeros_like(source), source, threads=threads, shared=threads * size - 1)
    with pytest.raises(PtxError, match="out of bounds"):
        run(module, f"global_{width}", np.zeros_like(source), source.reshape(-1)[:-1].copy(), threads=threads)


def test_asynchronous_copies(module):
    source = BITS[: 32 * 3 * 4].reshape(32, 3, 4)
    got = run(module, "copies", np.zeros_like(source), source.copy(), shared=32 * 48)
    wanted = source.copy()
    wanted[1::2, 2] = 0
    assert (got == wanted).all()


def test_sync_of_a_warp_shuffles_and_reductions(module):
    a = BITS[:64] | np.uint32(1 << 9)
    lane, warp = np.arange(64) % 32, np.arange(64) // 32 * 32
    assert (
        run(module, "sync_within_a_warp", np.zeros(64, np.uint32), a, threads=64, shared=256) == a[warp + (31 - lane)]
    ).all()
    got = run(module, "shuffles", np.zeros((64, 5), np.uint32), a, threads=64)
    every = [np.bitwise_or.reduce(a.reshape(2, 32), axis=1), np.bitwise_and.reduce(a.reshape(2, 32), axis=1)]
    wanted = [a[warp + (lane ^ 5)], a[warp + (lane ^ 16)], a[warp + (3 * np.arange(64) + 1) % 32]]
    assert (got == np.stack(wanted + [each.repeat(32) for each in every], axis=1)).all()


@pytest.mark.parametrize("name", ["sync_within_a_warp", "matrices"])
def test_barrier_of_a_warp_stands_between_store_and_load(module, name):
    """By the text: the interpreter runs the lanes of a warp together, and gives the same without one."""
    body = module.program.functions[module.find(name)].body
    text = " ".join(item.text for item in statements(body))
    assert re.search(r"st\.shared.*bar\.warp\.sync 0xffffffff.*(ld\.shared|ldmatrix)", text), text


def test_matrices(module):
    source = BITS[:128].copy()
    got = run(module, "matrices", np.zeros((32, 2, 4), np.uint32), source, shared=512).view(np.uint16)
    matrix = source.view(np.uint16).reshape(4, 8, 8)
    got = got.reshape(32, 2, 4, 2)
    for lane in range(32):
        group, pair = lane // 4, 2 * (lane % 4)
        for i in range(4):
            assert got[lane, 0, i].tolist() == matrix[i, group, pair : pair + 2].tolist()
            assert got[lane, 1, i].tolist() == matrix[i, pair : pair + 2, group].tolist()


@pytest.mark.parametrize("kind", ["Half", "BFloat16"])
def test_products(module, kind):
    a, b, c = (RNG.integers(-16, 17, shape).astype(np.float32) for shape in ((16, 16), (16, 8), (16, 8)))
    x, y = (z.astype(np.float16).view(np.uint16) if kind == "Half" else bfloat16(z) for z in (a, b))
    fragments = np.zeros((32, 4, 2), np.uint16), np.zeros((32, 2, 2), np.uint16), np.zeros((32, 4), np.float32)
    wanted = np.zeros((32, 4), np.float32)
    product = a @ b
    for lane in range(32):
        group, pair = lane // 4, 2 * (lane % 4)
        for h in range(2):
            for i in range(4):
                fragments[0][lane, i, h] = x[group + 8 * (i % 2), pair + h + 8 * (i // 2)]
            for i in range(2):
                fragments[1][lane, i, h] = y[pair + h + 8 * i, group]
        for i in range(4):
            at = group + 8 * (i // 2), pair + i % 2
            fragments[2][lane, i], wanted[lane, i] = c[at], product[at]
    out = np.zeros((32, 4), np.float32)
    assert (run(module, f"multiply_{kind}", out, *fragments) == wanted).all()
    assert (run(module, f"multiply_add_{kind}", out, *fragments) == wanted + fragments[2]).all()
