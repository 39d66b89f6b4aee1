"""One self-contained HTML page of a run: goals, machine, plots, every case."""

from __future__ import annotations

import base64
import html
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import goals, tables
from bench.attention.cases import SWEEPS
from bench.plots import write_plots
from bench.results import OURS, Record, Results
from mmkernels.files import write_atomically

STYLE = """
:root { --ink: #1c2126; --faint: #6a737d; --line: #e1e4e8; --met: #00694a; --missed: #b3401f; --paper: #fff; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
       max-width: 78rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { margin-top: 2.4rem; font-size: 1.2rem }
p.sub { color: var(--faint) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .86rem }
th, td { text-align: right; padding: .25rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child, td.text, th.text { text-align: left } td.text { white-space: normal }
th { color: var(--faint); font-weight: 600; position: sticky; top: 0; background: var(--paper) }
.met { color: var(--met); font-weight: 600 } .missed { color: var(--missed); font-weight: 600 }
.scroll { overflow-x: auto } figure { margin: 1rem 0 } figcaption { color: var(--faint); font-size: .86rem }
img { max-width: 100% }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.2rem; font-size: .9rem }
dt { color: var(--faint) } dd { margin: 0 }
tr.group td { font-weight: 600; padding-top: 1rem; border-bottom-width: 2px }
"""
NOTES = (
    "Medians over interleaved rounds: every provider runs once a round, in rotated order. A ratio is the median of "
    "the ratios within rounds, its interval that of order statistics (95 % where the rounds suffice). GFLOP/s count "
    "products only. Attention: those of visible pairs, 2 forward, 7 forward and backward; concat-fusion: 1 and 3, a "
    "shared source once; the loss: 4 forward and backward. The roofline is the smaller of the multiply-add peak (of "
    "bf16 products for bf16) and the read bandwidth times the intensity, measured in the run; cases whose operands "
    "stay in a cache may exceed it. Errors are against fp64: 1 is what the tests allow."
)


def write_report(results: Results, folder: Path) -> Path:
    """Writes the plots and index.html; returns the page's path."""
    drawn = write_plots(results, folder)
    page = folder / "index.html"
    write_atomically(page, _page(results, drawn).encode())
    return page


def _page(results: Results, drawn: Sequence[tuple[str, Path]]) -> str:
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>mmkernels benchmark</title><style>{STYLE}</style>",
        "<h1>Cross-modal kernels on a CPU: mmkernels and its peers</h1>",
        f"<p class=sub>{_escape(_subtitle(results))}</p>",
        "<h2>Goals, and what was reached</h2>",
        _goals(results),
        f"<p class=sub>{_escape(NOTES)}</p>",
        "<h2>Plots</h2>",
        *(_figure(title, path) for title, path in drawn),
        "<h2>Cases</h2>",
        *(part for op in results.ops() for part in (f"<h3>{_escape(op)}</h3>", _cases(results, op))),
        "<h2>Did not run</h2>",
        _reasons(results),
        "<h2>Machine and versions</h2>",
        _machine(results),
    ]
    return "\n".join(parts) + "\n"


def _subtitle(results: Results) -> str:
    about = results.machine
    limit = f", limited to {about['limited to']}" if about.get("limited to") else ""
    return (
        f"{about['processor']}, {about['threads']} threads, kernels {about['mmkernels instruction set']}{limit}; "
        f"torch {about['torch']}; started {about.get('started', '?')}"
    )


def _goals(results: Results) -> str:
    rows = []
    for goal, checks in goals.evaluate(results):
        for index, check in enumerate(checks):
            kind = {True: "met", False: "missed", None: ""}[check.met]
            word = {True: "met", False: "missed", None: "not measured"}[check.met]
            first = f"<td>{_escape(goal.group)}</td>" if index == 0 else "<td></td>"
            text = f"<td class=text>{_escape(check.goal)}</td><td class=text>{_escape(check.reached)}</td>"
            rows.append(f"<tr>{first}{text}<td class='{kind}'>{word}</td></tr>")
    head = "<tr><th>group</th><th class=text>goal</th><th class=text>reached</th><th></th></tr>"
    return f"<div class=scroll><table>{head}{''.join(rows)}</table></div>"


