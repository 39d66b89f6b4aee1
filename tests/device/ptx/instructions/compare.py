"""Comparison and choice: setp, set, selp, slct."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..kinds import PtxError, dtype_of
from ..memory import Where
from ..operands import Instruction, Pair
from .rounding import FORMATS, flush
from .table import Step, only, plain

if TYPE_CHECKING:
    from ..gang import Gang

Values = np.ndarray
_ORDERED = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
_UNORDERED = {f"{name}u": name for name in _ORDERED}
_JOINING = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
_TYPES = (*FORMATS, *(f"{kind}{width}" for kind in "bus" for width in (16, 32, 64)))


def _comparison(name: str, floating: bool) -> Callable[[Values, Values], Values]:
    """With a NaN an ordered comparison is false, and one that ends in u is true."""
    if name in _UNORDERED:
        ordered = _ORDERED[_UNORDERED[name]]
        return lambda a, b: ordered(a, b) | np.isnan(a) | np.isnan(b)
    if name == "num":
        return lambda a, b: ~(np.isnan(a) | np.isnan(b))
    if name == "nan":
        return lambda a, b: np.isnan(a) | np.isnan(b)
    ordered = _ORDERED[_UNSIGNED.get(name, name)]
    if name == "ne" and floating:  # the one that numpy calls true
        return lambda a, b: (a != b) & ~np.isnan(a) & ~np.isnan(b)
    return ordered


def _compare(gang: Gang, instruction: Instruction, type_: str) -> Callable[[], Values]:
    """Compares operands 1 and 2, and joins a predicate in operand 3 when there is one."""
    known = {*_ORDERED, *_UNSIGNED, *_UNORDERED, "num", "nan"}
    found = only(instruction, *_TYPES, *known, *_JOINING, "ftz")
    name, read = instruction.modifiers[0], gang.registers.read
    a, b = (read(each, type_) for each in instruction.operands[1:3])
    compare = _comparison(name, type_ in FORMATS)
    flushes = "ftz" in found and type_ == "f32"

    def result() -> Values:
        if type_ == "bf16":
            return compare(FORMATS[type_].decode(a), FORMATS[type_].decode(b))
        return compare(flush(a), flush(b)) if flushes else compare(a, b)

    joining = next((_JOINING[each] for each in instruction.modifiers if each in _JOINING), None)
    if joining is None:
        return result
    other = gang.registers.predicate(instruction.operands[3])
    return lambda: joining(result(), other())


@plain("setp")
def setp(gang: Gang, instruction: Instruction) -> Step:
    target, type_ = instruction.operands[0], instruction.type
    if type_.endswith("x2"):
        return _setp_halves(gang, instruction)
    if not isinstance(target, Pair):
        result = _compare(gang, instruction, type_)
        out = gang.registers.write(target, "pred")
        return lambda where: np.copyto(out, result(), where=where)
    if any(each in _JOINING for each in instruction.modifiers):
        raise PtxError("a joined comparison with two results is unknown")
    result = _compare(gang, instruction, type_)
    first, second = (gang.registers.write(each, "pred") for each in (target.first, target.second))

    def step(where: Where) -> None:
        found = result()
        np.copyto(first, found, where=where)
        np.copyto(second, ~found, where=where)

    return step


def _setp_halves(gang: Gang, instruction: Instruction) -> Step:
    """Two results: of the low halves, and of the high ones."""
    target, type_ = instruction.operands[0], instruction.type.removesuffix("x2")
    known = {*_ORDERED, *_UNORDERED, "num", "nan"}
    found = only(instruction, *known, f"{type_}x2")
    if not isinstance(target, Pair) or len(found) != 2:
        raise PtxError("unknown comparison of pairs")
    halves = FORMATS[type_]
    a, b = (gang.registers.read(each, "b32").view(halves.storage).reshape(-1, 2) for each in instruction.operands[1:3])
    compare = _comparison(instruction.modifiers[0], True)
    outs = [gang.registers.write(each, "pred") for each in (target.first, target.second)]

    def step(where: Where) -> None:
        results = [compare(halves.decode(a[:, k]), halves.decode(b[:, k])) for k in (0, 1)]
        for out, result in zip(outs, results):
            np.copyto(out, result, where=where)

    return step


@plain("set")
def set_(gang: Gang, instruction: Instruction) -> Step:
    """All ones (as an integer) or 1.0 where the comparison holds, otherwise 0."""
    target, type_ = instruction.opcode[-2:]
    if target not in {"u32", "s32", "f32"}:
        raise PtxError(f"unknown modifier .{target}")
    result = _compare(gang, instruction, type_)
    out = gang.registers.write(instruction.operands[0], target)
    true = dtype_of(target).type(1.0 if target == "f32" else 0) if target == "f32" else ~dtype_of(target).type(0)
    return lambda where: np.copyto(out, np.where(result(), true, out.dtype.type(0)), where=where)


@plain("selp")
def selp(gang: Gang, instruction: Instruction) -> Step:
    only(instruction, *_TYPES)
    registers, type_ = gang.registers, instruction.type
    a, b = (registers.read(each, type_) for each in instruction.operands[1:3])
    chosen = registers.predicate(instruction.operands[3])
    out = registers.write(instruction.operands[0], type_)
    return lambda where: np.copyto(out, np.where(chosen(), a, b), where=where)


@plain("slct")
def slct(gang: Gang, instruction: Instruction) -> Step:
    """a where c >= 0, otherwise b; of a NaN, b."""
    only(instruction, *_TYPES, "ftz")
    type_, by = instruction.opcode[-2:]
    a, b = (gang.registers.read(each, type_) for each in instruction.operands[1:3])
    c = gang.registers.read(instruction.operands[3], by)
    out = gang.registers.write(instruction.operands[0], type_)
    return lambda where: np.copyto(out, np.where(c >= 0, a, b), where=where)
