"""What the instrument has to know of an op that it measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bench.accuracy import Reference
from bench.case import Case
from bench.provider import Provider
from bench.work import Work


@dataclass(frozen=True)
class Op:
    """One op. Its calls have `backward` and `dtype`; what else they hold, only its own folder knows."""

    name: str
    problem: type
    """Of its problems, each a `bench.case.Problem`."""
    cases: Callable[[], Iterable[Case]]
    providers: tuple[Provider, ...]
    make_call: Callable[..., Any]
    """(problem, dtype, backward, seed=0, device="cpu"): the operands, leaves of gradients where there is a backward."""
    work: Callable[[Any], Work]
    """What a call has to do."""
    reference: Callable[[Any], Reference]
    """What a call's results are held to."""
    facts: Callable[[Any, Any], dict[str, Any]]
    """(problem, work): what the record says beside operations and bytes."""
