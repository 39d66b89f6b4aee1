"""The ``"triton"`` backend: this release has no Triton attention kernels, and says so."""

from __future__ import annotations

from mmkernels.backend import Problem

UNAVAILABLE = ("this release has no Triton attention kernels",)


def why_not(problem: Problem) -> list[str]:
    """Always the same sentence: there is nothing to run."""
    return list(UNAVAILABLE)
