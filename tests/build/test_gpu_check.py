"""`make gpu-check` can only pass by really running: its verdict on reports of tests, and its run without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.on_gpu import Counted
from tools import gpu_check

DEVICE = "Fake GPU"
CASE = '<testcase classname="t" name="a"><properties>{}</properties>{}</testcase>'
NAME = "cuda attention"
LEAST = gpu_check.SUITES[NAME].least


def read(tmp_path: Path, *cases: tuple[int, int | None, str]) -> dict[str, Any]:
    """What is read of (how many tests, launches of each, outcome)."""
    text = ""
    for count, launches, outcome in cases:
        told = {} if launches is None else {"device": DEVICE, "launches": launches}
        properties = "".join(f'<property name="{name}" value="{value}"/>' for name, value in told.items())
        text += CASE.format(properties, f"<{outcome}/>" if outcome else "") * count
    junit = tmp_path / "tests.xml"
    junit.write_text(f"<testsuites><testsuite>{text}</testsuite></testsuites>")
    return gpu_check.read_tests(junit)


def faults(tests: dict[str, Any] | None, name: str = NAME, quick: bool = False, **changes: Any) -> list[str]:
    """Of a report in which everything else is well."""
    well = {"on_gpu": 10**6, "launches": 10**6, "passed": 10**6, "skipped": 0, "failed": [], "devices": [DEVICE]}
    suites = dict.fromkeys(gpu_check.SUITES, well) | {name: tests}
    step = {"status": 0, "why": "passed"}
    steps = dict.fromkeys(("build", "memcheck", "benchmark"), step) | changes.pop("steps", {})
    report = {"device": {"name": DEVICE}, "why_not": None, "quick": quick, "suites": suites, "steps": steps} | changes
    return gpu_check.verdict(report)


def test_a_run_that_passes(tmp_path):
    tests = read(tmp_path, (LEAST, 2, ""), (4, None, "skipped"))
    assert not faults(tests)
    assert (tests["on_gpu"], tests["launches"], tests["skipped"]) == (LEAST, 2 * LEAST, 4)
    assert not faults(tests, steps={"memcheck": {"status": None, "why": "compute-sanitizer is not on the PATH"}})
    assert not faults({"why": "triton is not installed"}, "triton attention")


@pytest.mark.parametrize(
    ("cases", "changes", "sentence"),
    [
        ([(LEAST - 1, 2, "")], {}, f"{NAME}: {LEAST - 1} tests launched kernels on a CUDA device, at least {LEAST}"),
        ([(LEAST - 1, 2, "")], {"quick": True}, f"{NAME}: {LEAST - 1} tests launched"),
        ([(LEAST, 0, "")], {}, f"{NAME}: 0 tests launched kernels"),
        ([(LEAST, None, "")], {}, f"{NAME}: 0 tests launched kernels"),
        ([(LEAST, 2, "skipped")], {}, f"{NAME}: 0 tests launched kernels"),
        ([(LEAST, 2, ""), (1, 2, "failure")], {}, f"{NAME}: 1 tests failed"),
        ([(LEAST, 2, ""), (1, 2, "error")], {}, f"{NAME}: 1 tests failed"),
        ([(LEAST, 2, "")], {"device": None, "why_not": "torch is not a CUDA build"}, "no CUDA device: torch is"),
        ([(LEAST, 2, "")], {"device": {"name": "another"}}, "not on another"),
        ([(LEAST, 2, "")], {"steps": {"racecheck": {"status": 9, "why": "failed with 9"}}}, "racecheck: failed with 9"),
        ([(LEAST, 2, "")], {"steps": {"benchmark": {"status": -1, "why": "was stopped"}}}, "benchmark: was stopped"),
    ],
)
def test_a_run_that_does_not(tmp_path, cases, changes, sentence):
    assert any(sentence in fault for fault in faults(read(tmp_path, *cases), **changes))


def test_suites_that_did_not_run():
    """A backend that is not installed is excused; that is never said of the cuda backend."""
    assert faults(None) == [f"{NAME}: not run"]
    names = [name for name, suite in gpu_check.SUITES.items() if suite.backend != "triton"]
    assert len(names) == 4 and all(gpu_check.SUITES[name].why_not() is None for name in names)


@pytest.mark.parametrize(("least", "quick", "passes"), [(4, True, True), (4, False, False), (5, True, False)])
def test_a_quick_run_of_triton_may_be_short(tmp_path, least, quick, passes):
    name = "triton concat_fusion"
    tests = read(tmp_path, (gpu_check.SUITES[name].least // least, 1, ""))
    assert (not faults(tests, name, quick)) == passes


def test_a_check_that_was_cut_short_has_not_passed(tmp_path):
    report = {"device": {"name": DEVICE}, "why_not": None, "quick": True, "suites": {}, "steps": {}}
    found = gpu_check.verdict(report)
    assert "the check did not come to its end" in found and "primitives: not run" in found


def test_a_command_is_stopped_when_the_time_is_up(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    state = gpu_check.Check(True, 0.0, tmp_path)._command([sys.executable, "-c", "import time; time.sleep(60)"])
    assert state["status"] == -1 and "the time of the check is up" in state["why"]


def test_every_suite_has_enough_tests():
    """By their names, as `-k` goes by them; not all of what is collected can run."""
    files = sorted({suite.file for suite in gpu_check.SUITES.values()})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    told = subprocess.run(command, cwd=gpu_check.ROOT, capture_output=True, text=True).stdout
    tests = [line for line in told.splitlines() if "_on_gpu[" in line]
    for name, suite in gpu_check.SUITES.items():
        own = [test for test in tests if test.startswith(suite.file) and suite.backend in test.partition("[")[2]]
        quick = [test for test in own if "float16" in test and "bfloat16" not in test]
        assert len(own) >= suite.least, name
        assert len(quick) >= suite.least // gpu_check.QUICK_LEAST or suite.backend != "triton", name


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_it_fails_here(tmp_path):
    command = [sys.executable, "-m", "tools.gpu_check", "--quick", "--out", str(tmp_path)]
    result = subprocess.run(command, cwd=gpu_check.ROOT, capture_output=True, text=True)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "NOT PASSED: no CUDA device" in result.stdout and f"NOT PASSED: {NAME}: not run" in result.stdout
    report = json.loads((gpu_check.ROOT / "build" / "gpu-check" / "none.json").read_text())
    assert report["faults"] and not report["suites"] and not list(tmp_path.iterdir())


def test_calls_are_counted_where_tensors_are_on_a_gpu():
    with FakeTensorMode():
        tensors = {device: torch.empty(2, device=device) for device in ("cpu", "cuda")}
    module = SimpleNamespace(
        why_not=lambda: "not counted", forward=lambda x: (None, [x]), gradients=lambda x: [tensors["cpu"], x]
    )
    counted = Counted(module)
    assert counted.why_not() == "not counted" and counted.calls == 0
    counted.forward(tensors["cpu"])
    assert counted.calls == 0
    counted.forward(tensors["cuda"])
    counted.gradients(tensors["cuda"])
    assert counted.calls == 2
