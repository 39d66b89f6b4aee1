"""What only a machine with a GPU can say: conformance, memory checks and speed of the GPU backends, in one report.

    python -m tools.gpu_check [--quick] [--minutes N] [--out FOLDER]

Builds the CUDA library for the device that is here, unless MMKERNELS_CUDA_ARCHS says otherwise. Writes
FOLDER/<device>.json and .txt (docs/benchmarks/gpu) after every step, so that a run that is cut short leaves what it
found. The exit status is 0 only if the suites of the cuda backend really ran on a CUDA device: in each at least so many
tests passed and launched kernels there, none failed, and every step that could run did, and came to its end.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Report = dict[str, Any]


@dataclass(frozen=True)
class Suite:
    """Tests of one backend in one file, and how many of them must have launched kernels."""

    file: str
    backend: str
    least: int

    def why_not(self) -> str | None:
        """Why it need not run: the cuda backend's always must."""
        from mmkernels import _triton

        return _triton.why_not_here() if self.backend == "triton" else None


ATTENTION = "tests/conformance/test_attention_on_gpu.py"
FUSION = "tests/fusion/test_fusion_on_gpu.py"
CONTRASTIVE = "tests/contrastive/test_contrastive_on_gpu.py"
SUITES = {
    "primitives": Suite("tests/device/test_primitives_on_gpu.py", "", 20),
    **{
        f"{backend} {op}": Suite(file, backend, least)
        for backend in ("cuda", "triton")
        for op, file, least in (
            ("attention", ATTENTION, 150),
            ("concat_fusion", FUSION, 60),
            ("contrastive_loss", CONTRASTIVE, 60),
        )
    },
}
QUICK = "float16 and not bfloat16"
"""Triton compiles a kernel for each form: a quick run has those of one dtype."""
QUICK_LEAST = 4
"""A quick run of such a suite must have launched a fourth of `least`."""
SANITIZED = "cuda and not bfloat16 and not float32 and (clamped or empty_rows or head_dims or test_form or test_size)"
SANITIZED_QUICK = "cuda and not bfloat16 and not float32 and (clamped or empty_rows or 31 or layer or 513)"
"""Each takes some seconds there."""
MEMORY_CHECKS = ("memcheck", "racecheck", "synccheck", "initcheck")


# ---- reading ----


def read_tests(junit: Path) -> Report:
    """What the tests' report says: how many ran on a device, on which, and which ones failed."""
    found: Report = {"on_gpu": 0, "launches": 0, "passed": 0, "skipped": 0, "failed": [], "devices": []}
    for case in ElementTree.parse(junit).iter("testcase") if junit.exists() else ():
        name = f"{case.get('classname')}::{case.get('name')}"
        outcomes = {child.tag for child in case}
        properties = {each.get("name"): each.get("value") for each in case.iter("property")}
        if outcomes & {"failure", "error"}:
            found["failed"].append(name)
        elif "skipped" in outcomes:
            found["skipped"] += 1
        else:
            found["passed"] += 1
            launches = int(properties.get("launches") or 0)
            found["launches"] += launches
            found["on_gpu"] += launches > 0
        device = properties.get("device")
        if device and device not in found["devices"]:
            found["devices"].append(device)
    return found


def verdict(report: Report) -> list[str]:
    """Sentences that say why the check has not passed; none if it has."""
    faults = []
    if report["device"] is None:
        faults.append(f"no CUDA device: {report['why_not']}")
    for name, suite in SUITES.items():
        faults += [f"{name}: {fault}" for fault in _faults_of_tests(report, suite, report["suites"].get(name))]
    for name, state in report["steps"].items():
        if state["status"] not in (0, None):
            faults.append(f"{name}: {state['why']}")
    if "benchmark" not in report["steps"]:
        faults.append("the check did not come to its end")
    return faults


def _faults_of_tests(report: Report, suite: Suite, found: Report | None) -> list[str]:
    if found is None:
        return ["not run"]
    if found.get("why"):
        return []  # a backend that is not installed
    faults = []
    least = suite.least // QUICK_LEAST if report["quick"] and suite.backend == "triton" else suite.least
    if found["on_gpu"] < least:
        faults.append(f"{found['on_gpu']} tests launched kernels on a CUDA device, at least {least} must")
    if found["failed"]:
        faults.append(f"{len(found['failed'])} tests failed, the first: {found['failed'][0]}")
    if report["device"] is not None and found["devices"] != [report["device"]["name"]]:
        faults.append(f"the tests ran on {found['devices']}, not on {report['device']['name']}")
    return faults


def text_of(report: Report) -> str:
    """The report for people."""
    device = report["device"]
    lines = [f"{report['date']}  mmkernels {report['commit']}  torch {report['torch']}"]
    if device is not None:
        lines.append(f"{device['name']}, compute capability {device['capability']}; library for {device['library']}")
    for name, found in report["suites"].items():
        if found.get("why"):
            lines.append(f"{name}: not run, {found['why']}")
            continue
        lines.append(
            f"{name}: {found['on_gpu']} tests launched kernels ({found['launches']} calls), {found['passed']} passed, "
            f"{found['skipped']} skipped, {len(found['failed'])} failed"
        )
        lines += [f"  failed: {failed}" for failed in found["failed"]]
    lines += [f"{name}: {state['why']}, {state.get('seconds', 0)} s" for name, state in report["steps"].items()]
    lines += [f"NOT PASSED: {fault}" for fault in report["faults"]] or ["PASSED"]
    return "\n".join(lines) + "\n"


# ---- running ----


