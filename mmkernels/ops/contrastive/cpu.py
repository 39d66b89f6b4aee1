"""The C++ backend of contrastive_loss: this release has none."""

from __future__ import annotations

from mmkernels.backend import Problem

UNAVAILABLE = ("this release has no C++ kernel for contrastive_loss",)


def why_not(problem: Problem) -> list[str]:
    """Sentences that say why this backend cannot run the problem."""
    return list(UNAVAILABLE)
