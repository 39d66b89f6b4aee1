"""Measure the ops beside their peers: tables, every sample as JSON, a report with plots.

    python -m bench                          every case, about 40 minutes on 2 cores
    python -m bench --quick                  twelve problems, about 5 minutes
    python -m bench --groups "fp32 forward" --providers mmkernels SDPA
    python -m bench --only fusion contrastive --memory
                                             these ops alone, and the memory of their cases
    python -m bench --isa avx2               every library limited to AVX2, where it lets itself be limited
    python -m bench --compare old.json       also: what got slower or faster since; exits 1 if anything got slower
    python -m bench --show FILE --report DIR nothing is measured: tables, plots and a page of an earlier run

Results go to --out after every case; --resume goes on where a run stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import cases, compare, session, tables
from bench.attention.cases import MEMORY, TINY
from bench.case import DTYPES, Case
from bench.environment import LIMITS
from bench.ops import every_provider
from bench.results import Results

QUICK = (
    "text-to-image 77x1024", "square 1024", "mllama 32x1601", "ViT 197", "causal 1024", "half padding 128x1024",
    "decode 1x4096", "ViT 197 dropout", "learned bias 196", "fusion 512x1024x1024", "fusion full 616x1024x768",
    "contrastive softmax 1024x512",
)  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Runs the program; returns its exit status: 0 done, 1 slower than --compare, 2 a wrong argument, 130 stopped."""
    args = _parser().parse_args(arguments)
    try:
        return _run(args, list(arguments))
    except KeyboardInterrupt:
        print(f"\nstopped; go on with --resume --out {args.out}", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace, command: list[str]) -> int:
    old = Results.load(args.compare) if args.compare else None  # refuses before anything is measured
    if args.show:
        results = Results.load(args.show)
    else:
        chosen = selected(args)
        if args.list:
            tables.print_table("Cases", ("case", "groups"), [[case.id, ", ".join(case.groups)] for case in chosen])
            return 0
        if args.threads:
            torch.set_num_threads(args.threads)
        plan = session.Plan(
            chosen, args.providers, args.rounds, args.minutes, args.seconds or (2.0 if args.quick else None),
            not args.no_check, tiny=wanted(args, TINY), memory=args.memory or (wanted(args, MEMORY) and not args.quick),
            lengths=wanted(args, MEMORY) and not args.quick,
        )  # fmt: skip
        results = session.start(args.out, args.resume, args.isa, command)
        session.measure(plan, results, args.out, args.resume)
    tables.print_peers(results)
    tables.print_goals(results)
    if not args.show:
        print(f"\nevery sample: {args.out}")
    if args.report:
        from bench.report import write_report

        print(f"report: {write_report(results, args.report)}")
    if old is None:
        return 0
    found = compare.compare(old, results)
    tables.print_comparison(found, str(args.compare))
    return 1 if found.regressions else 0


def selected(args: argparse.Namespace) -> list[Case]:
    """The cases that the arguments name."""
    everything = cases.all_cases()
    groups = {group for case in everything for group in case.groups} | {TINY, MEMORY}
    if unknown := set(args.groups or ()) - groups:
        raise ValueError(f"no group is named {', '.join(sorted(unknown))}; the groups are: {', '.join(sorted(groups))}")
    chosen = [
        case
        for case in everything
        if (not args.groups or set(args.groups) & set(case.groups))
        and (not args.only or any(part in case.id for part in args.only))
        and (not args.dtypes or case.dtype in args.dtypes)
        and (not args.quick or (case.problem.name in QUICK and case.dtype != "float16"))
    ]
    if not chosen and not set(args.groups or ()) & {TINY, MEMORY}:
        raise ValueError("no case is left; --list shows them")
    return [case.on(args.device) for case in chosen]


def wanted(args: argparse.Namespace, group: str) -> bool:
    """Whether a group that has no cases is asked for."""
    return group in args.groups if args.groups else not args.only and not args.dtypes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [provider.name for provider in every_provider()]
    what = parser.add_argument_group("what is measured")
    what.add_argument("--list", action="store_true", help="print the cases and stop")
    what.add_argument("--groups", nargs="+", metavar="GROUP", help="only the cases of these groups")
    what.add_argument("--only", nargs="+", metavar="TEXT", help="only cases whose name contains one of these")
    what.add_argument("--dtypes", nargs="+", choices=DTYPES, metavar="DTYPE", help=" ".join(DTYPES))
    what.add_argument("--providers", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    what.add_argument("--quick", action="store_true", help="twelve problems, short rounds")
    what.add_argument("--memory", action="store_true", help="memory of the cases, which a selection leaves out")
    how = parser.add_argument_group("how")
    how.add_argument("--rounds", type=positive, default=15, metavar="N", help="rounds at most (15)")
    how.add_argument("--minutes", type=float, help="budget for everything; what is left over is for --resume")
    how.add_argument("--seconds", type=float, help="for the rounds of a case (as --minutes allow, at most 8)")
    how.add_argument("--threads", type=positive, metavar="N", help="threads of every library (torch's default)")
    how.add_argument("--isa", choices=sorted(LIMITS), help="limit every library to this instruction set")
    how.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda has never been run")
    how.add_argument("--no-check", action="store_true", help="leave out the errors against fp64")
    out = parser.add_argument_group("results")
    out.add_argument("--out", type=Path, default=Path("runs/bench.json"), metavar="FILE", help="(runs/bench.json)")
    out.add_argument("--resume", action="store_true", help="keep the cases that --out has already")
    out.add_argument("--show", type=Path, metavar="FILE", help="measure nothing, print this file")
    out.add_argument("--compare", type=Path, metavar="FILE", help="print what changed since this file")
    out.add_argument("--report", type=Path, metavar="DIR", help="write plots and index.html there (needs matplotlib)")
    return parser


def positive(text: str) -> int:
    """An argument that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
