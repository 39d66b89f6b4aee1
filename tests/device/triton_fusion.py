"""The Triton kernels of concat_fusion as a backend on CPU tensors: Triton's interpreter in the GPU's place."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mmkernels.ops.fusion import native_call, triton
from tests.backends import in_place_of
from tests.device.triton_interpreter import poisoned_memory
from tests.fusion.naive import ACTIVATIONS, Case, fused


@dataclass
class Interpreted:
    """A backend module as `mmkernels.backend` wants it."""

    host: ModuleType
    arch: str = "interpreter"
    calls: list[str] = field(default_factory=list)

    def why_not(self, problem: Any) -> list[str]:
        """What the kernels refuse on any device."""
        return triton.limits(problem)

    def forward(self, *operands: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As the native backends'."""
        self.calls.append("forward")
        with poisoned_memory():
            return native_call.forward(self._entries()[0], *operands)

    def backward(self, *operands: Any) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As the native backends'."""
        self.calls.append("backward")
        with poisoned_memory():
            return native_call.backward(self._entries(), *operands)

    def _entries(self) -> tuple[native_call.Entry, native_call.Entry]:
        device = self.host.Device(self.arch, 1)
        return functools.partial(self.host.forward, device), functools.partial(self.host.backward, device)


@contextmanager
def interpreted(host: ModuleType, **options: Any) -> Iterator[Interpreted]:
    """`backend="triton"` is the host module meanwhile."""
    with in_place_of("triton", "concat_fusion", Interpreted(host, **options)) as module:
        yield module


def check_activation(activation: str) -> None:
    """backend="triton" on arguments from 1e-6 to 1e6, infinite ones and NaN, beside torch's function in fp64."""
    sizes = torch.logspace(-6, 6, 50)
    numbers = torch.cat([-sizes, sizes, torch.tensor([0.0, torch.inf, -torch.inf, torch.nan])])
    case = Case(((104, 1),), 1, bias=False, activation=activation)
    operands = case.operands(torch.float32)
    with torch.no_grad():
        operands.inputs[0].copy_(numbers[:, None])
        operands.rest["weight"].fill_(1.0)  # type: ignore[union-attr]
    found = fused(case, operands, backend="triton").detach()[:, 0]
    expected = ACTIVATIONS[activation](numbers.double())
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=2e-7, equal_nan=True)
