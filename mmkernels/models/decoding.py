"""Writing a text, word by word."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmkernels.models.tokenizer import EOS, Tokens


def greedy(logits_of: Callable[[Tokens], Tensor], start: Tensor, max_words: int) -> list[list[int]]:
    """The most likely word, again and again, until <eos>: one list of ids per text, start and <eos> left out.

    Args:
        logits_of: (B, L) tokens, all of them real, to the logits of the next word at every place, (B, L, vocabulary).
        start: int64 (B, n), the words that every text begins with.
    """
    ids, given = start, start.shape[1]
    for _ in range(max_words):
        tokens = Tokens(ids, torch.full((len(ids),), ids.shape[1]))
        ids = torch.cat([ids, logits_of(tokens)[:, -1].argmax(-1, keepdim=True)], 1)
        if (ids[:, given:] == EOS).any(1).all():
            break
    rows = ids[:, given:].tolist()
    return [row[: row.index(EOS)] if EOS in row else row for row in rows]
