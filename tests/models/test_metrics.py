"""Metrics and baselines on cases small enough to count by hand."""

from __future__ import annotations

import pytest
import torch

from mmkernels.models import baselines
from mmkernels.models.captions import full_caption, words
from mmkernels.models.metrics import accuracy, caption_scores, chance, cider, majority, recall, word_f1


def test_recall_counts_ranks():
    similarity = torch.zeros(3, 20)
    similarity[0, 4] = 1  # the best
    similarity[1, :3], similarity[1, 4] = 2, 1  # fourth
    similarity[2, :11], similarity[2, 4] = 2, 1  # eleventh
    assert recall(similarity, [4, 4, 4]) == {"R@1": 33.33, "R@5": 66.67, "R@10": 66.67}


def test_ties_share_their_places():
    blind = torch.zeros(50, 20)
    assert recall(blind, list(range(20)) + [0] * 30) == {"R@1": 5.0, "R@5": 25.0, "R@10": 50.0} == chance(20)
    similarity = torch.tensor([[3.0, 1, 1, 1, 0]])
    assert recall(similarity, [2]) == {"R@1": 0.0, "R@5": 100.0, "R@10": 100.0}


def test_nan_similarity_is_not_a_hit():
    assert recall(torch.full((2, 12), torch.nan), [0, 1])["R@1"] == 0


def test_word_f1():
    assert word_f1("red red apple", "red apple") == pytest.approx(0.8)
    assert word_f1("pear", "red apple") == 0 and word_f1("", "x") == 0
    assert caption_scores(["Red apple", "x"], ["red apple", "y"]) == {"exact": 50.0, "word F1": 50.0}


def test_majority_and_accuracy_by_kind():
    answers, kinds = ["yes", "yes", "no", "2", "1", "2"], ["find"] * 3 + ["count"] * 3
    assert majority(answers, kinds) == {"count": 66.67, "find": 66.67, "all": 66.67}
    given = ["yes", "no", "no", "2", "2", "1"]
    assert accuracy(given, answers, kinds) == {"count": 33.33, "find": 66.67, "all": 50.0}


def test_nearest_training_picture_is_a_training_row(corpus):
    nearest = baselines.nearest_training_picture(corpus)
    assert len(nearest) == len(corpus.held_out) and set(nearest) <= set(corpus.train)
    for held, found in list(zip(corpus.held_out, nearest))[:5]:
        best = max(corpus.train, key=lambda i: corpus.split.similarity[held, i].item())
        assert best == found


def test_text_similarity_of_the_nearest_picture(corpus):
    scores = baselines.held_out_text_similarity(corpus)
    assert scores.shape == (len(corpus.held_out),) * 2 and scores.isfinite().all()
    nearest = baselines.nearest_training_picture(corpus)
    known = {word for i in corpus.train for word in words(full_caption(corpus.rows[i]))}
    for row in range(0, len(nearest), 7):
        mine = set(words(full_caption(corpus.rows[nearest[row]])))
        for column in range(0, len(nearest), 7):
            theirs = set(words(full_caption(corpus.rows[corpus.held_out[column]]))) & known
            assert (scores[row, column] > 0) == bool(mine & theirs)


def test_plain_pictures_find_themselves(corpus):
    indices = list(range(len(corpus.rows)))
    scores = recall(baselines.view_similarity(corpus, corpus.over_white(indices)), indices)
    assert scores["R@10"] > 99 and scores["R@1"] > 90


def test_cider() -> None:
    truth = [["a red apple", "an apple that is red"], ["two green cars on a road"], ["one dog"]]
    right = cider([texts[0] for texts in truth], truth)
    assert cider(["A red apple!", "two green cars on a road", "one dog"], truth) == right > 2  # words, not characters
    assert cider(["two green cars on a road", "one dog", "a red apple"], truth) < 0.1  # what is said of others
    assert 0 < cider(["an apple", "", "dog"], truth) < right  # a caption may be empty
