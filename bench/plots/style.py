"""Colours, fonts and small helpers of the plots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bench.results import NAIVE, OURS, SDPA

# Okabe and Ito's colours, told apart in every common colour blindness; markers say the same again.
STYLES: dict[str, tuple[str, str]] = {
    OURS: ("#0072B2", "o"),
    SDPA: ("#D55E00", "s"),
    NAIVE: ("#999999", "D"),
    "FlexAttention": ("#CC79A7", "^"),
    "ONNX Runtime": ("#009E73", "v"),
    "OpenVINO": ("#E69F00", "P"),
}
INK, FAINT = "#222222", "#DDDDDD"


@contextmanager
def style() -> Iterator[None]:
    """The settings that every plot is drawn with."""
    import matplotlib.pyplot as plt

    settings: Any = {
        "svg.fonttype": "none", "svg.hashsalt": "mmkernels", "font.family": "sans-serif", "font.size": 10,
        "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial", "sans-serif"], "text.color": INK,
        "axes.labelcolor": INK, "axes.edgecolor": "#888888", "axes.spines.top": False, "axes.spines.right": False,
        "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.grid": True,
        "axes.axisbelow": True, "grid.color": FAINT, "grid.linewidth": 0.7, "xtick.color": INK, "ytick.color": INK,
        "legend.frameon": False, "legend.fontsize": 9, "figure.constrained_layout.use": True, "lines.markersize": 5.5,
        "xtick.minor.visible": False, "ytick.minor.visible": False,
    }  # fmt: skip
    with plt.rc_context(settings):
        yield


def figure(width: float, height: float, columns: int = 1) -> tuple[Any, list[Any]]:
    """A figure and its panels, side by side."""
    import matplotlib.pyplot as plt

    made, axes = plt.subplots(1, columns, figsize=(width, height), squeeze=False)
    return made, list(axes[0])


def powers(axis: Any, values: Sequence[float]) -> None:
    """Ticks at these values and nowhere else."""
    axis.set_ticks(values, [f"{value:g}" for value in values])
    axis.set_tick_params(which="minor", bottom=False, left=False, labelbottom=False, labelleft=False)
