"""The error of a provider's results against fp64, by the rule that the tests use (tests/tolerance.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Slicer = Callable[[str, Tensor], Tensor | None]
"""What of a named result is compared."""


def whole(name: str, tensor: Tensor) -> Tensor | None:
    """All of it."""
    return tensor


@dataclass(frozen=True)
class Error:
    """The worst element over all results compared."""

    absolute: float
    allowed: float
    """The error in units of what the tests allow there: above 1 the suite would fail."""
    result: str
    """The result in which `allowed` is largest."""


@dataclass
class Reference:
    """fp64 results of a call or a slice of it, and what the rule allows around them."""

    expected: dict[str, Tensor]
    bounds: dict[str, Tensor]
    slicer: Slicer = whole
    peers_differ: str | None = None
    """Why only our results can be compared."""

    def error(self, results: Mapping[str, Tensor]) -> Error:
        """Of a provider's results; infinite where they are not finite."""
        worst = Error(0.0, 0.0, "")
        for name, expected in self.expected.items():
            if name not in results:
                raise ValueError(f"no result is called {name}: there are {sorted(results)}")
            found = self.slicer(name, results[name].detach())
            assert found is not None
            if found.shape != expected.shape:
                raise ValueError(f"{name} has shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
            distance = (found.double() - expected).abs().nan_to_num(nan=torch.inf)
            absolute, allowed = float(distance.max()), float((distance / self.bounds[name]).max())
            if allowed > worst.allowed or not worst.result:
                worst = Error(max(absolute, worst.absolute), allowed, name)
            else:
                worst = replace(worst, absolute=max(absolute, worst.absolute))
        return worst
