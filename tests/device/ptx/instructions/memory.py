"""Loads, stores, atomics, asynchronous copies and the conversion of addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..kinds import PtxError, dtype_of, is_type, width_of
from ..memory import GENERIC, WINDOW_BITS, Where
from ..operands import Address, Instruction, Not, Operand, Register, Variable
from ..registers import items
from .table import Step, plain

if TYPE_CHECKING:
    from ..gang import Gang

Values = np.ndarray
_SPACES = {"global", "shared", "local", "const", "param"}
# order, scope and caching: this machine executes a gang's accesses in order and has no caches
_HINTS = {"weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "nc", "noftz", "level"}
_HINTS |= {"cta", "cluster", "gpu", "sys", "ca", "cg", "cs", "cv", "lu", "wb", "wt"}
_HINT_PREFIXES = ("L1::", "L2::")
_VECTORS = {"v2": 2, "v4": 4, "v8": 8}


def address(gang: Gang, operand: Operand) -> tuple[str | None, Callable[[], Values]]:
    """The space of the variable that an address names, if it names one, and the lanes' addresses."""
    assert isinstance(operand, Address)
    if isinstance(operand.base, Variable):
        fixed = gang.registers.constant(gang.chunk.address_of(operand.base) + operand.offset, "u64")
        return operand.base.space, lambda: fixed
    if operand.base is None:
        fixed = gang.registers.constant(operand.offset, "u64")
        return None, lambda: fixed
    base = gang.registers.read(operand.base, f"u{operand.base.width}")
    if not operand.offset:
        return None, lambda: base
    offset = base.dtype.type(operand.offset % (1 << operand.base.width))
    return None, lambda: base + offset


def _access(instruction: Instruction) -> tuple[str, int]:
    """Space and vector length; every other modifier must be a hint or a type."""
    space, count = "generic", 1
    for word in instruction.modifiers[:-1]:
        if word in _SPACES or word == "shared::cluster":
            space = word
        elif word in _VECTORS:
            count = _VECTORS[word]
        elif not (word in _HINTS or word.startswith(_HINT_PREFIXES) or word.startswith("param::")):
            raise PtxError(f"unknown modifier .{word}")
        elif word.startswith("param::"):
            space = "param"
    if space == "shared::cluster":
        raise PtxError("clusters are unknown")
    return space, count


@plain("ld", "ldu")
def ld(gang: Gang, instruction: Instruction) -> Step:
    space, count = _access(instruction)
    named, where_from = address(gang, instruction.operands[1])
    region = gang.spaces["local" if space == "param" and named == "local" else space]
    targets = items(instruction.operands[0])
    if len(targets) != count:
        raise PtxError(f"{len(targets)} registers for {count} elements")
    puts = [gang.registers.assign(each, instruction.type) for each in targets]
    dtype = dtype_of(instruction.type)

    def single(where: Where) -> None:
        puts[0](region.load(where_from(), dtype, 1, where), where)

    def vector(where: Where) -> None:
        values = np.ascontiguousarray(region.load(where_from(), dtype, count, where).T)
        for put, row in zip(puts, values):
            put(row, where)

    return vector if count > 1 else single


@plain("st")
def st(gang: Gang, instruction: Instruction) -> Step:
    space, count = _access(instruction)
    named, where_to = address(gang, instruction.operands[0])
    region = gang.spaces["local" if space == "param" and named == "local" else space]
    sources = items(instruction.operands[1])
    if len(sources) != count:
        raise PtxError(f"{len(sources)} registers for {count} elements")
    bits = f"b{width_of(instruction.type)}"
    values = [gang.registers.read(each, bits) for each in sources]
    if count == 1:
        return lambda where: region.store(where_to(), values[0], 1, where)
    return lambda where: region.store(where_to(), np.stack(values, axis=1), count, where)


@plain("cvta")
def cvta(gang: Gang, instruction: Instruction) -> Step:
    """From a space to the generic one, or back with .to. Global and constant addresses are generic already."""
    space = next((word for word in instruction.modifiers if word in _SPACES), "")
    out = gang.registers.write(instruction.operands[0], instruction.type)
    source = gang.registers.read(instruction.operands[1], instruction.type)
    distance = out.dtype.type(GENERIC.get(space, 0))
    if not space or (distance and out.dtype.itemsize < 8):
        raise PtxError("no such conversion of an address")
    ufunc = np.subtract if "to" in instruction.modifiers else np.add
    return lambda where: ufunc(source, distance, out, where=where)


@plain("isspacep")
def isspacep(gang: Gang, instruction: Instruction) -> Step:
    space = instruction.modifiers[-1]
    if space not in {"global", *GENERIC}:
        raise PtxError(f"unknown modifier .{space}")
    out = gang.registers.write(instruction.operands[0], "pred")
    source = gang.registers.read(instruction.operands[1], "u64")

    def step(where: Where) -> None:
        kinds = {name: source >> np.uint64(WINDOW_BITS) == window >> WINDOW_BITS for name, window in GENERIC.items()}
        found = ~np.any(list(kinds.values()), axis=0) if space == "global" else kinds[space]
        np.copyto(out, found, where=where)

    return step


