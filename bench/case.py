"""A case: a named problem of one op, in one dtype and direction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

DTYPES = ("float32", "bfloat16", "float16")
SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
OTHERS = "others"
"""The group of cases that answer no goal."""


class Problem(Protocol):
    """Shapes and features of a call of one op; frozen and hashable. The op is known by the type (bench/ops.py)."""

    @property
    def name(self) -> str:
        """As cases, tables and results name it."""

    def scaled_down(self) -> Any:
        """A problem of the same features that a test can afford."""


@dataclass(frozen=True)
class Case:
    """One problem in one dtype and direction."""

    problem: Any
    """A `Problem`; of which type, the op's providers know."""
    dtype: str
    backward: bool
    groups: tuple[str, ...]
    twins: tuple[tuple[str, Problem, str], ...] = ()
    """Further calls of ours, measured in the same rounds: label, problem, dtype."""
    cold: bool = False
    """Operands come from memory: as many copies take turns as caches cannot hold."""
    only: tuple[str, ...] | None = None
    """The providers to run; None: all."""
    check: bool = True
    """Whether the error against fp64 is measured."""
    device: str = "cpu"

    @property
    def direction(self) -> str:
        """In words."""
        return "forward+backward" if self.backward else "forward"

    @property
    def id(self) -> str:
        """A name, stable from run to run."""
        return f"{self.problem.name} | {SHORT[self.dtype]} | {self.direction}"

    def on(self, device: str) -> Case:
        """The same on another device."""
        return replace(self, device=device)
