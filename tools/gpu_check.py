"""What only a machine with a GPU can say: conformance, memory checks and speed of the cuda backend, in one report.

    python -m tools.gpu_check [--quick] [--out FOLDER]

Writes FOLDER/<device>.json and .txt (docs/benchmarks/gpu). The exit status is 0 only if tests really ran on a CUDA
device: at least LEAST of them passed and launched kernels there, none failed, and every step that could run did.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/conformance/test_cuda_on_gpu.py",)
LEAST = 150
"""Tests that must have launched kernels: the named problems in three dtypes alone are more."""
SANITIZED = "empty_rows or clamped or head_dims"


def read_tests(junit: Path) -> dict[str, Any]:
    """What the tests' report says: how many ran on a device, on which, and which ones failed."""
    found: dict[str, Any] = {"on_gpu": 0, "launches": 0, "passed": 0, "skipped": 0, "failed": [], "devices": []}
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


def verdict(report: dict[str, Any]) -> list[str]:
    """Sentences that say why the check has not passed; none if it has."""
    faults = []
    tests = report["tests"]
    if report["device"] is None:
        faults.append(f"no CUDA device: {report['why_not']}")
    if tests["on_gpu"] < LEAST:
        faults.append(f"{tests['on_gpu']} tests launched kernels on a CUDA device, at least {LEAST} must")
    if tests["failed"]:
        faults.append(f"{len(tests['failed'])} tests failed, the first: {tests['failed'][0]}")
    if report["device"] is not None and tests["devices"] != [report["device"]["name"]]:
        faults.append(f"the tests ran on {tests['devices']}, not on {report['device']['name']}")
    for step in ("sanitizer", "benchmark"):
        state = report[step]
        if state["status"] not in (0, None):
            faults.append(f"the {step} failed with status {state['status']}")
    return faults


def text_of(report: dict[str, Any]) -> str:
    """The report for people."""
    device, tests = report["device"], report["tests"]
    lines = [f"{report['date']}  mmkernels {report['commit']}  torch {report['torch']}"]
    if device is not None:
        lines.append(f"{device['name']}, compute capability {device['capability']}; library for {device['library']}")
    lines.append(
        f"tests: {tests['on_gpu']} launched kernels ({tests['launches']} launches), {tests['passed']} passed, "
        f"{tests['skipped']} skipped, {len(tests['failed'])} failed"
    )
    lines += [f"  failed: {name}" for name in tests["failed"]]
    for step in ("sanitizer", "benchmark"):
        state = report[step]
        lines.append(f"{step}: {'passed' if state['status'] == 0 else state['why']}")
    faults = report["faults"]
    lines += [f"NOT PASSED: {fault}" for fault in faults] or ["PASSED"]
    return "\n".join(lines) + "\n"


def check(quick: bool, out: Path) -> int:
    """Runs every step, writes the report, returns the exit status."""
    work = ROOT / "build" / "gpu-check"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    report: dict[str, Any] = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "commit": _commit()}
    report |= _device()
    missing = {"status": None, "why": "not run: no CUDA device"}
    report |= {"sanitizer": missing, "benchmark": missing}
    report["tests"] = _tests(work / "tests.xml")
    if report["device"] is not None:
        report["sanitizer"] = _sanitizer(quick)
        report["benchmark"] = _benchmark(work / "bench.json", quick)
    report["faults"] = verdict(report)
    name = "none" if report["device"] is None else report["device"]["name"]
    stem = re.sub(r"\W+", "-", name).strip("-").lower()
    folder = out if report["device"] is not None else work  # a machine without a GPU has nothing to record
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / f"{stem}.txt").write_text(text_of(report))
    print(f"\n{text_of(report)}report: {folder / stem}.json and .txt")
    return 1 if report["faults"] else 0


def _device() -> dict[str, Any]:
    import torch

    from mmkernels import _native_cuda

    why_not = _native_cuda.why_not_here()
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "why_not": why_not, "device": None}
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


def _run(command: list[str]) -> int:
    print(f"\n==== {' '.join(command)}", flush=True)
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode


def _tests(junit: Path) -> dict[str, Any]:
    options = ["-q", "-p", "no:cacheprovider", f"--junitxml={junit}", "-o", "junit_family=xunit1"]
    status = _run([sys.executable, "-m", "pytest", *options, *TESTS])
    found = read_tests(junit)
    if status not in (0, 1):
        found["failed"].append(f"pytest itself, with status {status}")
    return found


def _sanitizer(quick: bool) -> dict[str, Any]:
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"status": None, "why": "not run: compute-sanitizer is not on the PATH"}
    for check in ("memcheck",) if quick else ("memcheck", "racecheck", "synccheck", "initcheck"):
        pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", SANITIZED, *TESTS]
        status = _run([tool, f"--tool={check}", "--error-exitcode=9", "--target-processes=all", *pytest])
        if status:
            return {"status": status, "why": f"failed in {check}"}
    return {"status": 0, "why": "passed"}


def _benchmark(out: Path, quick: bool) -> dict[str, Any]:
    options = [
        "--device",
        "cuda",
        "--out",
        str(out),
        "--minutes",
        "5" if quick else "40",
        *(["--quick"] if quick else []),
    ]
    status = _run([sys.executable, "-m", "bench", *options])
    results = json.loads(out.read_text()) if out.exists() else None
    if status == 0 and not results:
        return {"status": 1, "why": "left no results"}
    return {"status": status, "why": "failed" if status else "passed", "results": results}


def _commit() -> str:
    result = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return result.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="memcheck alone, twelve benchmarks")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks" / "gpu", help="folder of the report")
    args = parser.parse_args()
    sys.exit(check(args.quick, args.out))


if __name__ == "__main__":
    main()
