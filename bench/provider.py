"""The interface of a provider: ours or a peer, and what providers of every op share."""

from __future__ import annotations

import functools
import importlib.metadata
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

import mmkernels as mmk
from bench.case import Case
from mmkernels import _native

Results = dict[str, Tensor]
"""Results by name: "out" (or what the op has for it), and "grad NAME" of every leaf, as the op's call names them."""


@dataclass
class Prepared:
    """One way to compute a call."""

    run: Callable[[], Any]
    """What is timed."""
    results: Callable[[Any], Results]
    """What `run` returned, in our layout."""
    way: str = ""
    """Which of a provider's ways this is."""


class Provider(Protocol):
    """A library, or one path of it."""

    name: str

    def version(self) -> str | None:
        """Its version; None: not installed."""

    def instruction_set(self) -> str:
        """What it says it uses on this processor."""

    def why_not(self, case: Case) -> str | None:
        """A sentence saying why it cannot do a case, or None."""

    def prepare(self, call: Any) -> list[Prepared]:
        """The ways to compute a call. May raise: the message is what the table then says."""


class OurPackage:
    """What our providers have in common: mmkernels, on the backend it picks by itself."""

    name = "mmkernels"

    def version(self) -> str | None:
        """Of the package."""
        return mmk.__version__

    def instruction_set(self) -> str:
        """Of the kernels that were picked."""
        return torch.ops.mmkernels_cpu.isa() if _native.loaded else "reference backend"

    def why_not(self, case: Case) -> str | None:
        """Every case is one of ours."""
        return None


class InTorch:
    """What the paths of torch have in common."""

    def version(self) -> str | None:
        """torch's."""
        return torch.__version__

    def instruction_set(self) -> str:
        """Of torch's own kernels; its matrix products come from MKL and oneDNN, which read limits of their own."""
        names = ("MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")
        limits = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
        return ", ".join([torch.backends.cpu.get_cpu_capability(), *limits])

    def why_not(self, case: Case) -> str | None:
        """It has a path for every case."""
        return None


class InInductor(InTorch):
    """The paths that torch.compile makes. Without a C++ compiler `prepare` raises, and the table says so."""

    def instruction_set(self) -> str:
        """What inductor compiles for."""
        from torch._inductor.cpu_vec_isa import pick_vec_isa

        return str(pick_vec_isa())


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function compiled once; it specialises for every call that it has not seen."""
    torch._dynamo.config.cache_size_limit = 1024
    return torch.compile(function, dynamic=False)


def differentiated(
    name: str, forward: Callable[[], Tensor], leaves: Mapping[str, Tensor], grad: Tensor | None, way: str = ""
) -> Prepared:
    """A way whose one result is `name`, with the gradients of all leaves unless `grad`, the result's, is None."""
    if grad is None:
        return Prepared(forward, lambda out: {name: out}, way)
    operands = list(leaves.values())

    def both() -> tuple[Tensor, tuple[Tensor, ...]]:
        out = forward()
        return out, torch.autograd.grad(out, operands, grad.to(out.dtype))

    def results(found: tuple[Tensor, tuple[Tensor, ...]]) -> Results:
        return {name: found[0], **{f"grad {leaf}": each for leaf, each in zip(leaves, found[1])}}

    return Prepared(both, results, way)


def installed(package: str) -> str | None:
    """The version of a package, None if it is absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def gpu_only(case: Case) -> str | None:
    """Why a library for GPUs is not measured."""
    if not torch.cuda.is_available():
        return "no GPU here"
    return None if case.device == "cuda" else "runs on a GPU: give --device cuda"


def cpu_only(case: Case) -> str | None:
    """Why a path for CPUs is not measured."""
    return None if case.device == "cpu" else "set up for the CPU only"


def those_made(makers: Iterable[tuple[str, Callable[[], Prepared]]]) -> list[Prepared]:
    """The ways, by name, that can be made; raises with every reason if none can."""
    ways, failures = [], []
    for name, make in makers:
        try:
            ways.append(make())
        except Exception as error:
            failures.append(f"{name}: {str(error).splitlines()[0][:120]}")
    if not ways:
        raise RuntimeError("; ".join(failures))
    return ways
