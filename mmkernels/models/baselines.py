"""What can be had without learning: the nearest picture by pixels, and its words."""

from __future__ import annotations

import math
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkernels.models.captions import full_caption, words
from mmkernels.models.corpus import Corpus


def nearest_training_picture(corpus: Corpus) -> list[int]:
    """For each held-out row, the training row whose picture is most like it."""
    nearest = corpus.split.similarity[corpus.held_out][:, corpus.train].argmax(1)
    return [corpus.train[i] for i in nearest.tolist()]


def held_out_text_similarity(corpus: Corpus) -> Tensor:
    """Scores each held-out caption by the words it shares with the caption of the nearest training picture.

    TF-IDF cosine, idf from training: (held out, held out), row: the picture, column: the caption.
    """
    frequency = Counter(word for i in corpus.train for word in set(words(full_caption(corpus.rows[i]))))
    column = {word: j for j, word in enumerate(sorted(frequency))}
    idf = torch.tensor([math.log(len(corpus.train) / frequency[word]) for word in column])

    def vectors(indices: list[int]) -> Tensor:
        counts = torch.zeros(len(indices), len(column))
        for at, i in enumerate(indices):
            for word in words(full_caption(corpus.rows[i])):
                if word in column:
                    counts[at, column[word]] += 1
        return F.normalize(counts * idf, dim=1)

    return vectors(nearest_training_picture(corpus)) @ vectors(corpus.held_out).T


def view_similarity(corpus: Corpus, views: Tensor) -> Tensor:
    """Cosine of augmented views with every plain picture, 16 x 16 and centred: (views, N)."""
    plain = F.interpolate(corpus.over_white(list(range(len(corpus.rows)))), (16, 16), mode="area").flatten(1)
    mean = plain.mean(0)
    small = F.interpolate(views, (16, 16), mode="area").flatten(1)
    return F.normalize(small - mean, dim=1) @ F.normalize(plain - mean, dim=1).T
