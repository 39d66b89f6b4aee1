"""Data that comes in: OpenMoji, and pictures of any other source."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from mmkernels.cli import run
from mmkernels.models import sources
from mmkernels.models.presets import PAGES
from mmkernels.models.saved_run import FILE_NAME
from mmkernels.models.sources.task import task_of
from mmkernels.models.zoo.checkpoint import ZooCheckpoint
from mmkernels.models.zoo.evaluate import evaluate
from mmkernels.models.zoo.task import UNKNOWN, Task, openmoji_task
from mmkernels.models.zoo.training import Setup, Trainer

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Forty discs in four colours, 20 pixels each, as somebody's own pictures."""
    place, rows = tmp_path_factory.mktemp("discs"), ["file,caption,label"]
    for i in range(40):
        colour, size = list(COLOURS)[i % 4], 2 + i // 4
        picture = Image.new("RGBA", (20, 20))
        ImageDraw.Draw(picture).ellipse((10 - size, 10 - size, 10 + size, 10 + size), fill=(*COLOURS[colour], 255))
        picture.save(place / f"{i}.png")
        rows.append(f"{i}.png,a {colour} disc of size {size},{colour}")
    (place / "captions.csv").write_text("\n".join(rows))
    return place


@pytest.fixture(scope="module")
def own(folder) -> Task:
    return task_of(sources.load(folder, size=32))


def test_openmoji(corpus, task):
    assert torch.equal(task.pictures, corpus.pictures) and task.train == corpus.train
    assert task.captions[3] == (corpus.rows[3].name,) and task.tags[3] == corpus.rows[3].tags
    assert torch.equal(task.label_of, corpus.subgroup_of) and task.classes == corpus.subgroups
    assert task.mask_word == corpus.tokenizer.size and task.vocabulary == corpus.tokenizer.size + 2
    assert openmoji_task(48, corpus).pictures.shape[-2:] == (48, 48)


def test_own_pictures(own):
    assert own.pictures.shape[1:] == (4, 32, 32) and set(own.classes) <= set(COLOURS)
    assert own.train and own.held_out and "disc" in own.tokenizer
    strange = replace(own, labels=["unheard of" if i in own.held_out else label for i, label in enumerate(own.labels)])
    assert set(strange.label_of[own.held_out].tolist()) == {UNKNOWN}, "classes come from training alone"
    with pytest.raises(ValueError, match="questions are composed of emoji"):
        _ = own.scene_makers


@pytest.mark.parametrize("name", ["align", "flan-t5", "oscar"])
def test_systems_train_on_own_pictures(own, name):
    page = PAGES[name]
    recipe = replace(page.recipe, batch=4)
    trainer = Trainer(own, Setup(name, page.small, recipe, 3))
    while not trainer.finished:
        trainer.train_step()
    scores = evaluate(trainer.model, own, recipe)[page.main]
    assert set(scores) == {"held_out", "known_views"}


def test_data_on_the_command_line(folder, capsys, tmp_path):
    out = ["--out", str(tmp_path), "--json"]
    assert run(["train", "--preset", "vit", "--steps", "2", "--batch", "4", "--data", str(folder), *out]) == 0
    assert ZooCheckpoint.load(tmp_path / FILE_NAME).data == str(folder)
    capsys.readouterr()
    assert run(["eval", str(tmp_path), "--report", str(tmp_path / "report.html"), "--json"]) == 0
    assert "classification" in json.loads(capsys.readouterr().out)
    assert run(["train", "--resume", *out]) == 0
    assert run(["train", "--preset", "vit", "--steps", "2", "--data", "nowhere", "--overwrite", *out]) == 2
    assert "there is no source or folder" in capsys.readouterr().err


def test_labels_that_are_missing(own):
    """They are no class; a batch without any teaches nothing, and is not NaN."""
    labels = ["" if i in own.train[1:] else label for i, label in enumerate(own.labels)]
    some = replace(own, labels=labels)
    assert some.classes == [own.labels[own.train[0]]] and set(some.label_of[own.train[1:]].tolist()) == {UNKNOWN}
    page = PAGES["vit"]
    trainer = Trainer(some, Setup("vit", page.small, replace(page.recipe, batch=4), 2))
    batches = [trainer.batches.batch(index) for index in range(len(own.train) // 4)]
    bare = next(batch for batch in batches if (batch.pairs.labels == UNKNOWN).all())
    assert trainer.model.losses(bare, trainer.setup.recipe)["total"] == 0


def test_questions_need_emoji(own):
    page = PAGES["uniter"]
    recipe = replace(page.recipe, objectives=(("vqa", 1.0),))
    with pytest.raises(ValueError, match="questions are composed of emoji"):
        Trainer(own, Setup("uniter", page.small, recipe, 1))


def test_published_vocabularies_have_room_or_say_so(own):
    config = replace(PAGES["bert"].small, vocabulary=10)
    with pytest.raises(ValueError, match="vocabulary is 10 in the configuration, but the data has"):
        Trainer(own, Setup("bert", config, replace(PAGES["bert"].recipe, batch=8), 1))
