"""Attention's backward formula and the two ``autograd.Function`` that carry it.

One formula serves eager calls (over a backend's forward) and the registered rule (over the op below autograd). Second
derivatives recompute through the plain torch reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkernels import backend as backends
from mmkernels import op_rules, routing
from mmkernels.ops.attention import reference
from mmkernels.ops.attention.lowered import Lowered, problem_of

Gradients = tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]
Forward = Callable[[Lowered, bool], tuple[Tensor, "Tensor | None"]]


class Choice:
    """The backends of a call: found at the first use, kept for its backward and for calls of the same kind."""

    __slots__ = ("_backward", "_forward", "batch", "name", "short")

    def __init__(self, name: str | None, batch: int = 0, short: Any = None) -> None:
        self.name = name
        self.batch = batch
        self.short = short
        """A backend with ``forward_plain`` and ``backward_plain`` that runs both directions, or None."""
        self._forward: Forward | None = None
        self._backward: Callable[..., Gradients] | None = None

    def forward(self, call: Lowered) -> Forward:
        """The backend's forward."""
        if self._forward is None:
            self._forward = backends.select(problem_of(call, "forward"), self.name).forward
        return self._forward

    def backward(self, call: Lowered) -> Callable[..., Gradients]:
        """The backend's backward."""
        if self._backward is None:
            self._backward = backends.select(problem_of(call, "backward"), self.name).backward
        return self._backward


def short_choice(call: Lowered, name: str | None, batch: int) -> Choice:
    """The backends of a call with nothing but operands and scale, for the short way if one backend has it."""
    module = backends.select(problem_of(call, "forward"), name)
    same = backends.select(problem_of(call, "backward"), name) is module
    return Choice(name, batch, module if same and hasattr(module, "forward_plain") else None)


def gradients(
    grad_out: Tensor | None,
    grad_lse: Tensor | None,
    call: Lowered,
    out: Tensor,
    lse: Tensor,
    needs: Sequence[bool],
    choice: Choice,
) -> Gradients:
    """The backward of a call, by the way that torch's state asks for; ``needs`` is [query, keys, values, bias].

    With create_graph=True, and for gradients batched by ``is_grads_batched``, that is the differentiable reference.
    """
    batched = any(grad is not None and op_rules.is_legacy_batched(grad) for grad in (grad_out, grad_lse))
    if torch.is_grad_enabled() or batched:
        return differentiable_backward(grad_out, grad_lse, call, needs)
    if grad_out is None:
        grad_out = torch.zeros_like(out)
    way = routing.route((grad_out, grad_lse, call.query, out))
    if way == "eager":
        return choice.backward(call)(grad_out, grad_lse, call, out, lse, needs)
    if way == "op":
        return torch.ops.mmkernels.attention_backward(grad_out, grad_lse, *call, out, lse, needs, choice.name)
    return differentiable_backward(grad_out, grad_lse, call, needs)


def differentiable_backward(
    grad_out: Tensor | None, grad_lse: Tensor | None, call: Lowered, needs: Sequence[bool]
) -> Gradients:
    """The gradients as differentiable functions of the operands and of the outputs' gradients, by the reference.

    ``out`` and ``lse`` count as functions of the operands: the derivative through them is inside.
    """
    with torch.enable_grad():
        # Views of their own: a tensor that serves as query and as key would get the sum of both gradients twice.
        query = op_rules.fresh(call.query, needs[0])
        keys, values, bias = (
            [op_rules.fresh(tensor, need) for tensor in tensors]
            for tensors, need in zip((call.keys, call.values, call.bias), needs[1:], strict=True)
        )
        call = call._replace(query=query, keys=keys, values=values, bias=bias)
        wanted = [tensor for tensors, need in zip(([query], keys, values, bias), needs, strict=True) if need
                  for tensor in tensors]  # fmt: skip
        out, lse = reference.differentiable_forward(*call)
        pairs = [(value, grad) for value, grad in ((out, grad_out), (lse, grad_lse)) if grad is not None]
        found = torch.autograd.grad(
            [value for value, _ in pairs], wanted, [grad for _, grad in pairs],
            create_graph=True, allow_unused=True, materialize_grads=True,
        )  # fmt: skip
    grads = iter(found)
    return (
        next(grads) if needs[0] else query.new_empty((0,)),
        [next(grads) for _ in keys] if needs[1] else [],
        [next(grads) for _ in values] if needs[2] else [],
        [next(grads) for _ in bias] if needs[3] else [],
    )


