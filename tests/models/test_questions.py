"""Generated questions have the answer that anybody would find by looking at the scene."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
import torch

from mmkernels.models.grids import CELL, compose
from mmkernels.models.questions import EMPTY, HELD_OUT_KINDS, KINDS, PER_SCENE, Question, Scene, SceneMaker, vocabulary

SINGULAR = {
    "animal": "animals", "food": "foods", "flag": "flags", "vehicle": "vehicles", "face": "faces", "person": "people",
    "garment": "clothes", "building": "buildings",
}  # fmt: skip


def kind_of_thing(row):
    """The category of a row, written out by its Unicode subgroup."""
    if row.subgroup.split("-")[0] == "animal" or row.subgroup == "cat-face":
        return "animals"
    if row.group == "flags":
        return "flags"
    if row.subgroup in ("transport-ground", "transport-air", "transport-water"):
        return "vehicles"
    first = {"food": "foods", "face": "faces", "person": "people", "clothing": "clothes"}.get(
        row.subgroup.split("-")[0]
    )
    return first or ("buildings" if row.subgroup == "place-building" else "nothing")


def look(scene, question, rows):
    """Answers a question by looking at every cell."""
    shown = [None if i == EMPTY else rows[i] for i in scene.cells]
    names = [None if row is None else row.name.replace(" face", "") for row in shown]
    if match := re.fullmatch(r"how many (\w+)", question):
        return str(sum(row is not None and kind_of_thing(row) == match[1] for row in shown))
    if match := re.fullmatch(r"is there a (.+)", question):
        thing = match[1]
        if thing in SINGULAR:
            return "yes" if any(row and kind_of_thing(row) == SINGULAR[thing] for row in shown) else "no"
        return "yes" if thing in names else "no"
    match = re.fullmatch(r"what is (left of|right of|above|below) the (.+)", question)
    at = names.index(match[2])
    (row, column), other = divmod(at, 2), {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
    row, column = row + other[match[1]][0], column + other[match[1]][1]
    if row not in (0, 1) or column not in (0, 1):
        return "nothing"
    return names[2 * row + column] or "nothing"


@pytest.mark.parametrize("side", ["train", "held_out"])
def test_every_answer_is_right(full_corpus, side):
    if side == "train":
        maker = SceneMaker(full_corpus.rows, full_corpus.train)
    else:
        maker = SceneMaker(full_corpus.rows, full_corpus.held_out, HELD_OUT_KINDS, fallback=full_corpus.train)
    rng = random.Random(0)
    kinds = Counter()
    for _ in range(3000):
        scene = maker.draw(rng)
        assert len(scene.questions) == PER_SCENE and len(scene.cells) == 4
        for question in scene.questions:
            assert look(scene, question.text, full_corpus.rows) == question.answer, (scene, question)
            assert question.answer in full_corpus.answers
            kinds[question.kind] += 1
    assert set(kinds) == set(KINDS if side == "train" else HELD_OUT_KINDS)
    assert min(kinds.values()) > 500


def test_answers_are_balanced_enough(full_corpus):
    maker, rng = SceneMaker(full_corpus.rows, full_corpus.train), random.Random(1)
    answers = {kind: Counter() for kind in KINDS}
    for _ in range(3000):
        for question in maker.draw(rng).questions:
            answers[question.kind][question.answer] += 1
    for kind, most in {"find": 0.55, "exist": 0.56, "count": 0.45, "where": 0.25}.items():
        assert max(answers[kind].values()) / answers[kind].total() < most, kind


def test_held_out_scenes_show_held_out_emoji(full_corpus):
    maker = SceneMaker(full_corpus.rows, full_corpus.held_out, HELD_OUT_KINDS, fallback=full_corpus.train)
    held, rng = set(full_corpus.held_out), random.Random(0)
    cells = [i for _ in range(300) for i in maker.draw(rng).cells if i != EMPTY]
    known = {full_corpus.rows[i].group for i in cells if i not in held}
    assert known <= {"flags"}, "only flags are pinned to training, so that only they may come from there"
    assert sum(i in held for i in cells) > 500


def test_every_word_is_in_the_vocabulary(full_corpus):
    maker, rng = SceneMaker(full_corpus.rows, full_corpus.train), random.Random(2)
    known = set(vocabulary(full_corpus.rows).split())
    for _ in range(500):
        for question in maker.draw(rng).questions:
            assert set(question.text.split()) <= known
            assert all(word in full_corpus.tokenizer for word in question.text.split())


def test_scene_depends_on_the_seed_only(corpus):
    maker = SceneMaker(corpus.rows, corpus.train)
    assert maker.draw(random.Random(5)) == maker.draw(random.Random(5))
    assert maker.draw(random.Random(5)) != maker.draw(random.Random(6))


def test_pictures_stand_in_their_cells(corpus):
    question = [Question("is there a dog", "no", "find")] * PER_SCENE
    row = corpus.train[0]
    for place in range(4):
        cells = [EMPTY] * 4
        cells[place] = row
        grid = compose([Scene(cells, question)], corpus.pictures, torch.Generator().manual_seed(place))
        assert grid.shape == (1, 3, 2 * CELL, 2 * CELL) and grid.min() >= 0 and grid.max() <= 1
        background = grid[0, :, 0, 0] if place else grid[0, :, -1, -1]
        painted = (grid[0] - background[:, None, None]).abs().amax(0) > 1e-3
        quadrants = painted.view(2, CELL, 2, CELL).any(3).any(1).flatten().tolist()
        assert quadrants == [at == place for at in range(4)]
