"""The user's own pictures: a folder with a `captions.csv` or `captions.jsonl`."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mmkernels.models.augment import HANDED_WORDS
from mmkernels.models.captions import words
from mmkernels.models.sources.images import MAX_PIXELS, read_picture
from mmkernels.models.sources.picture_set import Entry, PictureSet, assemble, check_memory, spread
from mmkernels.models.sources.table import TABLES, TableRow, read_table

LICENCE = "not stated: pictures and captions are the user's own"
UNLABELLED = "unlabelled"


def load_folder(path: Path, *, size: int, limit: int | None, max_pixels: int = MAX_PIXELS) -> PictureSet:
    """Pictures of a folder, by the rows of its table.

    Rows that cannot be used (bad text, no such file, a damaged or too large picture, a path that leaves the folder) are
    left out and listed in `notes`. Rows of one file are one picture with all their captions. A label that is not given
    is the name of the picture's sub-folder, a group that is not given is the first caption.

    Args:
        path: the folder, or its table.
        max_pixels: larger pictures are refused before they are decoded.

    Raises:
        ValueError: no table, an unusable one, or no row that can be used; in one sentence.
    """
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        raise ValueError(f"max_pixels must be a positive int, got {max_pixels!r}")
    table = find_table(path)
    rows, notes = read_table(table)
    files = _Files(table.parent)
    merged: dict[Path, TableRow] = {}
    for row in rows:
        try:
            file = files.find(row.file)
        except ValueError as error:
            notes.append(f"{table.name} line {row.line}: {row.file!r} {error}")
            continue
        merged[file] = _merge(merged[file], row, notes, table.name) if file in merged else row
    everything = list(merged.items())
    chosen = [everything[i] for i in spread(len(everything), limit)]
    check_memory(len(chosen), size)
    entries, pictures = [], []
    for file, row in chosen:
        try:
            pictures.append(read_picture(file, size, max_pixels))
        except ValueError as error:
            notes.append(f"{table.name} line {row.line}: {row.file!r} {error}")
            continue
        entries.append(_entry(file.relative_to(files.root), row))
    if not entries:
        first = f"; the first: {notes[0]}" if notes else ""
        raise ValueError(f"{table} has no row that can be used{first}")
    return assemble(entries, pictures, notes, LICENCE, pinned=set())


def find_table(path: Path) -> Path:
    """The table of a folder, or the table itself."""
    if not path.is_dir():
        if path.suffix not in (".csv", ".jsonl"):
            raise ValueError(f"{path} is neither a folder nor a .csv or .jsonl of captions")
        return path
    found = [path / name for name in TABLES if (path / name).exists()]
    if len(found) != 1:
        expected = " or ".join(TABLES)
        raise ValueError(
            f"{path} has both {' and '.join(TABLES)}: name one of them" if found else f"{path} has no {expected}"
        )
    return found[0]


def _merge(first: TableRow, other: TableRow, notes: list[str], table: str) -> TableRow:
    known = {"label": first.label, "group": first.group, "side": first.side}
    for name, value in known.items():
        given = getattr(other, name)
        if value and given and value != given:
            notes.append(f"{table} line {other.line}: {other.file!r} has the {name} {value!r} of line {first.line}")
        known[name] = value or given
    captions = tuple(dict.fromkeys([*first.captions, *other.captions]))
    return TableRow(first.line, first.file, captions, known["label"], known["group"], known["side"])


def _entry(inside: Path, row: TableRow) -> Entry:
    label = row.label or inside.parent.as_posix().removeprefix(".") or UNLABELLED
    handed = HANDED_WORDS & {word for caption in row.captions for word in words(caption)}
    return Entry(row.captions, label, row.group or row.captions[0].casefold(), not handed, side=row.side)


@dataclass
class _Files:
    """The files of a folder by the names that a table gives them."""

    folder: Path
    root: Path = field(init=False)

    def __post_init__(self) -> None:
        self.root = self.folder.resolve()

    def find(self, name: str) -> Path:
        """Raises ValueError with the end of a sentence that begins with the name."""
        try:
            path = (self.root / name).resolve()
        except (OSError, RuntimeError) as error:  # a name that is too long, links in a circle
            raise ValueError(f"cannot be looked up: {error}") from None
        if not path.is_relative_to(self.root):
            raise ValueError("is outside of the folder")
        try:
            if path.exists():
                return path
        except OSError as error:
            raise ValueError(f"cannot be looked up: {error.strerror}") from None
        path = self._by_normal_form.get(_normal(path.relative_to(self.root).as_posix()), path)
        if not path.exists():
            raise ValueError("does not exist")
        return path

    @cached_property
    def _by_normal_form(self) -> dict[str, Path]:
        # Some file systems write é as one character, some as two, whatever the table says.
        found = {}
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                found[_normal(path.relative_to(self.root).as_posix())] = path
        return found


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)
