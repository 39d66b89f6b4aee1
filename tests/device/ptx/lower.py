"""Functions with scopes into a kernel: one flat list of instructions whose operands are resolved, calls inlined.

Inlining gives every call its own registers and its own frame, so the machine knows no stack. A recursive function has
no such form and is refused. A call of a function without a body (`__assertfail`) stays and fails when it is executed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeAlias

from .kinds import PtxError, width_of
from .operands import (
    Address,
    Immediate,
    Instruction,
    Not,
    Operand,
    Pair,
    Register,
    Sink,
    Special,
    Symbol,
    Target,
    Variable,
    Vector,
)
from .parse import Block, Declaration, Function, Label, Program, Statement, declaration, literal


@dataclass
class Kernel:
    name: str
    parameters: list[Variable]
    parameter_bytes: int
    instructions: list[Instruction]
    frame_bytes: int  # of each thread: .local variables and the parameters of calls
    shared_bytes: int  # static
    constants: list[Declaration]  # .global and .const variables of the module


Named: TypeAlias = "Register | Variable | Target | Declaration"


class Layout:
    """Places variables one after the other, each on its alignment."""

    def __init__(self) -> None:
        self.size = 0

    def place(self, each: Declaration, space: str) -> Variable:
        offset = -(-self.size // each.align) * each.align
        self.size = offset + each.size
        return Variable(each.name, space, offset, each.size, each.align)


@dataclass
class Scope:
    parent: Scope | None = None
    names: dict[str, Named] = field(default_factory=dict)

    def holder(self, name: str) -> Scope | None:
        scope: Scope | None = self
        while scope is not None and name not in scope.names:
            scope = scope.parent
        return scope


_INSTRUCTION = re.compile(r"(?:@(!?)([\w$%]+)\s+)?([a-z][\w.:]*)\s*(.*)", re.S)
_OPERAND = re.compile(r"(?:[^,{\[(]|\{[^}]*\}|\[[^\]]*\]|\([^)]*\))+")
_NAME = re.compile(r"([A-Za-z_$%][\w$%]*)((?:\.\w+)?)\s*(?:([+-])\s*(-?\w+))?$")
_BANK = re.compile(r"([\w$%]+)<(\d+)>$")


def lower(program: Program, name: str) -> Kernel:
    return _Lowering(program).kernel(program.functions[name])


class _Lowering:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.instructions: list[Instruction] = []
        self.registers = 0
        self.frame, self.shared = Layout(), Layout()
        self.active: list[str] = []  # functions being inlined

    def kernel(self, function: Function) -> Kernel:
        module = Scope()
        module.names |= {each.name: each for each in self.program.variables}
        scope, layout = Scope(module), Layout()
        parameters = [layout.place(each, "param") for each in function.parameters]
        scope.names |= {each.name: each for each in parameters}
        self._function(function, scope)
        return Kernel(
            function.name,
            parameters,
            layout.size,
            self.instructions,
            self.frame.size,
            self.shared.size,
            [each for each in self.program.variables if each.space in {"global", "const"}],
        )

    def _function(self, function: Function, scope: Scope) -> None:
        assert function.body is not None
        if function.name in self.active:
            raise PtxError(f"{function.name} is recursive")
        self.active.append(function.name)
        end = Target(f"end of {function.name}")
        self._block(function.body, scope, None if function.is_kernel else end)
        end.pc = len(self.instructions)
        self.active.pop()

    def _block(self, block: Block, scope: Scope, returns_to: Target | None) -> None:
        scope.names |= {name: Target(name) for name in block.labels()}
        last = None
        for item in block.items:
            if isinstance(item, Label):
                last = scope.names[item.name]
                assert isinstance(last, Target)
                last.pc = len(self.instructions)
            elif isinstance(item, Block):
                self._block(item, Scope(scope), returns_to)
            elif item.text.startswith("."):
                self._directive(item, scope, last)
            else:
                self._instruction(item, scope, returns_to)

    def _directive(self, item: Statement, scope: Scope, label: Named | None) -> None:
        kind, _, rest = item.text.partition(" ")
        if kind == ".reg":
            type_, _, names = rest.strip().partition(" ")
            for name in re.split(r"\s*,\s*", names.strip()):
                self._registers(name, width_of(type_[1:]), scope)
        elif kind == ".branchtargets":
            assert isinstance(label, Target)
            for name in re.split(r"\s*,\s*", rest.strip()):
                entry = self._find(name, scope, item)
                assert isinstance(entry, Target)
                label.table.append(entry)
        elif kind not in {".pragma", ".callprototype"}:
            each = declaration(item.text)
            # A parameter inside a body belongs to a call: like a local variable, every thread has its own.
            place = {"shared": self.shared, "local": self.frame, "param": self.frame}.get(each.space)
            if place is None:
                raise PtxError(f"line {item.line}: {item.text}: no variable of this kind inside a function")
            dynamic = each.external and each.space == "shared"
            scope.names[each.name] = (
                each if dynamic else place.place(each, "shared" if each.space == "shared" else "local")
            )

    def _registers(self, name: str, width: int, scope: Scope) -> None:
        bank = _BANK.match(name)
        for each in [f"{bank[1]}{k}" for k in range(int(bank[2]))] if bank else [name]:
            scope.names[each] = Register(each, width, self.registers)
            self.registers += 1

    def _instruction(self, item: Statement, scope: Scope, returns_to: Target | None) -> None:
        found = _INSTRUCTION.match(item.text)
        if found is None:
            raise PtxError(f"line {item.line}: not an instruction: {item.text}")
        negated, predicate, opcode, rest = found.groups()
        guard = None
        if predicate:
            register = self._find(predicate, scope, item)
            assert isinstance(register, Register)
            guard = Not(register) if negated else register
        words = tuple(opcode.replace("shared::cta", "shared").replace("param::entry", "param").split("."))
        if words[0] == "call":
            self._call(item, words, rest, guard, scope)
        elif words[0] == "ret" and returns_to is not None:
            self.instructions.append(Instruction(("bra",), [returns_to], guard, item.line, item.text))
        else:
            operands = [self._operand(text.strip(), scope, item) for text in _OPERAND.findall(rest) if text.strip()]
            self.instructions.append(Instruction(words, operands, guard, item.line, item.text))

    def _call(
        self, item: Statement, words: tuple[str, ...], rest: str, guard: Register | Not | None, scope: Scope
    ) -> None:
        found = re.match(r"(?:(\([^)]*\))\s*,\s*)?([\w$%]+)\s*(?:,\s*(\([^)]*\)))?", rest)
        callee = self.program.functions.get(found[2]) if found else None
        if found is None or callee is None or callee.body is None:
            self.instructions.append(Instruction(words, [], guard, item.line, item.text))
            return
        around = Target(f"behind the call of {callee.name}")
        if guard is not None:
            skip = guard.predicate if isinstance(guard, Not) else Not(guard)
            self.instructions.append(Instruction(("bra",), [around], skip, item.line, item.text))
        module = scope
        while module.parent is not None:
            module = module.parent
        inner = Scope(module)
        for formals, actuals in ((callee.results, found[1]), (callee.parameters, found[3])):
            names = [name.strip() for name in (actuals or "()")[1:-1].split(",") if name.strip()]
            if len(names) != len(formals):
                raise PtxError(f"line {item.line}: {item.text}: {callee.name} takes {len(formals)} here")
            for formal, actual in zip(formals, names):
                inner.names[formal.name] = self._find(actual, scope, item)
        self._function(callee, inner)
        around.pc = len(self.instructions)

    def _operand(self, text: str, scope: Scope, item: Statement) -> Operand:
        if text[0] == "{":
            return Vector(tuple(self._operand(each.strip(), scope, item) for each in text[1:-1].split(",")))
        if text[0] == "[":
            return self._address(text[1:-1].strip(), scope, item)
        if "|" in text:
            first, second = (self._operand(each.strip(), scope, item) for each in text.split("|"))
            return Pair(first, second)
        if text == "_":
            return Sink()
        if text[0] == "!":
            register = self._find(text[1:], scope, item)
            assert isinstance(register, Register)
            return Not(register)
        found = _NAME.match(text)
        if found is None:
            return Immediate(text)
        name, component, sign, number = found.groups()
        if name[0] == "%" and scope.holder(name) is None:
            return Special(name + component)
        named = self._find(name, scope, item)
        if isinstance(named, Variable):
            return Symbol(named, _signed(sign, number))
        assert isinstance(named, Register | Target)
        return named

    def _address(self, text: str, scope: Scope, item: Statement) -> Address:
        found = _NAME.match(text)
        if found is None:
            return Address(None, literal(text))
        base = self._find(found[1], scope, item)
        assert isinstance(base, Register | Variable)
        return Address(base, _signed(found[3], found[4]))

    def _find(self, name: str, scope: Scope, item: Statement) -> Register | Variable | Target:
        holder = scope.holder(name)
        if holder is None:
            raise PtxError(f"line {item.line}: {item.text}: unknown name {name}")
        named = holder.names[name]
        if isinstance(named, Declaration):  # placed when first used: a kernel pays for its own shared memory only
            dynamic = named.space != "shared" or named.external
            named = (
                Variable(name, named.space, 0, named.size, named.align)
                if dynamic
                else self.shared.place(named, "shared")
            )
            holder.names[name] = named
        return named


def _signed(sign: str | None, number: str | None) -> int:
    value = literal(number) if number else 0
    return -value if sign == "-" else value
