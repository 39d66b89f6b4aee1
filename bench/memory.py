"""Peak extra memory: what a call holds at its worst beyond inputs, outputs and gradients.

Every call has a process of its own, in which Linux's peak counter is set back before it. A small call of the same
features comes first, so that libraries, threads and what those keep for any call are there (for ours, scratch of some
hundred KiB a thread, which depends on D); whatever grows with the size is counted. glibc is told to give freed memory
back at once.

Only for the providers that run in torch: graph runtimes allocate when they compile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cases import Case, make_call
from bench.problems import Problem
from bench.results import NAIVE, OURS, SDPA, Results

ROOT = Path(__file__).resolve().parents[1]
PROVIDERS = (OURS, SDPA, NAIVE)
LENGTHS = (1024, 2048, 4096, 8192, 16384)
PEAK = Path("/proc/self/clear_refs")


def swept(length: int) -> Case:
    """Square attention with one head, forward and backward."""
    return Case(Problem(f"square {length}, one head", (length,), (length,), heads=1), "float32", True, ())


def measure(results: Results, ids: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Bytes by provider: of the lengths swept, and of the cases named. A string says why there is no figure."""
    lengths: dict[str, Any] = {}
    by_case: dict[str, Any] = {}
    for name in PROVIDERS:
        if name not in names:
            continue
        ways = {record.id: record.runs.get(name, {}).get("way", "") for record in results.records}
        found = _child(name, list(ids), ways)
        lengths[name] = found["lengths"]
        by_case[name] = found["cases"]
    return {"lengths": lengths, "cases": by_case}


def _child(name: str, ids: list[str], ways: dict[str, str]) -> dict[str, Any]:
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "bench.memory"]
    request = json.dumps({"provider": name, "ids": ids, "ways": ways})
    done = subprocess.run(command, input=request, capture_output=True, text=True, cwd=ROOT, env=environment)
    if done.returncode:
        raise OSError(f"the process that measures memory failed: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


# ---- in the process ----


def main() -> None:
    """Reads a request from stdin, writes figures to stdout."""
    from bench.cases import all_cases

    request = json.loads(sys.stdin.read())
    name, ways = request["provider"], request["ways"]
    lengths = [[length, _apart(name, swept(length), "")] for length in LENGTHS]
    wanted = set(request["ids"])
    found = {case.id: _apart(name, case, ways.get(case.id, "")) for case in all_cases() if case.id in wanted}
    print(json.dumps({"lengths": lengths, "cases": found}))


def _apart(name: str, case: Case, way: str) -> int | str:
    """`_extra` in a process of its own: this one has loaded torch, has run nothing and so has no threads yet."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, json.dumps(_extra(name, case, way)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer) if answer else "its process died"


def _extra(name: str, case: Case, way: str) -> int | str:
    from bench.providers import PROVIDERS as EVERY

    if not PEAK.exists():
        return "the peak is read from Linux's /proc"
    provider = next(each for each in EVERY if each.name == name)
    if reason := provider.why_not(case):
        return reason
    try:
        small = make_call(case.problem.scaled_down(), case.dtype, case.backward)
        for each in provider.prepare(small):
            each.run()
        call = case.call()
        chosen = [each for each in provider.prepare(call) if not way or each.way == way]
        return _peak_of(chosen[0].run)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"


def _peak_of(run: Any) -> int:
    import gc

    from torch.utils._pytree import tree_leaves

    from mmkernels.models.comparison import peak_memory

    gc.collect()
    returned, peak = peak_memory(run)
    results = sum(each.nbytes for each in tree_leaves(returned) if hasattr(each, "nbytes"))
    return max(peak - results, 0)


if __name__ == "__main__":
    main()
