"""Tensors of transformers into a system and out of it, with an account of every one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmkernels.models.pretrained.architecture import Architecture
from mmkernels.models.pretrained.table import Match, find, to_theirs

NAMED = 5  # tensors that a sentence names before it says how many more there are


@dataclass(frozen=True)
class Report:
    """What became of every tensor.

    Attributes:
        used: each tensor here, and the names there that it came from.
        second_names: names there of tensors that were used under another one.
        left_out: names there without a place here, and why.
        kept: tensors here that the architecture has no counterpart of: they are as they were.
        missing, unknown: names there that were not given, and given but not known; none where loading was strict.
    """

    used: dict[str, tuple[str, ...]] = field(default_factory=dict)
    second_names: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{len(self.used)} tensors from {sum(map(len, self.used.values()))} of transformers'"]
        lines += [f"left out: {name}: {reason}" for name, reason in self.left_out.items()]
        for name in ("kept", "missing", "unknown"):
            if getattr(self, name):
                lines.append(f"{name}: {', '.join(getattr(self, name))}")
        return "\n".join(lines)


class Given(NamedTuple):
    """A tensor there under the name that it came with."""

    name: str
    tensor: Tensor


def load(system: nn.Module, tensors: Mapping[str, Tensor], page: Architecture, strict: bool = True) -> Report:
    """Puts a state_dict of transformers into a system; nothing is written unless everything fits.

    Args:
        system: of `page.configure(...)`, or of any configuration with parts of these sizes.
        tensors: by the names of any class of the architecture, on any device, of any floating dtype.
        strict: refuse a state_dict that lacks a tensor, or has one that is not known.

    Raises:
        TypeError, ValueError: what is given is no floating tensor, has another shape, contradicts its second name, or,
            where strict, is incomplete or unknown; in one sentence that names it.
    """
    given, own, report = canonical(tensors, page), system.state_dict(), Report()
    plan: dict[str, Tensor] = {}
    for name, tensor in own.items():
        match = find(page.rows, name)
        if match is None:
            report.kept.append(name)
            continue
        sources = [_source(theirs, given, page) for theirs in match.theirs]
        report.missing.extend(theirs for theirs, source in zip(match.theirs, sources) if source is None)
        found = [given[source] for source in sources if source is not None]
        if len(found) == len(sources):
            _check_shapes(found, match, tensor)
            plan[name] = match.row.read([entry.tensor.to(tensor.device, tensor.dtype) for entry in found])
            report.used[name] = tuple(entry.name for entry in found)
    _account_for_the_rest(given, page, report)
    if strict and report.missing:
        raise ValueError(f"tensors of {page.name} are missing: {listed(report.missing)}")
    if strict and report.unknown:
        raise ValueError(f"tensors are not known to {page.name}, or this system has no part for them: "
                         f"{listed(report.unknown)}")  # fmt: skip
    with torch.no_grad():
        for name, value in plan.items():
            own[name].copy_(value)
    return report


def export(system: nn.Module, page: Architecture) -> dict[str, Tensor]:
    """A system's tensors, copied, by the names of transformers' class with all heads; second names are left out."""
    return {name: tensor.clone() for name, tensor in to_theirs(page.rows, system.state_dict()).items()}


def canonical(tensors: Mapping[str, Tensor], page: Architecture) -> dict[str, Given]:
    """A state_dict by the names of the page's table.

    Raises:
        TypeError: a value is no tensor, or not of a floating dtype.
        ValueError: two names mean the same tensor.
    """
    found: dict[str, Given] = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        known = page.canonical(name)
        if known in found:
            raise ValueError(f"{found[known].name} and {name} are names of the same tensor: give one of them")
        found[known] = Given(name, tensor)
    return found


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    first = list(names)
    more = len(first) - NAMED
    return ", ".join(first[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _source(name: str, given: Mapping[str, Given], page: Architecture) -> str | None:
    """Under which name a tensor was given: its own, the one that it is a second name of, or one of its second names."""
    second = [other for other, first in page.same.items() if first == name]
    return next((each for each in (name, page.same.get(name), *second) if each in given), None)


def _check_shapes(found: list[Given], match: Match, tensor: Tensor) -> None:
    for entry, part in zip(found, match.row.write(tensor, len(found)), strict=True):
        if entry.tensor.shape != part.shape:
            raise ValueError(f"{entry.name} has shape {tuple(entry.tensor.shape)}, expected {tuple(part.shape)}")
        if entry.tensor.is_floating_point() != part.is_floating_point():
            raise TypeError(f"{entry.name} has dtype {entry.tensor.dtype}, expected one like {part.dtype}")


def _account_for_the_rest(given: Mapping[str, Given], page: Architecture, report: Report) -> None:
    used = {name for names in report.used.values() for name in names}
    for name, (original, tensor) in given.items():
        if original in used:
            continue
        first = _source(page.same[name], given, page) if name in page.same else None
        reason = page.why_left_out(name)
        if first is not None and first != name:
            if not torch.equal(tensor, given[first].tensor):
                raise ValueError(f"{original} differs from {given[first].name}, of which it must be a second name")
            report.second_names[original] = given[first].name
        elif reason is not None:
            report.left_out[original] = reason
        else:
            report.unknown.append(original)
