"""What concat-fusion is held to: the whole call in fp64, by the rule of the tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.accuracy import Reference
from bench.fusion.plain import concatenated, plain
from bench.fusion.problems import EPS, Call


def reference(call: Call) -> Reference:
    """fp64 results, and the rule's bounds around them; the naive path is in the dtype of the call."""
    from tests.tolerance import tolerance

    wide = _with(call, lambda x: x.to(torch.float64))
    expected = _results(wide, lambda each: plain(*each.operands()))
    naive = _results(_with(call, Tensor.clone), lambda each: plain(*each.operands()))
    rstd = _rstd(wide)
    terms = _results(_with(wide, Tensor.abs), lambda sizes: _terms(sizes, rstd))
    return Reference(
        expected, {name: tolerance(call.dtype, x, naive[name], terms[name]) for name, x in expected.items()}
    )


def _with(call: Call, change: Callable[[Tensor], Tensor]) -> Call:
    """The call on changed operands, leaves of gradients as before."""
    leaves = {name: change(leaf.detach()).requires_grad_(call.backward) for name, leaf in call.leaves().items()}
    return call.replaced(leaves, None if call.grad is None else change(call.grad))


def _results(call: Call, function: Callable[[Call], Tensor]) -> dict[str, Tensor]:
    out, leaves = function(call), call.leaves()
    if call.grad is None:
        return {"out": out}
    grads = torch.autograd.grad(out, list(leaves.values()), call.grad)
    return {"out": out.detach(), **{f"grad {name}": grad for name, grad in zip(leaves, grads)}}


def _rstd(call: Call) -> Tensor | None:
    if not call.full:
        return None
    return (concatenated(call.inputs).detach().var(-1, keepdim=True, correction=0) + EPS).rsqrt()


def _terms(sizes: Call, rstd: Tensor | None) -> Tensor:
    """The absolute products behind every result: the call on magnitudes, with the norm's deviation held fixed.

    Neither gelu nor its derivative is larger than what goes in, but for an eighth.
    """
    x = concatenated(sizes.inputs)
    if rstd is None:
        return F.linear(x, sizes.weight, sizes.bias)
    assert sizes.norm_weight is not None and sizes.norm_bias is not None
    assert sizes.residual is not None and sizes.gate is not None
    x = (x + x.mean(-1, keepdim=True)) * rstd * sizes.norm_weight + sizes.norm_bias
    return sizes.residual + sizes.gate * F.linear(x, sizes.weight, sizes.bias)
