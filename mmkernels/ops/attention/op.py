"""The torch.library ops ``mmkernels::attention_forward`` and ``attention_backward`` with all their rules.

Schemas as in docs/architecture.md. Rules: fake, autograd, autocast, vmap. Under a ``torch.func`` level that
differentiates and for dual tensors the raw ops raise: the public functions choose the reference there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmkernels import backend as backends
from mmkernels import op_rules
from mmkernels.layout import empty_gradient, empty_like_query
from mmkernels.ops.attention import cpu, cuda, reference, triton, vmap
from mmkernels.ops.attention.autograd import Attention, AttentionBackward, Choice, Gradients
from mmkernels.ops.attention.lowered import Lowered, empty_lse, problem_of

backends.register("attention", {"cpu": cpu, "cuda": cuda, "triton": triton, "reference": reference})

_CALL = (
    "Tensor query, Tensor[] keys, Tensor[] values, Tensor? start, Tensor? stop, Tensor? visible, "
    "Tensor? interval_exact, Tensor[] bias, int bias_kind, SymInt relative_zero, Tensor? seed, "
    "Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, float scale, float softcap, float dropout_p, "
    "bool unmask_empty_rows, SymInt[] offsets"
)
_LENGTH = len(Lowered._fields)
# The layout of the outputs follows the operands' strides, so a compiler must keep those that it traced with.
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)

_library = torch.library.Library("mmkernels", "FRAGMENT")
_library.define(f"attention_forward({_CALL}, str? backend) -> (Tensor out, Tensor lse)", tags=_TAGS)
_library.define(
    f"attention_backward(Tensor grad_out, Tensor? grad_lse, {_CALL}, Tensor out, Tensor lse, bool[] needs, "
    "str? backend) -> (Tensor grad_query, Tensor[] grad_keys, Tensor[] grad_values, Tensor[] grad_bias)",
    tags=_TAGS,
)
forward_op = torch.ops.mmkernels.attention_forward.default
backward_op = torch.ops.mmkernels.attention_backward.default


def _forward(*args: Any) -> tuple[Tensor, Tensor]:
    call, name = Lowered(*args[:-1]), args[-1]
    return backends.select(problem_of(call, "forward"), name).forward(call, True)


def _backward(grad_out: Tensor, grad_lse: Tensor | None, *args: Any) -> Gradients:
    call, (out, lse, needs, name) = Lowered(*args[:_LENGTH]), args[_LENGTH:]
    return backends.select(problem_of(call, "backward"), name).backward(grad_out, grad_lse, call, out, lse, needs)


_library.impl("attention_forward", _forward, "CompositeExplicitAutograd")
_library.impl("attention_backward", _backward, "CompositeExplicitAutograd")


@torch.library.register_fake("mmkernels::attention_forward", lib=_library)
def _fake_forward(*args: Any) -> tuple[Tensor, Tensor]:
    call = Lowered(*args[:-1])
    out = empty_like_query(call.query, call.values[0].shape[-1])
    return out, empty_lse(call.query, call.cu_seqlens_q is not None)


@torch.library.register_fake("mmkernels::attention_backward", lib=_library)
def _fake_backward(grad_out: Tensor, grad_lse: Tensor | None, *args: Any) -> Gradients:
    call, needs = Lowered(*args[:_LENGTH]), args[_LENGTH + 2]
    return (
        empty_gradient(call.query) if needs[0] else call.query.new_empty((0,)),
        [empty_gradient(tensor) for tensor in call.keys] if needs[1] else [],
        [empty_gradient(tensor) for tensor in call.values] if needs[2] else [],
        [torch.empty_like(part, memory_format=torch.contiguous_format) for part in call.bias] if needs[3] else [],
    )


def _autograd_forward(keyset: Any, *args: Any) -> tuple[Tensor, Tensor]:
    call, name = Lowered(*args[:-1]), args[-1]
    operands = (call.query, *call.keys, *call.values, *call.bias)
    op_rules.refuse_levels(forward_op, operands, "attention")
    if not op_rules.wants_gradient(operands):
        return op_rules.below_autograd(forward_op, keyset, args)

    def run(call: Lowered, with_lse: bool) -> tuple[Tensor, Tensor]:
        return op_rules.below_autograd(forward_op, keyset, (*call, name))

    return Attention.apply(run, call, Choice(name), True, *operands)


def _autograd_backward(keyset: Any, grad_out: Tensor, grad_lse: Tensor | None, *args: Any) -> Gradients:
    call, (_, _, needs, _) = Lowered(*args[:_LENGTH]), args[_LENGTH:]
    operands = (grad_out, grad_lse, call.query, *call.keys, *call.values, *call.bias)
    op_rules.refuse_levels(backward_op, operands, "attention")

    def run() -> Gradients:
        return op_rules.below_autograd(backward_op, keyset, (grad_out, grad_lse, *args))

    if not op_rules.wants_gradient(operands):
        return run()
    flat = iter(AttentionBackward.apply(run, call, needs, *operands))
    return (
        next(flat),
        [next(flat) for _ in call.keys] if needs[1] else [],
        [next(flat) for _ in call.values] if needs[2] else [],
        [next(flat) for _ in call.bias] if needs[3] else [],
    )


_library.impl("attention_forward", _autograd_forward, "Autograd", with_keyset=True)
_library.impl("attention_backward", _autograd_backward, "Autograd", with_keyset=True)


# Query, keys and values (the first three arguments) go to autocast's dtype; bias, seed and lse keep theirs.
_library.impl("attention_forward", op_rules.autocast_kernel(forward_op, "cpu", 3), "AutocastCPU", with_keyset=True)
_library.impl("attention_forward", op_rules.autocast_kernel(forward_op, "cuda", 3), "AutocastCUDA", with_keyset=True)

torch.library.register_vmap("mmkernels::attention_forward", vmap.forward, lib=_library)
torch.library.register_vmap("mmkernels::attention_backward", vmap.backward, lib=_library)
