"""The learning rate, by step."""

from __future__ import annotations

import math

FLOOR = 1e-3  # of the peak, added everywhere: the last steps still move


def learning_rate(peak: float, step: int, steps: int, warm_up: float) -> float:
    """Linear warm-up over a share of the steps, under a cosine that falls over all of them."""
    done = (step + 1) / steps
    rise = min(1.0, done / warm_up) if warm_up > 0 else 1.0
    return peak * (rise * 0.5 * (1 + math.cos(math.pi * min(1.0, done))) + FLOOR)
