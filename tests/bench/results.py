"""Results with known samples."""

from __future__ import annotations

from typing import Any

from bench.results import Results

MACHINE = {
    "processor": "test", "threads": 1, "torch": "0", "torch instruction set": "A", "mmkernels instruction set": "a",
    "peaks": {"fma GFLOP/s": 100.0, "bf16 GFLOP/s": 200.0, "read GB/s": 10.0},
}  # fmt: skip


def record(
    case_id: str, groups: list[str], dtype: str = "float32", op: str | None = None, **times: list[float]
) -> dict[str, Any]:
    """A case with samples by label; underscores in labels are spaces. Without an op: as files had it at first."""
    runs = {}
    for label, samples in times.items():
        kind = {"mmkernels": "ours", "own_fp32": "twin", "own_dense": "twin", "plain_read": "machine"}.get(
            label, "peer"
        )
        runs[label.replace("_", " ")] = {"kind": kind, "calls": 1, "samples": samples}
    return ({} if op is None else {"op": op}) | {
        "id": case_id, "problem": case_id, "dtype": dtype, "direction": "forward", "groups": groups, "q_len": 1,
        "k_len": 1, "pairs": 1, "flops": 10**9, "bytes": 10**6, "tile share": 0.5, "cold": False, "runs": runs,
    }  # fmt: skip


def results(*records: dict[str, Any]) -> Results:
    """A run of these cases."""
    found = Results.new(dict(MACHINE), {"mmkernels": "0"}, ["bench"])
    for each in records:
        found.add(each)
    return found
