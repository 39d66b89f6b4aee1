"""What tests on a GPU share: which backends run there, and how often one was called with tensors there.

`make gpu-check` counts only tests that tell it of such calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from mmkernels import _native_cuda, _triton
from mmkernels import backend as backends
from tests.backends import in_place_of

Told = Callable[[str, object], None]
KERNELS = ("forward", "backward", "statistics", "gradients", "sigmoid")
"""Functions of a backend's module that launch kernels."""


def why_not(backend: str) -> str | None:
    """Why nothing of a backend runs here."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    return (_native_cuda if backend == "cuda" else _triton).why_not_here()


def backend_params(*names: str) -> list[Any]:
    """One parameter a backend, skipped with its reason where it does not run."""
    marks = {name: pytest.mark.skipif(why_not(name) is not None, reason=str(why_not(name))) for name in names}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


on_backends = pytest.mark.parametrize("backend", backend_params("cuda", "triton"))


class Counted:
    """A backend's module, which counts the calls of its kernels with tensors on a GPU."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.module, name)
        return self._counting(found) if name in KERNELS else found

    def _counting(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            results = kernel(*args)
            self.calls += any(tensor.is_cuda for tensor in _tensors(results))
            return results

        return call


def counted(op: str, backend: str, told: Told) -> Iterator[Counted]:
    """For a fixture: the backend of an op, counted; the report is told of the device and of the calls."""
    with in_place_of(backend, op, Counted(backends._backends[op][backend])) as module:
        yield module
    torch.cuda.synchronize()
    told("device", torch.cuda.get_device_name())
    told("launches", module.calls)


def _tensors(found: Any) -> Iterator[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, (list, tuple)):
        for each in found:
            yield from _tensors(each)
