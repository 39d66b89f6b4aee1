"""Distillation: its loss against plain formulas, the teacher, and bits after an interruption."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mmkernels.models.config import with_dropout
from mmkernels.models.presets import PAGES
from mmkernels.models.regimes import DistillationConfig
from mmkernels.models.saved_run import FILE_NAME
from mmkernels.models.serial import from_json, to_json
from mmkernels.models.zoo.compression.smaller import smaller
from mmkernels.models.zoo.objectives import OBJECTIVES, learnt
from mmkernels.models.zoo.objectives.base import Imitable, Seen
from mmkernels.models.zoo.objectives.outputs import Predictions, Similarity, softened_divergence
from mmkernels.models.zoo.teacher import distil_from, load_teacher
from mmkernels.models.zoo.training import Trainer
from tests.models.zoo.runs import assert_same, finish, state

OBJECTIVE_OF = {"clip": "contrastive", "vit": "classification", "bert": "masked_words", "flan-t5": "text_to_text"}


@pytest.fixture
def taught(new_trainer, tmp_path):
    """taught("vit", steps=3, weight=0.5, ...): a smaller student of a teacher that has made one step."""

    def make(preset, steps=2, weight=0.5, temperature=2.0, teacher=None, dropout=0.0, **changes):
        path = tmp_path / f"{preset}-teacher.safetensors"
        if not path.exists():
            finish(new_trainer(preset, 1, seed=7, **(teacher or {}))).checkpoint().save(path)
        config = with_dropout(smaller(PAGES[preset].small), dropout)
        return new_trainer(preset, steps, config=config, distillation=distil_from(path, weight, temperature), **changes)

    return make


def test_divergence_is_that_of_softened_distributions():
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    t, wanted = 3.0, 0.0
    for row in range(4):
        p, q = ([math.exp(x / t) for x in logits[row].tolist()] for logits in (teacher, student))
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        wanted += sum(a * math.log(a / b) for a, b in zip(p, q)) * t * t / 4
    assert softened_divergence(student, teacher, t).item() == pytest.approx(wanted, rel=1e-5)
    assert softened_divergence(teacher, teacher + 5, t).abs().item() < 1e-6, "a shift of all logits says nothing"


def test_places_that_are_not_asked_for_are_not_imitated():
    torch.manual_seed(0)
    logits, said = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    target = torch.tensor([[1, 2, 0], [4, 0, 0]])
    asked = Predictions(logits, target, ignored=0), Predictions(said, target, ignored=0)
    real = [logits[0, 0], logits[0, 1], logits[1, 0]], [said[0, 0], said[0, 1], said[1, 0]]
    wanted = softened_divergence(torch.stack(real[0]), torch.stack(real[1]), 2.0)
    torch.testing.assert_close(asked[0].imitation(asked[1], 2.0), wanted)
    loss = torch.nn.functional.cross_entropy(torch.stack(real[0]), torch.tensor([1, 2, 4]))
    torch.testing.assert_close(asked[0].cross_entropy(), loss)


def test_similarities_are_imitated_both_ways_whatever_the_width():
    torch.manual_seed(0)
    unit = torch.nn.functional.normalize
    own = Similarity(unit(torch.randn(5, 8)), unit(torch.randn(5, 8)), torch.tensor(10.0))
    teacher = Similarity(unit(torch.randn(5, 16)), unit(torch.randn(5, 16)), torch.tensor(20.0))
    a, b = 10 * own.images @ own.texts.T, 20 * teacher.images @ teacher.texts.T
    wanted = (softened_divergence(a, b, 2.0) + softened_divergence(a.T, b.T, 2.0)) / 2
    torch.testing.assert_close(own.imitation(teacher, 2.0), wanted)
    turned = torch.linalg.qr(torch.randn(8, 8))[0]
    same = Similarity(own.images @ turned, own.texts @ turned, own.scale, torch.tensor(-3.0))
    assert own.imitation(same, 2.0).abs() < 1e-5, "a rotation and a bias change no similarity"


@pytest.mark.parametrize("preset", list(OBJECTIVE_OF))
def test_the_loss_is_the_weighted_sum(taught, preset):
    """Of the student's plain loss on what was drawn, and of the divergence from the teacher."""
    name, trainer = OBJECTIVE_OF[preset], taught(preset, weight=0.3)
    trainer.model.eval()
    batch, recipe = trainer.batches.batch(0), trainer.setup.recipe
    drawn = batch.drawn[name]
    found = trainer.model.losses(batch, recipe)[name]
    alone = replace(recipe, distillation=None)
    hard = OBJECTIVES[name].loss(trainer.model, Seen(trainer.model, batch.pairs, alone), drawn.drawn)
    said = OBJECTIVES[name].outputs(trainer.model, Seen(trainer.model, batch.pairs, alone), drawn.drawn)
    torch.testing.assert_close(found, 0.7 * hard + 0.3 * said.imitation(drawn.said, 2.0))
    assert not any(part.requires_grad for part in drawn.said if isinstance(part, torch.Tensor))
    teacher = trainer.batches.objectives[0].teacher
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())


