"""Small ragged problems, of fp16 and head dims of 33 to 64, that bugs of the attention backward are looked for in.

Tiles have 64 rows or keys and 64 of the others, 32 in the general kernels; chunks 256 rows or 1024 keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import mmkernels as mmk
from bench.attention.inputs import Inputs
from tests.device.planted.attention_forward_problems import (
    call,
    first_keys,
    keys_between,
    numbers,
    rows_that_see,
    varlen,
)


@dataclass(frozen=True)
class Problem:
    """A call, and which kernels it is for."""

    make: Callable[[], Inputs]
    general: bool = False
    poisoned: bool = False
    """Values and cotangents that are not finite are put in: see `poison`."""
    weightless: bool = False
    """A row has no weights though it sees keys: NaN in plain torch, an empty row in the reference backend."""


def one_key_and_value() -> Inputs:
    """For two batch entries."""
    inputs = call(40, (70,), batch=2)
    return inputs.replaced({name: inputs.leaves()[name][:1] for name in ("key 0", "value 0")})


def infinite(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> None:
    """Every logit of row 3 is -inf, though it sees all keys."""
    query[:, :, 3, 7] = -torch.inf
    for key in keys:
        key[..., 7].abs_().add_(0.5)


def poison(inputs: Inputs, cotangents: dict[str, Tensor]) -> tuple[Inputs, dict[str, Tensor]]:
    """NaN in queries, keys, values and cotangents that rows 6 to 69 and keys 46 to 69 of a window of 41 do not see."""
    leaves = {name: tensor.clone() for name, tensor in inputs.leaves().items()}
    leaves["query 0"][:, :, 3], leaves["key 0"][:, :, 110], leaves["value 0"][:, :, 120, ::2] = (torch.nan,) * 3
    cotangents = {name: tensor.clone() for name, tensor in cotangents.items()}
    cotangents["out"][:, :, 5] = torch.nan
    return inputs.replaced(leaves), cotangents


def seen_by_the_first(count: int, rows: int, keys: int) -> mmk.Mask:
    """All keys by so many rows, none by the others."""
    stop = (keys * (torch.arange(rows, dtype=torch.int32) < count)).view(1, 1, 1, rows)
    return mmk.Mask.intervals(torch.zeros_like(stop), stop)


def least_of_fp32(*shape: int) -> Tensor:
    """A bias of finfo.min but for every third row."""
    bias = numbers(*shape)
    bias[..., 1::3, :] = torch.finfo(torch.float32).min
    return bias


AT_THE_END = mmk.Mask.causal("bottom_right")
DROPPED = {"dropout_p": 0.4, "seed": 11, "dropout_offsets": (1, 2, 3, 5)}
PROBLEMS = {
    "causal": Problem(lambda: call(77, (171,), mask=AT_THE_END)),
    "few": Problem(lambda: call(9, (10,))),
    "grouped heads": Problem(lambda: call(20, (50,), heads=4, heads_k=2)),
    "segments": Problem(lambda: call(40, (90, 71), mask=first_keys(77, 30))),
    "one key": Problem(lambda: call(37, (90,), mask=keys_between(0, 1, 37))),
    "row of -inf": Problem(lambda: call(9, (10,), change=infinite), weightless=True),
    "empty rows": Problem(lambda: call(37, (90,), mask=rows_that_see(0, 9, 0, 85))),
    "chunks of keys": Problem(lambda: call(20, (1100,))),
    "chunks of rows": Problem(lambda: call(300, (20,), mask=mmk.Mask.causal())),
    "one key and value": Problem(one_key_and_value),
    "varlen": Problem(lambda: varlen((0, 20, 20, 57), (0, 30, 37, 137), 57, 137)),
    "tails": Problem(lambda: call(37, (100,), dim=40, dim_v=24, stride=48)),
    "poison": Problem(lambda: call(100, (130,), mask=mmk.Mask.window(0, 40)), poisoned=True),
    "softcap": Problem(lambda: call(37, (90,), softcap=1.5), general=True),
    "dropout": Problem(lambda: call(37, (60, 81), heads=2, **DROPPED), general=True),
    "dropout, aligned": Problem(lambda: call(37, (90,), heads=2, dropout_p=0.4, seed=11), general=True),
    "bias": Problem(lambda: call(70, (60, 81), batch=2, heads=2, bias=numbers(2, 2, 70, 141)), general=True),
    "causal, bias": Problem(lambda: call(70, (141,), mask=AT_THE_END, bias=numbers(1, 1, 70, 141)), general=True),
    "bias of all": Problem(lambda: call(70, (90,), batch=2, heads=2, bias=numbers(1, 1, 70, 90)), general=True),
    "bias of keys": Problem(lambda: call(70, (90,), heads=2, bias=numbers(1, 2, 1, 90)), general=True),
    "bias of keys, unseen": Problem(
        lambda: call(70, (90,), heads=2, bias=numbers(1, 2, 1, 90), mask=seen_by_the_first(64, 70, 90)), general=True
    ),
    "softcap and bias": Problem(lambda: call(37, (90,), softcap=1.5, bias=numbers(1, 1, 37, 90)), general=True),
    "relative bias": Problem(lambda: call(37, (60, 81), heads=2, bias=mmk.RelativeBias(numbers(2, 177))), general=True),
    "relative bias, unread tiles": Problem(
        lambda: call(200, (40,), bias=mmk.RelativeBias(numbers(1, 239))), general=True
    ),
    "bias of a grid": Problem(
        lambda: call(37, (60, 40), heads=2, bias=mmk.DecomposedBias(numbers(1, 2, 37, 10), numbers(1, 2, 37, 10))),
        general=True,
    ),
    "bias of a tall grid": Problem(
        lambda: call(37, (130,), bias=mmk.DecomposedBias(numbers(1, 1, 37, 65), numbers(1, 1, 37, 2))), general=True
    ),
    "finfo.min": Problem(lambda: call(37, (90,), bias=least_of_fp32(1, 1, 37, 90)), general=True),
    "far from 0": Problem(lambda: call(37, (90,), bias=50.0 * numbers(1, 1, 37, 90) + 300.0), general=True),
}
