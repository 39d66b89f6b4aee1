"""Plots over all cases: how many times faster than SDPA or the best peer, and the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.attention import cases
from bench.case import SHORT
from bench.checks import BEST
from bench.contrastive import cases as contrastive
from bench.fusion import cases as fusion
from bench.medians import geometric_mean
from bench.plots.style import INK, STYLES, powers
from bench.plots.style import figure as new_figure
from bench.results import ATTENTION, OURS, SDPA, Results

GOAL_RATIOS = {
    cases.FP32_FORWARD: 1.5, cases.FP32_BOTH: 1.5, cases.HALF_FORWARD: 1.5, cases.HALF_BOTH: 6.0,
    cases.TRAINING_EXTRAS: 2.5, cases.FEW_QUERIES: 1.3, fusion.FP32_FORWARD: 1.15, fusion.BOTH: 1.15, fusion.FULL: 1.5,
    contrastive.LOSS: 1.5,
}  # fmt: skip
"""The smallest geometric mean that the goals ask for, drawn as a line."""
ATTENTION_GROUPS = (
    cases.FP32_FORWARD, cases.FP32_BOTH, cases.HALF_FORWARD, cases.HALF_BOTH, cases.TRAINING_EXTRAS, cases.MASKS,
    cases.DECODE, cases.FEW_QUERIES,
)  # fmt: skip
OTHER_GROUPS = (fusion.FP32_FORWARD, fusion.HALF_FORWARD, fusion.BOTH, fusion.FULL, fusion.SHARED, contrastive.LOSS)


def ratios(results: Results) -> Any:
    """Attention's cases as dots, by group."""
    label = "times faster than torch's SDPA (its best path for the case); left of 1: slower"
    return _ratios(results, ATTENTION_GROUPS, SDPA, label)


def other_ratios(results: Results) -> Any:
    """The same of concat-fusion and the contrastive loss, over the best peer of each case."""
    return _ratios(results, OTHER_GROUPS, BEST, "times faster than the best peer of each case; left of 1: slower")


def _ratios(results: Results, groups: Sequence[str], over: str, label: str) -> Any:
    """Every case as a dot: how many times faster than `over`; bars are geometric means, ticks the goals."""
    shown = []
    for group in groups:
        found = [
            (record, got.median)
            for record in results.group(group)
            if (got := record.ratio((record.best_peer() or "") if over == BEST else over))
        ]
        if found:
            shown.append((group, found))
    if not shown:
        return None
    figure, (axes,) = new_figure(8.2, 0.9 + 0.55 * len(shown))
    markers = {"float32": ("o", STYLES[OURS][0]), "bfloat16": ("^", STYLES["OpenVINO"][0]), "float16": ("s", "#009E73")}
    for row, (group, found) in enumerate(shown):
        mean = geometric_mean([value for _, value in found])
        axes.barh(row, mean - 1, left=1, height=0.62, color="#0072B222", edgecolor="none", zorder=1)
        axes.plot([mean, mean], [row - 0.31, row + 0.31], color=STYLES[OURS][0], linewidth=2, zorder=2)
        if group in GOAL_RATIOS:
            goal = GOAL_RATIOS[group]
            axes.plot([goal, goal], [row - 0.4, row + 0.4], color=STYLES[SDPA][0], linewidth=2, linestyle=(0, (2, 1)))
        for index, (record, value) in enumerate(sorted(found, key=lambda pair: pair[1])):
            marker, color = markers[record.data["dtype"]]
            offset = ((index * 0.618) % 1.0 - 0.5) * 0.42
            axes.plot(value, row + offset, marker, color=color, markersize=6, markeredgecolor="white",
                      markeredgewidth=0.6, zorder=3)  # fmt: skip
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_xscale("log", base=2)
    top = max(value for _, found in shown for _, value in found)
    low = min(value for _, found in shown for _, value in found)
    ticks = [
        tick for tick in (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16) if low * 0.85 <= tick <= max(top, 6) * 1.15
    ]
    axes.xaxis.set_ticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.set_xlim(min(low, 1) * 0.9, max(top, 6) * 1.15)
    axes.set_yticks(range(len(shown)), [group for group, _ in shown])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)
    handles = [_handle(marker, color, SHORT[dtype]) for dtype, (marker, color) in markers.items()]
    handles += [
        _handle("|", STYLES[OURS][0], "geometric mean"),
        _handle("|", STYLES[SDPA][0], "goal (bf16 where they differ)"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=5, columnspacing=1.2, handletextpad=0.3)
    return figure


def _handle(marker: str, color: str, label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], linestyle="none", marker=marker, color=color, label=label, markeredgewidth=2 if marker == "|" else 1
    )


def roofline(results: Results) -> Any:
    """Attention's GFLOP/s over arithmetic intensity, under the measured peaks; filled: fp32, hollow: bf16."""
    peaks = results.machine.get("peaks")
    records = [
        record
        for record in results.records
        if record.op == ATTENTION and not set(record.groups) <= set(cases.SWEEPS) and record.gflops()
    ]
    if not peaks or not records:
        return None
    figure, panels = new_figure(9.6, 4.3, 2)
    low, high = 0.4, max(record.data["flops"] / record.data["bytes"] for record in records) * 1.6
    rates = [rate for record in records for label in (SDPA, OURS) if (rate := record.gflops(label))]
    floor = max(min(rates) * 0.7, peaks["fma GFLOP/s"] / 300)
    for axes, direction in zip(panels, ("forward", "forward+backward")):
        peak, bandwidth = peaks["fma GFLOP/s"], peaks["read GB/s"]
        axes.plot([low, peak / bandwidth, high], [low * bandwidth, peak, peak], color=INK, linewidth=1.5)
        axes.text(high * 0.93, peak * 1.07, f"multiply-adds {peak:.0f} GFLOP/s", ha="right", fontsize=8.5)
        bf16 = peaks.get("bf16 GFLOP/s", peak)
        if bf16 > 1.05 * peak:
            axes.plot([peak / bandwidth, bf16 / bandwidth, high], [peak, bf16, bf16], "--", color=INK, linewidth=1)
            axes.text(high * 0.93, bf16 * 1.07, f"bf16 products {bf16:.0f} GFLOP/s", ha="right", fontsize=8.5)
        start = max(low, floor / bandwidth)
        axes.text(start * 1.6, start * bandwidth * 1.15, f"reading {bandwidth:.0f} GB/s", fontsize=8.5)
        for dtype, face in (("float32", True), ("bfloat16", False)):
            for label in (SDPA, OURS):
                color, marker = STYLES[label]
                points = [
                    (record.data["flops"] / record.data["bytes"], record.gflops(label))
                    for record in records
                    if record.data["dtype"] == dtype and record.data["direction"] == direction and record.gflops(label)
                ]
                if points:
                    xs, ys = zip(*points)
                    axes.plot(xs, ys, marker, color=color, markerfacecolor=color if face else "white",
                              markersize=5, alpha=0.85, label=f"{label}, {SHORT[dtype]}")  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        powers(axes.xaxis, [1, 10, 100, 1000])
        powers(axes.yaxis, [10, 20, 50, 100, 200, 500, 1000])
        axes.set_title(direction)
        axes.set_xlim(low, high)
        axes.set_ylim(floor, max(peak, bf16) * 1.6)
        axes.set_xlabel("arithmetic intensity (operations per byte that must move)")
    panels[0].set_ylabel("GFLOP/s, visible pairs only")
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure
