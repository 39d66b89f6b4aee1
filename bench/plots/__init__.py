"""The plots of a run, as small SVG files and PNGs: ratios, roofline, speed and memory against length, heat map."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.plots import overview, sweeps
from bench.plots.style import style
from bench.results import Results

PLOTS: tuple[tuple[str, str, Callable[[Results], Any]], ...] = (
    ("ratios", "Attention: every case beside torch's SDPA", overview.ratios),
    ("other_ratios", "Concat-fusion and contrastive loss: every case beside its best peer", overview.other_ratios),
    ("lengths", "Speed against length", sweeps.lengths),
    ("roofline", "Roofline", overview.roofline),
    ("heat_map", "Ratio to SDPA over query rows and keys", sweeps.heat_map),
    ("memory", "Memory against length", sweeps.memory),
)
"""Name, title, and what draws it: None where the run has no data for it."""


def write_plots(results: Results, folder: Path) -> list[tuple[str, Path]]:
    """Every plot that the run has data for: (title, SVG file), a PNG beside each."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, title, draw in PLOTS:
        with style():
            figure = draw(results)
            if figure is None:
                continue
            path = folder / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            figure.savefig(folder / f"{name}.png", dpi=110)
        import matplotlib.pyplot as plt

        plt.close(figure)
        drawn.append((title, path))
    return drawn
