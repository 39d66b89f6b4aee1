"""The torch.library ops `mmkernels::concat_fusion_forward` and `concat_fusion_backward` with all their rules.

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
from mmkernels.ops.fusion import cpu, cuda, reference, triton
from mmkernels.precision import accumulate_dtype, sum_to

backends.register("concat_fusion", {"cpu": cpu, "cuda": cuda, "triton": triton, "reference": reference})

# save: whether `product`, which only the backward reads, is wanted; without it the backward multiplies again.
_OPERANDS = "Tensor[] inputs, Tensor weight, Tensor? bias, Tensor? norm_weight, Tensor? norm_bias, Tensor? gate"
_SETTINGS = "int norm_kind, float eps, str activation"
_library = torch.library.Library("mmkernels", "FRAGMENT")
_library.define(
    f"concat_fusion_forward({_OPERANDS}, Tensor? residual, {_SETTINGS}, bool save, str? backend) "
    "-> (Tensor out, Tensor product, Tensor mean, Tensor rstd)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    f"concat_fusion_backward(Tensor grad_out, {_OPERANDS}, {_SETTINGS}, Tensor product, Tensor mean, Tensor rstd, "
    "bool[] needs, str? backend) -> (Tensor[] grad_inputs, Tensor grad_weight, Tensor grad_bias, "
    "Tensor grad_norm_weight, Tensor grad_norm_bias, Tensor grad_gate)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_forward_op = torch.ops.mmkernels.concat_fusion_forward.default
_backward_op = torch.ops.mmkernels.concat_fusion_backward.default


def _select(
    direction: str, inputs: Sequence[Tensor], weight: Tensor, parameters: Sequence[Tensor | None], backend: str | None
) -> Any:
    shapes = (*[x.shape for x in inputs], weight.shape)
    dtypes = frozenset([p.dtype for p in parameters if p is not None])
    problem = backends.Problem(f"concat_fusion_{direction}", weight.device, weight.dtype, shapes, other_dtypes=dtypes)
    return backends.select(problem, backend)


def forward(inputs: Sequence[Tensor], weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The chosen backend's forward, with the op's arguments."""
    return _select("forward", inputs, weight, rest[:5], rest[-1]).forward(inputs, weight, *rest[:-1])


def backward(grad_out: Tensor, inputs: Sequence[Tensor], weight: Tensor, *rest: Any) -> Any:
    """The chosen backend's backward, with the op's arguments."""
    return _select("backward", inputs, weight, rest[:4], rest[-1]).backward(grad_out, inputs, weight, *rest[:-1])


_library.impl("concat_fusion_forward", forward, "CompositeExplicitAutograd")
_library.impl("concat_fusion_backward", backward, "CompositeExplicitAutograd")


