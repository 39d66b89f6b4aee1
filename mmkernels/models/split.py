"""Preprocessing: which emoji are held out. Whole concepts are, so that no relative of theirs is ever trained on.

Emoji come in families: a waving man and a waving woman, a red and a blue heart, a left and a right arrow. A random
split puts one in training and its twin in the test, and then half the test is memory. Here everything that shares a
base name, or looks nearly the same, goes to one side together.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkernels.models.captions import words
from mmkernels.models.openmoji import Emoji, over, premultiplied

GENDER = set("man men woman women person people boy boys girl girls mx male female child children adult baby".split())
COLOUR = set(
    "red orange yellow green blue purple brown black white grey gray pink light dark medium large small".split()
)
FILLER = {"facing", "right", "with", "and", "of", "in", "the"}
FAMILY_NOUNS = {"square", "circle", "book", "arrow", "button"}
FAMILY_SUBGROUPS = {
    "country-flag": "@flag",
    "subdivision-flag": "@flag",
    "keycap": "@keycap",
    "family": "@family",
    "zodiac": "@zodiac",
    "alphanum": "@alphanum",
}
# Nobody can name an unseen flag or clock hand: these stay in training.
PINNED = {"@flag", "@keycap", "@alphanum", "@clock", "@family", "@zodiac"}
NEAR_DUPLICATE = 0.97  # cosine of 16 x 16 pictures minus the mean picture
LARGEST_HELD_OUT = 12  # a larger family would be most of the held-out set
HELD_OUT_SHARE = 0.15
SPLIT_SEED = 1234  # the split is part of the task: a run's seed does not move it


@dataclass(frozen=True)
class Split:
    """Row numbers of the two sides; `group[i]` is the family of row i, `similarity` the cosine of pictures (N, N)."""

    train: list[int]
    held_out: list[int]
    group: list[int]
    similarity: Tensor


def concept(row: Emoji) -> str:
    """What remains of a name without gender, colour and direction: rows that share it are variants of one thing."""
    if row.subgroup in FAMILY_SUBGROUPS:
        return FAMILY_SUBGROUPS[row.subgroup]
    name = words(row.name)
    if row.subgroup == "time" and ("o'clock" in name or "thirty" in name):
        return "@clock"
    if "moon" in name:
        return "@moon"
    base = [word for word in name if word not in GENDER | COLOUR | FILLER] or name
    if row.subgroup == "heart" or (base and base[-1] in FAMILY_NOUNS):
        return base[-1]
    return " ".join(base)


def picture_similarity(pictures: Tensor) -> Tensor:
    """Cosine between all (premultiplied) pictures over white, 16 x 16 and centred: (N, N), zero diagonal."""
    x = over(1.0, F.interpolate(pictures, (16, 16), mode="area")).flatten(1)
    x = F.normalize(x - x.mean(0), dim=1)
    return (x @ x.T).fill_diagonal_(0)


def closure(keys: Sequence[str], pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Family of each row, named by the row number of one member: rows of one key, and rows of a pair, are related."""
    parent = list(range(len(keys)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        parent[find(i)] = find(first.setdefault(key, i))
    for i, j in pairs:
        parent[find(i)] = find(j)
    return [find(i) for i in range(len(keys))]


def families(rows: list[Emoji], similarity: Tensor) -> list[int]:
    """Family of each row: the transitive closure of "same concept" and "nearly the same picture"."""
    near = (similarity > NEAR_DUPLICATE).nonzero().tolist()
    # Flags resemble each other and much else; they are one family already.
    pairs = [(i, j) for i, j in near if "country-flag" not in (rows[i].subgroup, rows[j].subgroup)]
    return closure([concept(row) for row in rows], pairs)


def hold_out(group: Sequence[int], pinned: set[int], largest: int = LARGEST_HELD_OUT) -> list[int]:
    """The rows of whole families, about 15 % of those that are not pinned to training.

    Args:
        group: family of each row.
        pinned: families that stay in training.
        largest: members that a held-out family may have.
    """
    members = defaultdict(list)
    for i, g in enumerate(group):
        if g not in pinned:
            members[g].append(i)
    wanted = HELD_OUT_SHARE * sum(map(len, members.values()))
    order = sorted(members)
    random.Random(SPLIT_SEED).shuffle(order)
    held_out: set[int] = set()
    for g in order:
        if len(held_out) < wanted and len(members[g]) <= largest:
            held_out.update(members[g])
    return sorted(held_out)


def split_by_concept(rows: list[Emoji], rgba: Tensor, always_train: set[str]) -> Split:
    """Holds out whole families, about 15 % of the rows that may be held out at all.

    Args:
        always_train: names whose families stay in training (the vocabulary of the grid questions).
    """
    similarity = picture_similarity(premultiplied(rgba, 16))
    group = families(rows, similarity)
    pinned = {g for g, row in zip(group, rows) if concept(row) in PINNED or row.name in always_train}
    held_out = hold_out(group, pinned)
    held = set(held_out)
    return Split([i for i in range(len(rows)) if i not in held], held_out, group, similarity)


def relatives_in_training(split: Split) -> Tensor:
    """For each held-out row: is anything of its family, or a near duplicate, in training? All False by construction."""
    trained = {split.group[i] for i in split.train}
    near = split.similarity[split.held_out][:, split.train].amax(1) > NEAR_DUPLICATE
    return near | torch.tensor([split.group[i] in trained for i in split.held_out])
