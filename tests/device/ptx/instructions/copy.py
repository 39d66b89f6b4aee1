"""mov: plain, of addresses, and between a register and the parts of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..kinds import UNSIGNED, width_of
from ..memory import Where
from ..operands import Instruction, Register, Vector
from .table import Step, only, plain

if TYPE_CHECKING:
    from ..gang import Gang

_TYPES = ("pred", "b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64", "f16", "bf16", "f32", "f64")


@plain("mov")
def mov(gang: Gang, instruction: Instruction) -> Step:
    only(instruction, *_TYPES)
    target, source = instruction.operands
    type_, registers = instruction.type, gang.registers
    if isinstance(target, Vector):
        parts = UNSIGNED[width_of(type_) // len(target.items)]
        values = registers.read(source, type_).view(parts).reshape(gang.lanes, -1)
        puts = [registers.assign(each, f"b{8 * parts.itemsize}") for each in target.items]

        def split(where: Where) -> None:
            for k, put in enumerate(puts):
                put(np.ascontiguousarray(values[:, k]), where)

        return split
    if isinstance(source, Vector):
        parts = UNSIGNED[width_of(type_) // len(source.items)]
        # A half that nobody reads later need not have been written.
        whole = [isinstance(each, Register) and each.width == 8 * parts.itemsize for each in source.items]
        pieces = [
            registers.row(each) if itself else registers.read(each, f"b{8 * parts.itemsize}")
            for each, itself in zip(source.items, whole)
        ]
        out = registers.write(target, type_).view(parts).reshape(gang.lanes, -1)

        def join(where: Where) -> None:
            for k, piece in enumerate(pieces):
                np.copyto(out[:, k], piece, where=where)

        return join
    value = registers.read(source, type_)
    out = registers.write(target, type_)
    return lambda where: np.copyto(out, value, where=where)
