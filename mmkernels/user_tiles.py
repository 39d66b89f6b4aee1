"""Tiles that `mmkernels tune` measured on this machine, laid over the tables that are shipped.

A file of the user's, a JSON object {architecture: {op: ...}} of which the inner part looks like the op's table. It may
say what `TUNABLE` lists and nothing else: what a row's sums are made of (the keys of a block, the length of a chunk) is
the shipped table's alone. A file that cannot be used is left out, with one warning.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmkernels.files import write_atomically

VARIABLE = "MMKERNELS_TILES"
"""Where the file is; empty: nowhere. Without it: mmkernels/tiles.json in the user's folder of settings."""
TUNABLE = {
    "attention": {"height", "keys", "warps", "stages"},
    "fusion": {"height", "width", "warps", "stages"},
    "contrastive": {"warps", "stages"},
}
"""By op. Of attention, only what is not `fixed` in the shipped entry."""
KEPT = {"fixed", "rows"}
"""Entries that decide how sums are made: of attention, and of the kernels of a fusion that sum along or over rows."""
LARGEST = {"height": 256, "keys": 256, "width": 256, "warps": 16, "stages": 8}
SMALLEST = {"height": 16, "keys": 16, "width": 16, "warps": 1, "stages": 1}

Table = dict[str, Any]
_trial: Table | None = None
_caches: list[Any] = []


def cached(function: Callable[..., Any]) -> Any:
    """functools.cache, forgotten when the user's tiles change."""
    found = functools.cache(function)
    _caches.append(found)
    return found


def forget() -> None:
    """The user's tiles are looked for again."""
    for each in _caches:
        each.cache_clear()


# ---- the file ----


def path() -> Path | None:
    """Where the user's table is, whether it exists or not; None: there is to be none."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named) if named else None
    root = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(root) / "mmkernels" / "tiles.json"


def read(file: Path) -> Table:
    """A user's table; {} where the file does not exist. ValueError: it is no JSON object."""
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} must hold JSON, and does not: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file} must hold a JSON object, got {type(found).__name__}")
    return found


def write(file: Path, table: Table) -> None:
    """In place of the one that is there."""
    write_atomically(file, (json.dumps(table, indent=1, sort_keys=True) + "\n").encode())


@cached
def _from_file() -> Table:
    file = path()
    if file is None:
        return {}
    try:
        return read(file)
    except (ValueError, OSError) as error:
        warnings.warn(f"the tiles that were tuned here are not used: {error}", RuntimeWarning, stacklevel=2)
        return {}


@contextmanager
def trial(table: Table) -> Iterator[None]:
    """A table in the file's place meanwhile."""
    global _trial
    before, _trial = _trial, table
    forget()
    try:
        yield
    finally:
        _trial = before
        forget()


# ---- laid over what is shipped ----


def laid_over(op: str, arch: str, shipped: Table) -> Table:
    """The entries of an op and architecture, with the user's; those that cannot be used are left out with a warning."""
    mine = (_from_file() if _trial is None else _trial).get(arch, {})
    mine = mine.get(op, {}) if isinstance(mine, dict) else mine
    if not mine:
        return shipped
    try:
        return merged(op, arch, shipped, mine)
    except ValueError as error:
        warnings.warn(f"the tiles that were tuned here are not used: {error}", RuntimeWarning, stacklevel=2)
        return shipped


def merged(op: str, arch: str, shipped: Table, mine: Any) -> Table:
    """A copy of the shipped entries with the user's numbers. ValueError says which entry is wrong, and why."""
    found = copy.deepcopy(shipped)
    _merge(op, found, mine, f"{arch}: {op}", frozenset())
    return found


def _merge(op: str, into: Table, mine: Any, place: str, fixed: frozenset[str]) -> None:
    if not isinstance(mine, dict):
        raise ValueError(f"{place} must be an object, got {mine!r}")
    fixed |= set(into.get("fixed", ()))
    for name, value in mine.items():
        here = f"{place}: {name}"
        if name in LARGEST or not isinstance(value, dict):
            _check_number(op, here, name, value, fixed)
            into[name] = value
        elif name in KEPT or name not in into:
            raise ValueError(f"{here} is no entry that may be tuned, expected one of {sorted(set(into) - KEPT)}")
        else:
            _merge(op, into[name], value, here, fixed)


def _check_number(op: str, place: str, name: str, value: Any, fixed: frozenset[str]) -> None:
    allowed = TUNABLE[op] - fixed
    if name not in allowed:
        raise ValueError(f"{place} may not be tuned, expected one of {sorted(allowed)}")
    if isinstance(value, bool) or not isinstance(value, int) or not SMALLEST[name] <= value <= LARGEST[name]:
        raise ValueError(f"{place} must be an integer from {SMALLEST[name]} to {LARGEST[name]}, got {value!r}")
    if name != "stages" and value & (value - 1):
        raise ValueError(f"{place} must be a power of two, got {value}")
