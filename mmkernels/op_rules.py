"""Rules that an op with one differentiable output registers: autograd to any order, autocast, vmap.

The op `name_forward(operands...) -> (out, *extras)` has a companion `name_backward(grad_out, operands..., extras...)`.
What is particular to an op is said by a `Derivative`; the two `autograd.Function`s here are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from mmkernels import routing

Tensors = Sequence["Tensor | None"]

_LEGACY_BATCHED: Any = torch._C._parse_dispatch_key("Batched")


class Derivative:
    """How one call differentiates. `operands` is the flat list of the op's differentiable arguments, None included."""

    def kept(self, operands: Tensors) -> Tensors:
        """The operands that the backward reads; the others as None."""
        return operands

    def backward(self, grad_out: Tensor, kept: Tensors, extras: Tensors, needs: Sequence[bool]) -> Tensors:
        """Gradients of the operands through the backend or the backward op; anything where not needed."""
        raise NotImplementedError

    def reference(self, kept: Tensors) -> Tensor:
        """The output by differentiable torch code, up to terms that no kept operand enters."""
        raise NotImplementedError

    def rest(self, grad_out: Tensor, gradients: Tensors, needs: Sequence[bool]) -> Tensors:
        """Add the gradients of operands that were not kept."""
        return gradients


def differentiable_backward(
    derivative: Derivative, grad_out: Tensor, kept: Tensors, needs: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of the kept operands that need one; where grad mode is on, as differentiable functions of them all."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views of their own: a tensor that serves as two operands would get the sum of both gradients twice.
        operands = [None if t is None else fresh(t, need) for t, need in zip(kept, needs, strict=True)]
        wanted = [t for t, need in zip(operands, needs, strict=True) if need and t is not None]
        out = derivative.reference(operands)
        found = iter(
            torch.autograd.grad(
                out,
                wanted,
                grad_out.to(out.dtype),
                create_graph=create_graph,
                allow_unused=True,
                materialize_grads=True,
            )
            if wanted
            else ()
        )
        return [next(found) if need and t is not None else None for t, need in zip(operands, needs, strict=True)]


def fresh(tensor: Tensor, differentiate: bool) -> Tensor:
    """A view with an identity of its own, a leaf that requires grad where one is wanted and it has no graph."""
    view = tensor.view_as(tensor)
    return view.requires_grad_() if differentiate and not view.requires_grad else view


def is_legacy_batched(tensor: Tensor) -> bool:
    """Whether `tensor` belongs to the vmap of `torch.autograd.grad(is_grads_batched=True)`, unknown to torch.func."""
    return torch._C._dispatch_keys(tensor).has(_LEGACY_BATCHED)


class FirstOrder(torch.autograd.Function):
    """(out, *extras) = run(), whose backward is the derivative's; differentiable again through the reference."""

    @staticmethod
    def forward(ctx: Any, run: Callable[[], tuple[Tensor, ...]], derivative: Derivative, *operands: Any) -> Any:
        out, *extras = run()
        ctx.save_for_backward(*derivative.kept(operands), *extras)
        ctx.derivative, ctx.extras = derivative, len(extras)
        ctx.mark_non_differentiable(*extras)
        ctx.set_materialize_grads(False)
        return out, *extras

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, *unused: None) -> Any:
        needs = ctx.needs_input_grad[2:]
        if grad_out is None:
            return None, None, *[None] * len(needs)
        saved = ctx.saved_tensors  # once: a checkpoint unpacks them a single time
        kept, extras = saved[: len(needs)], saved[len(needs) :]
        derivative = ctx.derivative
        if torch.is_grad_enabled() or is_legacy_batched(grad_out):
            gradients: Tensors = differentiable_backward(derivative, grad_out, kept, needs)
        else:
            gradients = derivative.backward(grad_out, kept, extras, needs)
        gradients = derivative.rest(grad_out, gradients, needs)
        return None, None, *(g if need else None for g, need in zip(gradients, needs, strict=True))


