"""Results as tables for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from mmkernels.models.metrics import RANKS

Row = Sequence[str]
Table = tuple[str, list[str], list[list[str]]]
"""Title, column heads, rows of text."""


def evaluation_tables(results: dict[str, Any]) -> list[Table]:
    """The tables of an evaluation's results."""
    return [_retrieval(results["retrieval"]), _captions(results["captions"]), *_vqa(results["vqa"])]


def print_tables(tables: list[Table]) -> None:
    """Prints to stdout: boxes on a terminal, plain columns elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table as RichTable

        for title, head, rows in tables:
            table = RichTable(title=title, title_justify="left")
            for i, name in enumerate(head):
                table.add_column(name, justify="right" if i else "left")
            for row in rows:
                table.add_row(*row)
            Console().print(table)
        return
    for title, head, rows in tables:
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        print(f"\n{title}")
        for row in [head, *rows]:
            cells = [cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))]
            print("  " + "  ".join(cells).rstrip())


def number(value: float) -> str:
    """Per cent with one decimal; with two below one, where the first would be lost."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}"


def _recall_row(name: str, scores: dict[str, float]) -> list[str]:
    return [name, *(number(scores[f"R@{k}"]) for k in RANKS)]


def _retrieval(results: dict[str, Any]) -> Table:
    held, views = results["held_out"], results["known_views"]
    rows = [
        _recall_row(f"held-out concepts, image to text ({held['count']} emoji)", held["image to text"]),
        _recall_row("held-out concepts, text to image", held["text to image"]),
        _recall_row("  image to text, mean of 9 views of the picture", held["image to text, mean of views"]),
        _recall_row("  words of the nearest training picture", held["nearest pixel"]),
        _recall_row("  chance", held["chance"]),
        _recall_row(f"known emoji, unseen views, among {views['pool']} names", views["image to text"]),
        _recall_row("  nearest picture by pixels", views["nearest pixel"]),
        _recall_row("  chance", views["chance"]),
    ]
    return "Retrieval, %", ["", *(f"R@{k}" for k in RANKS)], rows


def _captions(results: dict[str, Any]) -> Table:
    held, known = results["held_out"], results["known_views"]

    def row(name: str, scores: dict[str, float]) -> list[str]:
        return [name, number(scores["exact"]), number(scores["word F1"])]

    rows = [
        row(f"known emoji, unseen views ({known['count']})", known["model"]),
        row(f"held-out concepts ({held['count']})", held["model"]),
        row("  name of the nearest training picture", held["nearest pixel"]),
        row("  the model's captions, shuffled", held["shuffled"]),
    ]
    return "Captions, %", ["", "exact", "word F1"], rows


def _vqa(results: dict[str, Any]) -> list[Table]:
    titles = {
        "known": "Questions on new grids of known emoji, %",
        "held_out": "Questions on grids of held-out emoji, %",
    }
    tables: list[Table] = []
    for name, title in titles.items():
        part = results[name]
        rows = [
            [kind, number(part["model"][kind]), number(part["majority"][kind]), number(part["shuffled pictures"][kind])]
            for kind in part["model"]
        ]
        tables.append((title, ["", "model", "majority", "shuffled pictures"], rows))
    return tables


def comparison_table(comparison: dict[str, Any]) -> Table:
    """Fused beside naive: time, peak memory, differences."""
    fused, naive = comparison["fused"], comparison["naive"]

    def row(name: str, a: float, b: float, form: str) -> list[str]:
        return [name, form.format(a), form.format(b), f"{b / a:.2f} x" if a else ""]

    mebi = 2**20
    long_a, long_b = fused["long attention"], naive["long attention"]
    rows = [
        row("training step, ms", 1e3 * fused["seconds per step"], 1e3 * naive["seconds per step"], "{:.1f}"),
        row(
            "training, peak memory, MiB",
            fused["training peak bytes"] / mebi,
            naive["training peak bytes"] / mebi,
            "{:.0f}",
        ),
        row("long attention, forward + backward, ms", 1e3 * long_a["seconds"], 1e3 * long_b["seconds"], "{:.0f}"),
        row("long attention, peak memory, MiB", long_a["peak bytes"] / mebi, long_b["peak bytes"] / mebi, "{:.0f}"),
        [
            f"largest relative difference of the loss, {comparison['steps']} steps",
            f"{comparison['largest relative loss difference']:.1e}",
            "",
            "within 1e-3" if comparison["within tolerance"] else "MORE THAN 1e-3",
        ],
    ]
    for name, difference in comparison.get("outputs", {}).items():
        rows.append([f"largest difference of {name}", f"{difference:.1e}", "", ""])
    return "Fused and naive", ["", "fused", "naive", "naive / fused"], rows
