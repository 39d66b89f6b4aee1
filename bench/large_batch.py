"""The contrastive loss of one large batch, forward and backward: memory and time beside torch in chunks.

    python -m bench.large_batch                       65,536 pairs of 512 features in fp32: minutes a side on 2 cores
    python -m bench.large_batch --pairs 8192 --dtype bfloat16

A run of `python -m bench` leaves this out: a call takes minutes. Each side makes one call, the first of its size, in a
process of its own, after a small one. Goal: within 2 GiB beyond embeddings, loss and gradients. The whole matrix of
logits alone would be 16 GiB.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import machine, tables
from bench.case import DTYPES, Case
from bench.cli import positive
from bench.contrastive.problems import Problem
from bench.contrastive.providers import Chunked, Ours
from bench.memory import first_call, in_process
from bench.provider import Provider
from bench.results import OURS
from mmkernels.files import write_atomically

MOST_BYTES = 2 << 30
PROVIDERS: dict[str, Provider] = {provider.name: provider for provider in (Ours(), Chunked())}
SAMPLE = 64
"""Rows of the gradients that the two sides are compared on."""


def main(arguments: Sequence[str]) -> int:
    """Runs the program; returns its exit status: 0 done, 1 goal missed, 2 a wrong argument."""
    args = _parser().parse_args(arguments)
    if args.child:
        _child()
        return 0
    problem = Problem(f"contrastive {args.kind} {args.pairs}x{args.dim}", args.pairs, args.dim, args.kind)
    request = {"problem": asdict(problem), "dtype": args.dtype}
    sides: dict[str, dict[str, Any]] = {}
    for name in args.providers:
        if reason := PROVIDERS[name].why_not(Case(problem, args.dtype, True, ())):
            sides[name] = {"why_not": reason}
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            sides[name] = in_process(request | {"provider": name}, "bench.large_batch", "--child")
        except OSError as error:
            sides[name] = {"why_not": str(error)}
    results = {"machine": machine.describe(), **request, "runs": sides, "difference": _difference(sides)}
    own = sides.get(OURS, {}).get("extra bytes")
    results["met"] = None if own is None else own <= MOST_BYTES
    write_atomically(args.out, (json.dumps(results, indent=1) + "\n").encode())
    _print(problem, args.dtype, results)
    print(f"\nevery figure: {args.out}")
    return 1 if results["met"] is False else 0


def _child() -> None:
    """Reads a request from stdin, makes the call, writes figures to stdout."""
    request = json.loads(sys.stdin.read())
    provider, case = PROVIDERS[request["provider"]], Case(Problem(**request["problem"]), request["dtype"], True, ())
    call = first_call(provider, case)
    results = call.prepared.results(call.returned)
    found = {name: x.detach().double().flatten()[: SAMPLE * case.problem.dim].tolist() for name, x in results.items()}
    print(json.dumps({"seconds": call.seconds, "extra bytes": call.extra, "way": call.prepared.way, "results": found}))


def _difference(sides: dict[str, dict[str, Any]]) -> dict[str, float] | None:
    """By result: the largest difference of the two sides over the largest element. The results are then dropped."""
    found = [side.pop("results") for side in sides.values() if "results" in side]
    if len(found) != 2:
        return None
    differences = {}
    for name, first in found[0].items():
        most = max(map(abs, first), default=0.0) or 1.0
        differences[name] = max(abs(a - b) for a, b in zip(first, found[1][name], strict=True)) / most
    return differences


def _print(problem: Problem, dtype: str, results: dict[str, Any]) -> None:
    rows = []
    for name, side in results["runs"].items():
        if "why_not" in side:
            rows.append([name, "-", "-", side["why_not"]])
        else:
            rows.append([name, f"{side['seconds']:.1f}", f"{side['extra bytes'] / 2**20:.0f}", side["way"]])
    tables.print_table(f"{problem.name} | {dtype} | forward+backward", ("", "seconds", "extra MiB", "way"), rows)
    if results["difference"]:
        text = ", ".join(f"{value:.1e} {name}" for name, value in results["difference"].items())
        print(f"\nlargest difference, relative to the largest element: {text}")
    print(f"\nat most {MOST_BYTES / 2**30:g} GiB beyond embeddings and results: {tables.MET[results['met']]}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.large_batch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(PROVIDERS)
    parser.add_argument("--pairs", type=positive, default=65536, metavar="N", help="in the batch (65536)")
    parser.add_argument("--dim", type=positive, default=512, metavar="N", help="features of an embedding (512)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", metavar="DTYPE", help=", ".join(DTYPES))
    parser.add_argument("--kind", choices=("softmax", "sigmoid"), default="softmax", help="(softmax)")
    parser.add_argument("--providers", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--out", type=Path, default=Path("runs/large_batch.json"), metavar="FILE",
                        help="(runs/large_batch.json)")  # fmt: skip
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
