"""PTX text into functions, variables and nested blocks of statements; names are resolved later (lower.py).

The grammar is read as far as compilers write it: one statement ends at a semicolon, a brace that starts a statement
opens a scope, any other brace belongs to a vector operand or an initialiser.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

from .kinds import PtxError, width_of


@dataclass(frozen=True)
class Statement:
    text: str
    line: int


@dataclass(frozen=True)
class Label:
    name: str


@dataclass
class Block:
    """A brace: statements, labels and inner blocks in order. Its names are its own."""

    items: list[Statement | Label | Block] = field(default_factory=list)

    def labels(self) -> list[str]:
        return [item.name for item in self.items if isinstance(item, Label)]


@dataclass(frozen=True)
class Declaration:
    """A variable as it is declared: `.shared .align 16 .b8 name[64] = {..}`. Sizes in bytes."""

    name: str
    space: str
    type: str
    align: int
    size: int
    data: bytes | None = None
    external: bool = False


@dataclass
class Function:
    name: str
    parameters: list[Declaration]
    results: list[Declaration]
    body: Block | None
    is_kernel: bool
    most_threads: int = 0  # of a block, 0 when the kernel does not say


@dataclass
class Program:
    functions: dict[str, Function] = field(default_factory=dict)
    variables: list[Declaration] = field(default_factory=list)


_COMMENT = re.compile(r'"[^"\n]*"|//[^\n]*|/\*.*?\*/', re.S)
_LINES_WITHOUT_SEMICOLON = re.compile(r"^[ \t]*\.(loc|file|version|target|address_size)\b[^\n;]*;?", re.M)
_DEBUG_SECTION = re.compile(r"^[ \t]*\.section\s+\S+\s*\{[^}]*\}", re.M)
_LABEL = re.compile(r"\s*([\w$]+)\s*:(?!:)")
_LINKAGE = {".visible", ".extern", ".weak", ".common"}
_NAME = r"[\w$%]+"


def parse(text: str) -> Program:
    text = _COMMENT.sub(lambda found: found[0] if found[0][0] == '"' else _blank(found), text)
    text = _LINES_WITHOUT_SEMICOLON.sub("", _DEBUG_SECTION.sub(_blank, text))
    program, position = Program(), 0
    while found := re.compile(r"\S").search(text, position):
        position = _top_level(text, found.start(), program)
    return program


def _blank(found: re.Match[str]) -> str:
    """Removed text keeps its line breaks, so that line numbers stay right."""
    return "\n" * found[0].count("\n")


def _top_level(text: str, start: int, program: Program) -> int:
    """Reads one function or variable from `start`; the position behind it."""
    stop = re.compile(r"[;{=]").search(text, start)
    if stop is None:
        raise PtxError(f"line {_line(text, start)}: no end of {text[start : start + 60]!r}")
    header = text[start : stop.start()]
    if not re.search(r"\.(entry|func)\b", header):
        end = text.index(";", start)
        statement = text[start:end]
        if statement.split()[0] not in {".pragma", ".alias"}:
            program.variables.append(declaration(statement))
        return end + 1
    function = _function_header(header)
    end = stop.end()
    if stop[0] == "{":
        function.body, end = _block(text, end)
    known = program.functions.get(function.name)
    if known is None or known.body is None:
        program.functions[function.name] = function
    return end


def _function_header(header: str) -> Function:
    found = re.search(rf"\.(entry|func)\s*(\([^)]*\))?\s*({_NAME})\s*(\([^)]*\))?", header)
    if found is None:
        raise PtxError(f"not a function: {header.strip()!r}")
    kind, results, name, parameters = found.groups()
    bounds = re.search(r"\.(?:maxntid|reqntid)\s+([\d,\s]+)", header[found.end() :])
    most = prod(int(each) for each in bounds[1].split(",") if each.strip()) if bounds else 0
    return Function(name, _declarations(parameters), _declarations(results), None, kind == "entry", most)


def _declarations(text: str | None) -> list[Declaration]:
    inside = (text or "()")[1:-1]
    return [declaration(each) for each in inside.split(",") if each.strip()]


def _block(text: str, position: int) -> tuple[Block, int]:
    """The block whose opening brace stands before `position`, and the position behind its closing one."""
    block = Block()
    delimiter = re.compile(r'[;{}]|"[^"\n]*"')
    while True:
        if found := _LABEL.match(text, position):
            block.items.append(Label(found[1]))
            position = found.end()
            continue
        start = position
        while (found := delimiter.search(text, position)) and found[0][0] == '"':
            position = found.end()
        if found is None:
            raise PtxError(f"line {_line(text, start)}: no closing brace")
        before = text[start : found.start()].strip()
        if found[0] == "{" and not before:
            inner, position = _block(text, found.end())
            block.items.append(inner)
        elif found[0] == "}" and not before:
            return block, found.end()
        else:
            end = text.index(";", position)
            leading = len(text[start:end]) - len(text[start:end].lstrip())
            block.items.append(Statement(" ".join(text[start:end].split()), _line(text, start + leading)))
            position = end + 1


def _line(text: str, position: int) -> int:
    return bisect_left(_line_breaks(text), position) + 1


@lru_cache(maxsize=1)
def _line_breaks(text: str) -> list[int]:
    return [found.start() for found in re.finditer("\n", text)]


def declaration(text: str) -> Declaration:
    """A variable or parameter. An array without a size (dynamic shared memory) has size 0."""
    head, _, initial = text.partition("=")
    # What stands behind .ptr is said of the memory that a pointer points to.
    align = re.search(r"\.align\s+(\d+)", head.partition(".ptr")[0])
    words = re.sub(r"\.(align|ptr)\s+\d+|\.ptr\b|\.attribute\([^)]*\)", " ", head).strip()
    found = re.search(rf"({_NAME})\s*((?:\[\s*\d*\s*\]\s*)*)$", words)
    if found is None:
        raise PtxError(f"not a declaration: {text.strip()!r}")
    linkage = set(words[: found.start()].split())
    spaces = [each for each in ("global", "const", "shared", "local", "param", "reg") if f".{each}" in linkage]
    # Pointer parameters name the space that they point to beside their own: the own one is first in PTX's order.
    space = "param" if "param" in spaces else spaces[0] if spaces else ""
    others = [word[1:] for word in linkage - _LINKAGE if word[1:] not in spaces]
    vector = next((int(word[1:]) for word in others if word in {"v2", "v4"}), 1)
    types = [word for word in others if word not in {"v2", "v4"}]
    if not space or len(types) != 1:
        raise PtxError(f"not a declaration: {text.strip()!r}")
    element = max(width_of(types[0]) // 8, 1) * vector
    size = element
    for count in re.findall(r"\[\s*(\d*)\s*\]", found[2]):
        size *= int(count or 0)
    data = _initial(initial, types[0], size) if initial.strip() else None
    return Declaration(found[1], space, types[0], int(align[1]) if align else element, size, data, ".extern" in linkage)


def _initial(text: str, kind: str, size: int) -> bytes:
    values = re.findall(r"[^\s,{}]+", text)
    width = width_of(kind) // 8
    try:
        data = b"".join((literal(value) & ((1 << 8 * width) - 1)).to_bytes(width, "little") for value in values)
    except ValueError:
        raise PtxError(f"initialiser {text.strip()[:60]!r} is not made of numbers") from None
    return data.ljust(size, b"\0")


def literal(text: str) -> int:
    """The bits of a number: decimal, hexadecimal, octal, binary, or 0f/0d and the bits of a float."""
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-").rstrip("U")
    if digits[:2].lower() in {"0f", "0d"}:
        return int(digits[2:], 16)
    octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
    return sign * (int(digits, 8) if octal else int(digits, 0))
