"""What a run is about: pictures, their texts and labels, and which of them are held out."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkernels.models.augment import TRAINING_STRENGTH, augment
from mmkernels.models.captions import MAX_TAGS, mixed_caption
from mmkernels.models.corpus import Corpus, load_corpus
from mmkernels.models.openmoji import ATTRIBUTION, over, premultiplied
from mmkernels.models.questions import HELD_OUT_KINDS, KINDS, SceneMaker
from mmkernels.models.tokenizer import PAD, Tokens, WordTokenizer

EXTRA_WORDS = 2  # behind the tokenizer's own: <mask> and <media>
UNKNOWN = -1  # the label of a picture whose class training has not


class Media(Protocol):
    """What the rows of a task look or sound like: any tensors that a tower takes, one a row."""

    def plain(self, rows: list[int]) -> Tensor:
        """Rows as they are, the same ones in every call."""

    def views(self, rows: list[int], generator: torch.Generator) -> Tensor:
        """Rows as training sees them, drawn anew each time."""

    def shown(self, medium: Tensor) -> Tensor:
        """A row of `plain` or `views` for people to look at: RGB in [0, 1], (3, S, S)."""


@dataclass(frozen=True)
class Pictures:
    """Pictures over white, or turned, shifted and recoloured over anything."""

    pictures: Tensor  # premultiplied RGBA, float (N, 4, S, S)
    mirror: Tensor  # bool (N,): may be mirrored

    def plain(self, rows: list[int]) -> Tensor:
        """RGB, (n, 3, S, S)."""
        return over(1.0, self.pictures[rows])

    def views(self, rows: list[int], generator: torch.Generator) -> Tensor:
        """RGB, (n, 3, S, S)."""
        return augment(self.pictures[rows], self.mirror[rows], generator, TRAINING_STRENGTH)

    def shown(self, medium: Tensor) -> Tensor:
        """As it is."""
        return medium


@dataclass(frozen=True)
class Task:
    """Columns with one entry per row, a picture or another medium, and the two sides of the split.

    `captions[i]` holds one text or more, the main one first; `tags[i]` keywords beyond it; a label may be "", which is
    none. Vocabulary and classes come from the training side alone. `corpus` is there where the media are emoji, of
    which questions can be composed; `narrations` where they are clips: what each frame shows, one after the other.
    `unlabelled` are more rows for training, whose texts and labels it does not look at.

    An evaluation looks at every `stride`-th row of training in a view that training never drew, and at each row `takes`
    times, where a row is a different medium each time.
    """

    media: Media
    captions: list[tuple[str, ...]]
    tags: list[tuple[str, ...]]
    labels: list[str]
    train: list[int]
    held_out: list[int]
    tokenizer: WordTokenizer
    fingerprint: str
    licence: str = ""  # and whose the media are
    corpus: Corpus | None = None
    narrations: list[str] | None = None
    stride: int = 3
    takes: int = 1
    unlabelled: list[int] = field(default_factory=list)

    @property
    def judged(self) -> dict[str, list[int]]:
        """The rows that an evaluation looks at, by side."""
        return {"held_out": self.held_out * self.takes, "known_views": self.train[:: self.stride] * self.takes}

    @cached_property
    def classes(self) -> list[str]:
        """The labels of training, in alphabetical order."""
        return sorted({self.labels[i] for i in self.train} - {""})

    @cached_property
    def label_of(self) -> Tensor:
        """(N,), the number of each picture's class, UNKNOWN where it has no label, or training none such."""
        number = {name: i for i, name in enumerate(self.classes)}
        return torch.tensor([number.get(name, UNKNOWN) for name in self.labels])

    @cached_property
    def scene_makers(self) -> dict[str, SceneMaker]:
        """Of grids to ask about, by side.

        Raises:
            ValueError: the pictures are not emoji, of which questions are composed.
        """
        if self.corpus is None:
            raise ValueError("questions are composed of emoji, which this data has not")
        rows = self.corpus.rows
        return {
            "known_views": SceneMaker(rows, self.train, KINDS),
            "held_out": SceneMaker(rows, self.held_out, HELD_OUT_KINDS, fallback=self.train),
        }

    @property
    def vocabulary(self) -> int:
        """Number of words, <mask> and <media> among them."""
        return self.tokenizer.size + EXTRA_WORDS

    @property
    def mask_word(self) -> int:
        """The id of <mask>."""
        return self.tokenizer.size

    @property
    def media_word(self) -> int:
        """The id of <media>, where a text speaks of its next picture."""
        return self.tokenizer.size + 1

    def word(self, text: str) -> int:
        """The id of a word."""
        return int(self.tokenizer.encode([text], 3).ids[0, 1])

    def full_text(self, i: int) -> str:
        """All that is said of a picture: what an evaluation retrieves."""
        return " ".join([self.captions[i][0], *self.tags[i][:MAX_TAGS], self.labels[i]])

    def texts(self, rows: list[int], tagged: bool) -> list[str]:
        """What is said of pictures to a trained system: all of it, or the main caption where tags are shown apart."""
        return [self.captions[i][0] if tagged else self.full_text(i) for i in rows]

    def tag_texts(self, rows: list[int]) -> list[str]:
        """The tags of pictures, in a row."""
        return [" ".join(self.tags[i]) for i in rows]

    def training_text(self, i: int, rng: random.Random) -> str:
        """One of its captions, tags, or a mixture, drawn anew each time."""
        return mixed_caption(rng.choice(self.captions[i]), self.tags[i], self.labels[i], rng)

    def plain(self, rows: list[int]) -> Tensor:
        """Media as they are."""
        return self.media.plain(rows)

    def views(self, rows: list[int], generator: torch.Generator) -> Tensor:
        """Media as training sees them."""
        return self.media.views(rows, generator)

    def encode(self, texts: list[str], length: int, whole: bool = False) -> Tokens:
        """Ids of texts, <bos> and <eos> included, cut to a length; padded to it if `whole`, else to the longest."""
        tokens = self.tokenizer.encode(texts, length)
        return padded(tokens, length) if whole else tokens


def openmoji_task(side: int, corpus: Corpus | None = None) -> Task:
    """The reference task: OpenMoji, its names, keywords and subgroups, held out by concept.

    Args:
        side: pixels of a picture.
        corpus: where it is loaded already.
    """
    corpus = load_corpus() if corpus is None else corpus
    rows = corpus.rows
    same = corpus.pictures.shape[-1] == side
    return Task(
        media=Pictures(corpus.pictures if same else premultiplied(corpus.rgba, side), corpus.mirror),
        captions=[(row.name,) for row in rows],
        tags=[row.tags for row in rows],
        labels=[row.subgroup for row in rows],
        train=corpus.train,
        held_out=corpus.held_out,
        tokenizer=corpus.tokenizer,
        fingerprint=corpus.fingerprint,
        licence=ATTRIBUTION,
        corpus=corpus,
    )


def padded(tokens: Tokens, length: int) -> Tokens:
    """The same texts, padded to a length."""
    return Tokens(F.pad(tokens.ids, (0, length - tokens.ids.shape[1]), value=PAD), tokens.lengths)


def majority_share(labels: list[str]) -> float:
    """The share of the most frequent label."""
    return Counter(labels).most_common(1)[0][1] / len(labels)
