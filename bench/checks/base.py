"""What a check is: what was asked for, what was reached, whether that is enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bench.results import Record, Results

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Reached:
    """One check of a goal."""

    goal: str
    reached: str
    met: bool | None
    """None: not measured."""


class Check(Protocol):
    """One part of a goal."""

    def evaluate(self, records: list[Record], results: Results) -> Reached:
        """Goal beside reached, over the records of the group."""
