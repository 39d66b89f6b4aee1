"""The learning rate, by step."""

from __future__ import annotations

import math
from collections.abc import Callable

FLOOR = 1e-3  # of the peak, added everywhere: the last steps still move


def learning_rate(peak: float, step: int, steps: int, warm_up: float, schedule: str = "cosine") -> float:
    """Linear warm-up over a share of the steps, under what falls over all of them: a cosine, a line, or nothing."""
    done = (step + 1) / steps
    rise = min(1.0, done / warm_up) if warm_up > 0 else 1.0
    return peak * (rise * FALLS[schedule](min(1.0, done)) + FLOOR)


FALLS: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
}
