"""The Triton kernels as a backend on CPU tensors: Triton's interpreter in the GPU's place.

`interpreted(host)` puts it where the "triton" backend stands, so that the public functions, and with them every
check of the conformance suite, run on it unchanged. bf16 is not for it: its products multiply bit patterns.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmkernels.ops.attention import native_call, triton
from mmkernels.ops.attention.empty_rows import unmask_empty_rows
from mmkernels.ops.attention.lowered import Lowered
from tests.backends import in_place_of
from tools.machine import ROOT

BLOCKS = "mmkernels.triton_blocks"
OPS = ("attention", "fusion", "contrastive")


def package_of(op: str) -> str:
    """Where an op's kernels are."""
    return f"mmkernels.ops.{op}.triton_kernels"


OURS = (BLOCKS, *(package_of(op) for op in OPS))


@dataclass(frozen=True)
class Bug:
    """One change of the text of a module of ours."""

    module: str
    old: str
    new: str
    op: str = "attention"

    def planted(self) -> ModuleType:
        """The module with the bug, in its place."""
        name = BLOCKS if self.module == "triton_blocks" else f"{package_of(self.op)}.{self.module}"
        source = importlib.util.find_spec(name)
        assert source is not None and source.origin is not None
        text = Path(source.origin).read_text()
        assert text.count(self.old) == 1, f"{self.module} has {self.old!r} {text.count(self.old)} times"
        changed = text.replace(self.old, self.new)
        folder = ROOT / "build" / "planted" / "triton"  # kept: the interpreter reads a function's source when it runs
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.module}_{hashlib.sha256(changed.encode()).hexdigest()[:16]}.py"
        path.write_text(changed)
        specification = importlib.util.spec_from_file_location(name, path)
        assert specification is not None and specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules[name] = module
        specification.loader.exec_module(module)
        return module


def load(bug: Bug | None = None, op: str = "attention") -> ModuleType:
    """An op's host module above interpreted kernels: a second copy of triton and of ours, of which nobody else knows.

    Triton decides on import, for its own library too, whether functions are compiled or interpreted, and other tests of
    this process compile.
    """

    def swapped(name: str) -> bool:
        return (name == "triton" or name.startswith(("triton.", *OURS))) and not name.startswith("triton._C")

    before = {name: module for name, module in sys.modules.items() if swapped(name)}
    variable = os.environ.get("TRITON_INTERPRET")
    for name in before:
        del sys.modules[name]
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        if bug is not None:
            bug.planted()
        host = importlib.import_module(f"{package_of(op)}.host")
        patch_once(sys.modules["triton.runtime.interpreter"])
        sum_exactly(sys.modules["triton.runtime.interpreter"])
        return host
    finally:
        os.environ.pop("TRITON_INTERPRET")
        if variable is not None:
            os.environ["TRITON_INTERPRET"] = variable
        for name in [name for name in sys.modules if swapped(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def patch_once(interpreter: Any) -> None:
    """Replaces the language's functions once a launch: the interpreter does at every call of a function, a third of its
    time."""
    patch, language = interpreter._patch_lang, (interpreter.tl, interpreter.tl.core)
    launch, done = interpreter._LangPatchScope(), set()

    def patch_first(function: Any) -> Any:
        nonlocal launch
        own = frozenset(id(value) for value in function.__globals__.values() if any(value is each for each in language))
        if not launch._changes:  # those of the launch before have been taken back
            done.clear()
        if own in done:
            return interpreter._LangPatchScope()
        scope = patch(function)
        launch = launch if done else scope
        done.add(own)
        return scope

    interpreter._patch_lang = patch_first


def sum_exactly(interpreter: Any) -> None:
    """Products are summed in fp64 and rounded once: numpy's order of sums depends on the height of a tile."""

    def dot(builder: Any, a: Any, b: Any, total: Any, precision: Any, imprecise: Any) -> Any:
        found = a.data.astype(np.float64) @ b.data.astype(np.float64) + total.data
        return interpreter.TensorHandle(found.astype(total.data.dtype), total.dtype.scalar)

    interpreter.InterpreterBuilder.create_dot = dot


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Tensors that are allocated meanwhile hold NaN, so that what no kernel writes shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@dataclass
class Interpreted:
    """A backend module as `mmkernels.backend` wants it."""

    host: ModuleType
    processors: int = 1
    """More of them make the plan split keys."""
    launches: int = 0

    def why_not(self, problem: Any) -> list[str]:
        """What the kernels refuse on any device."""
        return triton.limits(problem)

    def forward(self, call: Lowered, with_lse: bool) -> tuple[Tensor, Tensor | None]:
        """(out, lse) of the lowered call."""
        self.launches += 1
        call = native_call.readable(unmask_empty_rows(call))
        with poisoned_memory():
            return self.host.forward(call, with_lse, self.host.Device("interpreter", self.processors))

    def backward(
        self, grad_out: Tensor, grad_lse: Tensor | None, call: Lowered, out: Tensor, lse: Tensor, needs: Sequence[bool]
    ) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
        """Dense gradients of the needed ones; (0,) and [] for the others."""
        self.launches += 1
        call = native_call.readable(unmask_empty_rows(call))
        device = self.host.Device("interpreter", self.processors)
        with poisoned_memory():
            return self.host.backward(grad_out, grad_lse, call, out, lse, needs, device)


@contextmanager
def interpreted(host: ModuleType, **options: Any) -> Iterator[Interpreted]:
    """`backend="triton"` is the interpreter meanwhile."""
    with in_place_of("triton", "attention", Interpreted(host, **options)) as module:
        yield module
