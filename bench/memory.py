"""Peak extra memory: what a call holds at its worst beyond inputs, outputs and gradients.

Every call has a process of its own, in which Linux's peak counter is set back before it. A small call of the same
features comes first, so that libraries, threads and what those keep for any call are there (for ours, scratch of some
hundred KiB a thread, which depends on D); whatever grows with the size is counted. glibc is told to give freed memory
back at once.

Only for the providers that run in torch: graph runtimes allocate when they compile.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.attention.problems import Problem
from bench.case import Case
from bench.provider import Prepared, Provider
from bench.results import NAIVE, OURS, SDPA, Results

ROOT = Path(__file__).resolve().parents[1]
PROVIDERS = (OURS, SDPA, NAIVE)
LENGTHS = (1024, 2048, 4096, 8192, 16384)
PEAK = Path("/proc/self/clear_refs")


def swept(length: int) -> Case:
    """Square attention with one head, forward and backward."""
    return Case(Problem(f"square {length}, one head", (length,), (length,), heads=1), "float32", True, ())


def measure(
    results: Results, ids: Sequence[str], names: Sequence[str], swept_lengths: Sequence[int] = LENGTHS
) -> dict[str, Any]:
    """Bytes by provider: of the lengths swept, and of the cases named. A string says why there is no figure."""
    lengths: dict[str, Any] = {}
    by_case: dict[str, Any] = {}
    for name in PROVIDERS:
        if name not in names:
            continue
        ways = {record.id: record.runs.get(name, {}).get("way", "") for record in results.records}
        found = in_process({"provider": name, "ids": list(ids), "ways": ways, "lengths": list(swept_lengths)})
        lengths[name] = found["lengths"]
        by_case[name] = found["cases"]
    return {"lengths": lengths, "cases": by_case}


def in_process(request: dict[str, Any], module: str = "bench.memory", *arguments: str) -> dict[str, Any]:
    """What a module of this package answers on stdout to a request on stdin, in a process that returns freed memory."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, input=json.dumps(request), capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    if done.returncode:
        reason = done.stderr.strip()[-300:] or f"exit status {done.returncode}"
        raise OSError(f"the process that measures memory failed: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


# ---- in the process ----


def main() -> None:
    """Reads a request from stdin, writes figures to stdout."""
    from bench.cases import all_cases
    from bench.ops import op_of

    request = json.loads(sys.stdin.read())
    name, ways = request["provider"], request["ways"]

    def measured(case: Case, way: str = "") -> int | str | None:
        provider = next((each for each in op_of(case.problem).providers if each.name == name), None)
        return None if provider is None else _apart(provider, case, way)

    lengths = [[length, measured(swept(length))] for length in request["lengths"]]
    wanted = set(request["ids"])
    found = {case.id: measured(case, ways.get(case.id, "")) for case in all_cases() if case.id in wanted}
    by_case = {name: extra for name, extra in found.items() if extra is not None}
    print(json.dumps({"lengths": lengths, "cases": by_case}))


def _apart(provider: Provider, case: Case, way: str) -> int | str:
    """`_extra` in a process of its own: this one has loaded torch, has run nothing and so has no threads yet."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, json.dumps(_extra(provider, case, way)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer) if answer else "its process died"


def _extra(provider: Provider, case: Case, way: str) -> int | str:
    if not PEAK.exists():
        return "the peak is read from Linux's /proc"
    if reason := provider.why_not(case):
        return reason
    try:
        return first_call(provider, case, way).extra
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"


@dataclass(frozen=True)
class FirstCall:
    """The first call of its size in a process."""

    prepared: Prepared
    returned: Any
    extra: int
    """Bytes at the peak, beyond operands and what it returned."""
    seconds: float


def first_call(provider: Provider, case: Case, way: str = "") -> FirstCall:
    """Makes it, after a small one of the same features; "" takes any way."""
    from torch.utils._pytree import tree_leaves

    from bench.ops import call_of
    from mmkernels.models.comparison import peak_memory

    for each in provider.prepare(call_of(replace(case, problem=case.problem.scaled_down()))):
        each.run()
    prepared = next(each for each in provider.prepare(call_of(case)) if way in ("", each.way))
    gc.collect()
    begin = time.perf_counter()
    returned, peak = peak_memory(prepared.run)
    seconds = time.perf_counter() - begin
    results = sum(each.nbytes for each in tree_leaves(returned) if hasattr(each, "nbytes"))
    return FirstCall(prepared, returned, max(peak - results, 0), seconds)


if __name__ == "__main__":
    main()
