"""Integer arithmetic, logic and bit fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..kinds import SIGNED, UNSIGNED, PtxError, dtype_of, width_of
from ..memory import Where
from ..operands import Immediate, Instruction
from .table import Step, only, plain

if TYPE_CHECKING:
    from ..gang import Gang

Values = np.ndarray
WIDTHS = ("b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64")
_BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "min": np.minimum,
    "max": np.maximum,
    "rem": np.fmod,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}
_UNARY = {"neg": np.negative, "abs": np.abs, "not": np.invert}


def elementwise(gang: Gang, instruction: Instruction, function: Callable[..., Values], types: list[str]) -> Step:
    """d = function(a, b, ...): `types` are those of d and of the sources."""
    out = gang.registers.write(instruction.operands[0], types[0])
    sources = [
        gang.registers.read(each, type_) for each, type_ in zip(instruction.operands[1:], types[1:], strict=True)
    ]

    def step(where: Where) -> None:
        np.copyto(out, function(*sources), where=where)

    return step


@plain(*_BINARY, kind="integer")
def binary(gang: Gang, instruction: Instruction) -> Step:
    type_ = instruction.type
    only(instruction, *WIDTHS, "pred", "s16x2", "u16x2", "sat")
    if type_.endswith("x2") or "sat" in instruction.modifiers:
        return _unusual(gang, instruction)
    ufunc = _BINARY[instruction.name]
    out = gang.registers.write(instruction.operands[0], type_)
    a, b = (gang.registers.read(each, type_) for each in instruction.operands[1:])
    return lambda where: ufunc(a, b, out=out, where=where)


def _unusual(gang: Gang, instruction: Instruction) -> Step:
    """Pairs of 16-bit integers, and saturating 32-bit sums."""
    ufunc, type_ = _BINARY[instruction.name], instruction.type
    if type_ == "s32":
        limits = np.iinfo(np.int32)
        wide = lambda a, b: np.clip(ufunc(a, b, dtype=np.int64), limits.min, limits.max).astype(np.int32)  # noqa: E731
        return elementwise(gang, instruction, wide, [type_] * 3)
    if type_.endswith("x2") and "sat" not in instruction.modifiers:
        half = dtype_of(type_[:3])
        return elementwise(
            gang, instruction, lambda a, b: ufunc(a.view(half), b.view(half)).view(np.uint32), [type_] * 3
        )
    raise PtxError("unknown modifier .sat")


@plain(*_UNARY, kind="integer")
def unary(gang: Gang, instruction: Instruction) -> Step:
    only(instruction, *WIDTHS, "pred")
    ufunc = _UNARY[instruction.name]
    out = gang.registers.write(instruction.operands[0], instruction.type)
    a = gang.registers.read(instruction.operands[1], instruction.type)
    return lambda where: ufunc(a, out, where=where)


@plain("cnot")
def cnot(gang: Gang, instruction: Instruction) -> Step:
    only(instruction, *WIDTHS)
    return elementwise(gang, instruction, lambda a: (a == 0).astype(a.dtype), [instruction.type] * 2)


@plain("div", kind="integer")
def div(gang: Gang, instruction: Instruction) -> Step:
    """Rounds toward zero; without a trap for zero, whose quotient PTX leaves open."""
    only(instruction, *WIDTHS)
    quotient = lambda a, b: np.floor_divide(a - np.fmod(a, b), b)  # noqa: E731
    return elementwise(gang, instruction, quotient, [instruction.type] * 3)


@plain("mul", "mad", kind="integer")
def mul(gang: Gang, instruction: Instruction) -> Step:
    """.lo, .hi and .wide products, and with mad their sum with c."""
    type_ = instruction.type
    part = (only(instruction, *WIDTHS, "lo", "hi", "wide") & {"lo", "hi", "wide"}).pop()
    result = f"{type_[0]}{2 * width_of(type_)}" if part == "wide" else type_
    adds = instruction.name == "mad"

    def product(a: Values, b: Values, c: Values | None = None) -> Values:
        if part == "wide":
            found = np.multiply(a, b, dtype=dtype_of(result))
        else:
            found = a * b if part == "lo" else high(a, b)
        return found if c is None else found + c

    return elementwise(gang, instruction, product, [result, type_, type_] + [result] * adds)


def high(a: Values, b: Values) -> Values:
    """The upper half of the product."""
    width = 8 * a.dtype.itemsize
    table = SIGNED if a.dtype.kind == "i" else UNSIGNED
    if width < 64:
        wide = table[2 * width]
        return (np.multiply(a, b, dtype=wide) >> wide.type(width)).astype(a.dtype)
    unsigned, half, low = [x.view(np.uint64) for x in (a, b)], np.uint64(32), np.uint64(0xFFFFFFFF)
    (a1, a0), (b1, b0) = ((x >> half, x & low) for x in unsigned)
    middle = a1 * b0 + (a0 * b0 >> half)
    found = a1 * b1 + (middle >> half) + ((middle & low) + a0 * b1 >> half)
    if a.dtype.kind == "i":
        found = found - np.where(a < 0, unsigned[1], 0) - np.where(b < 0, unsigned[0], 0)
    return found.view(a.dtype)


@plain("mul24", "mad24")
def mul24(gang: Gang, instruction: Instruction) -> Step:
    """Products of the low 24 bits, low half."""
    only(instruction, "lo", "u32", "s32")
    eight = dtype_of(instruction.type).type(8)
    cut = lambda x: (x << eight) >> eight  # noqa: E731
    function = lambda a, b, *c: cut(a) * cut(b) + sum(c)  # noqa: E731
    return elementwise(gang, instruction, function, [instruction.type] * len(instruction.operands))


@plain("sad")
def sad(gang: Gang, instruction: Instruction) -> Step:
    only(instruction, *WIDTHS)
    function = lambda a, b, c: c + (np.maximum(a, b) - np.minimum(a, b))  # noqa: E731
    return elementwise(gang, instruction, function, [instruction.type] * 4)


# ---- shifts ----


@plain("shl", "shr")
def shift(gang: Gang, instruction: Instruction) -> Step:
    """By any unsigned 32-bit amount: numpy, too, makes 0 or the sign of a shift by the width or more."""
    only(instruction, *WIDTHS)
    ufunc = np.left_shift if instruction.name == "shl" else np.right_shift
    type_ = instruction.type
    out = gang.registers.write(instruction.operands[0], type_)
    a = gang.registers.read(instruction.operands[1], type_)
    amount = gang.registers.read(instruction.operands[2], "u32")
    if isinstance(instruction.operands[2], Immediate):
        fixed = np.minimum(amount, np.uint32(64)).astype(out.dtype)
        return lambda where: ufunc(a, fixed, out, where=where)
    return lambda where: ufunc(a, np.minimum(amount, np.uint32(64)).astype(out.dtype), out, where=where)


@plain("shf")
def funnel(gang: Gang, instruction: Instruction) -> Step:
    """32 bits out of the pair (b, a), shifted left (upper half) or right (lower half)."""
    found = only(instruction, "l", "r", "wrap", "clamp", "b32")

    def function(a: Values, b: Values, c: Values) -> Values:
        amount = (c & np.uint32(31) if "wrap" in found else np.minimum(c, np.uint32(32))).astype(np.uint64)
        pair = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
        moved = (pair << amount) >> np.uint64(32) if "l" in found else pair >> amount
        return moved.astype(np.uint32)

    return elementwise(gang, instruction, function, ["b32"] * 4)


# ---- logic of three inputs, bit fields, permutation ----


@plain("lop3")
def lop3(gang: Gang, instruction: Instruction) -> Step:
    """Any function of three bits, given as its truth table with a = 0xF0, b = 0xCC, c = 0xAA."""
    only(instruction, "b32")
    table = gang.registers.read(instruction.operands[4], "u32")[0]

    def function(a: Values, b: Values, c: Values) -> Values:
        found = np.zeros_like(a)
        for k in range(8):
            if table >> np.uint32(k) & np.uint32(1):
                found |= (a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c)
        return found

    return elementwise(gang, replace(instruction, operands=instruction.operands[:4]), function, ["b32"] * 4)


@plain("bfe")
def bfe(gang: Gang, instruction: Instruction) -> Step:
    """A field of c bits at b. What lies above the word, and above the field in a signed result, is the field's sign."""
    only(instruction, "u32", "s32", "u64", "s64")
    type_, width = instruction.type, width_of(instruction.type)

    def function(a: Values, b: Values, c: Values) -> Values:
        bits = UNSIGNED[width].type
        start, length = (b & np.uint32(255)).astype(bits), (c & np.uint32(255)).astype(bits)
        field = a.view(bits) >> start
        inside = np.minimum(length, bits(width) - np.minimum(start, bits(width)))
        ones = (bits(1) << inside) - bits(1)
        field &= ones
        if type_[0] == "s":
            last = np.minimum(start + length - bits(1), bits(width - 1))
            negative = (a.view(bits) >> last & bits(1) != 0) & (length > 0)
            field = np.where(negative, field | ~ones, field)
        return field.view(dtype_of(type_))

    return elementwise(gang, instruction, function, [type_, type_, "u32", "u32"])


