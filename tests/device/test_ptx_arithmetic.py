"""The interpreter's integer, floating-point and conversion instructions, each against Python's exact arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from tests.device.handwritten import apply
from tests.device.ptx import PtxError

COUNT = 96
EDGES = {
    np.int32: [0, 1, -1, 2**31 - 1, -(2**31), 7, 31, 32],
    np.uint32: [0, 1, 2**32 - 1, 2**31, 31, 32, 33, 255],
    np.int64: [0, 1, -1, 2**63 - 1, -(2**63), 2**32, 63, 64],
    np.uint64: [0, 1, 2**64 - 1, 2**63, 2**32 - 1, 2**32, 63, 64],
    np.int16: [0, 1, -1, 2**15 - 1, -(2**15), 5, 16, 17],
    np.uint16: [0, 1, 2**16 - 1, 2**15, 5, 16, 17, 255],
}
TYPES = {np.int32: "s32", np.uint32: "u32", np.int64: "s64", np.uint64: "u64", np.int16: "s16", np.uint16: "u16"}


def integers(kind: type, salt: int) -> np.ndarray:
    rng = np.random.default_rng(salt)
    limits = np.iinfo(kind)
    values = rng.integers(limits.min, limits.max, COUNT, kind, endpoint=True)
    values[rng.permutation(COUNT)[:48]] = rng.choice(np.array(EDGES[kind], kind), 48)
    return values


def floats(salt: int, kind: type = np.float32) -> np.ndarray:
    rng = np.random.default_rng(salt)
    values = (rng.standard_normal(COUNT) * 2.0 ** rng.integers(-12, 12, COUNT)).astype(kind)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, np.finfo(kind).tiny / 2, np.finfo(kind).max], kind)
    values[rng.permutation(COUNT)[:24]] = rng.choice(special, 24)
    return values


def wrap(value: int, kind: type) -> int:
    width = 8 * np.dtype(kind).itemsize
    value &= (1 << width) - 1
    return value - (1 << width) if np.dtype(kind).kind == "i" and value >> (width - 1) else value


def same(got: np.ndarray, wanted: np.ndarray) -> None:
    """Bit for bit, except that any NaN is as good as another."""
    bits = [np.where(np.isnan(x), 0, x.view(f"u{x.itemsize}")) for x in (got, wanted)]
    wrong = (bits[0] != bits[1]) | (np.isnan(got) != np.isnan(wanted))
    assert not wrong.any(), (got[wrong][:4], wanted[wrong][:4])


def check_integers(instruction: str, kinds: list[type], result: type, exact: Callable[..., int]) -> None:
    sources = [integers(kind, salt) for salt, kind in enumerate(kinds)]
    wanted = [wrap(exact(*(int(each) for each in row)), result) for row in zip(*sources)]
    got = apply(instruction, *sources, result=result)
    assert got.tolist() == wanted


@pytest.mark.parametrize("kind", TYPES, ids=TYPES.values())
def test_sums_products_and_logic(kind):
    t, width = TYPES[kind], 8 * np.dtype(kind).itemsize
    check_integers(f"add.{t} %0, %1, %2;", [kind] * 2, kind, lambda a, b: a + b)
    check_integers(f"sub.{t} %0, %1, %2;", [kind] * 2, kind, lambda a, b: a - b)
    check_integers(f"mul.lo.{t} %0, %1, %2;", [kind] * 2, kind, lambda a, b: a * b)
    check_integers(f"mul.hi.{t} %0, %1, %2;", [kind] * 2, kind, lambda a, b: a * b >> width)
    check_integers(f"mad.lo.{t} %0, %1, %2, %3;", [kind] * 3, kind, lambda a, b, c: a * b + c)
    check_integers(f"min.{t} %0, %1, %2;", [kind] * 2, kind, min)
    check_integers(f"max.{t} %0, %1, %2;", [kind] * 2, kind, max)
    check_integers(f"xor.b{width} %0, %1, %2;", [kind] * 2, kind, lambda a, b: a ^ b)
    check_integers(f"not.b{width} %0, %1;", [kind], kind, lambda a: ~a)
    truncated = lambda a, b: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)  # noqa: E731
    divisor = f"or.b{width} %2, %2, 1;"
    check_integers(f"{divisor} div.{t} %0, %1, %2;", [kind] * 2, kind, lambda a, b: truncated(a, b | 1))
    check_integers(f"{divisor} rem.{t} %0, %1, %2;", [kind] * 2, kind, lambda a, b: a - (b | 1) * truncated(a, b | 1))


@pytest.mark.parametrize("kind", TYPES, ids=TYPES.values())
def test_shifts(kind):
    t, width = TYPES[kind], 8 * np.dtype(kind).itemsize
    check_integers(f"shl.b{width} %0, %1, %2;", [kind, np.uint32], kind, lambda a, n: a << n if n < width else 0)
    check_integers(f"shr.{t} %0, %1, %2;", [kind, np.uint32], kind, lambda a, n: a >> min(n, width))


@pytest.mark.parametrize("narrow, wide", [(np.int32, np.int64), (np.uint32, np.uint64), (np.int16, np.int32)])
def test_wide_products(narrow, wide):
    check_integers(f"mul.wide.{TYPES[narrow]} %0, %1, %2;", [narrow] * 2, wide, lambda a, b: a * b)
    check_integers(f"mad.wide.{TYPES[narrow]} %0, %1, %2, %3;", [narrow, narrow, wide], wide, lambda a, b, c: a * b + c)


def field(a: int, start: int, length: int, width: int, signed: bool) -> int:
    """bfe as the PTX ISA's pseudocode says."""
    start, length = start & 255, length & 255
    bits = a & ((1 << width) - 1)
    sign = 0 if not signed or length == 0 else bits >> min(start + length - 1, width - 1) & 1
    found = 0
    for i in range(width):
        found |= ((bits >> (start + i) & 1) if i < length and start + i < width else sign) << i
    return found


