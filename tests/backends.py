"""What a test can run on: the reference backend, and the C++ kernels once per instruction set of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
import torch

from mmkernels import _native
from mmkernels import backend as backends

Module = TypeVar("Module")


@contextmanager
def in_place_of(name: str, op: str, module: Module) -> Iterator[Module]:
    """The backend `name` of an op is this module meanwhile; what was chosen before or inside is forgotten."""
    before: Any = backends._backends[op]
    backends.register(op, before | {name: module})
    try:
        yield module
    finally:
        backends.register(op, before)


@dataclass(frozen=True)
class Run:
    """A backend, and for "cpu" its instruction set."""

    backend: str
    isa: str = ""

    @property
    def name(self) -> str:
        """What test ids show."""
        return self.isa or self.backend

    def rounds_weights(self, dtype: torch.dtype) -> bool:
        """Whether it rounds probabilities and logit gradients to the dtype where it multiplies them."""
        return dtype == torch.bfloat16 and self.isa in ("avx512bf16", "vec16")

    @contextmanager
    def active(self) -> Iterator[str]:
        """Use its instruction set meanwhile; gives the backend's name."""
        if self.backend == "cpu" and not _native.loaded:
            pytest.skip(f"no C++ kernels: {_native.why_not_loaded}")
        if not self.isa:
            yield self.backend
            return
        before = torch.ops.mmkernels_cpu.isa()
        torch.ops.mmkernels_cpu.use_isa(self.isa)
        try:
            assert torch.ops.mmkernels_cpu.isa() == self.isa
            yield self.backend
        finally:
            torch.ops.mmkernels_cpu.use_isa(before)


REFERENCE = Run("reference")
NATIVE = [Run("cpu", isa) for isa in torch.ops.mmkernels_cpu.isas().split()] if _native.loaded else [Run("cpu")]
"""Best instruction set first, as the library would choose."""
CPU = NATIVE[0]
DEFAULT = [REFERENCE, CPU]
EVERY = [REFERENCE, *NATIVE]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def runs(*which: Run) -> pytest.MarkDecorator:
    """Parametrise over `run`."""
    return pytest.mark.parametrize("run", which, ids=lambda run: run.name)


def default_runs() -> pytest.MarkDecorator:
    """Parametrise over `run`: the default ones; the other instruction sets in the slow part of the suite."""
    others = [pytest.param(run, marks=pytest.mark.slow) for run in NATIVE[1:]]
    return pytest.mark.parametrize("run", [*DEFAULT, *others], ids=lambda run: run.name)


def dtypes(*which: torch.dtype) -> pytest.MarkDecorator:
    """Parametrise over `dtype`, all of the kernels' by default."""
    return pytest.mark.parametrize("dtype", which or DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
