"""The ops that are measured."""

from __future__ import annotations

from typing import Any

from bench.attention.op import ATTENTION
from bench.case import Case, Problem
from bench.contrastive.op import CONTRASTIVE_LOSS
from bench.fusion.op import CONCAT_FUSION
from bench.op import Op
from bench.provider import Provider

OPS = (ATTENTION, CONCAT_FUSION, CONTRASTIVE_LOSS)


def op_of(problem: Problem) -> Op:
    """The op that a problem is one of."""
    return next(op for op in OPS if isinstance(problem, op.problem))


def call_of(case: Case, seed: int = 0) -> Any:
    """The operands of a case."""
    return op_of(case.problem).make_call(case.problem, case.dtype, case.backward, seed, case.device)


def every_provider() -> list[Provider]:
    """One provider of each name, in the order of the tables."""
    found: dict[str, Provider] = {}
    for op in OPS:
        for provider in op.providers:
            found.setdefault(provider.name, provider)
    return list(found.values())
