"""Names of tensors here beside names of tensors there, as rows that can be read in both directions.

In a row "#" stands for the number of a layer and "*" for the last part of a name (weight, bias, running_mean). Names in
braces, "{q,k,v}_proj.*", are several tensors there, which stand below each other in the one that is here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Row(NamedTuple):
    """A tensor here, and the tensor or tensors there. `axes`: leading axes of size 1 that only the one here has."""

    ours: str
    theirs: str
    axes: int = 0

    def read(self, tensors: Sequence[Tensor]) -> Tensor:
        """Theirs to ours."""
        whole = tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
        return whole[(None,) * self.axes]

    def write(self, tensor: Tensor, count: int) -> list[Tensor]:
        """Ours to `count` of theirs: views."""
        part = tensor[(0,) * self.axes]
        return [part] if count == 1 else list(part.chunk(count))


class Match(NamedTuple):
    """A row, and the names there that it gives a tensor here."""

    row: Row
    theirs: tuple[str, ...]


def under(ours: str, theirs: str, rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows of a part, with what stands before their names; "" there is the top."""
    before = f"{theirs}." if theirs else ""
    return tuple(row._replace(ours=f"{ours}.{row.ours}", theirs=before + row.theirs) for row in rows)


def find(rows: Iterable[Row], name: str) -> Match | None:
    """The row of a tensor here, or None where it has no counterpart."""
    for row in rows:
        found = re.fullmatch(_pattern(row.ours), name)
        if found:
            parts = iter(found.groups())
            filled = re.sub(r"[#*]", lambda _: next(parts), row.theirs)  # noqa: B023
            return Match(row, tuple(_expanded(filled)))
    return None


def to_theirs(rows: Iterable[Row], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by our names as views by theirs; those without a counterpart are left out."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = find(rows, name)
        if match is not None:
            found.update(zip(match.theirs, match.row.write(tensor, len(match.theirs)), strict=True))
    return found


def _pattern(name: str) -> str:
    return re.escape(name).replace(r"\#", r"(\d+)").replace(r"\*", r"([^.]+)")


def _expanded(name: str) -> list[str]:
    before, brace, rest = name.partition("{")
    if not brace:
        return [name]
    inside, _, after = rest.partition("}")
    return [f"{before}{part}{after}" for part in inside.split(",")]
