"""Launches of Triton kernels, compiled ahead of time and run by the PTX interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch

from tests.device.attention import array
from tests.device.ptx import Module
from tools.triton_code.ahead import Launch, replaced, target_of


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