class Attention(torch.autograd.Function):
    """Attention with a gradient: ``run(call, True)`` computes (out, lse), ``gradients`` the backward.

    ``tensors`` are query, keys, values and bias of the call once more, flat: autograd sees no others.
    """

    @staticmethod
    def forward(ctx: Any, run: Forward, call: Lowered, choice: Choice, return_lse: bool, *tensors: Tensor) -> Any:
        out, lse = run(call, True)
        start, stop, visible, exact, _, kind, zero, seed, cu_q, cu_k, *numbers = call[3:]
        ctx.save_for_backward(*tensors, start, stop, visible, exact, seed, cu_q, cu_k, out, lse)
        ctx.rest = (len(call.keys), choice, kind, zero, numbers)
        ctx.set_materialize_grads(False)
        return (out, lse) if return_lse else out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None = None) -> Any:
        query, *tensors, start, stop, visible, exact, seed, cu_q, cu_k, out, lse = ctx.saved_tensors
        count, choice, kind, zero, numbers = ctx.rest
        keys, values, bias = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
        call = Lowered(
            query, keys, values, start, stop, visible, exact, bias, kind, zero, seed, cu_q, cu_k, *numbers
        )  # fmt: skip
        _, _, _, _, query_wanted, *wanted = ctx.needs_input_grad
        needs = [query_wanted, any(wanted[:count]), any(wanted[count : 2 * count]), any(wanted[2 * count :])]
        grads = gradients(grad_out, grad_lse, call, out, lse, needs, choice)
        return (
            None,
            None,
            None,
            None,
            grads[0] if query_wanted else None,
            *(grads[1] if needs[1] else [None] * count),
            *(grads[2] if needs[2] else [None] * count),
            *(grads[3] if needs[3] else [None] * len(bias)),
        )


class PlainAttention(torch.autograd.Function):
    """``Attention`` of one segment and nothing else, in eager mode: the same formula with less to carry."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, choice: Choice, scale: float, return_lse: bool
    ) -> Any:
        out, lse = choice.short.forward_plain(query, key, value, scale, True)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.rest = (choice, scale)
        if not return_lse:
            return out
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None = None) -> Any:
        query, key, value, out, lse = ctx.saved_tensors
        choice, scale = ctx.rest
        needs = ctx.needs_input_grad
        if grad_out is not None and grad_lse is None and _is_plain_backward(grad_out):
            grads = choice.short.backward_plain(grad_out, query, key, value, scale, out, lse, needs)
            return *grads, None, None, None
        call = Lowered(query, [key], [value], scale=scale)
        needs = (*needs[:3], False)
        grad_query, grad_keys, grad_values, _ = gradients(grad_out, grad_lse, call, out, lse, needs, choice)
        return (
            grad_query if needs[0] else None,
            grad_keys[0] if needs[1] else None,
            grad_values[0] if needs[2] else None,
            None,
            None,
            None,
        )


# Function.apply without its Python half, which handles setup_context and torch.func: neither comes this way.
plain_attention = super(torch.autograd.Function, PlainAttention).apply


def _is_plain_backward(grad_out: Tensor) -> bool:
    """No second derivative, and nothing that traces or transforms the backward."""
    if torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(grad_out):
        return False
    return routing.route((grad_out,)) == "eager"


class AttentionBackward(torch.autograd.Function):
    """``attention_backward`` with a gradient of its own, by the reference: the raw op differentiated again.

    ``run`` is the op below autograd; ``tensors`` are grad_out, grad_lse, query, keys, values, bias, flat.
    """

    @staticmethod
    def forward(
        ctx: Any, run: Callable[[], Gradients], call: Lowered, needs: Sequence[bool], *tensors: Tensor | None
    ) -> Any:
        grads = run()
        start, stop, visible, exact, _, kind, zero, seed, cu_q, cu_k, *numbers = call[3:]
        ctx.save_for_backward(*tensors, start, stop, visible, exact, seed, cu_q, cu_k)
        ctx.rest = (len(call.keys), kind, zero, numbers, list(needs))
        return grads[0], *grads[1], *grads[2], *grads[3]

    @staticmethod
    def backward(ctx: Any, *second: Tensor) -> Any:
        grad_out, grad_lse, query, *tensors, start, stop, visible, exact, seed, cu_q, cu_k = ctx.saved_tensors
        count, kind, zero, numbers, needs = ctx.rest
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            inputs = [None if t is None else op_rules.fresh(t, True) for t in (grad_out, grad_lse, query, *tensors)]
            operands = inputs[3:]
            call = Lowered(
                inputs[2], operands[:count], operands[count : 2 * count], start, stop, visible, exact,
                operands[2 * count :], kind, zero, seed, cu_q, cu_k, *numbers,
            )  # fmt: skip
            first = differentiable_backward(inputs[0], inputs[1], call, needs)
            flat = [first[0], *first[1], *first[2], *first[3]]
            pairs = [(value, grad) for value, grad in zip(flat, second, strict=True) if value.requires_grad]
            outputs, upstream = [value for value, _ in pairs], [grad for _, grad in pairs]
            wanted = [t for t in inputs if t is not None]
            found = iter(
                torch.autograd.grad(
                    outputs, wanted, upstream, create_graph=create_graph, allow_unused=True, materialize_grads=True
                )
            )
        return None, None, None, *(None if t is None else next(found) for t in inputs)