@plain("bfi")
def bfi(gang: Gang, instruction: Instruction) -> Step:
    """b with its d bits at c replaced by those of a."""
    only(instruction, "b32", "b64")
    bits = dtype_of(instruction.type).type

    def function(a: Values, b: Values, c: Values, d: Values) -> Values:
        start, length = (c & np.uint32(255)).astype(bits), (d & np.uint32(255)).astype(bits)
        ones = ((bits(1) << length) - bits(1)) << start
        return (b & ~ones) | ((a << start) & ones)

    return elementwise(gang, instruction, function, [instruction.type] * 3 + ["u32"] * 2)


@plain("prmt")
def prmt(gang: Gang, instruction: Instruction) -> Step:
    """Four bytes chosen out of (b, a); bit 3 of a selector copies the byte's sign instead."""
    only(instruction, "b32")

    def function(a: Values, b: Values, c: Values) -> Values:
        pool = np.stack([a, b], axis=1).view(np.uint8)
        chosen = (c[:, None] >> np.arange(0, 16, 4, dtype=np.uint32)) & np.uint32(15)
        found = np.take_along_axis(pool, (chosen & np.uint32(7)).astype(np.int64), axis=1)
        found = np.where(chosen & np.uint32(8), (found >> np.uint8(7)) * np.uint8(255), found)
        return np.ascontiguousarray(found, np.uint8).view(np.uint32)[:, 0]

    return elementwise(gang, instruction, function, ["b32"] * 4)