class Check:
    """One run: its report, and the time that is left."""

    def __init__(self, quick: bool, minutes: float, out: Path) -> None:
        self.quick, self.out = quick, out
        self.end = time.monotonic() + 60 * minutes
        self.work = ROOT / "build" / "gpu-check"
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.report: Report = {"date": date, "commit": _commit(), "quick": quick, "suites": {}, "steps": {}}

    def run(self) -> int:
        """Every step; the exit status."""
        self.report |= {"torch": "", "device": None, "why_not": "not looked for"}
        self._step("build", self._build())
        self.report |= describe()
        here = self.report["device"] is not None
        for name, suite in SUITES.items() if here else ():
            self._suite(name, suite)
        for check in MEMORY_CHECKS[: 1 if self.quick else None]:
            self._step(check, self._memory_check(check) if here else NO_DEVICE)
        self._step("benchmark", self._benchmark(self.work / "bench.json") if here else NO_DEVICE)
        print(f"\n{text_of(self.report)}report: {self._write()}.json and .txt")
        return 1 if self.report["faults"] else 0

    def _step(self, name: str, state: Report) -> None:
        self.report["steps"][name] = state
        self._write()

    def _write(self) -> Path:
        """The report so far, and where it stands without its ending."""
        from mmkernels.files import write_atomically

        self.report["faults"] = verdict(self.report)
        device = self.report["device"]
        folder = self.work if device is None else self.out  # a machine without a GPU has nothing to record
        stem = re.sub(r"\W+", "-", "none" if device is None else device["name"]).strip("-").lower()
        for ending, text in ((".json", json.dumps(self.report, indent=1) + "\n"), (".txt", text_of(self.report))):
            write_atomically(folder / f"{stem}{ending}", text.encode())
        return folder / stem

    def _command(self, command: list[str], **environment: str) -> Report:
        """Runs it to its end or until the time is up."""
        print(f"\n==== {' '.join(command)}", flush=True)
        begin = time.monotonic()
        environ = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        process = subprocess.Popen(command, cwd=ROOT, env=environ, start_new_session=True)
        try:
            status = process.wait(max(self.end - begin, 1.0))
            why = f"failed with status {status}" if status else "passed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
            process.wait()
            status, why = -1, "was stopped: the time of the check is up (--minutes)"
        return {"status": status, "why": why, "seconds": round(time.monotonic() - begin)}

    def _build(self) -> Report:
        import torch

        from tools import cuda
        from tools.machine import BuildError

        if not torch.cuda.is_available():
            return NO_DEVICE
        try:
            cuda.find_toolkit()
        except BuildError as error:
            return {"status": None, "why": f"not built here, the library that is there was taken: {error}"}
        major, minor = torch.cuda.get_device_capability()
        wanted = os.environ.get("MMKERNELS_CUDA_ARCHS") or f"{major}.{minor}"
        return self._command([sys.executable, "tools/native.py", "cuda"], MMKERNELS_CUDA_ARCHS=wanted)

    def _suite(self, name: str, suite: Suite) -> None:
        if why := suite.why_not():
            self.report["suites"][name] = {"why": why}
            return
        junit = self.work / f"{name.replace(' ', '-')}.xml"
        options = ["-q", "-p", "no:cacheprovider", f"--junitxml={junit}", "-o", "junit_family=xunit1"]
        quick = self.quick and suite.backend == "triton"
        if words := [suite.backend] * bool(suite.backend) + [QUICK] * quick:
            options += ["-k", " and ".join(words)]
        if importlib.util.find_spec("xdist"):
            options += ["-n", str(min(8, os.cpu_count() or 1))]  # the fp64 reference takes most of the time
        state = self._command([sys.executable, "-m", "pytest", *options, suite.file])
        found = read_tests(junit) | {"seconds": state["seconds"]}
        if state["status"] not in (0, 1):
            found["failed"].append(f"pytest itself {state['why']}")
        self.report["suites"][name] = found
        self._write()

    def _memory_check(self, check: str) -> Report:
        tool = shutil.which("compute-sanitizer")
        if tool is None:
            return {"status": None, "why": "not run: compute-sanitizer is not on the PATH"}
        pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        pytest += ["-k", SANITIZED_QUICK if self.quick else SANITIZED]
        watched = [tool, f"--tool={check}", "--error-exitcode=9", "--target-processes=all"]
        return self._command([*watched, *pytest, ATTENTION, FUSION, CONTRASTIVE])

    def _benchmark(self, out: Path) -> Report:
        minutes = min(2.0 if self.quick else 40.0, max((self.end - time.monotonic()) / 60 - 0.5, 0.5))
        options = ["--device", "cuda", "--out", str(out), "--minutes", f"{minutes:.1f}", *["--quick"] * self.quick]
        state = self._command([sys.executable, "-m", "bench", *options])
        results = json.loads(out.read_text()) if out.exists() else None
        if state["status"] == 0 and not results:
            state |= {"status": 1, "why": "left no results"}
        return state | {"results": results}


NO_DEVICE: Report = {"status": None, "why": "not run: no CUDA device"}


def describe() -> Report:
    """torch and the device, or why there is none for the library."""
    import torch

    from mmkernels import _native_cuda

    why_not = _native_cuda.why_not_here()
    found: Report = {"torch": torch.__version__, "cuda": torch.version.cuda, "why_not": why_not, "device": None}
    if why_not is None:
        properties = torch.cuda.get_device_properties(0)
        found["device"] = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "processors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "library": " ".join(_native_cuda.architectures()),
        }
    return found


def _commit() -> str:
    result = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return result.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="memcheck alone, Triton in fp16, twelve benchmarks")
    parser.add_argument("--minutes", type=float, default=120.0, help="what is not done by then is not passed (120)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks" / "gpu", help="folder of the report")
    args = parser.parse_args()
    sys.exit(Check(args.quick, args.minutes, args.out).run())


if __name__ == "__main__":
    main()
