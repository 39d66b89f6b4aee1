"""The CUDA concat_fusion kernels as a backend on CPU tensors: the emulator (docs/kernels/emulator.md) for a GPU.

`emulated(emulator)` puts it where the "cuda" backend stands; the tensors are prepared as for the native library, by the
same code, and what stands for the library takes them as arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mmkernels.ops.fusion import native_call
from tests.backends import in_place_of
from tests.device.attention import NAMES, array

FORWARD = (
    "inputs", "weight", "bias", "norm_weight", "norm_bias", "gate", "residual", "norm_kind", "eps", "activation", "out",
    "product", "mean", "rstd",
)  # fmt: skip
BACKWARD = (
    "grad_out", "inputs", "weight", "bias", "norm_weight", "norm_bias", "gate", "norm_kind", "eps", "activation",
    "product", "mean", "rstd", "needs_input", "grad_inputs", "grad_weight", "grad_bias", "grad_norm_weight",
    "grad_norm_bias", "grad_gate",
)  # fmt: skip
WRITTEN_FORWARD = ("out", "product", "mean", "rstd")
WRITTEN_BACKWARD = ("grad_inputs", "grad_weight", "grad_bias", "grad_norm_weight", "grad_norm_bias", "grad_gate")


@dataclass
class Emulated:
    """A backend module as `mmkernels.backend` wants it."""

    emulator: ModuleType
    seed: int = 0
    processors: int = 1_000_000
    """So many make every tile a small one; one makes them wide."""
    launches: list[tuple[str, list[tuple[int, int]]]] = field(default_factory=list)
    """(direction, (blocks, threads) of its launches) of every call."""

    def why_not(self, problem: Any) -> list[str]:
        """Nothing."""
        return []

    def forward(self, *operands: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As the native backends', on the emulator."""
        return native_call.forward(self._forward, *operands)

    def backward(self, *operands: Any) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As the native backends', on the emulator."""
        return native_call.backward((self._forward, self._backward), *operands)

    def _forward(self, *values: Any) -> None:
        self._run("forward", FORWARD, values, WRITTEN_FORWARD)

    def _backward(self, *values: Any) -> None:
        self._run("backward", BACKWARD, values, WRITTEN_BACKWARD)

    def _run(self, direction: str, names: Sequence[str], values: Sequence[Any], written: Sequence[str]) -> None:
        call = dict(zip(names, values, strict=True))
        for name in written:
            tensors = call[name] if isinstance(call[name], list) else [call[name]]
            for tensor in tensors:
                if tensor is not None:
                    tensor.fill_(torch.nan)  # what no thread writes shows
        if direction == "backward":
            call["grad_inputs"] = [g if need else None for g, need in zip(call["grad_inputs"], call["needs_input"])]
        shape = list(call["out" if direction == "forward" else "grad_out"].shape)
        dtypes = {name: NAMES[t.dtype] for name, t in call.items() if isinstance(t, Tensor)}
        arrays = {name: _arrays(value) for name, value in call.items()}
        function = getattr(self.emulator, f"fusion_{direction}")
        run = self.emulator.Run(seed=self.seed)
        told = function(run, arrays | {"shape": shape, "dtypes": dtypes}, self.processors)
        self.launches.append((direction, told))


def _arrays(value: Any) -> Any:
    if isinstance(value, list):
        return [_arrays(one) for one in value]
    return array(value) if isinstance(value, Tensor) else value


@contextmanager
def emulated(emulator: ModuleType, **options: Any) -> Iterator[Emulated]:
    """`backend="cuda"` is the emulator meanwhile."""
    with in_place_of("cuda", "concat_fusion", Emulated(emulator, **options)) as module:
        yield module
