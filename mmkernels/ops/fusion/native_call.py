"""What the C++ and Triton backends of concat_fusion share: kernels take the op's tensors, and outputs made here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkernels.backend import NATIVE_DTYPES, Problem
from mmkernels.layout import unit_last_stride
from mmkernels.ops.fusion.activation import ACTIVATIONS
from mmkernels.ops.fusion.reference import NORM_LAYER, NORM_NONE, output_dtype, rows_shape, saves_product

MAX_AXES = 16
"""Leading axes of the output."""

Entry = Callable[..., Any]
"""A library's ``concat_fusion_forward`` or ``..._backward`` (csrc/ops/fusion_entry.h), or one of Triton's host."""
_ACTIVATION = {name: index for index, name in enumerate(ACTIVATIONS)}


def why_not_axes(problem: Problem) -> list[str]:
    """Whether the output has more leading axes than the kernels take."""
    axes = max((len(shape) - 1 for shape in problem.shapes), default=0)
    return [f"{axes} leading axes are above {MAX_AXES}"] if axes > MAX_AXES else []


def why_not_sources(problem: Problem, most: int) -> list[str]:
    """Whether there are more inputs than kernels for GPUs take."""
    sources = len(problem.shapes) - 1  # the last is the weight's
    return [f"{sources} inputs are more than {most}"] if sources > most else []


def forward(
    entry: Entry,
    inputs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    gate: Tensor | None,
    residual: Tensor | None,
    norm_kind: int,
    eps: float,
    activation: str,
    save: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(out, u, mean, rstd) as the reference's forward gives them, by a library's entry."""
    rows = rows_shape(inputs)
    shape = (*rows, weight.shape[0])
    out = weight.new_empty(shape, dtype=output_dtype(weight.dtype, residual))
    product = weight.new_empty(shape) if save and saves_product(norm_kind, activation, gate is not None) else None
    mean = weight.new_empty((*rows, 1), dtype=torch.float32) if norm_kind == NORM_LAYER else None
    rstd = weight.new_empty((*rows, 1), dtype=torch.float32) if norm_kind != NORM_NONE else None
    entry(
        [unit_last_stride(x) for x in inputs], unit_last_stride(weight), _vector(bias), _vector(norm_weight),
        _vector(norm_bias), _readable(gate), _readable(residual), norm_kind, eps, _ACTIVATION[activation], out, product,
        mean, rstd,
    )  # fmt: skip
    # The outputs of an op may not share memory, nor be None.
    return (
        out,
        weight.new_empty(0) if product is None else product,
        weight.new_empty(0, dtype=torch.float32) if mean is None else mean,
        weight.new_empty(0, dtype=torch.float32) if rstd is None else rstd,
    )


def backward(
    entries: tuple[Entry, Entry],
    grad_out: Tensor,
    inputs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    gate: Tensor | None,
    norm_kind: int,
    eps: float,
    activation: str,
    u: Tensor,
    mean: Tensor,
    rstd: Tensor,
    needs: Sequence[bool],
) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of (inputs, weight, bias, norm_weight, norm_bias, gate), (0,) for what is not needed.

    Where `u` is missing, the forward multiplies again.
    """
    if grad_out.dtype not in NATIVE_DTYPES:  # that of an output which an fp64 residual widened, on the reference
        grad_out = grad_out.to(torch.float32)
    saves = saves_product(norm_kind, activation, gate is not None)
    if saves and u.shape != grad_out.shape:
        u = forward(entries[0], inputs, weight, bias, norm_weight, norm_bias, gate, None, norm_kind, eps, activation)[1]
    needs_input, (needs_weight, *needed) = needs[:-5], needs[-5:]
    # Contiguous, as the fake says
    grad_inputs = [
        torch.empty_like(x, memory_format=torch.contiguous_format) if need else x.new_empty(0)
        for x, need in zip(inputs, needs_input, strict=True)
    ]
    grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format) if needs_weight else None
    parameters = (bias, norm_weight, norm_bias, gate)
    sums = [
        None if p is None or not need else weight.new_empty(p.shape, dtype=torch.float32)
        for p, need in zip(parameters, needed, strict=True)
    ]
    if grad_out.numel() == 0:  # nothing for the kernel to do, nor anyone to write the zeros
        for grad in (*grad_inputs, grad_weight, *sums):
            if grad is not None:
                grad.zero_()
        return _results(weight, grad_inputs, grad_weight, sums, parameters)
    entries[1](
        _readable(grad_out), [unit_last_stride(x) for x in inputs], unit_last_stride(weight), _vector(bias),
        _vector(norm_weight), _vector(norm_bias), _readable(gate), norm_kind, eps, _ACTIVATION[activation],
        u.contiguous() if saves else None, mean.contiguous() if norm_kind == NORM_LAYER else None,
        rstd.contiguous() if norm_kind != NORM_NONE else None, [int(need) for need in needs_input], grad_inputs,
        grad_weight, *sums,
    )  # fmt: skip
    return _results(weight, grad_inputs, grad_weight, sums, parameters)


def _results(
    weight: Tensor,
    grad_inputs: list[Tensor],
    grad_weight: Tensor | None,
    sums: Sequence[Tensor | None],
    parameters: Sequence[Tensor | None],
) -> Any:
    """The op's results: sums in their parameter's dtype, (0,) for what is not there."""
    rest = [
        weight.new_empty(0) if g is None or p is None else g if g.dtype == p.dtype else g.to(p.dtype)
        for g, p in zip(sums, parameters, strict=True)
    ]
    return grad_inputs, weight.new_empty(0) if grad_weight is None else grad_weight, *rest


def _vector(parameter: Tensor | None) -> Tensor | None:
    if parameter is None or (parameter.dtype == torch.float32 and parameter.is_contiguous()):
        return parameter
    return parameter.to(torch.float32).contiguous()


def _readable(tensor: Tensor | None) -> Tensor | None:
    return tensor if tensor is None or tensor.dim() == 0 else unit_last_stride(tensor)
