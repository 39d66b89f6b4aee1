"""Products added up term after term: the other order in which a naive path may add.

The tolerance rule measures the rounding of the naive path where torch adds in blocks and lanes. Errors of a sum of
different terms average out in any order. Those of equal terms do not: each addition of the same number to a sum of
about the same size rounds the same way, so that a chain of n terms drifts by up to n / 2 eps, while blocks may happen
to be exact. Rows of one number, or embeddings of one feature, are such sums, and a correct kernel may add them either
way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

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
    for column, row in zip(a.unbind(1), b.unbind(0), strict=True):
        out.addcmul_(column[:, None], row)
    return out
