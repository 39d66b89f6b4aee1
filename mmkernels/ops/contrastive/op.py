"""The torch.library ops `mmkernels::contrastive_loss_forward` and `contrastive_loss_backward` with all their rules.

Rules: fake, autograd, autocast, vmap. Under a torch.func level that differentiates and for dual tensors the raw ops
raise: the public function chooses the reference there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkernels import backend as backends
from mmkernels import op_rules, routing
from mmkernels.op_rules import Tensors
from mmkernels.ops.contrastive import cpu, cuda, reference, triton
from mmkernels.ops.contrastive.statistics import backward_with, forward_and_gradients_with, forward_with
from mmkernels.precision import accumulate_dtype

backends.register("contrastive_loss", {"cpu": cpu, "cuda": cuda, "triton": triton, "reference": reference})

_CALL = (
    "Tensor image, Tensor text, Tensor logit_scale, Tensor? logit_bias, Tensor? targets, str kind, "
    "float label_smoothing, str reduction"
)
_library = torch.library.Library("mmkernels", "FRAGMENT")
_library.define(
    f"contrastive_loss_forward({_CALL}, str? backend) -> (Tensor loss, Tensor row_stats, Tensor column_stats)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    f"contrastive_loss_backward(Tensor grad_loss, {_CALL}, Tensor row_stats, Tensor column_stats, bool[] needs, "
    "str? backend) -> (Tensor grad_image, Tensor grad_text, Tensor grad_logit_scale, Tensor grad_logit_bias)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_forward_op = torch.ops.mmkernels.contrastive_loss_forward.default
_backward_op = torch.ops.mmkernels.contrastive_loss_backward.default


def select(direction: str, image: Tensor, text: Tensor, backend: str | None) -> Any:
    """The backend, by its name or the first that can."""
    problem = backends.Problem(
        f"contrastive_loss_{direction}", image.device, image.dtype, (tuple(image.shape), tuple(text.shape))
    )
    return backends.select(problem, backend)


def forward(image: Tensor, text: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The op's forward on the chosen backend, with the op's arguments."""
    return forward_with(select("forward", image, text, rest[-1]), image, text, *rest[:-1])


