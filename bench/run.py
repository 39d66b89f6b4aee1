"""Runs one case: prepares every provider, measures in interleaved rounds, checks the results against fp64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from bench import accuracy, machine, measure
from bench.cases import Call, Case, make_call
from bench.environment import ignores_limit
from bench.measure import Runner, sentence
from bench.problems import Problem
from bench.providers import PROVIDERS, Prepared, Provider
from bench.results import OURS
from bench.work import Work, work_of

COLD_FACTOR = 3
"""Copies of a cold case's operands take this many times the last-level cache."""


COMPARED = ("ours", "peer", "unlimited")
"""Kinds of runs that compute the case itself; the others are twins of ours and reads of memory."""


def run_case(case: Case, names: Sequence[str], rounds: int, seconds: float, check: bool = True) -> dict[str, Any]:
    """One record of the results."""
    call = case.call()
    work = work_of(call.inputs, case.backward)
    record: dict[str, Any] = {
        "id": case.id,
        "problem": case.problem.name,
        "dtype": case.dtype,
        "direction": case.direction,
        "groups": list(case.groups),
        "q_len": case.problem.q_len,
        "k_len": case.problem.k_len,
        "pairs": work.pairs,
        "flops": work.flops,
        "bytes": work.bytes,
        "tile share": work.tile_share,
        "cold": case.cold,
        "runs": {},
    }
    runners: list[tuple[str, Runner]] = []
    for provider in PROVIDERS:
        if provider.name not in names or (case.only is not None and provider.name not in case.only):
            continue
        kind = "ours" if provider.name == OURS else "unlimited" if ignores_limit(provider.name) else "peer"
        runners.append((kind, _prepared(provider, case, call)))
    for label, problem, dtype in case.twins:
        runners.append(("twin", _twin(label, case, problem, dtype)))
    if case.cold and machine.why_no_peaks() is None:
        runners.append(("machine", _reading(work)))
    share = min(0.3, seconds / (4 * max(len(runners), 1)))
    for _, runner in runners:
        if runner.failure is None:
            measure.settle(runner, share)
    if case.cold:
        _cool(case, work, [runner for kind, runner in runners if runner.failure is None and kind in COMPARED])
    load = machine.OtherLoad()
    measure.rounds([runner for _, runner in runners], rounds, seconds)
    record["other load"] = load.share()
    errors = _errors(case, call, [runner for kind, runner in runners if kind in COMPARED]) if check else {}
    for kind, runner in runners:
        record["runs"][runner.label] = _run_record(kind, runner, errors.get(runner.label))
    return record


def _prepared(provider: Provider, case: Case, call: Call) -> Runner:
    if provider.version() is None:
        return Runner(provider.name, [], failure="not installed")
    if reason := provider.why_not(case):
        return Runner(provider.name, [], failure=reason)
    try:
        ways = provider.prepare(call)
    except Exception as error:
        return Runner(provider.name, [], failure=sentence(error))
    return Runner(provider.name, ways)


def _provider(name: str) -> Provider:
    return next(provider for provider in PROVIDERS if provider.name == name)


def _twin(label: str, case: Case, problem: Problem, dtype: str) -> Runner:
    try:
        return Runner(label, _provider(OURS).prepare(make_call(problem, dtype, case.backward, device=case.device)))
    except Exception as error:
        return Runner(label, [], failure=sentence(error))


def _cool(case: Case, work: Work, runners: list[Runner]) -> None:
    """Gives every runner enough copies of the operands that none is in a cache when its turn comes."""
    count = math.ceil(COLD_FACTOR * machine.last_level_cache() / work.bytes)
    calls = [case.call(seed) for seed in range(1, count + 1)]
    for runner in runners:
        chosen = runner.prepared.way
        try:
            copies = [way for call in calls for way in _provider(runner.label).prepare(call) if way.way == chosen]
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


def _errors(case: Case, call: Call, runners: list[Runner]) -> dict[str, Any]:
    """Errors by label; a string says why there is none."""
    if not case.check:
        return {}
    alive = [runner for runner in runners if runner.failure is None]
    try:
        expected = accuracy.reference(call)
    except Exception as error:
        return {runner.label: f"no reference: {sentence(error)}" for runner in alive}
    errors: dict[str, Any] = {}
    for runner in alive:
        if runner.label != OURS and case.problem.dropout_p:
            errors[runner.label] = "drops other elements than ours"
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
