"""Small ragged problems, of fp16 and a head dim of at most 64, that planted bugs are looked for in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import mmkernels as mmk
from bench.attention.inputs import Inputs


@dataclass(frozen=True)
class Problem:
    """A call, and how the emulator is told to run it."""

    make: Callable[[], Inputs]
    options: Mapping[str, Any] = field(default_factory=dict)
    clean: Callable[[], Inputs] | None = None
    """The call whose values are all finite, for one with a causal mask where some are not."""
    same_with: Mapping[str, Any] | None = None
    """Other options, with which the output must have the same bits."""
    wrong: bool = False
    """It has no right answer."""


def call(
    rows: int,
    k_lens: tuple[int, ...],
    *,
    batch: int = 1,
    heads: int = 1,
    heads_k: int | None = None,
    dim: int = 64,
    dim_v: int | None = None,
    skip: int = 0,
    stride: int | None = None,
    change: Callable[[Tensor, list[Tensor], list[Tensor]], None] | None = None,
    mask: mmk.Mask | None = None,
    bias: Any = None,
    **options: Any,
) -> Inputs:
    """Normal operands; `skip` elements before each row's, rows `stride` elements apart; `change` may write to them."""
    random = torch.Generator().manual_seed(rows + sum(k_lens))

    def operand(count: int, length: int, width: int) -> Tensor:
        whole = torch.randn(batch, count, length, stride or width, generator=random).half()
        return whole[..., skip : skip + width]

    query = operand(heads, rows, dim)
    keys = [operand(heads_k or heads, length, dim) for length in k_lens]
    values = [operand(heads_k or heads, length, dim_v or dim) for length in k_lens]
    if change is not None:
        change(query, keys, values)
    return Inputs("attention", [query], keys, values, mask, bias, options=options)


