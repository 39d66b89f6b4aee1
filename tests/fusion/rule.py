"""The tolerance rule of `tests/tolerance.py` for concat_fusion: what it allows for one call, element by element.

Two sums of absolute terms stand behind each element. `terms` are rounded to the dtype of the operands: the result
itself, and in the backward the saved product u, whose rounding moves act'. `inner` are those of the fp32 sums within:
the products, and for a norm each feature as |x| + mean |x|, because it is centred. `rounded` says that a backend rounds
normalised features and dz to the dtype where it multiplies them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mmkernels.ops.fusion.reference import matrix
from tests.fusion.naive import ACTIVATIONS, EPS, Case, Operands, fused, gradients, naive
from tests.one_chain import faults_in_any_order
from tests.tolerance import explain, tolerance

LIPSCHITZ = 1.2
"""No activation, and no smooth one's derivative, is steeper: gelu' is 1.13 at most, gelu'' 0.8."""


class Expectation:
    """What the rule allows for the output and every gradient of one call."""

    def __init__(self, case: Case, operands: Operands, grad: Tensor | None = None, rounded: bool = False) -> None:
        self.case, self.operands = case, operands
        self.dtype = operands.inputs[0].dtype
        self.rounds_features = rounded and case.norm is not None
        wide = operands.to(torch.float64)
        out = naive(case, wide)
        residual = operands.rest["residual"]
        self.out_dtype = self.dtype if residual is None else torch.promote_types(self.dtype, residual.dtype)
        if grad is None:
            grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(self.out_dtype)
        self.grad = grad
        self.reference = {"out": out.detach(), **gradients(out, wide, grad)}
        self._low = operands.to(torch.float32)
        self.naive = self._naive()
        self.terms, self.inner = absolute_sums(case, wide, grad.double(), self.dtype, rounded)

    def run(self, backend: str | None, device: str = "cpu") -> dict[str, Tensor]:
        """The call's results, forward and backward."""
        operands = self.operands.on(device)
        out = fused(self.case, operands, backend=backend)
        found = {"out": out.detach(), **gradients(out, operands, self.grad.to(device))}
        return {name: tensor.cpu() for name, tensor in found.items()}

    def check(self, backend: str | None, device: str = "cpu") -> dict[str, Tensor]:
        """Run the call on a backend and hold every result to the rule; returns the results."""
        found = self.run(backend, device)
        faults = self.faults(found)
        assert not faults, "\n".join([*faults, repr(self.case)])
        return found

    def faults(self, found: Mapping[str, Tensor]) -> list[str]:
        """Sentences that say how results break the rule, in whichever order the naive path adds."""
        return faults_in_any_order(partial(self._faults, found), self._naive, self.naive, self.reference)

    def _naive(self) -> dict[str, Tensor]:
        out = naive(self.case, self._low)
        return {"out": out.detach(), **gradients(out, self._low, self.grad)}

    def _faults(self, found: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> list[str]:
        faults = []
        dtypes = {name: tensor.dtype for name, tensor in self.operands.named().items()} | {"out": self.out_dtype}
        assert found.keys() == dtypes.keys()
        for name, tensor in found.items():
            if tensor.dtype != dtypes[name]:
                faults.append(f"{name} has dtype {tensor.dtype}, expected {dtypes[name]}")
                continue
            # The gradient of an fp32 parameter inherits the rounding of the saved product; an fp32 output has none but
            # that of the normalised features.
            inherits = self.dtype != torch.float32 and (name not in ("out", "residual") or self.rounds_features)
            bound = tolerance(
                tensor.dtype, self.reference[name], plain[name].to(tensor.dtype), self.terms[name],
                self.inner[name], self.dtype if inherits else None,
            )  # fmt: skip
            faults += explain(name, tensor, self.reference[name], bound)
        return faults


@dataclass
class _Sums:
    """Absolute sums of one kind that the gradients are made of: features, u, z as the backward sees it, act, dz."""

    features: Tensor
    u: Tensor
    z: Tensor
    act: Tensor
    dz: Tensor


def absolute_sums(
    case: Case, operands: Operands, grad: Tensor, dtype: torch.dtype, rounded: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(terms, inner) behind the output and every gradient, from the fp64 operands."""
    rest = {name: None if tensor is None else tensor.detach() for name, tensor in operands.rest.items()}
    absolute = {name: None if tensor is None else tensor.abs() for name, tensor in rest.items()}
    inputs = [x.detach() for x in operands.inputs]
    rows = torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
    x = torch.cat([x.expand(*rows, -1) for x in inputs], -1)
    weight, rstd = absolute["weight"], torch.ones((), dtype=torch.float64)
    features, spread = x, x.abs()
    if case.norm:
        centred = x - x.mean(-1, keepdim=True) if case.norm == "layer" else x
        rstd = (centred.square().mean(-1, keepdim=True) + EPS).rsqrt()
        features = centred * rstd
        if case.norm == "layer":
            own = [p.abs().mean(-1, keepdim=True).expand_as(p) for p in inputs if p.shape[-1]]
            own_means = torch.cat([p.expand(*rows, -1) for p in own], -1)
            spread = spread + spread.mean(-1, keepdim=True) + own_means
        spread = spread * rstd
    scaled = features if rest["norm_weight"] is None else features * rest["norm_weight"]
    norm_weight = 1 if absolute["norm_weight"] is None else absolute["norm_weight"]
    norm_bias = 0 if absolute["norm_bias"] is None else absolute["norm_bias"]

    # Forward: u, the constant row, z, the activation
    u = scaled @ rest["weight"].T
    constant = torch.zeros(case.out, dtype=torch.float64)
    constant = constant if rest["bias"] is None else constant + rest["bias"]
    constant = constant if rest["norm_bias"] is None else constant + rest["weight"] @ rest["norm_bias"]
    z = (u + constant).requires_grad_()
    act = ACTIVATIONS[case.activation](z)
    slope = torch.autograd.grad(act, z, torch.ones_like(act))[0].abs() if act.numel() else torch.ones_like(z)
    z, act = z.detach(), act.detach().abs()
    products = (features.abs() * norm_weight) @ weight.T
    inner_u = (spread * norm_weight) @ weight.T
    shift = norm_bias @ weight.T if torch.is_tensor(norm_bias) else 0
    inner_z = inner_u + shift + (0 if absolute["bias"] is None else absolute["bias"])
    gate = torch.ones((), dtype=torch.float64) if rest["gate"] is None else absolute["gate"]
    residual = 0 if rest["residual"] is None else absolute["residual"]
    multiplied = products if rounded and case.norm else 0
    # Below the smallest normal number the saved product's rounding is absolute.
    outer_u = u.abs().clamp(min=torch.finfo(dtype).smallest_normal) + multiplied
    outer_z = outer_u + constant.abs()
    outer_act = act + LIPSCHITZ * multiplied
    inner_act = act + LIPSCHITZ * inner_z

    # dz: how far act' moves with z, all of it where relu's kink is within the rounding of z
    def dz(z_sum: Tensor, eps: float) -> Tensor:
        moved = LIPSCHITZ * z_sum
        if case.activation == "relu":
            moved = (z.abs() <= 4 * eps * z_sum) / eps
        elif case.activation is None:
            moved = torch.zeros_like(z)
        return grad.abs() * gate * (slope + moved)

    eps, eps32 = torch.finfo(dtype).eps, torch.finfo(torch.float32).eps
    outer = _Sums(features.abs(), outer_u, outer_z, outer_act, dz(outer_z, eps))
    within = _Sums(spread, inner_u, inner_z, inner_act, dz(inner_z, eps32))
    terms = {"out": gate * outer_act + residual, **dict(_gradients(case, operands, outer, grad, rstd))}
    inner = {"out": gate * inner_act + residual, **dict(_gradients(case, operands, within, grad, rstd))}
    return terms, inner


def _gradients(case: Case, operands: Operands, sums: _Sums, grad: Tensor, rstd: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The sums behind each gradient: the backward's formulas on absolute values."""
    absolute = {name: None if tensor is None else tensor.detach().abs() for name, tensor in operands.rest.items()}
    weight, norm_weight, norm_bias = absolute["weight"], absolute["norm_weight"], absolute["norm_bias"]
    scale = torch.ones((), dtype=torch.float64) if norm_weight is None else norm_weight
    features, dz = matrix(sums.features), matrix(sums.dz)
    width = max(case.width, 1)

    dx = sums.dz @ (weight * scale)
    if case.norm:
        level = dx.sum(-1, keepdim=True) / width if case.norm == "layer" else 0
        dx = rstd * (dx + level + sums.features * (sums.dz * sums.u).sum(-1, keepdim=True) / width)
    for i, (x, part) in enumerate(zip(operands.inputs, dx.split([x.shape[-1] for x in operands.inputs], -1))):
        yield f"inputs[{i}]", part.sum_to_size(x.shape)
    yield "weight", dz.T @ (features * scale) + (0 if norm_bias is None else torch.outer(dz.sum(0), norm_bias))
    yield "bias", dz.sum(0)
    yield "norm_weight", (weight * (dz.T @ features)).sum(0)
    yield "norm_bias", dz.sum(0) @ weight
    for name, sum_ in (("gate", grad.abs() * (sums.act + LIPSCHITZ * sums.z)), ("residual", grad.abs())):
        if absolute[name] is not None:
            yield name, sum_.sum_to_size(absolute[name].shape)
