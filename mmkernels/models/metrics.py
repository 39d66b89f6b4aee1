"""Numbers that an evaluation reports, in per cent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from mmkernels.models.captions import words

RANKS = (1, 5, 10)


def recall(similarity: Tensor, gold: Sequence[int] | Tensor) -> dict[str, float]:
    """R@1, R@5, R@10: how often the right column is among the best k of its row.

    Columns as good as the right one share its places evenly, so that a method which cannot tell them apart gains
    nothing from their order.
    """
    right = similarity.gather(1, torch.as_tensor(gold)[:, None])
    better, equal = (similarity > right).sum(1), (similarity == right).sum(1).clamp(min=1)
    found = right[:, 0].isfinite()  # NaN is better than nothing and worse than nothing: no hit
    return {f"R@{k}": percent((((k - better) / equal).clamp(0, 1) * found).mean()) for k in RANKS}


def chance(pool: int) -> dict[str, float]:
    """Recall of a guess among `pool` candidates."""
    return {f"R@{k}": percent(min(1.0, k / pool)) for k in RANKS}


def percent(share: float | Tensor) -> float:
    """A share as per cent with two decimals."""
    return round(100 * float(share), 2)


def word_f1(left: str, right: str) -> float:
    """Harmonic mean of the two shares of common words, each word as often as it occurs."""
    a, b = Counter(words(left)), Counter(words(right))
    common = sum((a & b).values())
    return 2 * common / (sum(a.values()) + sum(b.values())) if common else 0.0


def caption_scores(captions: Sequence[str], truth: Sequence[str]) -> dict[str, float]:
    """Share of exact matches, and mean word F1."""
    pairs = list(zip(captions, truth))
    exact = sum(words(a) == words(b) for a, b in pairs) / len(pairs)
    return {"exact": percent(exact), "word F1": percent(sum(word_f1(a, b) for a, b in pairs) / len(pairs))}


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr: mean cosine of n-grams of up to four words, weighted by how few of the references have them, times 10.

    Unlike exact matches it counts every reference of a picture; weights are of these references alone, so that figures
    of different sets do not compare. Words are those of `words`. Source: Vedantam et al., "CIDEr: consensus-based image
    description evaluation", 2015, as pycocoevalcap computes it.
    """
    from pycocoevalcap.cider.cider import Cider

    def plain(text: str) -> str:
        return " ".join(words(text))

    said = {i: [plain(caption)] for i, caption in enumerate(captions)}
    truth = {i: [plain(text) for text in texts] for i, texts in enumerate(references)}
    return round(float(Cider().compute_score(truth, said)[0]), 2)


def majority(answers: Sequence[str], kinds: Sequence[str]) -> dict[str, float]:
    """Accuracy of always giving the most frequent answer of a kind of question; "all" over all questions."""
    by_kind: dict[str, Counter[str]] = {}
    for answer, kind in zip(answers, kinds):
        by_kind.setdefault(kind, Counter())[answer] += 1
    hits = {kind: counts.most_common(1)[0][1] for kind, counts in by_kind.items()}
    scores = {kind: percent(hits[kind] / counts.total()) for kind, counts in sorted(by_kind.items())}
    return {**scores, "all": percent(sum(hits.values()) / len(answers))}


def accuracy(given: Sequence[str], answers: Sequence[str], kinds: Sequence[str]) -> dict[str, float]:
    """Share of right answers by kind of question; "all" over all questions."""
    hits: dict[str, list[bool]] = {}
    for a, b, kind in zip(given, answers, kinds):
        hits.setdefault(kind, []).append(a == b)
    scores = {kind: percent(sum(row) / len(row)) for kind, row in sorted(hits.items())}
    return {**scores, "all": percent(sum(map(sum, hits.values())) / len(answers))}
