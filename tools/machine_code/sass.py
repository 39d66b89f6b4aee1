"""SASS, machine code as nvdisasm writes it: instructions, their classes, and what an opcode says of its work.

Nothing here knows of control flow (flow.py) or of kernels as a whole (count.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

LANES = 32

# First match wins; each pattern stands at the start of the opcode, modifiers included.
CLASSES = [
    (name, re.compile(rf"(?:{pattern})(?![A-Z0-9_])"))
    for name, pattern in [
        ("matrix", r"HMMA|HGMMA|IMMA|IGMMA|QMMA|QGMMA|OMMA|BMMA|DMMA|UTC\w*MMA"),
        ("matrix_load", r"LDSM|LDTM"),
        ("async_copy", r"LDGSTS|UTMALDG|UTMASTG|UTMAREDG|UTMAPF|UBLKCP|UBLKPF|UBLKRED"),
        ("exp2", r"MUFU\.EX2"),
        ("special", r"MUFU"),
        ("multiply_add", r"FFMA2?"),
        ("float", r"FMUL2?|FADD2?|FMNMX3?|FSETP|FSET|FSEL|FCHK|FSWZADD|FRND|D(?:FMA|ADD|MUL|SETP)"),
        ("half", r"HFMA2|HADD2|HMUL2|HMNMX2|HSET2|HSETP2"),
        ("convert", r"F2FP|F2F|F2I|I2F|I2FP|I2I|F2IP|I2IP"),
        ("shuffle", r"SHFL|REDUX|CREDUX|VOTEU?|MATCH"),
        ("local", r"LDL|STL"),
        ("shared", r"LDS|STS|STSM|ATOMS|STTM|UTCCP"),
        ("global", r"LDG?|STG?|ATOMG?|REDG?|CCTLL?"),
        ("constant", r"LDC|LDCU|ULDC"),
        (
            "synchronise",
            r"BAR|DEPBAR|LDGDEPBAR|WARPSYNC|WARPGROUP|WARPGROUPSET|SYNCS|ARRIVES|MEMBAR|ERRBAR|FENCE|ACQBULK|UTCBAR"
            r"|UTMACMDFLUSH|UTMACCTL|NANOSLEEP|YIELD|ELECT|UCGABAR_\w+|CGAERRBAR",
        ),
        ("control", r"BRA|BRXU?|JMP|JMX|EXIT|RET|CALL|BSSY|BSYNC|BREAK|BMOV|KILL|BPT|RTT"),
        ("nothing", r"NOP"),
        ("move", r"U?MOV|U?IMAD\.MOV|R2UR|S2U?R|CS2R|R2P|P2R|UR2UP|UP2UR|MOVM"),
        (
            "integer",
            r"U?(?:IADD3?|IMAD|LEA|LOP3?|SHF|SHL|SHR|ISETP|SEL|PRMT|PLOP3|V?IMNMX3?|IABS|POPC|FLO|BREV|SGXT|BMSK)"
            r"|VIADD|VIADDMNMX|IDP|ISCADD|LEPC|PSETP",
        ),
    ]
]
OTHER = "other"

# Which way the bytes of an access go. What a tensor-map copy (UTMALDG) moves stands in its descriptor, not here.
TRAFFIC = [
    (way, re.compile(rf"(?:{pattern})\b"))
    for way, pattern in [
        ("global_to_shared", "LDGSTS"),
        ("global_load", "LDG|LD"),
        ("global_store", "STG|ST"),
        ("shared_load", "LDSM|LDS"),
        ("shared_store", "STSM|STS"),
        ("local", "LDL|STL"),
    ]
]
MATRIX_SHAPES = {"16816": (16, 8, 16), "1688": (16, 8, 8), "884": (8, 8, 4), "16832": (16, 8, 32), "16864": (16, 8, 64)}
NEVER = ("@!PT", "@!UPT")

_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:\{\s*)?(.*?)\s*;?\s*(?:\}\s*)?(?:/\*.*)?$")
_LABEL = re.compile(r"^([.$\w]+):\s*$")
_SECTION = re.compile(r"\s*\.section\s+\.text\.([^,\s]+)")
_TARGET = re.compile(r"`\(([^)]+)\)")
_BRANCH_TABLE = re.compile(r'BRANCH_TARGETS ([^"]+)"')
_WIDTH = re.compile(r"\.(?:U|S)?(8|16|32|64|128|256)\b")


@dataclass(frozen=True)
class Instruction:
    """One instruction; `guard` is its predicate with the at-sign, or empty."""

    address: int
    guard: str
    opcode: str
    operands: str

    @property
    def base(self) -> str:
        return self.opcode.partition(".")[0]

    @property
    def targets(self) -> list[str]:
        """Labels that the operands name."""
        table = _BRANCH_TABLE.search(self.operands)
        return _TARGET.findall(self.operands) + (re.split(r"\s*,\s*", table[1].strip()) if table else [])

    @property
    def kind(self) -> str:
        """The class. What is issued and does nothing is `nothing`, whatever its opcode."""
        if self.guard in NEVER:
            return "nothing"
        return next((name for name, pattern in CLASSES if pattern.match(self.opcode)), OTHER)

    @property
    def flop(self) -> int:
        """Floating-point operations of one warp in products: matrix instructions and fp32 multiply-adds; else 0."""
        kind = self.kind
        if kind == "multiply_add":
            return 2 * LANES * (2 if self.base == "FFMA2" else 1)
        if kind != "matrix":
            return 0
        if found := re.match(r"[HIQ]GMMA\.(\d+)x(\d+)x(\d+)", self.opcode):  # issued by four warps together
            return 2 * int(found[1]) * int(found[2]) * int(found[3]) // 4
        found = re.match(r"\w+\.(?:SP\.)?(\d+)", self.opcode)
        m, n, k = MATRIX_SHAPES.get(found[1], (0, 0, 0)) if found else (0, 0, 0)
        return 2 * m * n * k

    @property
    def traffic(self) -> tuple[str, int] | None:
        """Which way and how many bytes a warp moves with all lanes on; None where the opcode does not say."""
        if self.guard in NEVER:
            return None
        way = next((name for name, pattern in TRAFFIC if pattern.match(self.opcode)), None)
        if way is None:
            return None
        if self.base in ("LDSM", "STSM"):  # 1, 2 or 4 matrices of eight rows of 16 bytes
            count = re.search(r"\.([24])\b", self.opcode)
            return way, 128 * (int(count[1]) if count else 1)
        width = _WIDTH.search(self.opcode)
        return way, LANES * (int(width[1]) // 8 if width else 4)


@dataclass
class Listing:
    """The code of one kernel: labels point at the index of the instruction after them."""

    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def parse(text: str) -> dict[str, Listing]:
    """The output of `nvdisasm -c`, by the mangled name of each kernel."""
    kernels: dict[str, Listing] = {}
    current = None
    for line in text.splitlines():
        if section := _SECTION.match(line):
            current = kernels.setdefault(section[1], Listing())
        elif current is None:
            continue
        elif label := _LABEL.match(line):
            current.labels[label[1]] = len(current.instructions)
        elif (found := _INSTRUCTION.match(line)) and found[2]:
            current.instructions.append(_instruction(int(found[1], 16), found[2]))
    return {name: listing for name, listing in kernels.items() if listing.instructions}


def _instruction(address: int, text: str) -> Instruction:
    guard = ""
    if text.startswith("@"):
        guard, _, text = text.partition(" ")
    opcode, _, operands = text.strip().partition(" ")
    return Instruction(address, guard, opcode, operands.strip())
