"""What an instruction names, after its names were resolved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class Register:
    name: str
    width: int  # bits; 1 for a predicate
    index: int


@dataclass(frozen=True)
class Special:
    """A register that the machine fills: %tid.x, %laneid and the like."""

    name: str


@dataclass(frozen=True)
class Immediate:
    text: str


@dataclass(frozen=True)
class Variable:
    """A named place in a state space. Shared memory of size 0 is the dynamic part, behind everything static."""

    name: str
    space: str
    offset: int
    size: int
    align: int


@dataclass(frozen=True)
class Symbol:
    """The address of a variable in its own space, plus bytes."""

    variable: Variable
    offset: int = 0


@dataclass(frozen=True)
class Address:
    """In brackets: [register + offset], [variable + offset], [number]."""

    base: Register | Variable | None
    offset: int


@dataclass(frozen=True)
class Vector:
    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Pair:
    """a|b: a value and a predicate."""

    first: Operand
    second: Operand


@dataclass(frozen=True)
class Not:
    predicate: Register


@dataclass
class Target:
    """A label, or the table of labels that an indirect branch chooses from."""

    name: str
    pc: int = -1
    table: list[Target] = field(default_factory=list)


@dataclass(frozen=True)
class Sink:
    """_: a result that nobody wants."""


Operand: TypeAlias = Register | Special | Immediate | Symbol | Address | Vector | Pair | Not | Target | Sink


@dataclass
class Instruction:
    opcode: tuple[str, ...]  # "ld", "global", "v4", "f32"
    operands: list[Operand]
    guard: Register | Not | None
    line: int
    text: str

    @property
    def name(self) -> str:
        return self.opcode[0]

    @property
    def type(self) -> str:
        return self.opcode[-1]

    @property
    def modifiers(self) -> tuple[str, ...]:
        return self.opcode[1:]
