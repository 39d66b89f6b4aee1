"""Data that comes in: OpenMoji, and pictures of any other source."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mmkernels.models.presets import PAGES
from mmkernels.models.sources.task import task_of
from mmkernels.models.zoo.evaluate import evaluate
from mmkernels.models.zoo.task import UNKNOWN, Task, openmoji_task
from mmkernels.models.zoo.training import Setup, Trainer


@pytest.fixture
def own() -> Task:
    """Forty discs in four colours, as a source would give them, of 32 pixels each."""
    torch.manual_seed(0)
    colours = ["red", "green", "blue", "grey"]
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    pictures, captions, labels = [], [], []
    for i in range(40):
        alpha = ((x - 16) ** 2 + (y - 16) ** 2 < (5 + 2 * (i // 8)) ** 2).float()
        tint = torch.eye(4)[i % 4][:3, None, None] if i % 4 < 3 else torch.full((3, 1, 1), 0.5)
        pictures.append(torch.cat([tint * alpha, alpha[None]]))
        captions.append((f"a {colours[i % 4]} disc of size {i // 8}", f"something {colours[i % 4]}"))
        labels.append(colours[i % 4])
    data = SimpleNamespace(
        pictures=torch.stack(pictures), captions=captions, labels=[*labels[:-1], "unheard of"],
        mirror=torch.ones(40, dtype=torch.bool), train=list(range(32)), held_out=list(range(32, 40)),
        fingerprint="own", licence="mine",
    )  # fmt: skip
    return task_of(data)


def test_openmoji(corpus, task):
    assert torch.equal(task.media.pictures, corpus.pictures) and task.train == corpus.train
    assert task.captions[3] == (corpus.rows[3].name,) and task.tags[3] == corpus.rows[3].tags
    assert torch.equal(task.label_of, corpus.subgroup_of) and task.classes == corpus.subgroups
    assert task.mask_word == corpus.tokenizer.size and task.vocabulary == corpus.tokenizer.size + 2
    assert openmoji_task(48, corpus).media.pictures.shape[-2:] == (48, 48)


def test_own_pictures(own):
    assert own.media.pictures.shape == (40, 4, 32, 32) and own.classes == ["blue", "green", "grey", "red"]
    assert own.label_of[-1] == UNKNOWN and own.label_of[0] == 3
    assert "disc" in own.tokenizer and "unheard" not in own.tokenizer, "vocabulary comes from training alone"
    with pytest.raises(ValueError, match="questions are composed of emoji"):
        _ = own.scene_makers


@pytest.mark.parametrize("name", ["align", "flan-t5", "oscar"])
def test_systems_train_on_own_pictures(own, name):
    page = PAGES[name]
    recipe = replace(page.recipe, batch=8)
    trainer = Trainer(own, Setup(name, page.small, recipe, 3))
    while not trainer.finished:
        trainer.train_step()
    scores = evaluate(trainer.model, own, recipe)[page.main]
    assert set(scores) == {"held_out", "known_views"}


def test_questions_need_emoji(own):
    page = PAGES["uniter"]
    recipe = replace(page.recipe, objectives=(("vqa", 1.0),))
    with pytest.raises(ValueError, match="questions are composed of emoji"):
        Trainer(own, Setup("uniter", page.small, recipe, 1))


def test_published_vocabularies_have_room_or_say_so(own):
    config = replace(PAGES["bert"].small, vocabulary=10)
    with pytest.raises(ValueError, match="vocabulary is 10 in the configuration, but the data has"):
        Trainer(own, Setup("bert", config, replace(PAGES["bert"].recipe, batch=8), 1))
