"""Whole kernels as nvcc compiles them, run by the PTX interpreter on the calls that the emulator's bindings make.

`Interpreted(emulator)` stands where the emulator's module stands: `emulated(Interpreted(emulator))` of attention.py,
fusion.py or contrastive.py makes it the "cuda" backend. The bindings fill the problems and plan the launches as they do
for the emulator, and the interpreter is told of each: its entry point, the type of its kernel, the bytes of its
argument and the arrays behind the addresses in them. Only kernels that a call launches are compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tests.device.compile import INCLUDE, ptx_of
from tests.device.ptx import Module

HEADERS = {
    "attention_forward": "attention_entry.h",
    "attention_merge": "attention_entry.h",
    "attention_backward": "attention_backward_entry.h",
    "fusion_entry": "fusion_type.h",
    "contrastive_loss": "contrastive_entry.h",
}
"""Where in csrc/cuda/launch each entry point is."""
Kernel = tuple[str, str]
"""An entry point and the type that it is of."""


@dataclass(frozen=True)
class Order:
    """What the emulator calls a Run."""

    seed: int = 0


@dataclass
class Interpreted:
    """The functions of the emulator's module, on the interpreter."""

    emulator: ModuleType
    arch: int = 80
    include: tuple[Path, ...] = INCLUDE
    flags: tuple[str, ...] = ()
    """More of them, for nvcc."""
    launched: list[Kernel] = field(default_factory=list)

    Run = Order

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self.emulator, name)

        def call(order: Order, *arguments: Any, **options: Any) -> Any:
            wanted: list[Kernel] = []
            run = self.emulator.Run(device=lambda told: wanted.append((told["entry"], told["kernel"])))
            function(run, *arguments, **options)
            module = compiled(frozenset(wanted), self.arch, self.include, self.flags)
            seeds = iter(range(1000 * order.seed, 1000 * (order.seed + 1)))
            run = self.emulator.Run(device=lambda told: self._launch(module, told, next(seeds)))
            return function(run, *arguments, **options)

        return call

    def _launch(self, module: Module, told: Mapping[str, Any], seed: int) -> None:
        wanted = f"{told['entry']}<{told['kernel']}".replace(" ", "")
        (name,) = (k for k in module.kernels if wanted + ">(" in self.emulator.demangled(k).replace(" ", ""))
        for array, address, lead, memory in told["arrays"]:
            module.memory.place(address, np.frombuffer(memory, np.uint8), array, lead)
        try:
            grid, block = (told["blocks"], 1, 1), (told["threads"], 1, 1)
            module.launch(name, grid, block, told["shared_bytes"], [told["argument"]], seed)
        finally:
            module.memory.clear_placed()
        self.launched.append((told["entry"], told["kernel"]))


@functools.lru_cache(maxsize=8)
def compiled(kernels: frozenset[Kernel], arch: int, include: tuple[Path, ...], flags: tuple[str, ...]) -> Module:
    """The kernels, and no others, as a module."""
    return Module(ptx_of(source_of(kernels), arch, flags, include))


def source_of(kernels: frozenset[Kernel]) -> str:
    """CUDA C++ that makes nvcc emit these kernels."""
    headers = sorted({HEADERS[entry] for entry, _ in kernels})
    lines = [f'#include "launch/{header}"' for header in headers]
    lines += ["extern const void* const kernels[] = {"]
    lines += [f"    (const void*)mmkernels::device::{entry}<{kernel}>," for entry, kernel in sorted(kernels)]
    return "\n".join([*lines, "};", ""])