def backward(grad_loss: Tensor, image: Tensor, text: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The op's backward on the chosen backend, with the op's arguments."""
    return backward_with(select("backward", image, text, rest[-1]), grad_loss, image, text, *rest[:-1])


_library.impl("contrastive_loss_forward", forward, "CompositeExplicitAutograd")
_library.impl("contrastive_loss_backward", backward, "CompositeExplicitAutograd")


@torch.library.register_fake("mmkernels::contrastive_loss_forward", lib=_library)
def _fake_forward(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None,
    targets: Tensor | None,
    kind: str,
    label_smoothing: float,
    reduction: str,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    acc = accumulate_dtype(image.dtype)
    softmax = kind == "softmax"
    return (
        image.new_empty((image.shape[0],) if reduction == "none" else (), dtype=acc),
        image.new_empty((2, image.shape[0]) if softmax else (0,), dtype=acc),
        image.new_empty((2, text.shape[0]) if softmax else (0,), dtype=acc),
    )


@torch.library.register_fake("mmkernels::contrastive_loss_backward", lib=_library)
def _fake_backward(grad_loss: Tensor, *args: Any) -> tuple[Tensor, ...]:
    needs = args[-2]
    return tuple(
        args[0].new_empty(0) if tensor is None or not need else tensor.new_empty(tensor.shape)
        for tensor, need in zip(args[:4], needs, strict=True)
    )


class Derivative(op_rules.Derivative):
    """Operands: [image, text, logit_scale, logit_bias]."""

    def __init__(self, targets: Tensor | None, kind: str, label_smoothing: float, reduction: str, backend: str | None):
        self.backend = backend
        self.rest_of_call: Any = (targets, kind, label_smoothing, reduction)

    def backward(self, grad_out: Tensor, kept: Tensors, extras: Tensors, needs: Sequence[bool]) -> Tensors:
        call: Callable[..., Any] = backward if routing.route((grad_out, *kept, *extras)) == "eager" else _backward_op
        return call(grad_out, *kept, *self.rest_of_call, *extras, list(needs), self.backend)

    def reference(self, kept: Tensors) -> Tensor:
        operands: Any = kept
        return reference.contrastive_loss(*operands, *self.rest_of_call)


class ReadyDerivative(Derivative):
    """Of a loss that came with its gradients for a gradient of 1, the extras."""

    def backward(self, grad_out: Tensor, kept: Tensors, extras: Tensors, needs: Sequence[bool]) -> Tensors:
        return [
            (ready * grad_out).to(operand.dtype) if need and operand is not None and ready is not None else None
            for need, operand, ready in zip(needs, kept, extras, strict=True)
        ]


def recorded(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None,
    targets: Tensor | None,
    kind: str,
    label_smoothing: float,
    reduction: str,
    backend: str | None,
) -> Tensor:
    """The loss of plain tensors as autograd records it: straight on the backends, without the ops.

    The slopes of a sigmoid loss need no statistics, and where it is reduced all rows share one factor, the gradient to
    come: they are made with the loss, in three products instead of four.
    """
    operands = (image, text, logit_scale, logit_bias)
    rest = (targets, kind, label_smoothing, reduction, backend)
    if kind == "softmax" or reduction == "none":
        loss: Tensor = op_rules.FirstOrder.apply(lambda: forward(*operands, *rest), Derivative(*rest), *operands)[0]
        return loss
    needs = [operand is not None and operand.requires_grad for operand in operands]

    def run() -> Tensors:
        kernels = select("forward", image, text, backend)
        return forward_and_gradients_with(kernels, *operands, targets, label_smoothing, reduction, needs)

    loss = op_rules.FirstOrder.apply(run, ReadyDerivative(*rest), *operands)[0]
    return loss


def _autograd_forward(keyset: Any, *args: Any) -> Any:
    op_rules.refuse_levels(_forward_op, args[:4], "contrastive_loss")

    def run() -> Any:
        return op_rules.below_autograd(_forward_op, keyset, args)

    if not op_rules.wants_gradient(args[:4]):
        return run()
    return op_rules.FirstOrder.apply(run, Derivative(*args[4:]), *args[:4])


def _autograd_backward(keyset: Any, grad_loss: Tensor, *args: Any) -> Any:
    operands, settings, needs = args[:4], (*args[4:8], args[-1]), args[-2]
    op_rules.refuse_levels(_backward_op, (grad_loss, *operands), "contrastive_loss")

    def run() -> Any:
        return op_rules.below_autograd(_backward_op, keyset, (grad_loss, *args))

    if not op_rules.wants_gradient((grad_loss, *operands)):
        return run()
    return op_rules.SecondOrder.apply(run, Derivative(*settings), needs, grad_loss, *operands)


_library.impl("contrastive_loss_forward", _autograd_forward, "Autograd", with_keyset=True)
_library.impl("contrastive_loss_backward", _autograd_backward, "Autograd", with_keyset=True)

# The operands of the matrix product follow autocast; scale and bias keep their dtype.
for _device in ("cpu", "cuda"):
    _kernel = op_rules.autocast_kernel(_forward_op, _device, operands=2)
    _library.impl("contrastive_loss_forward", _kernel, f"Autocast{_device.upper()}", with_keyset=True)


@torch.library.register_vmap("mmkernels::contrastive_loss_forward", lib=_library)
def _vmap_forward(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    return op_rules.looped_vmap(_forward_op, info, in_dims, args)


@torch.library.register_vmap("mmkernels::contrastive_loss_backward", lib=_library)
def _vmap_backward(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    return op_rules.looped_vmap(_backward_op, info, in_dims, args)
