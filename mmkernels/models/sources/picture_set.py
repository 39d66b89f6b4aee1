"""`PictureSet`: pictures and what is said of them, whatever source they are from; and how a source makes one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkernels.models.openmoji import over
from mmkernels.models.sealed import fingerprint
from mmkernels.models.split import (
    HELD_OUT_SHARE,
    LARGEST_HELD_OUT,
    NEAR_DUPLICATE,
    Split,
    closure,
    hold_out,
    picture_similarity,
)

LARGEST_SET = 10_000  # each picture is compared with each
LARGEST_BYTES = 8 * 2**30  # pictures are kept in memory
LARGEST_DIFFERENCE = 0.1  # root mean square; in small sets the mean picture means little, and cosines say too much
PAIRS_AT_ONCE = 16_384


@dataclass(frozen=True)
class PictureSet:
    """N pictures with captions, classes and families; `split` keeps every family on one side."""

    pictures: Tensor  # premultiplied RGBA in [0, 1], float (N, 4, S, S)
    captions: list[tuple[str, ...]]  # one or more of each picture, the main one first
    labels: list[str]  # class of each picture
    groups: list[str]  # family of each picture: what may not stand on both sides of the split
    mirror: Tensor  # bool (N,): a mirrored picture is still what its captions say
    split: Split
    notes: list[str]  # rows that were left out and why, and whatever else a reader should know
    licence: str
    fingerprint: str

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def train(self) -> list[int]:
        return self.split.train

    @property
    def held_out(self) -> list[int]:
        return self.split.held_out

    @property
    def size(self) -> int:
        """Pixels of a picture's side."""
        return self.pictures.shape[-1]

    @property
    def classes(self) -> list[str]:
        """The labels that occur in training, in alphabetical order."""
        return sorted({self.labels[i] for i in self.train})

    def over_white(self, indices: Sequence[int]) -> Tensor:
        """RGB of the plain pictures, (n, 3, S, S)."""
        return over(1.0, self.pictures[list(indices)])

    def subset(self, indices: Sequence[int], notes: Iterable[str] = ()) -> PictureSet:
        """These rows only, each on the side of the split where it was."""
        rows = list(indices)
        place = {row: i for i, row in enumerate(rows)}
        split = Split(
            train=[place[i] for i in self.train if i in place],
            held_out=[place[i] for i in self.held_out if i in place],
            group=[self.split.group[i] for i in rows],
            similarity=self.split.similarity[rows][:, rows],
        )
        return finished(
            self.pictures[rows],
            [self.captions[i] for i in rows],
            [self.labels[i] for i in rows],
            [self.groups[i] for i in rows],
            self.mirror[rows],
            split,
            [*self.notes, *notes],
            self.licence,
        )


@dataclass(frozen=True)
class Entry:
    """What a source knows of one picture."""

    captions: tuple[str, ...]
    label: str
    group: str
    mirror: bool
    kin: str = ""  # a second name of the family, where the source knows one
    side: str = ""  # "train" or "held_out" where the source itself splits


def assemble(
    entries: Sequence[Entry], pictures: Sequence[Tensor], notes: Sequence[str], licence: str, pinned: set[str]
) -> PictureSet:
    """A `PictureSet` of these entries.

    Entries of one group, or of one kin, and pictures that are nearly the same make a family, closed transitively.
    Where no entry has a side, about 15 % of the pictures are held out, by whole families; the choice depends on the
    entries alone.

    Args:
        pictures: one of each entry, float (4, S, S).
        pinned: groups that stay in training.
    """
    notes = list(notes)
    stacked = torch.stack(list(pictures))
    similarity = picture_similarity(stacked)
    kin: dict[str, int] = {}
    related = [(kin.setdefault(entry.kin, i), i) for i, entry in enumerate(entries) if entry.kin]
    group = closure([entry.group for entry in entries], related + near_duplicates(stacked, similarity))
    if any(entry.side for entry in entries):
        held_out = [i for i, entry in enumerate(entries) if entry.side == "held_out"]
        without = sum(not entry.side for entry in entries)
        if without:
            notes.append(f"{without} rows have no side in the column split: they are in training")
    else:
        held_out = _choose(group, {g for g, entry in zip(group, entries) if entry.group in pinned})
    held = set(held_out)
    split = Split([i for i in range(len(entries)) if i not in held], held_out, group, similarity)
    both = {group[i] for i in split.train} & {group[i] for i in held_out}
    for g in sorted(both):
        notes.append(f"the family {entries[g].group!r} is on both sides of the split: what is held out has relatives")
    if not held_out or not split.train:
        notes.append(f"nothing is {'in training' if held_out else 'held out'}")
    return finished(
        stacked,
        [entry.captions for entry in entries],
        [entry.label for entry in entries],
        [entries[g].group for g in group],
        torch.tensor([entry.mirror for entry in entries], dtype=torch.bool),
        split,
        notes,
        licence,
    )


def finished(
    pictures: Tensor,
    captions: list[tuple[str, ...]],
    labels: list[str],
    groups: list[str],
    mirror: Tensor,
    split: Split,
    notes: list[str],
    licence: str,
) -> PictureSet:
    """A `PictureSet` with its fingerprint, which is of everything that a model could see."""
    mark = fingerprint([list(map(list, captions)), labels, groups, mirror.tolist()], split.held_out, pictures)
    return PictureSet(pictures, captions, labels, groups, mirror, split, notes, licence, mark)


def near_duplicates(pictures: Tensor, similarity: Tensor) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of pictures (N, 4, S, S) that are nearly or exactly the same."""
    # With the alpha channel: over white, white things are all alike.
    small = F.interpolate(pictures, (16, 16), mode="area").flatten(1)
    first: dict[bytes, int] = {}
    # Equal pictures are pairs even where centring makes them zero, as when there are no others.
    pairs = [(same, i) for i, x in enumerate(small) if (same := first.setdefault(x.numpy().tobytes(), i)) != i]
    for i, j in (chunk.T for chunk in (similarity > NEAR_DUPLICATE).triu(1).nonzero().split(PAIRS_AT_ONCE)):
        near = (small[i] - small[j]).square().mean(1).sqrt() < LARGEST_DIFFERENCE
        pairs += zip(i[near].tolist(), j[near].tolist())
    return pairs


def check_memory(count: int, size: int) -> None:
    """Raises ValueError where so many pictures of that size are too many to be kept in memory."""
    if count > LARGEST_SET:
        raise ValueError(f"{count:,} pictures are more than the {LARGEST_SET:,} that are supported: give a limit")
    needed = count * 4 * size * size * 4
    if needed > LARGEST_BYTES:
        raise ValueError(
            f"{count:,} pictures of {size} x {size} pixels take {needed / 2**30:.0f} GiB, more than the "
            f"{LARGEST_BYTES // 2**30} that are supported: give a smaller size or a limit"
        )


def spread(count: int, limit: int | None) -> list[int]:
    """About `limit` of the numbers below count, evenly spread, never more."""
    if limit is None or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]


def _choose(group: list[int], pinned: set[int]) -> list[int]:
    free = sum(g not in pinned for g in group)
    # In a small set of large families even one of them is more than the share.
    held_out = hold_out(group, pinned, max(LARGEST_HELD_OUT, int(HELD_OUT_SHARE * free / 2)))
    if held_out and len(held_out) < len(group):
        return held_out
    members: dict[int, list[int]] = {}
    for i, g in enumerate(group):
        members.setdefault(g, []).append(i)
    candidates = [rows for g, rows in members.items() if g not in pinned]
    return min(candidates, key=len) if candidates and len(members) > 1 else []
