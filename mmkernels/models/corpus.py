"""Preprocessing, put together: rows, pictures, split, vocabulary and label sets of the reference task."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmkernels.models.augment import may_mirror
from mmkernels.models.captions import words
from mmkernels.models.openmoji import Emoji, load_emoji, over, premultiplied
from mmkernels.models.questions import NAMED, all_answers, vocabulary
from mmkernels.models.sealed import fingerprint
from mmkernels.models.split import Split, split_by_concept
from mmkernels.models.tokenizer import WordTokenizer

PICTURE_SIZE = 32
TAG_MIN_COUNT = 3  # tags (and name words) of the auxiliary objective occur at least this often


@dataclass(frozen=True)
class Corpus:
    """What a run trains and is judged on. Vocabulary and label sets come from the training side alone."""

    rows: list[Emoji]
    rgba: Tensor  # uint8 (N, 4, 64, 64), for people to look at
    pictures: Tensor  # premultiplied float (N, 4, 32, 32), for the model
    mirror: Tensor  # bool (N,): may be mirrored
    split: Split
    tokenizer: WordTokenizer
    subgroups: list[str]
    subgroup_of: Tensor  # (N,), -1 where training has no such subgroup
    tag_targets: Tensor  # (N, tags), 0 or 1
    answers: dict[str, int]
    fingerprint: str

    @property
    def train(self) -> list[int]:
        return self.split.train

    @property
    def held_out(self) -> list[int]:
        return self.split.held_out

    def over_white(self, indices: list[int]) -> Tensor:
        """RGB of the plain pictures, (n, 3, 32, 32)."""
        return over(1.0, self.pictures[indices])


def load_corpus(limit: int | None = None) -> Corpus:
    """The reference task.

    Args:
        limit: for tests: only about this many rows (those of the grid questions are always in).

    Raises:
        ValueError: the data packages are not installed.
    """
    rows, rgba = load_emoji()
    if limit is not None:
        step = max(1, len(rows) // limit)
        keep = [i for i, row in enumerate(rows) if i % step == 0 or row.name in NAMED]
        rows, rgba = [rows[i] for i in keep], rgba[keep]
    split = split_by_concept(rows, rgba, set(NAMED))
    counts = Counter(word for i in split.train for word in [*rows[i].tags, *words(rows[i].name)])
    trained = set(split.train)
    # A tag that occurs once teaches nothing; held-out rows keep theirs, known or not.
    rows = [
        replace(row, tags=tuple(tag for tag in row.tags if counts[tag] > 1)) if i in trained else row
        for i, row in enumerate(rows)
    ]
    texts = [" ".join([rows[i].name, *rows[i].tags, rows[i].subgroup]) for i in split.train]
    tokenizer = WordTokenizer.train([*texts, vocabulary(rows)])

    subgroups = sorted({rows[i].subgroup for i in split.train})
    number = {name: i for i, name in enumerate(subgroups)}
    tags = sorted(word for word, count in counts.items() if count >= TAG_MIN_COUNT)
    column = {tag: j for j, tag in enumerate(tags)}
    tag_targets = torch.zeros(len(rows), len(tags))
    for i, row in enumerate(rows):
        tag_targets[i, [column[word] for word in {*row.tags, *words(row.name)} if word in column]] = 1
    return Corpus(
        rows=rows,
        rgba=rgba,
        pictures=premultiplied(rgba, PICTURE_SIZE),
        mirror=may_mirror(rows),
        split=split,
        tokenizer=tokenizer,
        subgroups=subgroups,
        subgroup_of=torch.tensor([number.get(row.subgroup, -1) for row in rows]),
        tag_targets=tag_targets,
        answers={answer: i for i, answer in enumerate(all_answers(rows))},
        fingerprint=fingerprint([[r.name, *r.tags, r.subgroup, r.group] for r in rows], split.held_out, rgba),
    )
