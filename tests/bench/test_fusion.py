"""The cases of concat-fusion: every way of every provider gives what ours gives, and the work is counted right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench import measure, memory, run
from bench.case import Case
from bench.fusion.accuracy import reference
from bench.fusion.cases import SHARED, cases
from bench.fusion.problems import Problem, facts, make_call, work
from bench.fusion.providers import PROVIDERS, SumOfLinears
from bench.results import Record

OURS, NAIVE, COMPILED, SUM = PROVIDERS
SMALL = {
    "two sources": Problem("two", ((37, 24), (37, 9)), 20),
    "three sources": Problem("three", ((37, 24), (37, 9), (37, 5)), 20),
    "everything around": Problem("full", ((37, 24), (37, 9)), 20, full=True),
    "one image vector": Problem("shared", ((3, 1, 24), (3, 7, 9)), 20),
}


def results_of(provider, call):
    return [{name: x.detach() for name, x in way.results(way.run()).items()} for way in provider.prepare(call)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", SMALL)
def test_every_way_of_torch(name: str, dtype: str) -> None:
    """Forward, and every gradient, within the rule's bounds around fp64, as ours."""
    for backward in (False, True):
        call = make_call(SMALL[name], dtype, backward)
        expected = reference(call)
        for provider in (OURS, NAIVE, SUM):
            if provider.why_not(Case(SMALL[name], dtype, backward, ())):
                continue
            ways = results_of(provider, call)
            for found in ways:
                assert set(found) == {"out"} | ({f"grad {leaf}" for leaf in call.leaves()} if backward else set())
                assert expected.error(found).allowed <= (1 if provider is OURS else 2), provider.name


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_compiled(name: str) -> None:
    """Compiles for seconds each."""
    for backward in (False, True):
        call = make_call(SMALL[name], "float32", backward)
        (found,) = results_of(COMPILED, call)
        assert reference(call).error(found).allowed <= 2


@pytest.mark.parametrize("name", SMALL)
def test_a_wrong_element_is_seen(name: str) -> None:
    call = make_call(SMALL[name], "float32", True)
    expected = reference(call)
    (found,) = results_of(OURS, call)
    for result in found:
        spoiled = {key: x.clone() for key, x in found.items()}
        spoiled[result].view(-1)[0] += 0.01
        assert expected.error(spoiled).allowed > 1, result
        spoiled[result].view(-1)[0] = torch.nan
        assert expected.error(spoiled).absolute == float("inf"), result


def test_a_case_becomes_a_record(monkeypatch):
    monkeypatch.setattr(measure, "PAUSE_SECONDS", 0.0)
    case = Case(SMALL["one image vector"], "float32", True, (SHARED,))
    found = Record(run.run_case(case, ["mmkernels", "naive", "sum of linears", "SDPA"], 2, 0.05))
    assert found.op == "concat_fusion" and found.baseline == "naive" and found.data["saving"] > 1
    assert found.peers() == ["naive", "sum of linears"]
    assert all(each["error"]["allowed"] <= 2 for each in found.runs.values())


def test_memory_by_case():
    """In a process of its own, for the providers that the op has."""
    case_id = "fusion 64x512x512 | fp32 | forward"
    request = {"ids": [case_id], "ways": {}, "lengths": []}
    found = memory.in_process(request | {"provider": "mmkernels"})
    assert found["lengths"] == [] and 0 <= found["cases"][case_id] < 8 << 20
    assert memory.in_process(request | {"provider": "SDPA"})["cases"] == {}


def test_a_norm_has_no_partial_sums():
    case = Case(SMALL["everything around"], "float32", False, ())
    assert SumOfLinears().why_not(case) == "the norm is over all sources"
    assert SumOfLinears().why_not(replace(case, problem=SMALL["two sources"])) is None


def test_work():
    """Rows x features x results, by hand."""
    size = 37 * 33 + 20 * 33 + 20  # elements of inputs, weight and bias
    forward = work(make_call(SMALL["two sources"], "float32", False))
    assert forward.flops == 2 * 37 * 33 * 20 and forward.bytes == 4 * (size + 37 * 20)
    both = work(make_call(SMALL["two sources"], "bfloat16", True))
    assert both.flops == 3 * forward.flops and both.bytes == 2 * (3 * size + 2 * 37 * 20)
    full = work(make_call(SMALL["everything around"], "float32", False))
    assert full.flops == forward.flops and full.bytes == forward.bytes + 4 * (2 * 33 + 20 + 37 * 20)


def test_a_shared_source_is_counted_once():
    problem = SMALL["one image vector"]
    found = work(make_call(problem, "float32", False))
    assert found.flops == 2 * 20 * (3 * 24 + 21 * 9)
    assert facts(problem, found)["saving"] == 21 * 33 / (3 * 24 + 21 * 9)
    assert facts(SMALL["two sources"], found)["saving"] == 1
    assert all((facts(case.problem, found)["saving"] > 1) == (SHARED in case.groups) for case in cases())


def test_scaled_down_keeps_the_features():
    for case in cases():
        small, whole = case.problem.scaled_down(), case.problem
        assert (small.full, len(small.sources)) == (whole.full, len(whole.sources))
        assert [len(s) for s in small.sources] == [len(s) for s in whole.sources]
        make_call(small, "float32", True)
