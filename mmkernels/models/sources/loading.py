"""One way to every source: `load("openmoji")`, `load("tuxpaint", languages=("en", "fr"))`, `load("my/pictures")`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmkernels.models.sources.folder import load_folder
from mmkernels.models.sources.openmoji import load_openmoji
from mmkernels.models.sources.picture_set import PictureSet
from mmkernels.models.sources.tuxpaint import load_tuxpaint

SMALLEST_SIZE, LARGEST_SIZE = 8, 1024

_NAMED: dict[str, Callable[..., PictureSet]] = {"openmoji": load_openmoji, "tuxpaint": load_tuxpaint}
NAMES = tuple(_NAMED)


def load(
    name_or_path: str | os.PathLike[str], *, size: int = 32, limit: int | None = None, **options: Any
) -> PictureSet:
    """Pictures with captions, classes, families and a split by family.

    Args:
        name_or_path: "openmoji", "tuxpaint", a folder of pictures with a `captions.csv` or `captions.jsonl`, or such a
            file. A folder of the user's that has the name of a source is written "./openmoji".
        size: pixels of a picture's side, 8 to 1024.
        limit: about this many pictures, spread over the source; None for all.
        options: those of the source: `languages` and `stamps` for Tux Paint, `max_pixels` for a folder.

    Raises:
        ValueError: no such source or folder, a source that is not installed, nothing usable in it; in one sentence.
        TypeError: an option that the source does not have.
    """
    for argument, value in (("size", size), ("limit", limit)):
        if (isinstance(value, bool) or not isinstance(value, int)) and not (argument == "limit" and value is None):
            raise TypeError(f"{argument} must be an int, got {value!r}")
    if not SMALLEST_SIZE <= size <= LARGEST_SIZE:
        raise ValueError(f"size must be from {SMALLEST_SIZE} to {LARGEST_SIZE} pixels, got {size}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    source = _NAMED.get(name_or_path) if isinstance(name_or_path, str) else None
    if source is not None:
        _check_options(str(name_or_path), source, options)
        return source(size=size, limit=limit, **options)
    path = Path(name_or_path)
    if not path.exists():
        raise ValueError(f"there is no source or folder {str(name_or_path)!r}; the sources are {', '.join(NAMES)}")
    _check_options("a folder of pictures", load_folder, options)
    return load_folder(path, size=size, limit=limit, **options)


def _check_options(name: str, source: Callable[..., PictureSet], options: dict[str, Any]) -> None:
    parameters = inspect.signature(source).parameters.values()
    known = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"size", "limit"}
    for option in options:
        if option not in known:
            has = f"it has {', '.join(sorted(known))}" if known else "it has none"
            raise TypeError(f"{name} has no option {option!r}: {has}")
