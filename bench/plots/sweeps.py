"""Plots of the sweeps: speed against length, ratio over query rows and keys, memory against length."""

from __future__ import annotations

import math
from typing import Any

from bench.attention import cases
from bench.plots.style import INK, STYLES, powers
from bench.plots.style import figure as new_figure
from bench.results import OURS, SDPA, Results


def lengths(results: Results) -> Any:
    """GFLOP/s of square attention, every provider."""
    panels: list[tuple[str, str, str]] = [
        ("float32", "forward", "fp32, forward"),
        ("bfloat16", "forward+backward", "bf16, forward+backward"),
    ]
    found = {
        title: sorted(
            (
                record
                for record in results.group(cases.LENGTHS)
                if record.data["dtype"] == dtype and record.data["direction"] == direction
            ),
            key=lambda record: record.data["q_len"],
        )
        for dtype, direction, title in panels
    }
    found = {title: records for title, records in found.items() if len(records) > 1}
    if not found:
        return None
    figure, axes_list = new_figure(4.9 * len(found), 4.0, len(found))
    seen: dict[str, Any] = {}
    for axes, (title, records) in zip(axes_list, found.items()):
        lengths = [record.data["q_len"] for record in records]
        peaks = results.machine.get("peaks")
        if peaks:
            axes.axhline(peaks["fma GFLOP/s"], color=INK, linewidth=1, linestyle=(0, (4, 2)))
            axes.annotate(
                "fp32 multiply-add peak", (lengths[0], peaks["fma GFLOP/s"]), (0, 4), fontsize=8.5,
                textcoords="offset points", va="bottom",
            )  # fmt: skip
        for label in reversed(STYLES):
            points = [(record.data["q_len"], record) for record in records if record.samples(label)]
            if len(points) < 2:
                continue
            color, marker = STYLES[label]
            spreads = [(record.data["flops"], record.spread(label)) for _, record in points]
            middle = [flops / s.median / 1e9 for flops, s in spreads if s]
            low = [flops / s.high / 1e9 for flops, s in spreads if s]
            high = [flops / s.low / 1e9 for flops, s in spreads if s]
            xs = [x for x, _ in points]
            axes.fill_between(xs, low, high, color=color, alpha=0.15, linewidth=0)
            (seen[label],) = axes.plot(xs, middle, marker=marker, color=color, linewidth=2.2 if label == OURS else 1.3,
                                       label=label, zorder=4 if label == OURS else 3)  # fmt: skip
        axes.set_xscale("log", base=2)
        powers(axes.xaxis, lengths)
        axes.margins(y=0.13)
        axes.set_ylim(bottom=0)
        axes.set_title(title)
        axes.set_xlabel("length (tokens), 8 heads, D 64")
    axes_list[0].set_ylabel("GFLOP/s")
    labels = [label for label in STYLES if label in seen]
    figure.legend([seen[label] for label in labels], labels, loc="outside upper center", ncols=len(labels))
    return figure


def heat_map(results: Results) -> Any:
    """How many times faster than SDPA, a cell for every pair of lengths."""
    found = {}
    for record in results.group(cases.HEAT_MAP):
        if ratio := record.ratio(SDPA):
            found[record.data["q_len"], record.data["k_len"]] = ratio.median
    if len(found) < 4:
        return None
    rows, columns = (sorted({key[axis] for key in found}) for axis in (0, 1))
    figure, (axes,) = new_figure(6.0, 4.8)
    most = max(max(abs(math.log2(value)) for value in found.values()), 1.0)
    grid = [
        [math.log2(found[row, column]) if (row, column) in found else math.nan for column in columns] for row in rows
    ]
    image = axes.imshow(grid, cmap="PuOr", vmin=-most, vmax=most, aspect="auto", origin="lower")
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            if (row, column) in found:
                value = found[row, column]
                red, green, blue, _ = image.cmap(image.norm(math.log2(value)))
                dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
                axes.text(x, y, f"{value:.2f}", ha="center", va="center", color="white" if dark else INK)
    axes.set_xticks(range(len(columns)), [str(column) for column in columns])
    axes.set_yticks(range(len(rows)), [str(row) for row in rows])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlabel("keys")
    axes.set_ylabel("query rows")
    axes.set_title("Times faster than SDPA (fp32 forward, 8 heads, D 64)")
    steps = [step for step in (-3, -2, -1, 0, 1, 2, 3) if abs(step) <= most]
    bar = figure.colorbar(image, ax=axes, ticks=steps, pad=0.02)
    bar.ax.set_yticklabels([f"{2.0**step:g}x" for step in steps])
    bar.outline.set_visible(False)
    return figure


def memory(results: Results) -> Any:
    """Peak extra memory against length."""
    by_provider = (results.data.get("memory") or {}).get("lengths", {})
    found = {
        label: [(length, extra / 2**20) for length, extra in points if isinstance(extra, int | float) and extra > 0]
        for label, points in by_provider.items()
    }
    found = {label: points for label, points in found.items() if points}
    if not found:
        return None
    figure, (axes,) = new_figure(6.0, 4.2)
    lengths = sorted({length for points in found.values() for length, _ in points})
    matrix = [4 * length**2 / 2**20 for length in lengths]
    axes.plot(lengths, matrix, color="#888888", linewidth=1, linestyle=(0, (4, 2)))
    axes.text(lengths[0], matrix[0] * 0.8, "one fp32 matrix of weights", va="top", fontsize=8.5, color="#666666")
    for label, points in found.items():
        color, marker = STYLES[label]
        xs, ys = zip(*points)
        axes.plot(xs, ys, marker=marker, color=color, linewidth=2.2 if label == OURS else 1.3, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    powers(axes.xaxis, lengths)
    axes.set_xlabel("length (tokens), one head, D 64")
    axes.set_ylabel("peak extra memory (MiB)")
    axes.set_title("Beyond inputs, outputs and gradients (fp32, both ways)")
    axes.legend(loc="upper left")
    powers(axes.yaxis, [0.1, 1, 10, 100, 1000])
    return figure
