"""The cases of the contrastive loss, and the group of goals that each answers."""

from __future__ import annotations

from collections.abc import Iterator

from bench.case import OTHERS, Case
from bench.contrastive.problems import Problem

LOSS = "contrastive loss"


def _problem(kind: str, pairs: int) -> Problem:
    return Problem(f"contrastive {kind} {pairs}x512", pairs, kind=kind)


def cases() -> Iterator[Case]:
    """Every case, forward and backward: a loss without gradients trains nothing."""
    for kind in ("softmax", "sigmoid"):
        for dtype in ("float32", "bfloat16"):
            yield Case(_problem(kind, 4096), dtype, True, (LOSS,))
    for pairs in (256, 1024):
        yield Case(_problem("softmax", pairs), "float32", True, (OTHERS,))
    yield Case(_problem("softmax", 1024), "bfloat16", True, (OTHERS,))
    yield Case(_problem("sigmoid", 1024), "float32", True, (OTHERS,))
