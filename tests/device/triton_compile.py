"""Triton kernels compiled ahead of time, as a launch of the host side would have them, without a GPU or a driver."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from tests.device.attention import array
from tests.device.ptx import Module

NAMES = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.uint8: "*u8", torch.int32: "*i32",
    torch.int64: "*i64", torch.float64: "*fp64",
}  # fmt: skip


def target_of(arch: str) -> GPUTarget:
    """Of a name of the table."""
    return GPUTarget("cuda", int(arch[3:]), 32) if arch.startswith("sm_") else GPUTarget("hip", arch, 64)


@dataclass
class Launch:
    """A kernel, the grid, and the arguments it was launched with."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__

    def compiled(self, target: GPUTarget) -> CompiledKernel:
        """What the launch would compile: tensors at multiples of 16 bytes, integers specialised as triton does."""
        constants: dict[tuple[int, ...], Any] = {}
        attributes: dict[tuple[int, ...], Any] = {}
        signature, options = {}, dict(self.options)
        fixed = {parameter.name for parameter in self.kernel.params if parameter.do_not_specialize}
        for i, name in enumerate(self.kernel.arg_names):
            if i < len(self.args):
                signature[name] = _typed(self.args[i], (i,), name not in fixed, constants, attributes)
            else:
                signature[name] = "constexpr"
                constants[(i,)] = options.pop(name)
        source = ASTSource(self.kernel, signature=signature, constexprs=constants, attrs=attributes)
        return triton.compile(source, target=target, options=options)


def _typed(
    value: Any, path: tuple[int, ...], specialise: bool, constants: dict[Any, Any], attributes: dict[Any, Any]
) -> Any:
    if isinstance(value, tuple):
        parts = [_typed(part, (*path, i), specialise, constants, attributes) for i, part in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if value is None or (specialise and isinstance(value, int) and value == 1):
        constants[path] = value
        return "constexpr"
    if isinstance(value, torch.Tensor):
        attributes[path] = [["tt.divisibility", 16]]
        return NAMES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    if specialise and value % 16 == 0:
        attributes[path] = [["tt.divisibility", 16]]
    return "i32" if value < 2**31 else "i64"


class Recorder:
    """In a kernel's place: remembers launches."""

    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **options: self.launches.append(Launch(self.kernel, grid, args, options))


@contextmanager
def recorded(*hosts: ModuleType) -> Iterator[list[Launch]]:
    """What host modules launch meanwhile."""
    launches: list[Launch] = []
    with replaced(hosts, lambda kernel: Recorder(kernel, launches)):
        yield launches


@contextmanager
def replaced(hosts: Sequence[ModuleType], stand_in: Callable[[Any], Any]) -> Iterator[None]:
    """The kernels of host modules have stand-ins meanwhile."""
    kernels = [
        (host, name, value) for host in hosts for name, value in vars(host).items()
        if isinstance(value, triton.JITFunction)
    ]  # fmt: skip
    for host, name, kernel in kernels:
        setattr(host, name, stand_in(kernel))
    try:
        yield
    finally:
        for host, name, kernel in kernels:
            setattr(host, name, kernel)


@dataclass
class Usage:
    """What a compiled kernel takes of a processor, and its matrix instructions."""

    registers: int
    spilled: int
    """Bytes that a thread stores because registers ran out (NVIDIA), or registers (AMD)."""
    shared: int
    matrix: dict[str, int]


def usage(kernel: CompiledKernel, arch: str) -> Usage:
    """Read from what the assembler says."""
    if "ptx" in kernel.asm:
        text = kernel.asm["ptx"]
        log = _assembled(text, arch)
        registers = int(re.search(r"Used (\d+) registers", log)[1])  # type: ignore[index]
        spilled = int(re.search(r"(\d+) bytes spill stores", log)[1])  # type: ignore[index]
        words = ("mma.sync", "wgmma.mma_async", "tcgen05.mma")
    else:
        text = kernel.asm["amdgcn"]
        registers, spilled = (
            int(re.search(rf"\.{word}:\s*(\d+)", text)[1])  # type: ignore[index]
            for word in ("vgpr_count", "vgpr_spill_count")
        )
        words = ("v_mfma",)
    matrix = {word: text.count(word) for word in words if word in text}
    return Usage(registers, spilled, kernel.metadata.shared, matrix)


def _assembled(ptx: str, arch: str) -> str:
    """The assembler's account of a kernel; triton does not keep that of its own call."""
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    tool = folder / ("ptxas-blackwell" if arch >= "sm_100" and (folder / "ptxas-blackwell").exists() else "ptxas")
    name = re.search(r"^\.target (\w+)", ptx, re.M)[1]  # type: ignore[index]
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [
            tool,
            "-v",
            "-lineinfo",
            "--fmad=false",
            "--regAllocOptLevel=2",
            f"--gpu-name={name}",
            file.name,
            "-o",
            "/dev/null",
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


# ---- run by the PTX interpreter ----


class PtxKernel:
    """In a kernel's place: compiles each launch and runs its PTX on the CPU tensors it is given."""

    def __init__(self, kernel: Any, arch: str, seed: int) -> None:
        self.kernel, self.arch, self.seed = kernel, arch, seed

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: Any, **options: Any) -> None:
            compiled = Launch(self.kernel, grid, args, options).compiled(target_of(self.arch))
            module = Module(compiled.asm["ptx"])
            name = compiled.metadata.name
            given = list(_flat(args, self._specialised(), ()))
            given += [np.uint64(0)] * (len(module.kernel(name).parameters) - len(given))  # scratch that nobody uses
            threads = 32 * compiled.metadata.num_warps
            module.launch(name, (*grid, 1, 1)[:3], (threads, 1, 1), compiled.metadata.shared, given, self.seed)

        return launch

    def _specialised(self) -> frozenset[int]:
        return frozenset(i for i, parameter in enumerate(self.kernel.params) if not parameter.do_not_specialize)


def _flat(value: Any, specialised: frozenset[int], path: tuple[int, ...]) -> Iterator[Any]:
    """Arguments as PTX parameters take them, without those that became constants."""
    if isinstance(value, tuple):
        for i, part in enumerate(value):
            yield from _flat(part, specialised, (*path, i))
    elif isinstance(value, torch.Tensor):
        yield array(value)
    elif isinstance(value, float):
        yield np.float32(value)
    elif value is not None and not (value == 1 and path[0] in specialised):
        yield np.int32(value) if value < 2**31 else np.int64(value)


@contextmanager
def in_ptx(*hosts: ModuleType, tables: ModuleType, arch: str, tile: tuple[int, ...], seed: int = 0) -> Iterator[None]:
    """The kernels of host modules run as PTX of an architecture meanwhile, all with one tile of their table's."""
    before = tables.tile
    tables.tile = lambda *_: tile  # type: ignore[attr-defined]
    try:
        with replaced(hosts, lambda kernel: PtxKernel(kernel, arch, seed)):
            yield
    finally:
        tables.tile = before  # type: ignore[attr-defined]
