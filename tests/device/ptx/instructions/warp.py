"""What the lanes of a warp tell one another."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..kinds import PtxError, dtype_of
from ..memory import AccessError, Where
from ..operands import Instruction, Operand, Pair, Sink
from .table import Step, only, plain

if TYPE_CHECKING:
    from ..gang import Gang

Values = np.ndarray
WARP = 32
_LANE = np.arange(WARP)
_BITS = np.uint32(1) << _LANE.astype(np.uint32)


def _gather(gang: Gang, operand: Operand) -> Callable[[Where], None]:
    """Sees that the lanes that the mask in `operand` names are together."""
    masks = gang.registers.read(operand, "b32")

    def check(where: Where) -> None:
        if where is True and (masks == 0xFFFFFFFF).all():
            return
        here, rows = gang.warps(where), masks.reshape(-1, WARP)
        wrong = here & ((rows & _BITS) == 0)
        if wrong.any():
            raise AccessError("a lane that the mask does not name executes this", int(np.argmax(wrong)))
        first = np.take_along_axis(rows, here.argmax(1)[:, None], axis=1)
        differs = here & (rows != first)
        if differs.any():
            raise AccessError("lanes of one warp give different masks", int(np.argmax(differs)))
        gang.together(where, (first & _BITS) != 0)

    return check


def ballot(lanes: Values) -> Values:
    """(warps, 32) truth values to one word for each warp, as a column."""
    return np.bitwise_or.reduce(np.where(lanes, _BITS, np.uint32(0)), axis=1, keepdims=True)


def _each_lane(column: Values) -> Values:
    return np.repeat(column[:, 0], WARP)


@plain("bar")
def bar_warp(gang: Gang, instruction: Instruction) -> Step:
    if instruction.opcode != ("bar", "warp", "sync"):
        raise PtxError("unknown instruction")
    return _gather(gang, instruction.operands[0])


@plain("activemask")
def activemask(gang: Gang, instruction: Instruction) -> Step:
    only(instruction, "b32")
    out = gang.registers.write(instruction.operands[0], "b32")
    return lambda where: np.copyto(out, _each_lane(ballot(gang.warps(where))), where=where)


@plain("shfl")
def shfl(gang: Gang, instruction: Instruction) -> Step:
    """Of lane j, as the direction, the distance b and the clamp and segment in c say; out of range, one's own value."""
    direction = (only(instruction, "sync", "up", "down", "bfly", "idx", "b32") & {"up", "down", "bfly", "idx"}).pop()
    target, *sources, mask = instruction.operands
    first, second = (target.first, target.second) if isinstance(target, Pair) else (target, Sink())
    out, in_range = gang.registers.write(first, "b32"), gang.registers.write(second, "pred")
    a, b, c = (gang.registers.read(each, "b32") for each in sources)
    gather = _gather(gang, mask)
    lane = np.tile(_LANE, gang.lanes // WARP)
    warp = np.arange(gang.lanes) - lane

    def step(where: Where) -> None:
        gather(where)
        distance, clamp, segment = b.astype(np.int64) & 31, c.astype(np.int64) & 31, c.astype(np.int64) >> 8 & 31
        last = (lane & segment) | (clamp & ~segment)
        source = {
            "up": lane - distance,
            "down": lane + distance,
            "bfly": lane ^ distance,
            "idx": (lane & segment) | (distance & ~segment),
        }[direction]
        valid = source >= last if direction == "up" else source <= last
        chosen = warp + np.where(valid, source, lane)
        if where is not True:
            missing = where & ~np.asarray(where)[chosen]
            if missing.any():
                raise AccessError("the value of a lane that does not take part is read", int(np.argmax(missing)))
        np.copyto(out, a[chosen], where=where)
        np.copyto(in_range, valid, where=where)

    return step


@plain("vote")
def vote(gang: Gang, instruction: Instruction) -> Step:
    kind = (only(instruction, "sync", "all", "any", "uni", "ballot", "pred", "b32") - {"sync", "pred", "b32"}).pop()
    target, source, mask = instruction.operands
    out = gang.registers.write(target, instruction.type)
    value, gather = gang.registers.predicate(source), _gather(gang, mask)

    def step(where: Where) -> None:
        gather(where)
        here, true = gang.warps(where), gang.warps(value() & where)
        every, some = (true | ~here).all(1, keepdims=True), true.any(1, keepdims=True)
        found = {"all": every, "any": some, "uni": every | ~some, "ballot": ballot(true)}[kind]
        np.copyto(out, _each_lane(found), where=where)

    return step


_REDUCTIONS: dict[str, tuple[np.ufunc, Callable[[np.dtype], int]]] = {
    "add": (np.add, lambda dtype: 0),
    "min": (np.minimum, lambda dtype: np.iinfo(dtype).max),
    "max": (np.maximum, lambda dtype: np.iinfo(dtype).min),
    "and": (np.bitwise_and, lambda dtype: np.iinfo(dtype).max),
    "or": (np.bitwise_or, lambda dtype: 0),
    "xor": (np.bitwise_xor, lambda dtype: 0),
}


@plain("redux")
def redux(gang: Gang, instruction: Instruction) -> Step:
    name = (only(instruction, "sync", *_REDUCTIONS, "u32", "s32", "b32") & set(_REDUCTIONS)).pop()
    target, source, mask = instruction.operands
    out = gang.registers.write(target, instruction.type)
    value, gather = gang.registers.read(source, instruction.type), _gather(gang, mask)
    ufunc, neutral = _REDUCTIONS[name]
    nothing = dtype_of(instruction.type).type(neutral(dtype_of(instruction.type)))

    def step(where: Where) -> None:
        gather(where)
        rows = np.where(where, value, nothing).reshape(-1, WARP)
        np.copyto(out, _each_lane(ufunc.reduce(rows, axis=1, keepdims=True, dtype=rows.dtype)), where=where)

    return step


@plain("match")
def match(gang: Gang, instruction: Instruction) -> Step:
    """The lanes that hold the same value; with .all, nobody unless it is everybody."""
    found = only(instruction, "any", "all", "sync", "b32", "b64")
    target, source, mask = instruction.operands
    first, second = (target.first, target.second) if isinstance(target, Pair) else (target, Sink())
    out, same = gang.registers.write(first, "b32"), gang.registers.write(second, "pred")
    value, gather = gang.registers.read(source, instruction.type), _gather(gang, mask)

    def step(where: Where) -> None:
        gather(where)
        here, rows = gang.warps(where), value.reshape(-1, WARP)
        equal = (rows[:, :, None] == rows[:, None, :]) & here[:, None, :]
        masks = np.bitwise_or.reduce(np.where(equal, _BITS, np.uint32(0)), axis=2)
        whole = masks == ballot(here)
        if "all" in found:
            masks = np.where(whole, masks, np.uint32(0))
        np.copyto(out, masks.ravel(), where=where)
        np.copyto(same, whole.ravel(), where=where)

    return step


@plain("elect")
def elect(gang: Gang, instruction: Instruction) -> Step:
    """The lowest lane of the mask is the leader."""
    only(instruction, "sync")
    target, mask = instruction.operands
    assert isinstance(target, Pair)
    out, leads = gang.registers.write(target.first, "b32"), gang.registers.write(target.second, "pred")
    gather = _gather(gang, mask)

    def step(where: Where) -> None:
        gather(where)
        leader = gang.warps(where).argmax(1)[:, None].astype(np.uint32)
        np.copyto(out, _each_lane(leader), where=where)
        np.copyto(leads, (_LANE == leader).ravel(), where=where)

    return step
