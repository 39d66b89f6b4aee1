"""What a compiled kernel takes of a processor, as the assembler says it: registers, spills, shared memory."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import CompiledKernel

BIN = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
MATRIX = ("mma.sync", "wgmma.mma_async", "tcgen05.mma", "v_mfma")
"""Matrix instructions, as they stand in PTX and in AMD's assembly."""
SHARED = {"sm_80": 163, "sm_90": 227, "sm_100": 227, "sm_120": 99, "gfx90a": 64, "gfx942": 64}
"""KiB that a block of threads may have."""


@dataclass
class Usage:
    """Of one kernel on one architecture."""

    registers: int
    spilled: int
    """Bytes that a thread stores because registers ran out (NVIDIA), or registers (AMD)."""
    shared: int
    matrix: dict[str, int]


def usage(kernel: CompiledKernel, arch: str) -> Usage:
    """Read from the object code; the assembler is asked again only where a thread has a stack."""
    text = kernel.asm["ptx" if "ptx" in kernel.asm else "amdgcn"]
    matrix = {word: count for word in MATRIX if (count := text.count(word))}
    if "ptx" not in kernel.asm:
        registers, spilled = (_number(rf"\.{word}:\s*(\d+)", text) for word in ("vgpr_count", "vgpr_spill_count"))
        return Usage(registers, spilled, kernel.metadata.shared, matrix)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        told = _run(BIN / "cuobjdump", "--dump-resource-usage", file.name)
    spilled = _number(r"(\d+) bytes spill stores", _assembled(text, arch)) if _number(r"STACK:(\d+)", told) else 0
    return Usage(_number(r"REG:(\d+)", told), spilled, kernel.metadata.shared, matrix)


def _assembled(ptx: str, arch: str) -> str:
    """The assembler's account of a kernel; triton does not keep that of its own call."""
    tool = get_ptxas(int(arch[3:])).path
    name = re.search(r"^\.target (\w+)", ptx, re.M)
    assert name is not None
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        flags = ["-v", "-lineinfo", "--fmad=false", "--regAllocOptLevel=2", f"--gpu-name={name[1]}"]
        return _run(tool, *flags, file.name, "-o", "/dev/null")


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"the assembler's account has no {pattern!r}")
    return int(found[1])
