"""Settings of the whole suite: threads, seeds, what ran, and the minutes each suite took."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

# Before torch is imported: two threads are enough to run every parallel path, and workers that share two processors
# must not spin while they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["MMKERNELS_TILES"] = ""  # the tables as they are shipped, whatever was tuned here

import pytest
import torch
from hypothesis import settings

from mmkernels import _native

settings.register_profile("suite", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test starts from the same state of torch's generator, in whatever order and process it runs."""
    torch.manual_seed(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", metavar="FILE", type=Path, help="add the seconds of every suite to this JSON file")


def pytest_report_header(config: pytest.Config) -> str:
    if not _native.loaded:
        return f"mmkernels: torch {torch.__version__}; NO native library: {_native.why_not_loaded}"
    library = torch.ops.mmkernels_cpu
    return (
        f"mmkernels: torch {torch.__version__}; native library on {library.isa()} (it can run {library.isas()}); "
        f"{torch.get_num_threads()} threads"
    )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Minutes(config.getoption("--minutes")))


class _Minutes:
    """Sums the time of tests by suite, a suite being a folder under tests/."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.seconds: dict[str, float] = defaultdict(float)
        self.tests: dict[str, int] = defaultdict(int)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        parts = report.nodeid.split("::")[0].split("/")
        suite = parts[1] if len(parts) > 2 else parts[-1]
        self.seconds[suite] += report.duration
        self.tests[suite] += report.when == "call"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.seconds:
            return
        terminalreporter.section("process minutes by suite")
        for suite, seconds in sorted(self.seconds.items()):
            terminalreporter.write_line(f"{suite:<16} {seconds / 60:6.2f}  {self.tests[suite]:6d} tests")
        if self.file:
            before = json.loads(self.file.read_text()) if self.file.exists() else {}
            for suite, seconds in self.seconds.items():
                row = before.setdefault(suite, {"seconds": 0.0, "tests": 0})
                row["seconds"] += seconds
                row["tests"] += self.tests[suite]
            self.file.write_text(json.dumps(before, indent=1))