def insert(a: int, b: int, start: int, length: int) -> int:
    start, length = start & 255, length & 255
    for i in range(length):
        if start + i < 32:
            b = b & ~(1 << (start + i)) | (a >> i & 1) << (start + i)
    return b


def test_bit_fields():
    u32, s32, small = np.uint32, np.int32, np.uint32
    check_integers("bfe.u32 %0, %1, %2, %3;", [u32, small, small], u32, lambda *x: field(*x, 32, False))
    check_integers("bfe.s32 %0, %1, %2, %3;", [s32, small, small], s32, lambda *x: field(*x, 32, True))
    check_integers("bfe.u64 %0, %1, %2, %3;", [np.uint64, small, small], np.uint64, lambda *x: field(*x, 64, False))
    check_integers("bfi.b32 %0, %1, %2, %3, %4;", [u32, u32, small, small], u32, insert)


def test_bits():
    u32, u64 = np.uint32, np.uint64
    check_integers("popc.b32 %0, %1;", [u32], u32, lambda a: a.bit_count())
    check_integers("popc.b64 %0, %1;", [u64], u32, lambda a: a.bit_count())
    check_integers("clz.b32 %0, %1;", [u32], u32, lambda a: 32 - a.bit_length())
    check_integers("clz.b64 %0, %1;", [u64], u32, lambda a: 64 - a.bit_length())
    check_integers("bfind.u32 %0, %1;", [u32], u32, lambda a: a.bit_length() - 1)
    check_integers("bfind.s32 %0, %1;", [np.int32], u32, lambda a: (~a if a < 0 else a).bit_length() - 1)
    check_integers("brev.b32 %0, %1;", [u32], u32, lambda a: int(f"{a:032b}"[::-1], 2))
    check_integers("brev.b64 %0, %1;", [u64], u64, lambda a: int(f"{a:064b}"[::-1], 2))
    check_integers("shf.l.wrap.b32 %0, %1, %2, %3;", [u32] * 3, u32, lambda a, b, n: (b << 32 | a) << (n & 31) >> 32)
    check_integers("shf.r.clamp.b32 %0, %1, %2, %3;", [u32] * 3, u32, lambda a, b, n: (b << 32 | a) >> min(n, 32))
    pool = lambda a, b: (a | b << 32).to_bytes(8, "little")  # noqa: E731
    chosen = lambda a, b: bytes(pool(a, b)[k] for k in (6, 7, 2, 1))  # noqa: E731
    check_integers("prmt.b32 %0, %1, %2, 0x1276;", [u32] * 2, u32, lambda a, b: int.from_bytes(chosen(a, b), "little"))
    sign = lambda a, b: 0xFF * (a >> 31)  # noqa: E731
    check_integers("prmt.b32 %0, %1, %2, 0x444B;", [u32] * 2, u32, lambda a, b: sign(a, b) | (b & 0xFF) * 0x01010100)
    dot = lambda a, b: sum(wrap(a >> 8 * k, np.int8) * wrap(b >> 8 * k, np.int8) for k in range(4))  # noqa: E731
    check_integers("dp4a.s32.s32 %0, %1, %2, %3;", [np.int32] * 3, np.int32, lambda a, b, c: c + dot(a, b))


