"""A progress bar where there is a terminal, a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from mmkernels.models.loop import StepReport

LINE_EVERY = 10.0  # seconds


class Progress:
    """Shows steps on stderr, so that stdout stays for results. Use as a context manager, call with each report."""

    def __init__(self, total: int, quiet: bool = False) -> None:
        self.total, self.quiet = total, quiet
        self._bar: Any = None
        self._task: Any = None
        self._last_line = 0.0

    def __enter__(self) -> Progress:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.fields[stage]:<8}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[losses]}"), console=Console(stderr=True),
            )  # fmt: skip
            self._task = self._bar.add_task("", total=self.total, stage="", losses="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, report: StepReport) -> None:
        if self.quiet:
            return
        losses = "  ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=report.step, stage=report.stage, losses=losses)
        elif report.step == self.total or time.monotonic() - self._last_line >= LINE_EVERY:
            self._last_line = time.monotonic()
            print(f"{report.stage} {report.step}/{self.total}  {losses}", file=sys.stderr, flush=True)
