"""The results of a run: one JSON value, saved after every case, and read back for tables, comparisons and reports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.medians import Ratio, Spread, ratio, spread
from mmkernels.files import write_atomically

SCHEMA = 1
OURS, SDPA, NAIVE = "mmkernels", "SDPA", "naive"
ATTENTION = "attention"
"""The op of records that name none: files from before there were others."""


@dataclass(frozen=True)
class Record:
    """One case's part of the JSON value."""

    data: dict[str, Any]

    @property
    def id(self) -> str:
        """The case's."""
        return self.data["id"]

    @property
    def op(self) -> str:
        """The op's name."""
        return self.data.get("op", ATTENTION)

    @property
    def baseline(self) -> str:
        """torch's own way, which every case of the op is held against: SDPA; of the others, the naive path."""
        return SDPA if self.op == ATTENTION else NAIVE

    @property
    def groups(self) -> list[str]:
        """The goals it answers."""
        return self.data["groups"]

    @property
    def runs(self) -> dict[str, Any]:
        """By label of provider or twin."""
        return self.data["runs"]

    def samples(self, label: str) -> list[float]:
        """Seconds a call, by round; empty where it did not run."""
        return self.runs.get(label, {}).get("samples", [])

    def spread(self, label: str) -> Spread | None:
        """Of the seconds a call takes."""
        samples = self.samples(label)
        return spread(samples) if samples else None

    def ratio(self, label: str, over: str = OURS) -> Ratio | None:
        """Time of `label` over the time of `over`, round by round: how many times faster `over` is."""
        top, bottom = self.samples(label), self.samples(over)
        if not top or len(top) != len(bottom):
            return None
        return ratio(top, bottom)

    def peers(self) -> list[str]:
        """Labels of other providers that ran."""
        return [name for name, run in self.runs.items() if run.get("samples") and run["kind"] == "peer"]

    def best_peer(self) -> str | None:
        """The fastest of them by median."""
        return min(self.peers(), key=lambda name: spread(self.samples(name)).median, default=None)

    def gflops(self, label: str = OURS) -> float | None:
        """Counted operations over the median time."""
        found = self.spread(label)
        return self.data["flops"] / found.median / 1e9 if found else None

    def roofline(self, machine: dict[str, Any]) -> float | None:
        """GFLOP/s that the machine's peaks allow at this case's intensity."""
        peaks = machine.get("peaks")
        if not peaks:
            return None
        fma = peaks["fma GFLOP/s"]
        peak = peaks.get("bf16 GFLOP/s", fma) if self.data["dtype"] == "bfloat16" else fma
        return min(peak, peaks["read GB/s"] * self.data["flops"] / self.data["bytes"])


@dataclass
class Results:
    """All of a run."""

    data: dict[str, Any]

    @classmethod
    def new(cls, machine: dict[str, Any], versions: dict[str, str | None], command: list[str]) -> Results:
        """An empty one."""
        head = {"schema": SCHEMA, "machine": machine, "versions": versions, "commands": [command]}
        return cls(head | {"cases": [], "overhead": None, "memory": None})

    @classmethod
    def load(cls, path: Path) -> Results:
        """From a file that `save` wrote."""
        data = json.loads(path.read_text())
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise ValueError(f"{path} is not a result of this benchmark (schema {SCHEMA})")
        return cls(data)

    @property
    def machine(self) -> dict[str, Any]:
        """What it was measured on."""
        return self.data["machine"]

    @property
    def records(self) -> list[Record]:
        """Every case measured."""
        return [Record(each) for each in self.data["cases"]]

    def ops(self) -> list[str]:
        """The ops that have cases, in their order."""
        return list(dict.fromkeys(record.op for record in self.records))

    def group(self, name: str) -> Iterator[Record]:
        """The cases of a group."""
        return (record for record in self.records if name in record.groups)

    def find(self, case_id: str) -> Record | None:
        """One case."""
        return next((record for record in self.records if record.id == case_id), None)

    def add(self, record: dict[str, Any]) -> None:
        """Adds or replaces a case."""
        self.data["cases"] = [each for each in self.data["cases"] if each["id"] != record["id"]] + [record]

    def save(self, path: Path) -> None:
        """A run that is stopped leaves the last whole file."""
        write_atomically(path, compact(self.data).encode())


def compact(data: dict[str, Any]) -> str:
    """JSON with one case a line; refuses NaN and Inf, which JSON has not."""
    cases = ",\n  ".join(json.dumps(case, allow_nan=False) for case in data["cases"])
    head = ",\n ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in data.items() if name != "cases")
    return f'{{{head},\n "cases": [\n  {cases}\n ]}}\n'
