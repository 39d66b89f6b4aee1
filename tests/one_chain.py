"""Products added up term after term: the other order in which a naive path may add.

The tolerance rule measures the rounding of the naive path where torch adds in blocks and lanes. Errors of a sum of
different terms average out in any order. Those of equal terms do not: each addition of the same number to a sum of
about the same size rounds the same way, so that a chain of n terms drifts by up to n / 2 eps. How far is a matter of
luck: of the number, of lanes and blocks. Rows of one number, or embeddings of one feature, are such sums, and a correct
kernel may have less luck than torch: here the addition of a term like the one before rounds up, by all that it may.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Results = Mapping[str, Tensor]
ALIKE = 0.01
"""Terms that differ by this part, signs aside, round alike."""
MATMUL = (torch.matmul, Tensor.matmul, Tensor.__matmul__)


class OneChain(TorchFunctionMode):
    """Within it `a @ b` of matrices and `F.linear`, and their gradients, add in one chain, in their own dtype."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func in MATMUL:
            return _Product.apply(*args)
        if func is F.linear:
            x, weight, bias = args
            out = _Product.apply(x.reshape(-1, x.shape[-1]), weight.T).view(*x.shape[:-1], weight.shape[0])
            return out if bias is None else out + bias
        return func(*args, **(kwargs or {}))


def faults_in_any_order(
    faults: Callable[[Results], list[str]], naive: Callable[[], Results], in_blocks: Results, reference: Results
) -> list[str]:
    """The faults of results beside a naive path, in whichever order it is farther from the reference.

    faults: of the results, should the naive path have found these; naive: runs it; in_blocks: what it finds as it is.
    """
    if not faults(in_blocks):
        return []
    with OneChain():
        chained = naive()

    def error(name: str, x: Tensor) -> float:
        distance = (x.double() - reference[name]).abs()
        finite = distance[distance.isfinite()]
        return finite.amax().item() if finite.numel() else 0.0

    return faults({n: max(in_blocks[n], chained[n], key=functools.partial(error, n)) for n in in_blocks})


class _Product(torch.autograd.Function):
    """a (N, K) @ b (K, M)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return _add_up(a, b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return _add_up(grad, b.T), _add_up(a.T, grad)


def _add_up(a: Tensor, b: Tensor) -> Tensor:
    out = a.new_zeros(a.shape[0], b.shape[1])
    roundings, before = torch.zeros_like(out), torch.zeros_like(out)
    for column, row in zip(a.unbind(1), b.unbind(0), strict=True):
        term = column[:, None] * row
        out += term
        term = term.abs()
        roundings += torch.where((term - before).abs() <= ALIKE * term, out.abs(), 0)
        before = term
    return out + torch.finfo(out.dtype).eps / 2 * roundings