def growing(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> None:
    """Logits whose maximum moves with every block of keys."""
    query.fill_(0.5)
    for key in keys:
        key.mul_(0.5).add_(torch.linspace(-4.0, 4.0, key.shape[2]).half()[:, None])


def opposed(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> None:
    """Logits far below 0, the logit of a key of zeros."""
    query.fill_(1.0)
    for key in keys:
        key.mul_(0.1).sub_(1.0)


def poisoned(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> None:
    """Values that are not finite, which the rows before do not see."""
    values[0][..., 20, 5], values[0][..., 90, 7], values[0][..., 100, 60] = torch.nan, torch.inf, -torch.inf


def varlen(cu_q: tuple[int, ...], cu_k: tuple[int, ...], rows: int, length: int) -> Inputs:
    """Packed sequences of two heads."""
    random = torch.Generator().manual_seed(rows)
    query, key, value = (torch.randn(count, 2, 64, generator=random).half() for count in (rows, length, length))
    ends_q, ends_k = (torch.tensor(cu, dtype=torch.int32) for cu in (cu_q, cu_k))
    return Inputs("varlen", [query], [key], [value], cu_seqlens_q=ends_q, cu_seqlens_k=ends_k)


def numbers(*shape: int, seed: int = 3) -> Tensor:
    """Of a normal distribution."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scattered() -> mmk.Mask:
    """A dense mask that no interval says."""
    return mmk.Mask.dense(numbers(2, 1, 37, 171) > 0.3)


def first_keys(*counts: int) -> mmk.Mask:
    """Of each segment."""
    return mmk.Mask.key_lengths([torch.tensor([count]) for count in counts])


def keys_between(start: int, stop: int, rows: int) -> mmk.Mask:
    """The same keys for every row."""
    ones = torch.ones(1, 1, 1, rows, dtype=torch.int32)
    return mmk.Mask.intervals(start * ones, stop * ones)


def rows_that_see(*counts: int) -> mmk.Mask:
    """Row i sees the first counts[i % len(counts)] keys."""
    stop = torch.tensor([counts[i % len(counts)] for i in range(37)], dtype=torch.int32).view(1, 1, 1, 37)
    return mmk.Mask.intervals(torch.zeros_like(stop), stop)


AT_THE_END = mmk.Mask.causal("bottom_right")
PLAIN, FEW, GENERAL = {"kind": "plain"}, {"kind": "few"}, {"kind": "general"}
PROBLEMS = {
    "causal": Problem(lambda: call(37, (171,), mask=AT_THE_END), PLAIN),
    "causal, one warp": Problem(lambda: call(16, (171,), mask=AT_THE_END), FEW),
    "causal, general": Problem(lambda: call(37, (171,), mask=AT_THE_END), GENERAL),
    "64 rows, general": Problem(lambda: call(64, (171,), mask=AT_THE_END), GENERAL),
    "159 keys": Problem(lambda: call(37, (159,), change=opposed), PLAIN),
    "from key 1": Problem(lambda: call(37, (171,), mask=keys_between(1, 171, 37)), PLAIN),
    "segments, one warp": Problem(lambda: call(16, (90, 171), mask=first_keys(77, 100)), FEW),
    "unseen segments": Problem(lambda: call(37, (20, 30, 40), mask=first_keys(0, 0, 35)), PLAIN),
    "no key is seen": Problem(lambda: call(37, (90,), mask=first_keys(0)), PLAIN),
    "empty rows": Problem(lambda: call(37, (90,), mask=rows_that_see(0, 9, 0, 85)), PLAIN),
    "growing": Problem(lambda: call(37, (400,), change=growing, scale=0.4), PLAIN),
    "growing, general": Problem(lambda: call(37, (400,), change=growing, scale=0.4), GENERAL),
    "grouped heads": Problem(lambda: call(70, (100,), heads=4, heads_k=2), PLAIN),
    "packed heads": Problem(lambda: call(5, (100,), heads=4, heads_k=2, mask=AT_THE_END), FEW),
    "splits": Problem(lambda: call(5, (1000, 300), mask=AT_THE_END), {"kind": "few", "processors": 64}),
    "splits and none": Problem(
        lambda: call(5, (1000, 300, 300), mask=AT_THE_END),
        {"kind": "few", "processors": 64},
        same_with={"kind": "few", "processors": 0},
    ),
    "splits, empty rows": Problem(
        lambda: call(37, (1000,), mask=rows_that_see(0, 9, 0, 990)), {"kind": "few", "processors": 64}
    ),
    "chunks": Problem(lambda: call(16, (1000, 300), mask=AT_THE_END), {"kind": "few", "processors": 0}),
    "chunks of one block": Problem(
        lambda: call(16, (1100,), mask=keys_between(900, 1000, 16)), {"kind": "few", "processors": 0}
    ),
    "chunks, causal": Problem(lambda: call(37, (1100,), mask=AT_THE_END), PLAIN),
    "varlen": Problem(lambda: varlen((0, 20, 20, 57), (0, 30, 37, 137), 57, 137), PLAIN),
    "ends that lie": Problem(lambda: varlen((-3, 9, 90, 95), (-7, 400, 12, 30), 40, 60), PLAIN, wrong=True),
    "poison": Problem(
        lambda: call(120, (130,), change=poisoned, mask=mmk.Mask.causal()),
        PLAIN,
        clean=lambda: call(120, (130,), mask=mmk.Mask.causal()),
    ),
    "tails": Problem(lambda: call(37, (100,), dim=40, dim_v=24, stride=48), PLAIN),
    "odd tails": Problem(lambda: call(16, (100,), dim=41, dim_v=23), FEW),
    "odd start": Problem(lambda: call(16, (100,), skip=1, stride=72), FEW),
    "odd stride": Problem(lambda: call(16, (100,), stride=69), FEW),
    "bias": Problem(lambda: call(37, (90, 81), batch=2, heads=2, bias=numbers(1, 2, 37, 171)), GENERAL),
    "relative bias": Problem(lambda: call(37, (171,), heads=2, bias=mmk.RelativeBias(numbers(2, 207))), GENERAL),
    "dense mask": Problem(lambda: call(37, (171,), batch=2, heads=2, mask=scattered()), GENERAL),
    "softcap": Problem(lambda: call(37, (171,), softcap=1.5), GENERAL),
    "dropout": Problem(lambda: call(37, (90, 81), heads=2, dropout_p=0.4, seed=11), GENERAL),
}
