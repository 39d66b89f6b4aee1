"""Jumps, exits and the barriers of a block. These read their guard themselves and move every lane."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..kinds import PtxError
from ..memory import Where
from ..operands import Instruction, Target
from .table import Step, control, only

if TYPE_CHECKING:
    from ..gang import Gang


def _guard(gang: Gang, instruction: Instruction) -> Callable[[Where], Where]:
    """The lanes whose guard is true."""
    if instruction.guard is None:
        return lambda where: where
    predicate = gang.registers.predicate(instruction.guard)
    return lambda where: predicate() & where


@control("bra")
def bra(gang: Gang, instruction: Instruction, pc: int) -> Step:
    only(instruction, "uni")
    target = instruction.operands[0]
    assert isinstance(target, Target)
    guard = _guard(gang, instruction)

    def step(where: Where) -> None:
        taken = guard(where)
        if isinstance(taken, bool) or taken is where or np.array_equal(taken, np.broadcast_to(where, gang.lanes)):
            gang.go(where, target.pc)
        elif not taken.any():
            gang.go(where, pc + 1)
        else:
            gang.fork(pc, where, taken, target.pc)

    return step


@control("brx")
def brx(gang: Gang, instruction: Instruction, pc: int) -> Step:
    """To the entry of a table of labels."""
    only(instruction, "idx", "uni")
    index = gang.registers.read(instruction.operands[0], "u32")
    table = instruction.operands[1]
    assert isinstance(table, Target)
    places = np.array([each.pc for each in table.table])
    guard = _guard(gang, instruction)

    def step(where: Where) -> None:
        taken = np.broadcast_to(guard(where), gang.lanes)
        if (index[taken] >= len(places)).any():
            raise PtxError(f"an index beyond the {len(places)} targets")
        gang.fork(pc, where, taken, places[np.where(taken, index, 0)])

    return step


@control("ret", "exit")
def leave(gang: Gang, instruction: Instruction, pc: int) -> Step:
    only(instruction, "uni")
    guard = _guard(gang, instruction)
    return lambda where: gang.leave(pc, where, guard(where))


@control("trap", "brkpt", "call")
def stop(gang: Gang, instruction: Instruction, pc: int) -> Step:
    """A trap ends the launch; so does a call of what has no body here (a failed assertion calls such a function)."""
    guard = _guard(gang, instruction)

    def step(where: Where) -> None:
        if np.any(guard(where)):
            raise PtxError("trap" if instruction.name != "call" else "call of a function without a body")
        gang.go(where, pc + 1)

    return step


@control("bar", "barrier")
def bar(gang: Gang, instruction: Instruction, pc: int) -> Step:
    """bar.sync, bar.arrive and bar.red. Warps come to a barrier as a whole: threads of one warp do not come apart."""
    known = ("cta", "sync", "arrive", "red", "aligned", "popc", "and", "or", "u32", "pred")
    found = only(instruction, *known)
    registers, operands = gang.registers, list(instruction.operands)
    put = value = None
    kind = ""
    if "red" in found:
        kind = (found & {"popc", "and", "or"}).pop()
        put = registers.assign(operands.pop(0), instruction.type)
        value = registers.predicate(operands.pop())
    name = registers.read(operands[0], "u32")
    count = registers.read(operands[1], "u32") if len(operands) > 1 else None
    guard, barriers, arrives = _guard(gang, instruction), gang.chunk.barriers, "arrive" in found

    def step(where: Where) -> None:
        lanes = np.broadcast_to(guard(where), gang.lanes)
        gang.together(True if lanes.all() else lanes)
        waiting = np.zeros_like(lanes) if arrives else lanes
        gang.stall(pc, where, waiting)
        for block in np.flatnonzero(gang.warps(lanes).any(1)):
            one = slice(32 * block, 32 * block + 32)
            first = 32 * block + int(np.argmax(lanes[one]))
            if (name[one] != name[first])[lanes[one]].any() or (
                count is not None and (count[one] != count[first])[lanes[one]].any()
            ):
                raise PtxError("lanes of one warp name different barriers")
            votes = None if value is None else value()[one][lanes[one]]
            barriers.arrive(
                gang,
                int(block),
                int(name[first]),
                None if count is None else int(count[first]),
                waits=not arrives,
                reduction=None if votes is None or put is None else (kind, votes, put),
            )

    return step