@pytest.mark.parametrize("table", [0x00, 0xFF, 0x80, 0xE8, 0x96, 0xB8, 0x6A, 0xF8])
def test_lop3(table):
    def exact(a: int, b: int, c: int) -> int:
        return sum((table >> ((a >> k & 1) << 2 | (b >> k & 1) << 1 | (c >> k & 1)) & 1) << k for k in range(32))

    check_integers(f"lop3.b32 %0, %1, %2, %3, {table:#x};", [np.uint32] * 3, np.uint32, exact)


@pytest.mark.parametrize(
    "name", ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"]
)
def test_comparisons_of_floats(name):
    a, b = floats(1), floats(2)
    b[::5] = a[::5]
    got = apply(f"setp.{name}.f32 %p1, %1, %2; selp.b32 %0, 1, 0, %p1;".replace("%p1", "%p8"), a, b, result=np.uint32)
    order = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
    for x, y, found in zip(a.tolist(), b.tolist(), got.tolist()):
        unordered = math.isnan(x) or math.isnan(y)
        if name in {"num", "nan"}:
            wanted = unordered == (name == "nan")
        else:
            wanted = len(name) == 3 if unordered else eval(f"x {order[name[:2]]} y")
        assert found == wanted, (name, x, y)


def correctly_rounded(exact: Fraction, kind: type) -> float:
    """The nearest value of the format, ties to even: found among the neighbours of a first guess."""
    guess = kind(float(exact))
    near = [x for x in (np.nextafter(guess, kind(-np.inf)), guess, np.nextafter(guess, kind(np.inf))) if np.isfinite(x)]
    bits = f"u{np.dtype(kind).itemsize}"
    return min(near, key=lambda x: (abs(Fraction(float(x)) - exact), int(x.view(bits)) & 1))


@pytest.mark.parametrize("kind, t", [(np.float32, "f32"), (np.float16, "f16"), (np.float64, "f64")])
def test_fma_rounds_once(kind, t):
    rng = np.random.default_rng(3)
    digits = np.finfo(kind).nmant
    a = (rng.integers(2**digits, 2 ** (digits + 1), COUNT) * 2.0**-digits).astype(kind)
    b = (rng.integers(2**digits, 2 ** (digits + 1), COUNT) * 2.0**-digits).astype(kind)
    c = np.where(np.arange(COUNT) % 2, -a * b, rng.standard_normal(COUNT) * 2.0**-digits).astype(kind)
    # A product that is a tie of the format, nudged by less than float64 can add: rounding twice gets it wrong.
    a[:8], b[:8] = kind(1 + 2.0**-digits), kind(1.5 if digits % 2 else 1 + 2.0**-1)
    c[:8] = (np.array([1, -1, 2, -2, 3, -3, 0, 0]) * float(np.finfo(kind).smallest_subnormal)).astype(kind)
    got = apply(f"fma.rn.{t} %0, %1, %2, %3;", a, b, c, result=kind)
    for k in range(COUNT):
        exact = Fraction(float(a[k])) * Fraction(float(b[k])) + Fraction(float(c[k]))
        assert got[k] == correctly_rounded(exact, kind), (k, a[k], b[k], c[k])


