"""The precision in which the plain torch references compute: one rule for every op."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmkernels import routing

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""The dtypes that the references take."""

Function = TypeVar("Function", bound=Callable[..., Any])


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp64 stays fp64, everything else accumulates in fp32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def matmul(a: Tensor, b: Tensor, operand: torch.dtype, addend: Tensor | None = None) -> Tensor:
    """`a @ b` of two matrices (`+ addend`) with operands of dtype `operand` and an fp32 (fp64) result.

    bf16 has the range of fp32, so on a GPU it serves as the operand type of any product and goes to the tensor cores
    with an fp32 result. fp16 operands could overflow where an intermediate is not normalised, and a CPU multiplies
    16-bit matrices a hundred times slower than fp32 ones: both are widened first.
    """
    if operand == torch.bfloat16 and a.is_cuda:
        product = torch.mm(a.to(operand), b.to(operand), out_dtype=torch.float32)
        return product if addend is None else addend + product
    dtype = accumulate_dtype(operand)
    a, b = a.to(dtype), b.to(dtype)
    return torch.mm(a, b) if addend is None else torch.addmm(addend, a, b)


def sum_to(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Sum x over the axes along which a tensor of `shape` was broadcast to x's shape (the backward of expand)."""
    return x if x.shape == torch.Size(shape) else x.sum_to_size(tuple(shape))


def without_autocast(function: Function) -> Function:
    """The function with autocast off on the device of its first tensor: its dtypes are then those that it says."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        with autocast_off(_first_tensor(args).device.type):
            return function(*args)

    return wrapper  # type: ignore[return-value]


def autocast_off(device_type: str) -> contextlib.AbstractContextManager[Any]:
    """A context in which autocast is off for a type of device; free where it is off already, or never on."""
    if routing.active_autocast_dtype(device_type) is not None:
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()


def _first_tensor(args: Sequence[Any]) -> Tensor:
    for arg in args:
        if isinstance(arg, Tensor):
            return arg
        if isinstance(arg, (list, tuple)) and arg and isinstance(arg[0], Tensor):
            return arg[0]
    raise TypeError("no tensor among the arguments")
