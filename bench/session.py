"""A run from beginning to end: the machine, the cases within a budget, overhead and memory, saved as it goes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import call_overhead, machine, memory, tables
from bench.attention.cases import SWEEPS
from bench.case import Case
from bench.ops import every_provider
from bench.provider import Provider
from bench.results import Record, Results
from bench.run import run_case

LONGEST_CASE, SHORTEST_CASE = 8.0, 0.2
"""Seconds for the rounds of one case."""
SAME = ("processor", "threads", "torch", "torch instruction set", "mmkernels instruction set")
"""What must not change between a run and its resumption."""


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    cases: Sequence[Case]
    providers: Sequence[str]
    rounds: int = 15
    minutes: float | None = None
    seconds: float | None = None
    """For the rounds of a case; None: as the minutes allow, at most LONGEST_CASE."""
    check: bool = True
    tiny: bool = True
    memory: bool = True
    """Of every case."""
    lengths: bool = True
    """Memory against length."""


def start(out: Path, resume: bool, isa: str | None, command: list[str]) -> Results:
    """New results, with the machine and its peaks; or those to go on with, if they are of this machine."""
    about = machine.describe()
    if resume and out.exists():
        results = Results.load(out)
        for name in SAME:
            if results.machine.get(name) != about[name]:
                raise ValueError(f"{out} was measured with {name} {results.machine.get(name)}, now it is {about[name]}")
        results.data["commands"].append(command)
        return results
    every = every_provider()
    present = [provider for provider in every if provider.version() is not None]
    about["instruction sets"] = {provider.name: _instruction_set(provider) for provider in present}
    about["limited to"] = isa
    about["peaks"] = machine.peaks()
    about["started"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Results.new(about, {provider.name: provider.version() for provider in every}, command)


def measure(plan: Plan, results: Results, out: Path, resume: bool) -> None:
    """Runs the plan; what `results` has already is left out where the run is a resumption."""
    tables.print_machine(results)
    todo = [case for case in plan.cases if not (resume and results.find(case.id))]
    deadline = float("inf") if plan.minutes is None else time.monotonic() + 60 * plan.minutes
    beside = 1.0  # seconds that a case takes beside its rounds, as seen so far
    if todo:
        print(tables.line(tables.HEADS), flush=True)
    for index, case in enumerate(todo):
        if time.monotonic() > deadline:
            print(f"the time is up: {len(todo) - index} cases are left for --resume", file=sys.stderr)
            return
        left = (deadline - time.monotonic()) / (len(todo) - index) - beside
        seconds = plan.seconds or min(LONGEST_CASE, max(left, SHORTEST_CASE))
        begin = time.monotonic()
        record = run_case(case, plan.providers, plan.rounds, seconds, plan.check)
        beside += (max(time.monotonic() - begin - seconds, 0.0) - beside) / min(index + 2, 10)
        results.add(record)
        results.save(out)
        print(tables.line(tables.case_row(Record(record), results.machine)), flush=True)
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()  # what was compiled for this case is not needed again
    if plan.tiny and not (resume and results.data["overhead"]):
        results.data["overhead"] = call_overhead.measure(300, 20)
        results.save(out)
    if plan.memory and not (resume and results.data["memory"]):
        if time.monotonic() > deadline:
            print("the time is up: memory is left for --resume", file=sys.stderr)
            return
        ids = [record.id for record in results.records if not set(record.groups) <= set(SWEEPS)]
        lengths = memory.LENGTHS if plan.lengths else ()
        results.data["memory"] = memory.measure(results, ids, plan.providers, lengths)
        results.save(out)


def _instruction_set(provider: Provider) -> str:
    try:
        return provider.instruction_set()
    except Exception as error:
        return f"unknown: {error}"