# ---- counting bits ----


def bit_length(a: Values) -> Values:
    """Bits up to the highest one, 0 for 0."""
    smeared = a.copy()
    for k in (1, 2, 4, 8, 16, 32)[: 5 + (a.dtype.itemsize == 8)]:
        smeared |= smeared >> a.dtype.type(k)
    return np.bitwise_count(smeared).astype(np.uint32)


@plain("popc", "clz")
def count_bits(gang: Gang, instruction: Instruction) -> Step:
    only(instruction, "b32", "b64")
    width = np.uint32(width_of(instruction.type))
    popc, clz = lambda a: np.bitwise_count(a).astype(np.uint32), lambda a: width - bit_length(a)
    return elementwise(gang, instruction, popc if instruction.name == "popc" else clz, ["u32", instruction.type])


@plain("bfind")
def bfind(gang: Gang, instruction: Instruction) -> Step:
    """The place of the highest bit that is not the sign, or with .shiftamt how far it is from the top; -1 if none."""
    found, type_ = only(instruction, "shiftamt", "u32", "s32", "u64", "s64"), instruction.type

    def function(a: Values) -> Values:
        bits = np.where(a < 0, ~a, a) if type_[0] == "s" else a
        place = bit_length(bits.view(UNSIGNED[width_of(type_)])) - np.uint32(1)
        if "shiftamt" in found:
            place = np.where(place == 0xFFFFFFFF, place, np.uint32(width_of(type_) - 1) - place)
        return place

    return elementwise(gang, instruction, function, ["u32", type_])


@plain("brev")
def brev(gang: Gang, instruction: Instruction) -> Step:
    only(instruction, "b32", "b64")

    def function(a: Values) -> Values:
        rows = a.view(np.uint8).reshape(len(a), -1)[:, ::-1]
        bits = np.unpackbits(np.ascontiguousarray(rows), axis=1).reshape(len(a), -1, 8)[:, :, ::-1]
        return np.packbits(bits.reshape(len(a), -1), axis=1).view(a.dtype)[:, 0]

    return elementwise(gang, instruction, function, [instruction.type] * 2)


@plain("dp4a")
def dp4a(gang: Gang, instruction: Instruction) -> Step:
    """c plus the dot product of four bytes, each factor signed or not."""
    only(instruction, "u32", "s32")
    types = instruction.opcode[1:3]

    def function(a: Values, b: Values, c: Values) -> Values:
        parts = [
            x.view(np.int8 if t == "s32" else np.uint8).reshape(-1, 4).astype(np.int64) for x, t in zip((a, b), types)
        ]
        return ((parts[0] * parts[1]).sum(1) + c.view(np.uint32)).astype(np.uint32).view(c.dtype)

    result = "s32" if "s32" in types else "u32"
    return elementwise(gang, instruction, function, [result, types[0], types[1], result])
