"""The program: what it writes, goes on with, prints and returns."""

from __future__ import annotations

import json
import os

import pytest

from bench import call_overhead, cases, cli, environment, machine, measure, memory, session
from bench.attention.cases import FP32_BOTH, FP32_FORWARD
from bench.attention.problems import Problem
from bench.case import Case
from bench.ops import every_provider
from bench.results import Results
from tests.bench.results import record, results

TINY = [
    Case(Problem("tiny a", (5,), (9,), heads=2, dim=8), "float32", False, (FP32_FORWARD,)),
    Case(Problem("tiny b", (5,), (9,), heads=2, dim=8), "float32", True, (FP32_BOTH,)),
]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setattr(measure, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(cases, "all_cases", lambda: list(TINY))
    monkeypatch.setattr(machine, "peaks", lambda: {"fma GFLOP/s": 100.0, "bf16 GFLOP/s": 200.0, "read GB/s": 10.0})
    monkeypatch.setattr(session, "every_provider", lambda: every_provider()[:3])


def bench(*arguments: object) -> int:
    return cli.main([str(each) for each in arguments])


COMMON = ("--providers", "mmkernels", "SDPA", "naive", "--rounds", "3", "--seconds", "0.05")


def test_a_run_is_saved_and_resumed(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert bench(*COMMON, "--out", out, "--only", "tiny a") == 0
    saved = json.loads(out.read_text())
    assert saved["schema"] == 1 and [case["id"] for case in saved["cases"]] == ["tiny a | fp32 | forward"]
    run = saved["cases"][0]["runs"]["mmkernels"]
    assert len(run["samples"]) >= 3 and run["error"]["allowed"] <= 1
    first = saved["cases"][0]
    assert bench(*COMMON, "--out", out, "--resume", "--only", "tiny") == 0
    saved = json.loads(out.read_text())
    assert len(saved["cases"]) == 2 and saved["cases"][0] == first and len(saved["commands"]) == 2
    printed = capsys.readouterr().out
    assert "tiny b | fp32 | forward+backward" in printed and "Goals" in printed
    assert not list(tmp_path.glob(".*"))  # no temporary file is left


def test_memory_of_a_selection_is_measured_when_asked_for(tmp_path, monkeypatch):
    """A whole run measures all of it; of a selection the cases, and not the lengths."""
    asked = []
    monkeypatch.setattr(memory, "measure", lambda results, ids, names, lengths: asked.append((ids, lengths)) or {})
    common = (*COMMON, "--out", tmp_path / "bench.json", "--no-check")
    assert bench(*common, "--only", "tiny a") == 0 and not asked
    assert bench(*common, "--only", "tiny a", "--memory") == 0
    monkeypatch.setattr(call_overhead, "measure", lambda *counts: {})
    assert bench(*common) == 0
    assert [len(ids) for ids, _ in asked] == [1, 2] and [len(lengths) for _, lengths in asked] == [0, 5]


def test_another_machine_is_not_mixed_in(tmp_path, capsys):
    out = tmp_path / "bench.json"
    results().save(out)
    assert bench(*COMMON, "--out", out, "--resume") == 2
    assert "processor" in capsys.readouterr().err


def test_an_interrupted_run_keeps_what_it_had(tmp_path, monkeypatch):
    out = tmp_path / "bench.json"
    real = session.run_case

    def interrupted(case, *rest):
        if case.backward:
            raise KeyboardInterrupt
        return real(case, *rest)

    monkeypatch.setattr(session, "run_case", interrupted)
    assert bench(*COMMON, "--out", out, "--only", "tiny") == 130
    assert [each.id for each in Results.load(out).records] == ["tiny a | fp32 | forward"]


def test_time_that_is_up_leaves_cases_for_later(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert bench(*COMMON, "--out", out, "--only", "tiny", "--minutes", "0") == 0
    assert "2 cases are left" in capsys.readouterr().err


def test_compare_exits_with_1_on_a_regression(tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    results(record("a", [], mmkernels=[1.0] * 9, SDPA=[2.0] * 9)).save(old)
    results(record("a", [], mmkernels=[1.5] * 9, SDPA=[2.0] * 9)).save(new)
    assert bench("--show", new, "--compare", old) == 1
    assert "Slower" in capsys.readouterr().out
    assert bench("--show", old, "--compare", new) == 0
    assert bench("--show", old, "--compare", tmp_path / "absent.json") == 2


def test_results_survive_the_round_trip(tmp_path):
    made = results(record("a", ["g"], mmkernels=[1.0, 2.0], SDPA=[2.0, 3.0]), record("b", ["g"], mmkernels=[1.0]))
    made.save(tmp_path / "x.json")
    assert Results.load(tmp_path / "x.json").data == made.data
    (tmp_path / "y.json").write_text('{"schema": 999}')
    with pytest.raises(ValueError, match="not a result of this benchmark"):
        Results.load(tmp_path / "y.json")


def test_unknown_groups_and_empty_choices_are_refused(capsys):
    assert bench("--groups", "nothing") == 2
    assert "the groups are" in capsys.readouterr().err
    assert bench("--only", "nothing") == 2


def test_list_measures_nothing(capsys):
    assert bench("--list") == 0
    assert "tiny a | fp32 | forward" in capsys.readouterr().out


def test_report(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    made = results(
        record("a", [FP32_FORWARD], mmkernels=[1.0] * 5, SDPA=[2.0] * 5),
        record("b", [FP32_BOTH], mmkernels=[1.0] * 5, SDPA=[0.5] * 5),
    )
    made.save(tmp_path / "x.json")
    assert bench("--show", tmp_path / "x.json", "--report", tmp_path / "report") == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "geometric mean over SDPA" in page and "data:image/svg+xml" in page and "http" not in page.split("<h1>")[0]
    assert (tmp_path / "report" / "ratios.svg").stat().st_size < 100_000


def test_isa_restarts_with_every_limit(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execve", lambda *call: started.append(call))
    monkeypatch.delenv(environment.MARK, raising=False)
    environment.restart_limited(["--quick"])
    assert not started
    environment.restart_limited(["--quick", "--isa", "avx2"])
    _, command, environ = started[0]
    assert command[1:] == ["-m", "bench", "--quick", "--isa", "avx2"]
    assert environ["MMKERNELS_CPU_ISA"] == "avx2" and environ["ATEN_CPU_CAPABILITY"] == "avx2"
    monkeypatch.setenv(environment.MARK, "avx2")
    environment.restart_limited(["--isa=avx2"])
    assert len(started) == 1
