"""Integer arithmetic and logic."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..kinds import SIGNED, UNSIGNED, PtxError, dtype_of, width_of
from ..memory import Where
from ..operands import Instruction
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
