"""How much a case has to do. Each op's folder counts its own; the conventions stand there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Counts of one case, the same for every provider of it."""

    flops: int
    """Operations of the products; a multiply-add is 2."""
    bytes: int
    """Those that no implementation can avoid moving."""

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.bytes
