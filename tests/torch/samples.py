"""Sample calls of the raw attention ops: every kind of argument of the lowered call at least once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmkernels import _native
from mmkernels.bias import DecomposedBias, RelativeBias
from mmkernels.mask import Mask
from mmkernels.ops.attention import check, front
from mmkernels.ops.attention.lowered import Lowered

needs_native = pytest.mark.skipif(not _native.loaded, reason=f"no C++ library: {_native.why_not_loaded}")
BACKENDS = ["reference", pytest.param("cpu", marks=needs_native)]


def tensors(*shapes: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32, grad: bool = False) -> Any:
    """Normal tensors of these shapes."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(grad) for s in shapes]


def lowered(name: str, grad: bool = True) -> Lowered:
    """The lowered call of a sample."""
    return SAMPLES[name](grad)


def _operands(grad: bool) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    query, key, value = tensors((2, 4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 6), grad=grad)
    return query, [key], [value]


def _call(grad: bool, *, mask: Any = None, bias: Any = None, **options: Any) -> Lowered:
    query, keys, values = _operands(grad)
    numbers = {"scale": None, "softcap": None, "dropout_p": 0.0, "seed": None, "offsets": None} | options
    return front.lower(query, keys, values, mask, bias, *numbers.values())


def _segments(grad: bool) -> Lowered:
    query, *rest = tensors((2, 4, 5, 8), (2, 2, 3, 8), (1, 2, 4, 8), (2, 2, 3, 6), (1, 2, 4, 6), grad=grad)
    mask = Mask.key_lengths([torch.tensor([2, 3]), None])
    return front.lower(query, rest[:2], rest[2:], mask, None, None, None, 0.0, None, None, check.LISTED)


def _varlen(grad: bool) -> Lowered:
    query, key, value = tensors((9, 4, 8), (11, 2, 8), (11, 2, 8), grad=grad)
    (table,) = tensors((4, 11), seed=1, grad=grad)
    cu_q, cu_k = (torch.tensor(ends, dtype=torch.int32) for ends in ([0, 4, 4, 9], [0, 5, 5, 11]))
    return front.lower_varlen(
        query, key, value, cu_q, cu_k, Mask.causal(), RelativeBias(table[:, :10]), None, None, 0.0, None, None, 5, 6
    )


def _strided(grad: bool) -> Lowered:
    fused = tensors((2, 5, 3, 4, 8), grad=grad)[0]
    query, key, value = (part.transpose(1, 2) for part in fused.unbind(2))
    return front.lower(query, [key], [value], None, None, None, None, 0.0, None, None)


SAMPLES: dict[str, Any] = {
    "plain": lambda grad: _call(grad),
    "causal softcap": lambda grad: _call(grad, mask=Mask.causal("bottom_right"), softcap=2.0),
    "dense mask": lambda grad: _call(
        grad, mask=Mask.dense(torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(3)) > 0.4)
    ),
    "dense bias": lambda grad: _call(grad, bias=tensors((1, 4, 5, 7), seed=1, grad=grad)[0]),
    "relative bias": lambda grad: _call(grad, bias=RelativeBias(tensors((4, 11), seed=1, grad=grad)[0])),
    "decomposed bias": lambda grad: _call(
        grad, bias=DecomposedBias(*tensors((2, 4, 5, 7), (2, 4, 5, 1), seed=1, grad=grad))
    ),
    "dropout": lambda grad: _call(grad, dropout_p=0.3, seed=7, offsets=(1, 2, 3, 4)),
    "segments": _segments,
    "varlen": _varlen,
    "strided": _strided,
}
NAMES = list(SAMPLES)