@plain("membar", "fence", "prefetch", "prefetchu", "nanosleep", "discard", "applypriority")
def nothing(gang: Gang, instruction: Instruction) -> Step:
    """Order and speed: what this machine does is in order already, but for the asynchronous proxy."""
    if instruction.opcode in {("fence", "proxy", "async", *space) for space in ((), ("shared",))}:
        return gang.shared.fence
    if any(word in {"proxy", "mbarrier_init"} or word.startswith("proxy") for word in instruction.modifiers):
        raise PtxError("unknown fence")
    return lambda where: None


# ---- atomics ----

_ATOMIC: dict[str, Callable[..., Values]] = {
    "add": lambda old, x: old + x,
    "min": np.minimum,
    "max": np.maximum,
    "and": lambda old, x: old & x,
    "or": lambda old, x: old | x,
    "xor": lambda old, x: old ^ x,
    "exch": lambda old, x: x,
    "cas": lambda old, compare, x: x if old == compare else old,
    "inc": lambda old, x: old.dtype.type(0) if old >= x else old + old.dtype.type(1),
    "dec": lambda old, x: x if old == 0 or old > x else old - old.dtype.type(1),
}


@plain("atom", "red")
def atom(gang: Gang, instruction: Instruction) -> Step:
    """One lane after the other, in random order."""
    type_ = instruction.type
    words = list(instruction.modifiers[:-1])
    name = next(word for word in words if word in _ATOMIC)
    words.remove(name)
    space, count = _access(Instruction((instruction.name, *words, type_), [], None, 0, ""))
    if count > 1 or not is_type(type_) or type_.startswith("bf16") or type_ == "f16x2":
        raise PtxError(f"atomics of .{type_} are unknown")
    returns = instruction.name == "atom"
    out = gang.registers.assign(instruction.operands[0], type_) if returns else None
    _, where_to = address(gang, instruction.operands[returns])
    values = [gang.registers.read(each, type_) for each in instruction.operands[returns + 1 :]]
    function, region, dtype = _ATOMIC[name], gang.spaces[space], dtype_of(type_)

    def step(where: Where) -> None:
        places, found = where_to(), np.zeros(gang.lanes, dtype)
        for lane in gang.rng.permutation(np.flatnonzero(np.broadcast_to(where, gang.lanes))):
            alone = np.arange(gang.lanes) == lane
            old = region.load(places, dtype, 1, alone)[lane]
            found[lane] = old
            new = np.asarray(function(old, *(each[lane] for each in values)), dtype)
            region.store(places, np.broadcast_to(new, gang.lanes), 1, alone)
        if out is not None:
            out(found, where)

    return step


# ---- cp.async ----


@plain("cp")
def cp_async(gang: Gang, instruction: Instruction) -> Step:
    words, operands, copies = instruction.modifiers, instruction.operands, gang.copies
    if words[:1] != ("async",):
        raise PtxError("unknown instruction")
    if words[1:] == ("commit_group",):
        return copies.commit
    if words[1:] == ("wait_group",):
        newest = int(gang.registers.read(operands[0], "u32")[0])
        return lambda where: copies.wait(newest, where)
    if words[1:] == ("wait_all",):
        return copies.wait_all
    hints = {word for word in words[2:] if word.startswith("L2::")}
    if words[1] not in {"ca", "cg"} or set(words[2:]) - hints != {"shared", "global"}:
        raise PtxError("unknown instruction")
    if "L2::cache_hint" in hints:
        operands = operands[:-1]
    size = int(gang.registers.read(operands[2], "u32")[0])
    if size not in ({16} if words[1] == "cg" else {4, 8, 16}):
        raise PtxError(f"no copy of {size} bytes")
    _, target = address(gang, operands[0])
    _, source = address(gang, operands[1])
    source_bytes = _source_bytes(gang, operands[3:], size)

    def step(where: Where) -> None:
        copies.issue(target(), source().astype(np.uint64), size, source_bytes(), where)

    return step


def _source_bytes(gang: Gang, rest: list[Operand], size: int) -> Callable[[], Values]:
    """How much of a copy is read: given as a number, or nothing where a predicate says so; otherwise all."""
    whole = np.full(gang.lanes, size, np.uint32)
    if not rest:
        return lambda: whole
    if isinstance(rest[0], Not) or (isinstance(rest[0], Register) and rest[0].width == 1):
        ignored = gang.registers.predicate(rest[0])
        return lambda: np.where(ignored(), np.uint32(0), whole)
    count = gang.registers.read(rest[0], "u32")
    return lambda: count