def _figure(title: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    image = f"<img alt='{_escape(title)}' src='data:image/svg+xml;base64,{data}'>"
    return f"<figure>{image}<figcaption>{_escape(title)}</figcaption></figure>"


def _labels(records: Sequence[Record]) -> list[str]:
    """Providers that ran anywhere."""
    ran = (name for r in records for name, run in r.runs.items() if run.get("samples") and run["kind"] != "twin")
    return list(dict.fromkeys(ran))


def _cases(results: Results, op: str) -> str:
    """The table of one op."""
    found = [record for record in results.records if record.op == op]
    labels = _labels(found)
    memory = (results.data.get("memory") or {}).get("cases", {}).get(OURS, {})
    heads = [
        "case",
        *(f"{label}, ms" for label in labels),
        "GFLOP/s",
        "roofline",
        f"x {found[0].baseline}",
        "x best peer",
        "MiB",
        "error",
    ]
    rows = []
    for group, records in _grouped(found):
        rows.append(f"<tr class=group><td colspan={len(heads)}>{_escape(group)}</td></tr>")
        for record in records:
            cells = [record.id, *(_time(record, label) for label in labels), *_figures(record, results, memory)]
            rows.append("<tr>" + "".join(f"<td>{_escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{_escape(name)}</th>" for name in heads)
    return f"<div class=scroll><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def _grouped(records: Sequence[Record]) -> Iterator[tuple[str, list[Record]]]:
    """Every case once, under the first of its groups; sweeps last."""
    grouped: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        grouped[record.groups[0] if record.groups else "other"].append(record)
    yield from sorted(grouped.items(), key=lambda item: item[0] in SWEEPS)


def _time(record: Record, label: str) -> str:
    found = record.spread(label)
    if not found:
        return ""
    return f"{found.median * 1e3:.3g} ({found.low * 1e3:.3g}-{found.high * 1e3:.3g})"


def _figures(record: Record, results: Results, memory: dict[str, Any]) -> list[str]:
    rate, roof, best = record.gflops(), record.roofline(results.machine), record.best_peer()
    extra = memory.get(record.id)
    return [
        f"{rate:.1f}" if rate else "",
        f"{rate / roof:.0%}" if rate and roof else "",
        tables.ratio_text(record.ratio(record.baseline)),
        f"{tables.short_ratio(record.ratio(best))} {best}" if best else "",
        f"{extra / 2**20:.1f}" if isinstance(extra, int) else "",
        tables.error_text(record.runs.get(OURS, {}).get("error")),
    ]


def _reasons(results: Results) -> str:
    found = tables.reasons(results)
    rows = [
        f"<tr><td>{_escape(label)}</td><td class=text>{_escape(reason)}</td><td class=text>{_escape(which)}</td></tr>"
        for label, reason, which in found
    ]
    return f"<table>{''.join(rows)}</table>"


def _machine(results: Results) -> str:
    facts: dict[str, Any] = {}
    for name, value in results.machine.items():
        if isinstance(value, dict):
            facts |= {
                f"{name}: {key}": f"{each:.1f}" if isinstance(each, float) else each for key, each in value.items()
            }
        elif value is not None:
            facts[name] = value
    facts |= {f"version: {name}": version or "not installed" for name, version in results.data["versions"].items()}
    facts |= {f"command {n}": " ".join(command) for n, command in enumerate(results.data["commands"], 1)}
    return "<dl>" + "".join(f"<dt>{_escape(k)}</dt><dd>{_escape(v)}</dd>" for k, v in facts.items()) + "</dl>"


def _escape(value: Any) -> str:
    return html.escape(str(value))
