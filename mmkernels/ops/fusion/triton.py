"""The Triton backend of concat_fusion: this release has none."""

from __future__ import annotations

from mmkernels.backend import Problem

UNAVAILABLE = ("this release has no Triton kernel for concat_fusion",)


def why_not(problem: Problem) -> list[str]:
    """Sentences that say why this backend cannot run the problem."""
    return list(UNAVAILABLE)
