"""cvt: between all integer and floating types, and pairs of floats into one register."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..kinds import FLOATING, PtxError, dtype_of
from ..memory import Where
from ..operands import Instruction
from .rounding import flush, from_bfloat16, narrow, to_bfloat16
from .table import Step, only, plain

if TYPE_CHECKING:
    from ..gang import Gang

Values = np.ndarray
_INTEGERS = tuple(f"{sign}{width}" for sign in "us" for width in (8, 16, 32, 64))
_TO_INTEGRAL = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
_TO_FLOAT = ("rn", "rz", "rm", "rp")
_FLOATS = ("f16", "bf16", "f32", "f64")


@plain("cvt")
def cvt(gang: Gang, instruction: Instruction) -> Step:
    found = only(
        instruction,
        *_INTEGERS,
        *_FLOATS,
        "f16x2",
        "bf16x2",
        "tf32",
        *_TO_INTEGRAL,
        *_TO_FLOAT,
        "rna",
        "ftz",
        "sat",
        "relu",
    )
    target, source = instruction.opcode[-2:]
    if target.endswith("x2"):
        return _pack(gang, instruction, target)
    rounding = next((each for each in instruction.modifiers if each[0] == "r" and each != "relu"), "")
    if target == "tf32":
        return _to_tf32(gang, instruction, rounding)
    a = gang.registers.read(instruction.operands[1], source)
    put = gang.registers.assign(instruction.operands[0], target)
    convert = _between(target, source, rounding, found)

    def step(where: Where) -> None:
        put(np.ascontiguousarray(convert(a)), where)

    return step


def _between(target: str, source: str, rounding: str, found: set[str]) -> Callable[[Values], Values]:
    if source in _INTEGERS and target in _INTEGERS:
        dtype = dtype_of(target)
        return (lambda a: _clip(a, dtype)) if "sat" in found else (lambda a: a.astype(dtype))
    if source in _INTEGERS:
        return lambda a: _from_integer(a, target, rounding)
    decode = from_bfloat16 if source == "bf16" else lambda a: a
    flushes = "ftz" in found and "f32" in (target, source)
    if target in _INTEGERS:
        whole = _TO_INTEGRAL[rounding]
        return lambda a: _clip(
            whole((flush(a) if flushes and source == "f32" else decode(a)).astype(np.float64)), dtype_of(target)
        )

    def convert(a: Values) -> Values:
        value = decode(a)
        if flushes and value.dtype == np.float32:
            value = flush(value)
        if rounding in _TO_INTEGRAL:
            value = _TO_INTEGRAL[rounding](value)
        if "sat" in found:
            value = np.fmin(np.fmax(value, 0), 1).astype(value.dtype)
        if "relu" in found:
            value = np.where(value < 0, value.dtype.type(0), value)
        return _to_float(value, target, rounding if rounding in _TO_FLOAT else "rn")

    return convert


def _to_float(value: Values, target: str, mode: str) -> Values:
    if target == "bf16":
        if value.dtype == np.float64 or mode in {"rm", "rp"}:
            raise PtxError("no such conversion to bf16")
        return to_bfloat16(value.astype(np.float32), mode)
    dtype = dtype_of(target)
    return narrow(value, dtype, mode) if dtype.itemsize < value.dtype.itemsize else value.astype(dtype)


def _from_integer(a: Values, target: str, mode: str) -> Values:
    if target != "bf16" and mode == "rn":
        return a.astype(FLOATING[8 * dtype_of(target).itemsize])  # numpy rounds once
    if a.dtype.itemsize == 8:
        raise PtxError(f"no .{mode} conversion of 64-bit integers here")
    exact = a.astype(np.float64)
    if target != "bf16":
        return narrow(exact, dtype_of(target), mode)
    sticky = narrow(exact, np.float32, "rz")  # rounded to odd, so that the second rounding is the only one
    return to_bfloat16((sticky.view(np.uint32) | (sticky != exact)).view(np.float32), mode)


def _clip(value: Values, dtype: np.dtype) -> Values:
    """Into the range of an integer type; a NaN becomes 0."""
    limits = np.iinfo(dtype)
    if value.dtype.kind in "iu":
        own = np.iinfo(value.dtype)
        low, high = max(limits.min, own.min), min(limits.max, own.max)
        return np.clip(value, value.dtype.type(low), value.dtype.type(high)).astype(dtype)
    inside = (value > limits.min) & (value < limits.max)
    bound = np.where(value >= limits.max, dtype.type(limits.max), dtype.type(limits.min))
    found = np.where(inside, np.where(inside, value, 0).astype(dtype), bound)
    return np.where(np.isnan(value), dtype.type(0), found)


def _pack(gang: Gang, instruction: Instruction, target: str) -> Step:
    """cvt.f16x2.f32 d, a, b: a above, b below."""
    if instruction.type != "f32":
        raise PtxError("only a pair of f32 is packed here")
    mode = "rz" if "rz" in instruction.modifiers else "rn"
    out = gang.registers.write(instruction.operands[0], "b32")
    upper, lower = (gang.registers.read(each, "f32") for each in instruction.operands[1:])
    relu = "relu" in instruction.modifiers

    def half(value: Values) -> Values:
        if relu:
            value = np.where(value < 0, np.float32(0), value)
        found = to_bfloat16(value, mode) if target == "bf16x2" else narrow(value, np.float16, mode).view(np.uint16)
        return found.astype(np.uint32)

    def step(where: Where) -> None:
        np.copyto(out, half(lower) | half(upper) << np.uint32(16), where=where)

    return step


def _to_tf32(gang: Gang, instruction: Instruction, rounding: str) -> Step:
    """float32 with 10 bits of fraction, to nearest; ties away from zero (rna) or to even (rn)."""
    if rounding not in {"rna", "rn"} or "relu" in instruction.modifiers:
        raise PtxError("unknown conversion to tf32")
    out = gang.registers.write(instruction.operands[0], "b32")
    a = gang.registers.read(instruction.operands[1], "b32")
    dropped = np.uint32(0x1FFF)

    def step(where: Where) -> None:
        half = np.uint32(0x1000) if rounding == "rna" else np.uint32(0xFFF) + (a >> np.uint32(13) & np.uint32(1))
        finite = a & np.uint32(0x7F800000) != 0x7F800000
        np.copyto(out, np.where(finite, a + half & ~dropped, a), where=where)

    return step