def test_directed_rounding():
    a, b = (np.abs(floats(k)) + np.float32(1e-3) for k in (4, 5))
    finite = (a < 1e15) & (b < 1e15)  # false for a NaN
    a, b = np.where(finite, a, 1).astype(np.float32), np.where(finite, b, -1).astype(np.float32)
    exact = [Fraction(float(x)) * Fraction(float(y)) for x, y in zip(a, b)]
    down, up = (apply(f"mul.{mode}.f32 %0, %1, %2;", a, b, result=np.float32) for mode in ("rm", "rp"))
    assert all(Fraction(float(x)) <= e <= Fraction(float(y)) for x, e, y in zip(down, exact, up))
    assert all(x == y or np.nextafter(x, np.float32(np.inf)) == y for x, y in zip(down, up))
    same(apply("mul.rz.f32 %0, %1, %2;", a, b, result=np.float32), np.where(a * b > 0, down, up))


def test_f32_arithmetic():
    a, b = floats(6), floats(7)
    for name, function in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div.rn", np.divide)):
        with np.errstate(all="ignore"):
            same(apply(f"{name}.f32 %0, %1, %2;", a, b, result=np.float32), function(a, b))
    same(apply("copysign.f32 %0, %1, %2;", a, b, result=np.float32), np.copysign(b, a))
    flushed = apply("add.ftz.f32 %0, %1, 0f80000000;", np.full(32, 1e-40, np.float32), result=np.float32)
    assert (flushed == 0).all()
    assert np.isnan(apply("max.NaN.f32 %0, %1, %2;", a, b, result=np.float32)[np.isnan(a)]).all()
    plain = apply("max.f32 %0, %1, %2;", a, b, result=np.float32)
    assert (np.isnan(plain) == (np.isnan(a) & np.isnan(b))).all()


FUNCTIONS = {
    "ex2": np.exp2,
    "lg2": np.log2,
    "rcp": np.reciprocal,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}


@pytest.mark.parametrize("name, function", FUNCTIONS.items(), ids=FUNCTIONS)
def test_functions(name, function):
    a = np.linspace(0.01, 9, COUNT, dtype=np.float32)
    got = apply(f"{name}.approx.f32 %0, %1;", a, result=np.float32).astype(np.float64)
    wanted = function(a.astype(np.float64))
    assert (np.abs(got - wanted) <= np.abs(wanted) * 2.0**-23).all()


@pytest.mark.parametrize("kind", ["f16x2", "bf16x2"])
def test_pairs_of_16_bits(kind):
    """Small integers and halves of them, whose sums and products both formats hold."""
    rng = np.random.default_rng(8)
    a, b, c = (rng.integers(-12, 13, (COUNT, 2)).astype(np.float32) / 2 for _ in range(3))

    def pack(x: np.ndarray) -> np.ndarray:
        bits = x.astype(np.float16).view(np.uint16) if kind == "f16x2" else (x.view(np.uint32) >> 16).astype(np.uint16)
        return np.ascontiguousarray(bits).view(np.uint32)[:, 0]

    x, y, z = pack(a), pack(b), pack(c)
    for name, wanted in (
        ("add.rn", a + b),
        ("sub.rn", a - b),
        ("mul.rn", a * b),
        ("min", np.fmin(a, b)),
        ("max", np.fmax(a, b)),
    ):
        got = apply(f"{name}.{kind} %0, %1, %2;", x, y, result=np.uint32)
        zero = wanted == 0  # of either sign
        assert (got.view(np.uint16)[~zero.ravel()] == pack(wanted).view(np.uint16)[~zero.ravel()]).all()
        assert (got.view(np.uint16)[zero.ravel()] & 0x7FFF == 0).all()
    got = apply(f"fma.rn.relu.{kind} %0, %1, %2, %3;", x, y, z, result=np.uint32)
    assert (got == pack(np.where(a * b + c > 0, a * b + c, np.float32(0)))).all()


def test_unknown_instructions_and_modifiers_are_refused_with_their_text():
    one = np.ones(32, np.float32)
    for text in ("frobnicate.f32 %0, %1;", "add.rn.strange.f32 %0, %1, %1;", "mul.f33 %0, %1, %1;"):
        with pytest.raises(PtxError, match=r"line \d+: " + text.split()[0].replace(".", r"\.")):
            apply(text, one, result=np.float32)
