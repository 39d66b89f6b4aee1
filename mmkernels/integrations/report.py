"""`PatchReport`: what `patch` did to a model, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from mmkernels.integrations.paths import Entry, Paths, grouped, watch


class PatchReport:
    """What `patch` did.

    Attributes:
        replaced: modules whose attention runs on mmkernels now.
        skipped: modules that compute attention, as far as their code shows, and still do it their own way.
    """

    def __init__(
        self, model: nn.Module, replaced: Iterable[Entry], skipped: Iterable[Entry], undo: list[Callable[[], None]]
    ) -> None:
        self.replaced, self.skipped = tuple(replaced), tuple(skipped)
        self._model, self._undo = model, undo

    def revert(self) -> None:
        """Make the model what it was; a second call does nothing. Parameters were never touched."""
        while self._undo:
            self._undo.pop()()

    def paths(self, run: Callable[[], Any]) -> Paths:
        """Which way the attention of each layer takes, and why: what masks and biases became, and which backend ran.

        ::

            print(report.paths(lambda: model(**inputs)))

        Args:
            run: calls the model, eagerly; torch.compile's own code is not seen.

        Returns:
            Paths: one `Entry` for each of `replaced`, and for every other module that called mmkernels.
        """
        return watch(self._model, self.replaced, run)

    def __str__(self) -> str:
        return "\n".join(
            line
            for title, entries in (("replaced", self.replaced), ("skipped", self.skipped))
            for line in (f"{title}: {len(entries)}", *grouped(entries))
        )

    def __repr__(self) -> str:
        return f"PatchReport(replaced={len(self.replaced)}, skipped={len(self.skipped)})"
