"""Bugs planted in the Triton kernels: each applies, and a small problem in the interpreter shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch

import mmkernels as mmk
from bench.attention.inputs import Inputs
from tests import plain
from tests.device.test_attention_forward import operands
from tests.device.triton_interpreter import Bug, interpreted, load
from tests.tolerance import Expectation

pytest.importorskip("triton", reason="triton is not installed")


def call(rows: int, *k_lens: int, heads: int = 1, heads_k: int = 1, **more: object) -> Inputs:
    return replace(
        Inputs("attention", *operands(rows, k_lens, torch.float32, heads=heads, heads_k=heads_k, dim=16)), **more
    )


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def poisoned() -> Inputs:
    inputs = call(20, 50, mask=mmk.Mask.causal())
    inputs.values[0][..., 10, 5] = torch.nan
    return inputs


def huge() -> Inputs:
    bias = torch.zeros(1, 1, 20, 50)
    bias[:, :, ::3] = torch.finfo(torch.float32).min
    return call(20, 50, bias=bias)


AT_THE_END = mmk.Mask.causal(align="bottom_right")
PROBLEMS: dict[str, Callable[[], Inputs]] = {
    "causal": lambda: call(20, 138, mask=AT_THE_END),
    "chunks": lambda: call(20, 300),
    "segments": lambda: call(20, 70, 50),
    "groups": lambda: call(70, 50, heads=4, heads_k=2),
    "poison": poisoned,
    "dropout": lambda: call(20, 48, 24, options={"dropout_p": 0.4, "seed": 11}),
    "unaligned dropout": lambda: call(20, 33, 24, options={"dropout_p": 0.4, "seed": 11}),
    "softcap": lambda: call(20, 50, options={"softcap": 1.5}),
    "huge bias": huge,
    "table": lambda: call(70, 80, bias=mmk.RelativeBias(numbers(1, 149))),
    "grid": lambda: call(20, 90, bias=mmk.DecomposedBias(numbers(1, 1, 20, 10), numbers(1, 1, 20, 9))),
}
BUGS = {
    "one key too many": ("causal", Bug("pairs", "(local < stop)", "(local <= stop)")),
    "full blocks from the first start": (
        "causal",
        Bug("forward", "full_high = tl.minimum(tl.min(", "full_high = tl.minimum(tl.max("),
    ),
    "a chunk's state is not scaled": (
        "chunks",
        Bug("triton_blocks", "acc_b * factor_b[:, None])", "acc_b)"),
    ),
    "the last chunk is left out": (
        "chunks",
        Bug("forward", "tl.maximum(chunks, 1) - 1", "tl.maximum(chunks - 1, 1) - 1"),
    ),
    "chunks counted over segments": ("segments", Bug("forward", "(chunk - last_before) * CHUNK", "chunk * CHUNK")),
    "a neighbour's key head": ("groups", Bug("backward_query", "own.head // shape.group", "own.head % shape.group")),
    "a head of the group is left out": (
        "groups",
        Bug("backward_keys", "for member in range(shape.group)", "for member in range(1)"),
    ),
    "poison in the product": (
        "poison",
        Bug("triton_blocks", "tl.where(finite, rows, 0.0).to(rows.dtype)", "rows"),
    ),
    "poison of a row of others": ("poison", Bug("triton_blocks", "(whole > 0)[:, None]", "(whole >= 0)[:, None]")),
    "poison is lost": ("poison", Bug("triton_blocks", "if tl.max(poison) > 0:", "if tl.max(poison) > 1:")),
    "words in the wrong order": (
        "dropout",
        Bug("triton_blocks", "tl.interleave(word0, word2)", "tl.interleave(word0, word1)"),
    ),
    "nine rounds": ("unaligned dropout", Bug("triton_blocks", "tl.static_range(10)", "tl.static_range(9)")),
    "the segment's keys in the counter": (
        "unaligned dropout",
        Bug("forward", "kept_pairs(dropout, pair_rows, source.offset + first", "kept_pairs(dropout, pair_rows, first"),
    ),
    "no slope of the softcap": ("softcap", Bug("pairs", "slopes = gradients * slope", "slopes = gradients")),
    "far rows keep their lse": ("huge bias", Bug("statistics", "tl.constexpr(64.0)", "tl.constexpr(float('inf'))")),
    "no gradient of lse": ("causal", Bug("statistics", "delta -= tl.load", "delta -= 0.0 * tl.load")),
    "a table's neighbour": (
        "table",
        Bug("backward_bias", "- bias.zero - first, KEYS)", "- bias.zero - first + 1, KEYS)"),
    ),
    "a grid's row too few": (
        "grid",
        Bug("backward_bias", "tl.sum(tl.where((key // width == across)", "tl.sum(tl.where((key // width < across)"),
    ),
    "a grid's second row is left out": ("grid", Bug("backward_bias", "range(across + 1,", "range(across + 2,")),
}
QUICK = ("one key too many",)


@cache
def expectation(problem: str) -> Expectation:
    return Expectation(PROBLEMS[problem]())


def faults(problem: str, bug: Bug | None) -> list[str]:
    inputs = PROBLEMS[problem]()
    with interpreted(load(bug)) as device:
        found = plain.run(inputs, "triton", plain.cotangents(inputs))
    assert device.launches == 2
    if problem != "poison":
        return expectation(problem).faults(found)
    inputs.values[0][..., 10, 5] = 0.0
    with interpreted(load()):
        clean = plain.run(inputs, "triton", plain.cotangents(inputs))
    return isolation_faults(found, clean)


def isolation_faults(found: dict[str, torch.Tensor], clean: dict[str, torch.Tensor]) -> list[str]:
    """Of rows up to 9, which do not see the poison, and of those that do."""
    names = ("out", "grad query 0")
    reached = [f"{name}: reached" for name in names if not torch.equal(found[name][:, :, :10], clean[name][:, :, :10])]
    return reached + ([] if found["out"][:, :, 10:, 5].isnan().all() else ["out: lost"])


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in BUGS])
def test_bug_is_seen(name):
    problem, bug = BUGS[name]
    assert faults(problem, bug)


@pytest.mark.slow
@pytest.mark.parametrize("problem", PROBLEMS)
def test_problem_has_no_fault_without_a_bug(problem):
    assert not faults(problem, None)
