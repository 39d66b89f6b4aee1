"""`PatchReport`: what `patch` did to a model, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Entry(NamedTuple):
    """One module of the model: its path in it, its class, and how it is served or why it is not."""

    name: str
    kind: str
    note: str


class PatchReport:
    """What `patch` did.

    Attributes:
        replaced: modules whose attention runs on mmkernels now.
        skipped: modules that compute attention, as far as their code shows, and still do it their own way.
    """

    def __init__(self, replaced: list[Entry], skipped: list[Entry], undo: list[Callable[[], None]]) -> None:
        self.replaced, self.skipped = tuple(replaced), tuple(skipped)
        self._undo = undo

    def revert(self) -> None:
        """Make the model what it was; a second call does nothing. Parameters were never touched."""
        while self._undo:
            self._undo.pop()()

    def __str__(self) -> str:
        lines = []
        for title, entries in (("replaced", self.replaced), ("skipped", self.skipped)):
            lines.append(f"{title}: {len(entries)}")
            groups: dict[tuple[str, str], list[str]] = {}
            for entry in entries:
                groups.setdefault((entry.kind, entry.note), []).append(entry.name or "(the model)")
            lines += [
                f"  {len(names)} x {kind} ({names[0]}{', ...' if len(names) > 1 else ''}): {note}"
                for (kind, note), names in groups.items()
            ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"PatchReport(replaced={len(self.replaced)}, skipped={len(self.skipped)})"
