"""torch.library ops of concat-fusion: schemas, fakes, autograd (both wrappers), autocast and vmap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmkernels import backend as dispatcher
from mmkernels.batching import looped_vmap
from mmkernels.ops.fusion import cpu, cuda, reference, triton
from mmkernels.precision import accumulate_dtype, autocast_off
from mmkernels.routing import active_autocast_dtype, autocast

_library = torch.library.Library("mmkernels", "FRAGMENT")
_library.define(
    "concat_fusion_forward(Tensor[] inputs, Tensor weight, Tensor? bias, Tensor? norm_weight, Tensor? norm_bias, "
    "Tensor? gate, Tensor? residual, int norm_kind, float eps, str activation, bool save, str? backend=None) "
    "-> (Tensor out, Tensor product, Tensor mean, Tensor rstd)"
)
_library.define(
    "concat_fusion_backward(Tensor grad_out, Tensor[] inputs, Tensor weight, Tensor? bias, Tensor? norm_weight, "
    "Tensor? norm_bias, Tensor? gate, int norm_kind, float eps, str activation, Tensor product, Tensor mean, "
    "Tensor rstd, bool[] needs, str? backend=None) -> (Tensor[] grad_inputs, Tensor grad_weight, Tensor grad_bias, "
    "Tensor grad_norm_weight, Tensor grad_norm_bias, Tensor grad_gate)"
)

dispatcher.register("concat_fusion", {"cpu": cpu, "cuda": cuda, "triton": triton, "reference": reference})


def _select(direction: str, inputs: Sequence[Tensor], weight: Tensor, backend: str | None) -> Any:
    shapes = tuple(tuple(x.shape) for x in (*inputs, weight))
    problem = dispatcher.Problem(f"concat_fusion_{direction}", weight.device, weight.dtype, shapes)
    return dispatcher.select(problem, backend)


def forward(inputs: Sequence[Tensor], weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The backend's forward; `rest` is the schema's tail."""
    *rest, backend = rest
    return _select("forward", inputs, weight, backend).forward(inputs, weight, *rest)


def backward(grad_out: Tensor, inputs: Sequence[Tensor], weight: Tensor, *rest: Any) -> tuple[Any, ...]:
    """The backend's backward; `rest` is the schema's tail."""
    *rest, backend = rest
    return _select("backward", inputs, weight, backend).backward(grad_out, inputs, weight, *rest)


@torch.library.impl(_library, "concat_fusion_forward", "CompositeExplicitAutograd")
def _forward(inputs, weight, bias, norm_weight, norm_bias, gate, residual, norm_kind, eps, act, save, backend=None):
    return forward(
        inputs, weight, bias, norm_weight, norm_bias, gate, residual, norm_kind, eps, act, save, backend
    )


@torch.library.register_fake("mmkernels::concat_fusion_forward")
def _forward_fake(
    inputs, weight, bias, norm_weight, norm_bias, gate, residual, norm_kind, eps, act, save, backend=None
):
    rows, acc = reference.rows_shape(inputs), accumulate_dtype(weight.dtype)
    shape = (*rows, weight.shape[0])
    saved = save and reference.saves_product(norm_kind, act, gate is not None)
    return (
        weight.new_empty(shape, dtype=reference.output_dtype(weight.dtype, residual)),
        weight.new_empty(shape if saved else (0,)),
        weight.new_empty((*rows, 1) if norm_kind == reference.NORM_LAYER else (0,), dtype=acc),
        weight.new_empty((0,) if norm_kind == reference.NORM_NONE else (*rows, 1), dtype=acc),
    )


@torch.library.impl(_library, "concat_fusion_backward", "CompositeExplicitAutograd")
def _backward(
    grad_out, inputs, weight, bias, norm_weight, norm_bias, gate, kind, eps, act, product, mean, rstd, needs, backend=None
):
    return backward(
        grad_out, inputs, weight, bias, norm_weight, norm_bias, gate, kind, eps, act, product, mean, rstd, needs, backend
    )


