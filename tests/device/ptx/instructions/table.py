"""The table of instructions. A binder looks at an instruction once and returns the step that executes it.

A plain step takes the lanes that take part (True: all of them) and moves nobody. A control instruction also gets its
own place and says where every lane goes next; it reads its guard itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..kinds import PtxError
from ..memory import Where
from ..operands import Instruction

if TYPE_CHECKING:
    from ..gang import Gang

Step = Callable[[Where], None]
Binder = Callable[["Gang", Instruction], Step]
ControlBinder = Callable[["Gang", Instruction, int], Step]

_FLOATING = {"f16", "f16x2", "bf16", "bf16x2", "f32", "f64"}
_plain: dict[tuple[str, str], Binder] = {}
_control: dict[str, ControlBinder] = {}


def plain(*names: str, kind: str = "any") -> Callable[[Binder], Binder]:
    """Enters a binder; `kind` ("integer" or "float") is that of the instruction's last type."""

    def enter(binder: Binder) -> Binder:
        _plain.update({(name, kind): binder for name in names})
        return binder

    return enter


def control(*names: str) -> Callable[[ControlBinder], ControlBinder]:
    def enter(binder: ControlBinder) -> ControlBinder:
        _control.update(dict.fromkeys(names, binder))
        return binder

    return enter


def is_control(instruction: Instruction) -> bool:
    return instruction.name in _control and instruction.opcode[:2] != ("bar", "warp")


def bind(gang: Gang, instruction: Instruction) -> Step:
    kind = "float" if instruction.type in _FLOATING else "integer"
    binder = _plain.get((instruction.name, kind)) or _plain.get((instruction.name, "any"))
    if binder is None:
        raise PtxError("unknown instruction")
    return binder(gang, instruction)


def bind_control(gang: Gang, instruction: Instruction, pc: int) -> Step:
    return _control[instruction.name](gang, instruction, pc)


def only(instruction: Instruction, *known: str) -> set[str]:
    """The modifiers, when all of them are known."""
    found = set(instruction.modifiers)
    if unknown := found - set(known):
        raise PtxError(f"unknown modifier .{' .'.join(sorted(unknown))}")
    return found
