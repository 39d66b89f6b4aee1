"""The tensor core: mma.sync, and the loads that bring fragments into its layout.

Fragments as in the PTX ISA, with g = lane / 4 and t = lane % 4 and `n` elements in a register (2, for tf32 1):
register i of A holds row g + 8 (i % 2), columns n (t + 4 (i / 2)) and following; of B rows n (t + 4 i) and following,
column g; of C and D row g + 8 (i / 2), column 2 t + i % 2. Products are summed in float64 and rounded once: the order
in which the hardware adds is not modelled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..kinds import PtxError
from ..memory import Where
from ..operands import Instruction, Operand
from ..registers import items
from .memory import address
from .rounding import from_bfloat16
from .table import Step, only, plain

if TYPE_CHECKING:
    from ..gang import Gang

Values = np.ndarray
_SHAPES = {"m16n8k4": 4, "m16n8k8": 8, "m16n8k16": 16}
_ROW = np.dtype(np.uint16)


def _decode(type_: str, registers: Values) -> Values:
    """Registers (..., 32 bits) to their elements (..., n) in float64."""
    if type_ == "tf32":
        return (registers & np.uint32(0xFFFFE000)).view(np.float32)[..., None].astype(np.float64)
    halves = np.ascontiguousarray(registers)[..., None].view(np.uint16)
    return (halves.view(np.float16) if type_ == "f16" else from_bfloat16(halves)).astype(np.float64)


@plain("mma")
def mma(gang: Gang, instruction: Instruction) -> Step:
    words = instruction.modifiers
    if words[:2] != ("sync", "aligned") or words[2] not in _SHAPES or words[3:5] != ("row", "col"):
        raise PtxError("unknown form of mma")
    depth, (d_type, a_type, b_type, c_type) = _SHAPES[words[2]], words[-4:]
    per_register = 1 if a_type == "tf32" else 2
    known = {("tf32", 4), ("tf32", 8), ("f16", 8), ("f16", 16), ("bf16", 8), ("bf16", 16)}
    if (a_type, depth) not in known or a_type != b_type or d_type != c_type or len(words) != 9:
        raise PtxError("unknown form of mma")
    if d_type != "f32" and (d_type, a_type) != ("f16", "f16"):
        raise PtxError("unknown form of mma")

    fragments = [[gang.registers.read(each, "b32") for each in items(part)] for part in instruction.operands[1:]]
    counts = (depth // 4 // per_register * 2, depth // 4 // per_register, 4 if d_type == "f32" else 2)
    if tuple(map(len, fragments)) != counts:
        raise PtxError(f"fragments of {[len(each) for each in fragments]} registers")
    a_regs, b_regs, c_regs = fragments
    outs = [gang.registers.write(each, "b32") for each in items(instruction.operands[0])]

    def step(where: Where) -> None:
        gang.together(where)
        a = _decode(a_type, np.stack(a_regs).reshape(len(a_regs), -1, 8, 4))  # i, warp, g, t, element
        columns, rows, warps = len(a_regs) // 2, 2, a.shape[1]
        a = a.reshape(columns, rows, warps, 8, 4, per_register).transpose(2, 1, 3, 0, 4, 5).reshape(warps, 16, depth)
        b = _decode(b_type, np.stack(b_regs).reshape(len(b_regs), -1, 8, 4))
        b = b.transpose(1, 0, 3, 4, 2).reshape(warps, depth, 8)
        c = np.stack(c_regs).reshape(len(c_regs), -1, 8, 4)
        if d_type == "f32":
            c = c.view(np.float32).reshape(2, 2, warps, 8, 4).transpose(2, 0, 3, 4, 1)  # warp, row, g, t, column
        else:
            c = c[..., None].view(np.float16).transpose(1, 0, 2, 3, 4)
        d = (a @ b + c.reshape(warps, 16, 8)).astype(np.float32 if d_type == "f32" else np.float16)
        d = d.reshape(warps, 2, 8, 4, 2)
        if d_type == "f32":
            found = np.ascontiguousarray(d.transpose(1, 4, 0, 2, 3)).view(np.uint32).reshape(4, -1)
        else:
            found = np.ascontiguousarray(d.transpose(1, 0, 2, 3, 4)).view(np.uint32).reshape(2, -1)
        for out, values in zip(outs, found):
            np.copyto(out, values, where=where)

    return step


def _matrices(gang: Gang, instruction: Instruction, place: Operand) -> tuple[int, bool, Callable[[Where], Values]]:
    """How many 8 x 8 matrices, whether transposed, and where their rows lie: lane 8 i + k names row k of matrix i."""
    found = only(instruction, "sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "b16")
    if not {"sync", "aligned", "m8n8", "shared", "b16"} <= found:
        raise PtxError("unknown form")
    count = int(next(word for word in instruction.modifiers if word in {"x1", "x2", "x4"})[1:])
    _, where_from = address(gang, place)
    naming = np.tile(np.arange(32) < 8 * count, gang.lanes // 32)
    shared = gang.shared

    def rows(where: Where) -> Values:
        gang.together(where)
        if count < 4 or where is not True:
            where = naming & where
        return shared.rows(where_from(), 16, where).reshape(-1, 4, 8)[:, :count]

    return count, "trans" in found, rows


@plain("ldmatrix")
def ldmatrix(gang: Gang, instruction: Instruction) -> Step:
    """Register i of a lane: row g, columns 2 t and 2 t + 1 of matrix i, or, transposed, those rows of column g."""
    count, transposed, rows = _matrices(gang, instruction, instruction.operands[1])
    targets = items(instruction.operands[0])
    if len(targets) != count:
        raise PtxError(f"{len(targets)} registers for {count} matrices")
    outs = [gang.registers.write(each, "b32") for each in targets]
    shared = gang.shared

    def step(where: Where) -> None:
        matrices = shared.view(_ROW, 8)[rows(where)]  # warp, i, row, column
        if transposed:
            matrices = np.ascontiguousarray(matrices.transpose(0, 1, 3, 2))
        words = matrices.view(np.uint32).reshape(-1, count, 32)
        for i, out in enumerate(outs):
            np.copyto(out, words[:, i].reshape(-1), where=where)

    return step


@plain("stmatrix")
def stmatrix(gang: Gang, instruction: Instruction) -> Step:
    """The way back."""
    count, transposed, rows = _matrices(gang, instruction, instruction.operands[0])
    sources = [gang.registers.read(each, "b32") for each in items(instruction.operands[1])]
    if len(sources) != count:
        raise PtxError(f"{len(sources)} registers for {count} matrices")
    shared = gang.shared

    def step(where: Where) -> None:
        places = rows(where)
        words = np.stack(sources, axis=1).reshape(-1, 32, count).transpose(0, 2, 1)
        matrices = np.ascontiguousarray(words).view(np.uint16).reshape(-1, count, 8, 8)
        if transposed:
            matrices = matrices.transpose(0, 1, 3, 2)
        active = gang.warps(where).any(1)
        shared.view(_ROW, 8)[places[active]] = matrices[active]

    return step