def test_every_objective_with_outputs_can_be_taught():
    imitable = {name for name, objective in OBJECTIVES.items() if isinstance(objective, Imitable)}
    assert imitable == {
        "contrastive", "sigmoid", "captioning", "masked_words", "vqa", "classification", "text_to_text",
    }  # fmt: skip
    recipe = replace(PAGES["vit"].recipe, distillation=DistillationConfig("somewhere", "0"))
    assert learnt("matching", recipe) is OBJECTIVES["matching"]
    assert from_json(to_json(recipe)) == recipe


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["vit", "clip", "align", "bert", "flan-t5", "oscar", "flamingo"])
def test_a_student_comes_to_speak_as_its_teacher(taught, preset):
    """With the teacher alone as its aim, at a high rate, on the same batch again and again."""
    trainer = taught(preset, steps=40, weight=1.0, rate=3e-3)
    batch = trainer.batches.batch(0)
    trainer.batches.batch = lambda index: batch
    main = PAGES[preset].main
    column = trainer.loss_names.index(main)
    finish(trainer)
    first, last = (trainer.history["train"][at][column] for at in (0, -1))
    assert last < 0.5 * first


@pytest.mark.parametrize(
    ("preset", "changes"),
    [("vit", {}), pytest.param("clip", {"accumulate": 2, "batch": 8}, marks=pytest.mark.slow)],
)
def test_resumed_distillation_equals_an_uninterrupted_one(taught, task, tmp_path, preset, changes):
    """Bit for bit, with dropout."""
    wanted = state(finish(taught(preset, 5, dropout=0.1, **changes)))
    first = taught(preset, 5, dropout=0.1, **changes)
    for _ in range(2):
        first.train_step()
    first.checkpoint().save(tmp_path / FILE_NAME)
    torch.manual_seed(12345)
    second = Trainer.resume(tmp_path / FILE_NAME, task)
    assert second.setup == first.setup
    assert_same(state(finish(second)), wanted)
    plain = finish(taught(preset, 5, dropout=0.1, weight=1e-9, **changes))
    name = next(iter(wanted))
    assert not torch.equal(wanted[name], state(plain)[name]), "the teacher has a say"


def test_loading_a_teacher_leaves_the_generator_alone(taught, task):
    student = taught("vit")
    before = torch.get_rng_state()
    load_teacher(student.setup.recipe.distillation, student.setup.recipe, task, student.sizes)
    assert torch.equal(torch.get_rng_state(), before)


def test_refusals(taught, new_trainer, tmp_path):
    student = taught("vit")
    lesson = student.setup.recipe.distillation
    path = tmp_path / "vit-teacher.safetensors"
    with pytest.raises(ValueError, match="a teacher has nothing to say of masked_patches"):
        new_trainer("vit", distillation=lesson, objectives=(("masked_patches", 1.0),))
    with pytest.raises(ValueError, match="has not learnt contrastive"):
        new_trainer("clip", distillation=lesson)
    finish(new_trainer("vit", 1, seed=8)).checkpoint().save(path)
    with pytest.raises(ValueError, match="has other weights than when this run began"):
        new_trainer("vit", distillation=lesson)
    path.unlink()
    with pytest.raises(ValueError, match="cannot read"):
        new_trainer("vit", distillation=lesson)
    with pytest.raises(ValueError, match=r"the weight of distillation must be in \(0, 1\], got 0"):
        DistillationConfig("teacher", "0", weight=0.0)
    with pytest.raises(ValueError, match="temperature must be positive, got -1"):
        DistillationConfig("teacher", "0", temperature=-1.0)