@torch.library.register_fake("mmkernels::concat_fusion_forward", lib=_library)
def _fake_forward(
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
    save: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, acc = reference.rows_shape(inputs), accumulate_dtype(weight.dtype)
    shape = (*rows, weight.shape[0])
    saved = save and reference.saves_product(norm_kind, activation, gate is not None)
    return (
        weight.new_empty(shape, dtype=reference.output_dtype(weight.dtype, residual)),
        weight.new_empty(shape if saved else (0,)),
        weight.new_empty((*rows, 1) if norm_kind == reference.NORM_LAYER else (0,), dtype=acc),
        weight.new_empty((0,) if norm_kind == reference.NORM_NONE else (*rows, 1), dtype=acc),
    )


@torch.library.register_fake("mmkernels::concat_fusion_backward", lib=_library)
def _fake_backward(grad_out: Tensor, inputs: Sequence[Tensor], weight: Tensor, *rest: Any) -> Any:
    needs = rest[-2]

    def gradient(tensor: Tensor | None, needed: bool) -> Tensor:
        return tensor.new_empty(tensor.shape) if needed and tensor is not None else weight.new_empty(0)

    parameters = zip((weight, *rest[:4]), needs[len(inputs) :], strict=True)
    return (
        [gradient(x, need) for x, need in zip(inputs, needs, strict=False)],
        *(gradient(p, need) for p, need in parameters),
    )


class Derivative(op_rules.Derivative):
    """Operands: [*inputs, weight, bias, norm_weight, norm_bias, gate], then in the forward the residual, not kept."""

    def __init__(
        self, count: int, norm_kind: int, eps: float, activation: str, backend: str | None, residual: Tensor | None
    ):
        self.count, self.backend = count, backend
        self.settings: Any = (norm_kind, eps, activation)
        self.residual = None if residual is None else (residual.shape, residual.dtype)
        self.device = None if residual is None else residual.device

    def kept(self, operands: Tensors) -> Tensors:
        return [*operands[:-1], None]

    def backward(self, grad_out: Tensor, kept: Tensors, extras: Tensors, needs: Sequence[bool]) -> Tensors:
        tensors = (grad_out, *kept, *extras)
        call: Callable[..., Any] = backward if routing.route(tensors) == "eager" else _backward_op
        n = self.count
        result = call(grad_out, kept[:n], *kept[n:-1], *self.settings, *extras, list(needs[:-1]), self.backend)
        return [*result[0], *result[1:], None]

    def reference(self, kept: Tensors) -> Tensor:
        # A residual of nothing keeps the dtype that it gave the output, which grad_out has.
        residual = None if self.residual is None else torch.zeros((), dtype=self.residual[1], device=self.device)
        call: Any = (kept[: self.count], *kept[self.count : self.count + 5], residual, *self.settings)
        return reference.concat_fusion(*call)

    def rest(self, grad_out: Tensor, gradients: Tensors, needs: Sequence[bool]) -> Tensors:
        if self.residual is None or not needs[-1]:
            return gradients
        shape, dtype = self.residual
        return [*gradients[:-1], sum_to(grad_out, shape).to(dtype)]


def _autograd_forward(keyset: Any, *args: Any) -> Any:
    inputs, parameters, (norm_kind, eps, activation, _, backend) = args[0], args[1:7], args[7:]
    operands = (*inputs, *parameters)
    op_rules.refuse_levels(_forward_op, operands, "concat_fusion")

    def run() -> Any:
        return op_rules.below_autograd(_forward_op, keyset, args)

    if not op_rules.wants_gradient(operands):
        return run()
    derivative = Derivative(len(inputs), norm_kind, eps, activation, backend, parameters[-1])
    return op_rules.FirstOrder.apply(run, derivative, *operands)


def _autograd_backward(keyset: Any, *args: Any) -> Any:
    (grad_out, inputs), parameters, (norm_kind, eps, activation, *_, needs, backend) = args[:2], args[2:7], args[7:]
    operands = (*inputs, *parameters)
    op_rules.refuse_levels(_backward_op, (grad_out, *operands), "concat_fusion")

    def run() -> list[Tensor]:
        grad_inputs, *rest = op_rules.below_autograd(_backward_op, keyset, args)
        return [*grad_inputs, *rest]

    if op_rules.wants_gradient((grad_out, *operands)):
        derivative = Derivative(len(inputs), norm_kind, eps, activation, backend, None)
        flat = op_rules.SecondOrder.apply(run, derivative, needs, grad_out, *operands)
    else:
        flat = run()
    return list(flat[: len(inputs)]), *flat[len(inputs) :]


_library.impl("concat_fusion_forward", _autograd_forward, "Autograd", with_keyset=True)
_library.impl("concat_fusion_backward", _autograd_backward, "Autograd", with_keyset=True)

# The operands of the matrix product follow autocast; bias, norm, gate and residual keep their dtype.
for _device in ("cpu", "cuda"):
    _kernel = op_rules.autocast_kernel(_forward_op, _device, operands=2)
    _library.impl("concat_fusion_forward", _kernel, f"Autocast{_device.upper()}", with_keyset=True)


@torch.library.register_vmap("mmkernels::concat_fusion_forward", lib=_library)
def _vmap_forward(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    inputs = args[0]
    source_dims = [None] * len(inputs) if in_dims[0] is None else in_dims[0]
    if all(dim is None for dim in source_dims) or any(dim is not None for dim in in_dims[1:5]):
        return op_rules.looped_vmap(_forward_op, info, in_dims, args)
    # A further leading axis of the rows: every operand that has it is given the joint rank.
    rank = max(x.dim() - (dim is not None) for x, dim in zip(inputs, source_dims, strict=True))

    def leading(x: Tensor | None, dim: int | None) -> Tensor | None:
        if x is None or dim is None:
            return x
        x = x.movedim(dim, 0)
        return x.reshape(x.shape[0], *[1] * (rank + 1 - x.dim()), *x.shape[1:])

    inputs = [leading(x, dim) for x, dim in zip(inputs, source_dims, strict=True)]
    gate, residual = leading(args[5], in_dims[5]), leading(args[6], in_dims[6])
    result = _forward_op(inputs, *args[1:5], gate, residual, *args[7:])
    # An output that is not wanted has shape (0,), the others have at least the two axes (batch, out).
    return result, tuple(None if part.dim() == 1 else 0 for part in result)


@torch.library.register_vmap("mmkernels::concat_fusion_backward", lib=_library)
def _vmap_backward(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    return op_rules.looped_vmap(_backward_op, info, in_dims, args)
