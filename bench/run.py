"""Runs one case: prepares every provider, measures in interleaved rounds, checks the results against fp64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from bench import machine, measure
from bench.accuracy import Reference
from bench.case import Case
from bench.environment import ignores_limit
from bench.measure import Runner, sentence
from bench.ops import call_of, op_of
from bench.provider import Prepared, Provider
from bench.results import OURS
from bench.work import Work

COLD_FACTOR = 3
"""Copies of a cold case's operands take this many times the last-level cache."""


COMPARED = ("ours", "peer", "unlimited")
"""Kinds of runs that compute the case itself; the others are twins of ours and reads of memory."""


def run_case(case: Case, names: Sequence[str], rounds: int, seconds: float, check: bool = True) -> dict[str, Any]:
    """One record of the results."""
    op, call = op_of(case.problem), call_of(case)
    work = op.work(call)
    record: dict[str, Any] = {
        "id": case.id,
        "op": op.name,
        "problem": case.problem.name,
        "dtype": case.dtype,
        "direction": case.direction,
        "groups": list(case.groups),
        "flops": work.flops,
        "bytes": work.bytes,
        **op.facts(case.problem, work),
        "cold": case.cold,
        "runs": {},
    }
    providers = {provider.name: provider for provider in op.providers}
    runners: list[tuple[str, Runner]] = []
    for provider in op.providers:
        if provider.name not in names or (case.only is not None and provider.name not in case.only):
            continue
        kind = "ours" if provider.name == OURS else "unlimited" if ignores_limit(provider.name) else "peer"
        runners.append((kind, _prepared(provider, case, call)))
    for label, problem, dtype in case.twins:
        twin = replace(case, problem=problem, dtype=dtype)
        runners.append(("twin", _twin(label, providers[OURS], twin)))
    if case.cold and machine.why_no_peaks() is None:
        runners.append(("machine", _reading(work)))
    share = min(0.3, seconds / (4 * max(len(runners), 1)))
    for _, runner in runners:
        if runner.failure is None:
            measure.settle(runner, share)
    if case.cold:
        warm = [runner for kind, runner in runners if runner.failure is None and kind in COMPARED]
        _cool(case, work, [(providers[runner.label], runner) for runner in warm])
    load = machine.OtherLoad()
    measure.rounds([runner for _, runner in runners], rounds, seconds)
    record["other load"] = load.share()
    compared = [runner for kind, runner in runners if kind in COMPARED and runner.failure is None]
    errors = _errors(lambda: op.reference(call), compared) if check and case.check else {}
    for kind, runner in runners:
        record["runs"][runner.label] = _run_record(kind, runner, errors.get(runner.label))
    return record


def _prepared(provider: Provider, case: Case, call: Any) -> Runner:
    if provider.version() is None:
        return Runner(provider.name, [], failure="not installed")
    if reason := provider.why_not(case):
        return Runner(provider.name, [], failure=reason)
    try:
        ways = provider.prepare(call)
    except Exception as error:
        return Runner(provider.name, [], failure=sentence(error))
    return Runner(provider.name, ways)


def _twin(label: str, ours: Provider, case: Case) -> Runner:
    try:
        return Runner(label, ours.prepare(call_of(case)))
    except Exception as error:
        return Runner(label, [], failure=sentence(error))


def _cool(case: Case, work: Work, runners: list[tuple[Provider, Runner]]) -> None:
    """Gives every runner enough copies of the operands that none is in a cache when its turn comes."""
    count = math.ceil(COLD_FACTOR * machine.last_level_cache() / work.bytes)
    calls = [call_of(case, seed) for seed in range(1, count + 1)]
    for provider, runner in runners:
        chosen = runner.prepared.way
        try:
            copies = [way for call in calls for way in provider.prepare(call) if way.way == chosen]
        except Exception as error:
            runner.failure = sentence(error)
            continue
        measure.rotate_copies(runner, copies)


def _reading(work: Work) -> Runner:
    """A plain read of as many bytes as the case must move, out of a buffer that no cache holds."""
    size = work.bytes // 4
    count = math.ceil(COLD_FACTOR * machine.last_level_cache() / work.bytes) + 1
    buffers = [torch.ones(size) for _ in range(count)]
    ways = [_read_of(buffer) for buffer in buffers]
    runner = Runner("plain read", ways[:1])
    measure.rotate_copies(runner, ways[1:])
    return runner


def _read_of(buffer: torch.Tensor) -> Prepared:
    read = torch.ops.mmkernels_cpu.measure_read
    return Prepared(lambda: read(buffer), lambda found: {})


def _errors(reference: Callable[[], Reference], runners: list[Runner]) -> dict[str, Any]:
    """Errors by label; a string says why there is none."""
    try:
        expected = reference()
    except Exception as error:
        return {runner.label: f"no reference: {sentence(error)}" for runner in runners}
    errors: dict[str, Any] = {}
    for runner in runners:
        if runner.label != OURS and expected.peers_differ:
            errors[runner.label] = expected.peers_differ
            continue
        try:
            found = expected.error(runner.prepared.results(runner.returned))
            errors[runner.label] = vars(found) if math.isfinite(found.allowed) else "not finite where fp64 is"
        except Exception as error:
            errors[runner.label] = sentence(error)
    return errors


def _run_record(kind: str, runner: Runner, error: Any) -> dict[str, Any]:
    if runner.failure is not None:
        return {"kind": kind, "why_not": runner.failure}
    samples = [round(sample, 9) for sample in runner.samples]
    found: dict[str, Any] = {"kind": kind, "calls": runner.calls, "samples": samples}
    if runner.prepared.way:
        found["way"] = runner.prepared.way
    if len(runner.way_seconds) > 1:
        found["ways"] = runner.way_seconds
    if error is not None:
        found["error"] = error
    return found