class SecondOrder(torch.autograd.Function):
    """The backward op itself as a differentiable function of (grad_out, *operands)."""

    @staticmethod
    def forward(
        ctx: Any,
        run: Callable[[], Any],
        derivative: Derivative,
        needs: Sequence[bool],
        grad_out: Tensor,
        *operands: Any,
    ) -> Any:
        results = run()
        ctx.save_for_backward(grad_out, *operands)
        ctx.derivative, ctx.needs = derivative, list(needs)
        ctx.mark_non_differentiable(*(r for r, need in zip(results, needs, strict=True) if not need))
        ctx.set_materialize_grads(False)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        saved, create_graph = ctx.saved_tensors, torch.is_grad_enabled()
        with torch.enable_grad():
            leaves: list[Any] = [None if t is None else fresh(t, True) for t in saved]
            first = differentiable_backward(ctx.derivative, leaves[0], leaves[1:], ctx.needs)
            pairs = [
                (g, up)
                for g, up, need in zip(first, grads, ctx.needs, strict=True)
                if need and g is not None and up is not None
            ]
            wanted = [t for t in leaves if t is not None]
            found = iter(
                torch.autograd.grad(
                    [g for g, _ in pairs],
                    wanted,
                    [up for _, up in pairs],
                    create_graph=create_graph,
                    materialize_grads=True,
                )
            )
        return None, None, None, *(None if t is None else next(found) for t in leaves)


def wants_gradient(tensors: Tensors) -> bool:
    """Whether autograd records a call of these tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def below_autograd(op: Any, keyset: Any, args: Sequence[Any]) -> Any:
    """Call an op's next kernel below its Autograd one."""
    with torch._C._AutoDispatchBelowAutograd():
        return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)


def refuse_levels(op: Any, tensors: Tensors, function: str) -> None:
    """Raise where torch would differentiate the raw op in a way that no autograd formula serves: no silent zeros."""
    level = routing.differentiating_level()
    if level is None:
        return
    if forward_ad._current_level >= 0 and not level.startswith("torch.func"):
        # A dual level alone harms nobody: only tensors with a tangent would lose it.
        if all(t is None or forward_ad.unpack_dual(t).tangent is None for t in tensors):
            return
    raise NotImplementedError(
        f"{op.name()} cannot be differentiated under {level}; call mmkernels.{function} (which takes the plain torch "
        "reference there) instead of the raw op"
    )


def autocast_kernel(op: Any, device_type: str, operands: int) -> Callable[..., Any]:
    """A kernel for an Autocast key: the first `operands` arguments go to autocast's dtype, the others keep theirs."""
    excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, "Autocast" + device_type.upper()))

    def kernel(keyset: Any, *args: Any) -> Any:
        dtype = torch.get_autocast_dtype(device_type)
        cast = pytree.tree_map_only(Tensor, lambda t: routing.autocast(t, dtype), args[:operands])
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            return op(*cast, *args[operands:])

    return kernel


def looped_vmap(op: Any, info: Any, in_dims: tuple[Any, ...], args: tuple[Any, ...]) -> tuple[Any, Any]:
    """The result and out_dims of `op` under torch.vmap, for arguments of any nesting: one call per batch entry.

    Right for every op, and as slow as the loop it is: an op whose operands allow a further batch axis does better.
    """
    flat_args, structure = pytree.tree_flatten(args)
    flat_dims = _dims_like(in_dims, args)
    results = []
    for index in range(info.batch_size):
        entry = [x if dim is None else x.select(dim, index) for x, dim in zip(flat_args, flat_dims, strict=True)]
        flat_result, result_structure = pytree.tree_flatten(op(*pytree.tree_unflatten(entry, structure)))
        results.append(flat_result)
    if not results:
        raise ValueError(f"{op} cannot be vmapped over a batch of size 0")
    stacked = [torch.stack(column) for column in zip(*results, strict=True)]
    return pytree.tree_unflatten(stacked, result_structure), pytree.tree_unflatten([0] * len(stacked), result_structure)


def _dims_like(dims: Any, args: Any) -> list[int | None]:
    """One dim per leaf of args: None may stand for a whole list there."""
    if isinstance(args, (list, tuple)):
        parts = [None] * len(args) if dims is None else dims
        return [dim for part, arg in zip(parts, args, strict=True) for dim in _dims_like(part, arg)]
    return [dims if isinstance(args, Tensor) else None]