@torch.library.register_fake("mmkernels::concat_fusion_backward")
def _backward_fake(
    grad_out, inputs, weight, bias, norm_weight, norm_bias, gate, kind, eps, act, product, mean, rstd, needs, backend=None
):
    def gradient(tensor: Tensor | None, needed: bool) -> Tensor:
        return tensor.new_empty(tensor.shape) if needed and tensor is not None else weight.new_empty(0)

    parameters = (weight, bias, norm_weight, norm_bias, gate)
    return (
        [gradient(x, need) for x, need in zip(inputs, needs, strict=False)],
        *(gradient(p, need) for p, need in zip(parameters, needs[-5:], strict=True)),
    )


# Autograd


def residual_gradient(grad_out: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The residual's gradient is the output's, summed over the axes it was broadcast along."""
    return grad_out.sum_to_size(shape).to(dtype)


def differentiable_backward(
    grad_out: Tensor, tensors: Sequence[Tensor | None], count: int, settings: tuple[int, float, str]
) -> list[Tensor | None]:
    """Gradients of [*inputs, weight, bias, norm_weight, norm_bias, gate] by autograd over the reference, for use where
    they must be differentiable themselves."""
    with torch.enable_grad():
        out = reference.concat_fusion(list(tensors[:count]), *tensors[count:], None, *settings)
        wanted = [t for t in tensors if t is not None and t.requires_grad]
        found = iter(torch.autograd.grad(out, wanted, grad_out.to(out.dtype), create_graph=True, materialize_grads=True))
        return [next(found) if t is not None and t.requires_grad else None for t in tensors]


class ConcatFusion(torch.autograd.Function):
    """Eager autograd over the backend's forward and backward: settings = (norm_kind, eps, activation, backend)."""

    @staticmethod
    def forward(ctx: Any, settings: tuple[int, float, str, str | None], count: int, *tensors: Tensor | None) -> Tensor:
        *operands, residual = tensors
        norm_kind, eps, activation, backend = settings
        out, product, mean, rstd = forward(
            operands[:count], *operands[count:], residual, norm_kind, eps, activation, True, backend
        )
        ctx.save_for_backward(*operands, product, mean, rstd)
        ctx.settings, ctx.count = settings, count
        ctx.residual = None if residual is None else (residual.shape, residual.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
        *operands, product, mean, rstd = ctx.saved_tensors
        norm_kind, eps, activation, backend = ctx.settings
        count, needs = ctx.count, list(ctx.needs_input_grad[2:-1])
        if torch.is_grad_enabled():
            grads = differentiable_backward(grad_out, operands, count, ctx.settings[:3])
        else:
            grads = _flat_gradients(
                backward(
                    grad_out, operands[:count], *operands[count:], norm_kind, eps, activation, product, mean, rstd,
                    needs, backend,
                ),
                needs,
            )  # fmt: skip
        residual = residual_gradient(grad_out, *ctx.residual) if ctx.needs_input_grad[-1] else None
        return None, None, *grads, residual


def _flat_gradients(result: tuple[Any, ...], needs: Sequence[bool]) -> list[Tensor | None]:
    flat = [*result[0], *result[1:]]
    return [gradient if need else None for gradient, need in zip(flat, needs, strict=True)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    sources, weight, bias, norm_weight, norm_bias, gate, residual, norm_kind, eps, activation, _, backend = inputs
    _, product, mean, rstd = output
    ctx.save_for_backward(*sources, weight, bias, norm_weight, norm_bias, gate, product, mean, rstd)
    ctx.settings, ctx.count = (norm_kind, eps, activation, backend), len(sources)
    ctx.residual = None if residual is None else (residual.shape, residual.dtype)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _registered_backward(ctx: Any, grad_out: Tensor | None, *unused: Tensor | None) -> tuple[Any, ...]:
    *operands, product, mean, rstd = ctx.saved_tensors
    count = ctx.count
    if grad_out is None:
        return ([None] * count, *[None] * 11)
    source_needs = ctx.needs_input_grad[0]
    needs = [*source_needs, *ctx.needs_input_grad[1:6]]
    if torch.is_grad_enabled():
        flat = differentiable_backward(grad_out, operands, count, ctx.settings[:3])
    else:
        norm_kind, eps, activation, backend = ctx.settings
        result = torch.ops.mmkernels.concat_fusion_backward(
            grad_out, operands[:count], *operands[count:], norm_kind, eps, activation, product, mean, rstd, needs,
            backend,
        )  # fmt: skip
        flat = _flat_gradients(result, needs)
    residual = residual_gradient(grad_out, *ctx.residual) if ctx.needs_input_grad[6] else None
    return (flat[:count], *flat[count:], residual, *[None] * 5)


torch.library.register_autograd(
    "mmkernels::concat_fusion_forward", _registered_backward, setup_context=_setup_context, lib=_library
)


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad_out, sources, *operands, norm_kind, eps, activation, _, _, _, needs, _ = inputs
    ctx.save_for_backward(grad_out, *sources, *operands)
    ctx.settings, ctx.count, ctx.needs = (norm_kind, eps, activation), len(sources), needs


def _second_backward(ctx: Any, grad_inputs: Sequence[Tensor | None], *grads: Tensor | None) -> tuple[Any, ...]:
    """Second derivatives of the backward op, through the reference."""
    saved = ctx.saved_tensors
    with torch.enable_grad():
        leaves = [None if t is None else t.detach().requires_grad_() for t in saved]
        first = differentiable_backward(leaves[0], leaves[1:], ctx.count, ctx.settings)
        pairs = [
            (g, up)
            for g, up, need in zip(first, [*grad_inputs, *grads], ctx.needs, strict=True)
            if need and g is not None and up is not None
        ]
        wanted = [t for t in leaves if t is not None]
        found = iter(
            torch.autograd.grad([g for g, _ in pairs], wanted, [up for _, up in pairs], materialize_grads=True)
        )
    flat = [None if t is None else next(found) for t in leaves]
    count = ctx.count
    return (flat[0], flat[1 : 1 + count], *flat[1 + count :], *[None] * 8)


torch.library.register_autograd(
    "mmkernels::concat_fusion_backward", _second_backward, setup_context=_setup_second, lib=_library
)


# Autocast: the operands of the matrix product follow it; bias, norm, gate and residual keep their dtype


def _autocast_rule(device_type: str) -> Any:
    def rule(inputs: Sequence[Tensor], weight: Tensor, *rest: Any) -> Any:
        dtype = active_autocast_dtype(device_type)
        if dtype is not None:
            inputs, weight = [autocast(x, dtype) for x in inputs], autocast(weight, dtype)
        with autocast_off(device_type):
            return torch.ops.mmkernels.concat_fusion_forward(inputs, weight, *rest)

    return rule


for _key, _device_type in (("AutocastCPU", "cpu"), ("AutocastCUDA", "cuda")):
    _library.impl("concat_fusion_forward", _autocast_rule(_device_type), _key)


# vmap


@torch.library.register_vmap("mmkernels::concat_fusion_forward", lib=_library)
def _forward_vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    inputs, (gate, residual) = args[0], args[5:7]
    source_dims = in_dims[0] or [None] * len(inputs)
    if all(dim is None for dim in source_dims) or any(dim is not None for dim in in_dims[1:5]):
        return looped_vmap(torch.ops.mmkernels.concat_fusion_forward, info, in_dims, args)
    # A further leading axis of the rows: every operand that has it is given the same rank.
    rank = max(x.dim() - (dim is not None) for x, dim in zip(inputs, source_dims, strict=True))

    def leading(x: Tensor | None, dim: int | None) -> Tensor | None:
        if x is None or dim is None:
            return x
        x = x.movedim(dim, 0)
        return x.reshape(x.shape[0], *[1] * (rank + 1 - x.dim()), *x.shape[1:])

    inputs = [leading(x, dim) for x, dim in zip(inputs, source_dims, strict=True)]
    gate, residual = leading(gate, in_dims[5]), leading(residual, in_dims[6])
    result = torch.ops.mmkernels.concat_fusion_forward(inputs, *args[1:5], gate, residual, *args[7:])
    return result, tuple(None if part.dim() == 1 and rank >= 1 else 0 for part in result)


@torch.library.register_vmap("mmkernels::concat_fusion_backward", lib=_library)
def _backward_vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    return looped_vmap(torch.ops.mmkernels.concat_fusion_backward, info, in_dims, args)
