"""Shifts, logic of three inputs, bit fields, permutation and the counting of bits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..kinds import UNSIGNED, dtype_of, width_of
from ..operands import Immediate, Instruction
from .integer import WIDTHS, Values, elementwise
from .table import Step, only, plain

if TYPE_CHECKING:
    from ..gang import Gang

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
