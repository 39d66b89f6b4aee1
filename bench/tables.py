"""Results as tables in a terminal: with rich where it is installed and the output is a terminal, else plain columns."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from bench import goals
from bench.attention.cases import SWEEPS
from bench.checks.base import NOT_MEASURED
from bench.compare import Comparison
from bench.medians import Ratio
from bench.results import NAIVE, OURS, SDPA, Record, Results

HEADS = ("case", "ms", "GFLOP/s", "roofline", "x SDPA", "x naive", "x best peer", "error")
BUSY = 0.03
MET = {True: "met", False: "MISSED", None: "-"}


def case_row(record: Record, machine: dict[str, Any]) -> list[str]:
    """Cells of one case, as HEADS."""
    own = record.spread(OURS)
    if own is None:
        return [record.id, *(["-"] * 6), record.runs.get(OURS, {}).get("why_not", "not run")]
    best = record.best_peer()
    roofline = record.roofline(machine)
    rate = record.gflops() or 0.0
    return [
        record.id,
        f"{own.median * 1e3:.3f}",
        f"{rate:.1f}",
        f"{rate / roofline:.0%}" if roofline else "-",
        ratio_text(record.ratio(SDPA)),
        short_ratio(record.ratio(NAIVE)),
        f"{short_ratio(record.ratio(best))} {best}" if best else "-",
        error_text(record.runs[OURS].get("error")) + _busy(record),
    ]


def _busy(record: Record) -> str:
    share = record.data.get("other load")
    return f"  (others used {share:.0%} of the machine)" if share is not None and share > BUSY else ""


def line(cells: Sequence[str]) -> str:
    """Cells as one line of columns, printed while the run goes on."""
    widths = (60, 10, 9, 10, 19, 9, 22, 0)
    return "".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip()


def ratio_text(found: Ratio | None) -> str:
    """Median and interval."""
    return f"{found.median:.2f} ({found.low:.2f}-{found.high:.2f})" if found else "-"


def short_ratio(found: Ratio | None) -> str:
    """Median."""
    return f"{found.median:.2f}" if found else "-"


def error_text(error: Any) -> str:
    """Largest absolute error, and in units of what the tests allow."""
    if isinstance(error, dict):
        return f"{error['absolute']:.1e} ({error['allowed']:.2f} of allowed)"
    return str(error) if error else "-"


def print_machine(results: Results) -> None:
    """What the figures are of, one fact a line."""
    for name, value in results.machine.items():
        if isinstance(value, dict):
            value = "; ".join(
                f"{key}: {each:.1f}" if isinstance(each, float) else f"{key}: {each}" for key, each in value.items()
            )
        if value is not None:
            print(f"{name:<26} {value}")
    missing = [name for name, version in results.data["versions"].items() if version is None]
    if missing:
        print(f"{'not installed':<26} {', '.join(missing)}")
    print(flush=True)


def print_comparison(found: Comparison, old: str) -> None:
    """What changed, worst first."""
    print(f"\nCompared with {old}: {found.compared} cases in both")
    for warning in found.warnings:
        print(f"  beware: {warning}")
    for title, changes in (("Slower", found.regressions), ("Faster", found.improvements)):
        rows = [[change.id, f"{change.factor:.2f}x", change.text] for change in changes]
        if rows:
            print_table(title, ("case", "speed", "what"), rows)
    if not found.regressions and not found.improvements:
        print("  nothing beyond the spread")


def print_goals(results: Results) -> None:
    """Goal beside reached, group by group; groups of which nothing was measured by name only."""
    rows, absent = [], []
    for goal, checks in goals.evaluate(results):
        if all(each.reached == NOT_MEASURED for each in checks):
            absent.append(goal.group)
            continue
        rows += [[goal.group if n == 0 else "", c.goal, c.reached, MET[c.met]] for n, c in enumerate(checks)]
    print_table("Goals", ("group", "goal", "reached", ""), rows)
    if absent:
        print(f"\n{NOT_MEASURED}: {', '.join(absent)}")


def print_peers(results: Results) -> None:
    """Time of every provider in ms, an op at a time, and what did not run, with the reason."""
    for op in results.ops():
        records = [record for record in results.records if record.op == op]
        labels = list(dict.fromkeys(name for r in records for name, run in r.runs.items() if run["kind"] != "twin"))
        rows = []
        for record in records:
            if set(record.groups) <= set(SWEEPS):
                continue
            cells = [record.spread(label) for label in labels]
            rows.append([record.id, *(f"{cell.median * 1e3:.3f}" if cell else "-" for cell in cells)])
        print_table(f"Milliseconds, {op}", ("case", *labels), rows)
    found = reasons(results)
    if found:
        print("\nDid not run")
    for label, reason, which in found:
        print(f"  {label}: {reason} [{which}]")


def reasons(results: Results) -> list[tuple[str, str, str]]:
    """What did not run: label, why, which cases."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in results.records:
        for label, run in record.runs.items():
            if "why_not" in run:
                found[label, run["why_not"]].append(record.id)
    return [(*key, ids[0] if len(ids) == 1 else f"{len(ids)} cases") for key, ids in found.items()]


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """One table to stdout."""
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.table import Table
        except ImportError:
            pass
        else:
            table = Table(title=title, title_justify="left")
            for index, name in enumerate(heads):
                table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
            for row in rows:
                table.add_row(*row)
            Console().print(table)
            return
    widths = [max([len(heads[i]), *(len(row[i]) for row in rows)]) for i in range(len(heads))]
    print(f"\n{title}")
    for row in [heads, *rows]:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
