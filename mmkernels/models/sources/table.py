"""A CSV or JSONL of captions: rows that can be used, and of every other one what is wrong with it."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLES = ("captions.csv", "captions.jsonl")
COLUMNS = ("file", "caption", "label", "group", "split")
SIDES = dict.fromkeys(("train", "training"), "train") | dict.fromkeys(
    ("held_out", "held-out", "heldout", "test", "testing", "val", "valid", "validation", "dev", "eval"), "held_out"
)


@dataclass(frozen=True)
class TableRow:
    """One row; what was not given is ""."""

    line: int
    file: str
    captions: tuple[str, ...]
    label: str
    group: str
    side: str  # "train", "held_out" or ""


def read_table(path: Path) -> tuple[list[TableRow], list[str]]:
    """The rows of a table, and a note for each that cannot be used.

    CSV: the first line names the columns; commas, semicolons or tabs stand between them; several columns may be called
    `caption`. JSONL: an object a line; `caption` is a text or a list of texts. Both in UTF-8, with or without a BOM.
    Other columns are ignored.

    Raises:
        ValueError: the file cannot be read, is empty, or lacks a column; in one sentence.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file" if path.exists() else f"{path} does not exist")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path} is UTF-16: save it as UTF-8")
    data = data.removeprefix(codecs.BOM_UTF8)
    if not data.strip():
        raise ValueError(f"{path} is empty")
    notes: list[str] = []
    read = _json_lines if path.suffix == ".jsonl" else _csv_lines
    rows = []
    for line, fields in read(path, data, notes):
        try:
            rows.append(_row(line, fields))
        except ValueError as error:
            notes.append(f"{path.name} line {line}: {error}")
    return rows, notes


def _csv_lines(path: Path, data: bytes, notes: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    # Bytes that are not UTF-8 spoil their own row only: they become surrogates, which `_text` refuses.
    text = data.decode("utf-8", errors="surrogateescape")
    header = text.lstrip("\r\n").splitlines()[0]
    delimiter = max(",;\t", key=lambda each: sum(name in COLUMNS for name in _names(header.split(each))))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines = f"line {line}" if reader.line_num <= line else f"lines {line} to {reader.line_num}"
            notes.append(f"{path.name} {lines}: not CSV: {error}")
            continue
        if not any(field.strip() for field in fields):
            continue
        if not names:
            names = _names(fields)
            _check_header(path, names)
            continue
        if len(fields) != len(names):
            notes.append(f"{path.name} line {line}: {len(fields)} fields, but there are {len(names)} columns")
            continue
        record: dict[str, Any] = {name: field for name, field in zip(names, fields) if name != "caption"}
        yield line, record | {"caption": [field for name, field in zip(names, fields) if name == "caption"]}


def _names(fields: Sequence[str]) -> list[str]:
    return [field.strip().strip('"').strip().lower() for field in fields]


def _check_header(path: Path, names: list[str]) -> None:
    for needed in ("file", "caption"):
        if needed not in names:
            raise ValueError(f"{path} has no column {needed!r}; its first line names {', '.join(map(repr, names))}")
    for name in COLUMNS:
        if name != "caption" and names.count(name) > 1:
            raise ValueError(f"{path} has {names.count(name)} columns {name!r}, expected one")


def _json_lines(path: Path, data: bytes, notes: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, raw in enumerate(data.split(b"\n"), 1):  # not splitlines: captions may hold other line separators
        if not raw.strip():
            continue
        try:
            record = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError:
            notes.append(f"{path.name} line {line}: not UTF-8")
        except (ValueError, RecursionError) as error:
            notes.append(f"{path.name} line {line}: not JSON: {error}")
        else:
            if isinstance(record, dict):
                yield line, record
            else:
                notes.append(f"{path.name} line {line}: not a JSON object")


def _row(line: int, fields: dict[str, Any]) -> TableRow:
    file = _text("file", fields.get("file"))
    if not file:
        raise ValueError("no file name")
    given = fields.get("caption")
    captions = [_text("caption", each) for each in (given if isinstance(given, list) else [given])]
    captions = list(dict.fromkeys(filter(None, captions)))
    if not captions:
        raise ValueError("no caption")
    split = _text("split", fields.get("split")).lower()
    if split and split not in SIDES:
        raise ValueError(f"split is {split!r}, expected train or held_out (test, val)")
    label, group = _text("label", fields.get("label")), _text("group", fields.get("group"))
    return TableRow(line, file, tuple(captions), label, group, SIDES.get(split, ""))


def _text(name: str, value: Any) -> str:
    """One line of text; numbers are written out, None is ""."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{name} must be text, got {type(value).__name__}")
    text = str(value)
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError(f"{name} is not UTF-8")
    if "\0" in text:
        raise ValueError(f"{name} holds a zero byte")
    # A name may have two spaces in a row, a caption need not.
    return text.strip() if name == "file" else " ".join(text.split())
