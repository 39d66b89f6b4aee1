"""wgmma: products of four warps, from shared memory through descriptors, or with A from registers.

Warp w of its group has rows 16 w to 16 w + 15 of A and D. A's registers are those of mma.sync; register i of D in fp32
is row g + 8 (i / 2 % 2), column 8 (i / 4) + 2 t + i % 2, with g = lane / 4 and t = lane % 4; in fp16 a register has two
neighbouring columns. Sums are made in float64 and rounded once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..async_products import Tile
from ..kinds import PtxError
from ..memory import Where
from ..operands import Immediate, Instruction, Operand, Register, Vector
from ..registers import items
from .rounding import from_bfloat16
from .table import Step, only, plain

if TYPE_CHECKING:
    from ..gang import Gang

_DEPTHS = {"f16": 16, "bf16": 16, "tf32": 8}


@plain("wgmma")
def wgmma(gang: Gang, instruction: Instruction) -> Step:
    words, products = instruction.modifiers, gang.products
    if words[1:3] != ("sync", "aligned"):
        raise PtxError("unknown form of wgmma")
    if words[0] == "mma_async":
        return _mma_async(gang, instruction)
    only(instruction, "fence", "commit_group", "wait_group", "sync", "aligned")
    act: Callable[[Where], None] = products.fence if words[0] == "fence" else products.commit
    if words[0] == "wait_group":
        newest = int(gang.registers.read(instruction.operands[0], "u32")[0])
        act = lambda where: products.wait(newest, where)  # noqa: E731

    def step(where: Where) -> None:
        gang.together(where)
        act(where)

    return step


def _mma_async(gang: Gang, instruction: Instruction) -> Step:
    _, _, _, shape, d_type, a_type, b_type = instruction.modifiers
    found = re.fullmatch(r"m64n(\d+)k(\d+)", shape)
    if not found or a_type != b_type or _DEPTHS.get(a_type) != int(found[2]) or d_type not in ("f32", "f16"):
        raise PtxError("unknown form of wgmma.mma_async")
    columns, depth = int(found[1]), int(found[2])
    target, a_from, b_from, adds, *rest = instruction.operands
    outs = [gang.registers.row(each) for each in items(target) if isinstance(each, Register) and each.width == 32]
    if len(outs) != columns // (2 if d_type == "f32" else 4) or columns % 8:
        raise PtxError(f"{len(outs)} registers for a result of {columns} columns")
    in_registers = isinstance(a_from, Vector)
    flags = [int(gang.registers.read(each, "b32").view(np.int32)[0]) for each in rest]
    (sign_a, sign_b), transposed = flags[:2], [0] * in_registers + flags[2:]
    if len(transposed) != (2 if a_type != "tf32" else in_registers) or {abs(sign_a), abs(sign_b)} != {1}:
        raise PtxError("unknown form of wgmma.mma_async")
    transposed = [*transposed, 0, 0][:2]
    sign, itemsize = sign_a * sign_b, 4 if a_type == "tf32" else 2
    right = Tile(gang.registers.read(b_from, "u64"), columns, depth, itemsize, bool(transposed[1]))
    if in_registers:
        left, fragments = None, [gang.registers.read(each, "b32") for each in items(a_from)]
        if len(fragments) != 4:
            raise PtxError(f"{len(fragments)} registers for a fragment of A")
    else:
        left = Tile(gang.registers.read(a_from, "u64"), 16, depth, itemsize, bool(transposed[0]))
    added = _predicate(gang, adds)

    def step(where: Where) -> None:
        gang.together(where)
        warps = np.flatnonzero(gang.warps(where).any(1))
        read_b = gang.products.reader(right, warps)
        if left is None:
            a = lambda chosen: sign * _fragment(fragments, a_type, chosen)  # noqa: E731
        else:
            read_a = gang.products.reader(left, warps, gang.warp % 4 * 16)
            a = lambda chosen: sign * _elements(a_type, read_a(chosen))  # noqa: E731
        b = lambda chosen: _elements(a_type, read_b(chosen)).transpose(0, 2, 1)  # noqa: E731
        gang.products.issue(warps, outs, a, b, added()[:: len(added()) // gang.products.warps][warps], d_type == "f16")

    return step


def _predicate(gang: Gang, operand: Operand) -> Callable[[], np.ndarray]:
    """Whether the result is added to: a predicate, or 0 or 1."""
    if isinstance(operand, Immediate):
        fixed = np.full(gang.lanes, int(operand.text) != 0)
        return lambda: fixed
    return gang.registers.predicate(operand)


def _elements(type_: str, words: np.ndarray) -> np.ndarray:
    """Bits of 16 or 32 bits in float64."""
    if type_ == "tf32":
        return (words & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)
    return (words.view(np.float16) if type_ == "f16" else from_bfloat16(words)).astype(np.float64)


def _fragment(registers: list[np.ndarray], type_: str, warps: np.ndarray) -> np.ndarray:
    """(warp, 16, depth) of A in registers: register 2 k + h holds row g + 8 h, columns of the k-th half."""
    words = np.stack(registers).reshape(2, 2, -1, 8, 4)[:, :, warps]  # half of the depth, h, warp, g, t
    parts = words[..., None] if type_ == "tf32" else np.ascontiguousarray(words)[..., None].view(np.uint16)
    return _elements(type_, parts.transpose(2, 1, 3, 0, 4, 5).reshape(len(warps), 16, -1))
