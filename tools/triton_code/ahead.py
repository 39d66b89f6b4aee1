"""Triton kernels compiled ahead of time, as a launch of the host side would have them, without a GPU or a driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

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
        """What the launch would compile."""
        source, options = self._source()
        return triton.compile(source, target=target, options=options)

    def form(self) -> str:
        """Equal for launches of the same code."""
        source, options = self._source()
        return repr((source.signature, source.constants, source.attrs, options))

    def _source(self) -> tuple[ASTSource, dict[str, Any]]:
        """Tensors at multiples of 16 bytes, integers specialised as triton does; what is left for the compiler."""
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
        return source, options


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
