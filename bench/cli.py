"""Measure the cases beside the peers, print tables, save every sample.

    python -m bench                          every case, about 15 minutes on 2 cores
    python -m bench --quick                  a dozen cases in about a minute
    python -m bench --groups "fp32 forward" --providers mmkernels SDPA
    python -m bench --compare old.json       what got slower or faster than in an earlier run; exits 1 on the former
    python -m bench --isa avx2               every library limited to AVX2
    python -m bench --report bench.json      plots and an HTML page of an earlier run

Results go to --out after every case; --resume goes on where a run stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench import call_overhead, cases, machine, tables
from bench.cases import Case
from bench.environment import LIMITS
from bench.providers import PROVIDERS
from bench.results import Record, Results
from bench.run import run_case

QUICK = (
    "text-to-image 77x1024", "square 1024", "mllama 32x1601", "ViT 197", "causal 1024", "half padding 128x1024",
    "decode 1x4096", "ViT 197 dropout", "learned bias 196",
)  # fmt: skip
LONGEST_CASE = 8.0
"""Seconds of rounds a case, where no budget says otherwise."""
SHORTEST_CASE = 0.2


def main(arguments: Sequence[str]) -> int:
    """Runs the program; returns its exit status."""
    args = _parser().parse_args(arguments)
    try:
        return _run(args, list(arguments))
    except KeyboardInterrupt:
        print(f"\nstopped; go on with --resume --out {args.out}", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def selected(args: argparse.Namespace) -> list[Case]:
    """The cases that the arguments name."""
    groups = {group for case in cases.all_cases() for group in case.groups}
    if unknown := set(args.groups or ()) - groups - {cases.TINY, cases.MEMORY}:
        raise ValueError(f"no group is named {', '.join(sorted(unknown))}; the groups are {', '.join(sorted(groups))}")
    chosen = []
    for case in cases.all_cases():
        if args.groups and not set(args.groups) & set(case.groups):
            continue
        if args.only and not any(part in case.id for part in args.only):
            continue
        if args.dtypes and case.dtype not in args.dtypes:
            continue
        if args.quick and case.problem.name not in QUICK:
            continue
        if args.quick and case.dtype == "float16":
            continue
        chosen.append(case)
    return chosen


def _run(args: argparse.Namespace, command: list[str]) -> int:
    chosen = selected(args)
    if args.list:
        tables.print_table("Cases", ("case", "groups"), [[case.id, ", ".join(case.groups)] for case in chosen])
        return 0
    if args.threads:
        torch.set_num_threads(args.threads)
    results = _start(args, command)
    chosen = [case for case in chosen if not (args.resume and results.find(case.id))]
    about = results.machine
    print(", ".join(f"{name}: {value}" for name, value in about.items() if value is not None), flush=True)
    print(tables.line(tables.HEADS))
    deadline = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    overhead = 1.0  # seconds a case takes beside its rounds, as seen so far
    for index, case in enumerate(chosen):
        seconds = LONGEST_CASE if not args.quick else 2.0
        if deadline is not None:
            left = (deadline - time.monotonic()) / (len(chosen) - index) - overhead
            if deadline < time.monotonic():
                print(f"the time is up: {len(chosen) - index} cases are left for --resume", file=sys.stderr)
                break
            seconds = min(seconds, max(left, SHORTEST_CASE))
        begin = time.monotonic()
        record = run_case(case, args.providers, args.rounds, seconds, not args.no_check)
        took = time.monotonic() - begin
        overhead += (max(took - seconds, 0.0) - overhead) / min(index + 2, 10)
        results.add(record)
        results.save(args.out)
        print(tables.line(tables.case_row(Record(record), about)), flush=True)
    if _wanted(args, cases.TINY) and not (args.resume and results.data["overhead"]):
        results.data["overhead"] = call_overhead.measure(100 if args.quick else 300, 20)
        results.save(args.out)
    tables.print_peers(results)
    tables.print_goals(results)
    print(f"\nevery sample: {args.out}")
    return 0


def _wanted(args: argparse.Namespace, group: str) -> bool:
    return group in args.groups if args.groups else not args.only


def _start(args: argparse.Namespace, command: list[str]) -> Results:
    """New results, or those to go on with."""
    about: dict[str, Any] = machine.describe()
    versions = {provider.name: provider.version() for provider in PROVIDERS}
    if args.resume and args.out.exists():
        results = Results.load(args.out)
        for name in ("processor", "threads", "torch instruction set", "mmkernels instruction set"):
            if results.machine.get(name) != about[name]:
                raise ValueError(f"{args.out} was measured with {name} {results.machine.get(name)}, not {about[name]}")
        return results
    about["peaks"] = machine.peaks()
    about["isa limit"] = args.isa
    return Results.new(about, versions, ["python", "-m", "bench", *command])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [provider.name for provider in PROVIDERS]
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parser.add_argument("--groups", nargs="+", metavar="GROUP", help="only the cases of these groups")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="only cases whose name contains one of these")
    parser.add_argument(
        "--dtypes", nargs="+", choices=cases.DTYPES, metavar="DTYPE", help="of float32 bfloat16 float16"
    )
    parser.add_argument("--providers", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="a dozen cases, short rounds")
    parser.add_argument("--rounds", type=int, default=15, help="rounds at most (15)")
    parser.add_argument("--minutes", type=float, help="budget for all cases together")
    parser.add_argument("--threads", type=int, help="threads of every library (torch's default)")
    parser.add_argument("--isa", choices=sorted(LIMITS), help="limit every library to this instruction set")
    parser.add_argument("--no-check", action="store_true", help="leave out the errors against fp64")
    parser.add_argument("--out", type=Path, default=Path("runs/bench.json"), help="results (runs/bench.json)")
    parser.add_argument("--resume", action="store_true", help="keep the cases that --out has already")
    return parser
