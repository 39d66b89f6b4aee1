"""`make gpu-check` can only pass by really running: its verdict on reports of tests, and its run without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tools import gpu_check

DEVICE = "Fake GPU"
CASE = '<testcase classname="t" name="a"><properties>{}</properties>{}</testcase>'


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


def faults(tests: dict[str, Any], **changes: Any) -> list[str]:
    step = {"status": 0, "why": "passed"}
    report = {
        "device": {"name": DEVICE},
        "why_not": None,
        "tests": tests,
        "sanitizer": step,
        "benchmark": step,
    } | changes
    return gpu_check.verdict(report)


def test_a_run_that_passes(tmp_path):
    tests = read(tmp_path, (gpu_check.LEAST, 2, ""), (4, None, "skipped"))
    assert not faults(tests)
    assert (tests["on_gpu"], tests["launches"], tests["skipped"]) == (gpu_check.LEAST, 2 * gpu_check.LEAST, 4)
    assert not faults(tests, sanitizer={"status": None, "why": "compute-sanitizer is not on the PATH"})


@pytest.mark.parametrize(
    ("cases", "changes", "sentence"),
    [
        ([(gpu_check.LEAST - 1, 2, "")], {}, "tests launched kernels on a CUDA device, at least"),
        ([(gpu_check.LEAST, 0, "")], {}, "0 tests launched kernels"),
        ([(gpu_check.LEAST, None, "")], {}, "0 tests launched kernels"),
        ([(gpu_check.LEAST, 2, "skipped")], {}, "0 tests launched kernels"),
        ([(gpu_check.LEAST, 2, ""), (1, 2, "failure")], {}, "1 tests failed"),
        ([(gpu_check.LEAST, 2, ""), (1, 2, "error")], {}, "1 tests failed"),
        (
            [(gpu_check.LEAST, 2, "")],
            {"device": None, "why_not": "torch is not a CUDA build"},
            "no CUDA device: torch is",
        ),
        ([(gpu_check.LEAST, 2, "")], {"device": {"name": "another"}}, "not on another"),
        ([(gpu_check.LEAST, 2, "")], {"sanitizer": {"status": 9, "why": ""}}, "the sanitizer failed with status 9"),
        ([(gpu_check.LEAST, 2, "")], {"benchmark": {"status": 1, "why": ""}}, "the benchmark failed with status 1"),
    ],
)
def test_a_run_that_does_not(tmp_path, cases, changes, sentence):
    assert any(sentence in fault for fault in faults(read(tmp_path, *cases), **changes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_it_fails_here(tmp_path):
    """Every test of it skips, which pytest calls a success."""
    command = [sys.executable, "-m", "tools.gpu_check", "--quick", "--out", str(tmp_path)]
    result = subprocess.run(command, cwd=gpu_check.ROOT, capture_output=True, text=True)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "NOT PASSED: no CUDA device" in result.stdout and "NOT PASSED: 0 tests launched" in result.stdout
    report = json.loads((gpu_check.ROOT / "build" / "gpu-check" / "none.json").read_text())
    assert report["tests"]["skipped"] > gpu_check.LEAST and not list(tmp_path.iterdir())
