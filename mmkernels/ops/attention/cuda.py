"""The ``"cuda"`` backend: this release has no CUDA attention kernels, and says so."""

from __future__ import annotations

from mmkernels.backend import Problem

UNAVAILABLE = ("this release has no CUDA attention kernels",)


def why_not(problem: Problem) -> list[str]:
    """Always the same sentence: there is nothing to run."""
    return list(UNAVAILABLE)
