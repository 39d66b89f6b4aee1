"""A `PictureSet` is enough to train and judge a system of the zoo on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmkernels.models import presets
from mmkernels.models.sources.picture_set import Entry, PictureSet, assemble
from mmkernels.models.sources.task import task_of
from mmkernels.models.zoo.evaluate import evaluate
from mmkernels.models.zoo.training import Setup, Trainer


def coloured(count=60) -> PictureSet:
    """Squares of random colours; every tenth is held out."""
    colours = torch.rand(count, 4, 1, 1, generator=torch.Generator().manual_seed(0))
    colours[:, 3] = 1
    rows = [
        Entry((f"thing{i}", f"a {i} square"), f"kind{i % 3}", f"g{i}", True, side="train" if i % 10 else "held_out")
        for i in range(count)
    ]
    return assemble(rows, list(colours.expand(-1, -1, 32, 32)), [], "free", set())


def test_vocabulary_and_classes_are_of_training_alone():
    data = coloured()
    task = task_of(data)
    assert task.held_out == data.held_out == list(range(0, 60, 10)) and task.train == data.train
    assert "thing1" in task.tokenizer and "square" in task.tokenizer and "thing10" not in task.tokenizer
    assert task.classes == ["kind0", "kind1", "kind2"] and task.fingerprint == data.fingerprint
    assert task.full_text(1) == "thing1 kind1"


@pytest.mark.parametrize("preset", ["clip", "vit", pytest.param("flamingo", marks=pytest.mark.slow)])
def test_systems_train_and_are_judged_on_any_source(preset):
    task = task_of(coloured())
    page, small = presets.find(preset)
    trainer = Trainer(task, Setup(preset, small, replace(page.recipe, batch=16), 2, 0, None))
    losses = [trainer.train_step() for _ in range(2)]
    assert trainer.finished and losses
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    assert evaluate(trainer.model, task, trainer.setup.recipe)


def test_a_set_without_two_sides_is_refused():
    data = coloured()
    for rows, sentence in ((data.train, "no picture held out"), (data.held_out, "no picture in training")):
        with pytest.raises(ValueError, match=sentence):
            task_of(data.subset(rows))
