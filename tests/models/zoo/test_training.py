"""Training of the zoo: bits after an interruption, accumulation, precision, early stopping, the log."""

from __future__ import annotations

import json

import pytest
import torch

from mmkernels.models.config import with_dropout
from mmkernels.models.loop import train
from mmkernels.models.presets import PAGES
from mmkernels.models.saved_run import FILE_NAME
from mmkernels.models.schedule import learning_rate
from mmkernels.models.zoo.checkpoint import ZooCheckpoint
from mmkernels.models.zoo.evaluate import as_json, as_tables, evaluate
from mmkernels.models.zoo.log import LOG_NAME, PLOT_NAME, write_log
from mmkernels.models.zoo.task import openmoji_task
from mmkernels.models.zoo.training import Trainer, steps_for_minutes, take_weights
from tests.models.zoo.runs import assert_same, finish, state


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("clip", {"objectives": (("contrastive", 1.0), ("captioning", 0.5), ("vqa", 1.0)), "batch": 8, "grids": 2}),
        pytest.param("flamingo", {"accumulate": 2}, marks=pytest.mark.slow),
        pytest.param("oscar", {"patience": 2}, marks=pytest.mark.slow),
        pytest.param("flan-t5", {"autocast": "bf16"}, marks=pytest.mark.slow),
    ],
)
def test_resumed_run_equals_an_uninterrupted_one(new_trainer, task, tmp_path, preset, changes):
    """Bit for bit, with dropout."""
    config = with_dropout(PAGES[preset].small, 0.1)
    wanted = state(finish(new_trainer(preset, 5, config=config, **changes)))
    first = new_trainer(preset, 5, config=config, **changes)
    for _ in range(2):
        first.train_step()
    first.checkpoint().save(tmp_path / FILE_NAME)
    torch.manual_seed(12345)
    second = Trainer.resume(tmp_path / FILE_NAME, task)
    assert second.step == 2 and second.setup == first.setup
    assert_same(state(finish(second)), wanted)


def test_batches_depend_on_seed_and_index_alone(new_trainer):
    objectives = (("masked_words", 1.0), ("matching", 1.0), ("masked_patches", 1.0), ("vqa", 1.0))
    a, b, other = (new_trainer("uniter", seed=seed, objectives=objectives).batches for seed in (1, 1, 2))
    for index in (30, 2):
        a.batch(index)
    leaves = [
        [leaf for leaf in torch.utils._pytree.tree_leaves(maker.batch(5)) if leaf is not None]  # uniter has no tags
        for maker in (a, b, other)
    ]
    assert all(torch.equal(x, y) for x, y in zip(leaves[0], leaves[1], strict=True))
    assert not all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(leaves[0], leaves[2]))


def test_accumulated_gradients_are_the_mean_of_the_micro_batches(new_trainer):
    trainer = new_trainer("vit", accumulate=3, batch=8, config=PAGES["vit"].small)
    trainer.clip_norm = 1e9
    model, recipe = trainer.model, trainer.setup.recipe
    single = []
    for index in range(3):
        model.zero_grad()
        model.losses(trainer.batches.batch(index), recipe)["total"].backward()
        single.append({name: p.grad.clone() for name, p in model.named_parameters()})
    losses = [model.losses(trainer.batches.batch(i), recipe)["total"].item() for i in range(3)]
    report = trainer.train_step()
    assert report.losses["total"] == pytest.approx(sum(losses) / 3, rel=1e-5)
    for name, p in model.named_parameters():
        mean = (single[0][name] + single[1][name] + single[2][name]) / 3
        torch.testing.assert_close(p.grad, mean, rtol=1e-4, atol=1e-6, msg=name)


def test_autocast_computes_in_bf16_and_keeps_fp32_weights(new_trainer):
    plain, fast = new_trainer("vit"), new_trainer("vit", autocast="bf16")
    a, b = plain.train_step().losses["total"], fast.train_step().losses["total"]
    assert a != b and abs(a - b) < 0.02 * a
    assert all(p.dtype == torch.float32 for p in fast.model.parameters())


@pytest.mark.slow
def test_compiled_losses_equal_eager_ones(new_trainer):
    eager, compiled = new_trainer("vit"), new_trainer("vit", compile=True)
    for _ in range(2):
        a, b = eager.train_step().losses["total"], compiled.train_step().losses["total"]
        assert a == pytest.approx(b, rel=1e-4)


def test_early_stopping_keeps_the_best_weights(new_trainer, monkeypatch):
    trainer = new_trainer("vit", steps=40, patience=2)
    values = iter([3.0, 2.0, 2.5, 2.25, 1.0])
    monkeypatch.setattr(trainer, "held_out_losses", lambda: {"total": next(values), "classification": 0.0})
    weights = {}
    while not trainer.finished:
        trainer.train_step()
        weights[trainer.step] = trainer.model.heads["classification"].weight.clone()
    assert trainer.step == 8 and trainer.stopped and trainer.best_loss == 2.0, "a look every two steps"
    assert torch.equal(weights[8], weights[4]), "the weights of the second look"


def test_held_out_looks_train_nothing(new_trainer):
    a, b = new_trainer("align", steps=40), new_trainer("align", steps=40)
    b.held_out_losses()
    for trainer in (a, b):
        trainer.train_step()
    assert_same(state(a), state(b))
    rows = b.checks.batch(0).pairs
    assert len(rows.pictures) <= len(b.task.held_out)


def test_log_and_plot(new_trainer, tmp_path):
    trainer = new_trainer("vit", steps=4)
    path = tmp_path / FILE_NAME
    assert train(trainer, path, save_every=2, on_save=lambda: write_log(trainer, tmp_path))
    lines = [json.loads(line) for line in (tmp_path / LOG_NAME).read_text().splitlines()]
    steps = [line for line in lines if "held_out" not in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert [line["total"] for line in steps] == [row[0] for row in trainer.history["train"]]
    recipe = trainer.setup.recipe
    assert steps[2]["rate"] == learning_rate(recipe.rate, 2, 4, recipe.warm_up, recipe.schedule)
    assert lines[-1]["held_out"]["total"] == trainer.history["held_out"][-1][1]
    assert (tmp_path / PLOT_NAME).read_text().lstrip().startswith("<?xml")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([FILE_NAME, LOG_NAME, PLOT_NAME])


def test_checkpoint_round_trip(new_trainer, task, full_corpus, tmp_path):
    trainer = new_trainer("vilbert", backend="reference")
    trainer.train_step()
    saved = trainer.checkpoint()
    saved.save(tmp_path / FILE_NAME)
    loaded = ZooCheckpoint.load(tmp_path / FILE_NAME)
    for name in ("preset", "data", "config", "recipe", "sizes", "steps", "seed", "step", "backend", "fingerprint"):
        assert getattr(loaded, name) == getattr(saved, name), name
    model = loaded.build_model("reference")
    assert all(torch.equal(value, trainer.model.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="was trained on other data"):
        Trainer.resume(tmp_path / FILE_NAME, openmoji_task(32, full_corpus))


def test_fine_tuning_begins_with_the_pretrained_weights(new_trainer):
    pretrained = finish(new_trainer("clip", 1))
    tuned = new_trainer("clip", objectives=(("classification", 1.0),))
    taken = take_weights(tuned.model, pretrained.model.state_dict())
    assert any(name.startswith("image_tower.") for name in taken) and not any("heads" in name for name in taken)
    assert torch.equal(tuned.model.image_tower.patches.weight, pretrained.model.image_tower.patches.weight)


def test_minutes_become_steps_without_a_trace(new_trainer, task):
    trainer = new_trainer("vit", batch=4)
    before = torch.get_rng_state()
    steps = steps_for_minutes(task, trainer.setup, 0.01)
    assert steps >= 1 and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedules(schedule):
    rates = [learning_rate(1.0, step, 100, 0.1, schedule) for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and max(rates) == pytest.approx(1.0, abs=0.11)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(1.001 if schedule == "constant" else 0.001, abs=1e-3)
    assert rates[54] == pytest.approx({"cosine": 0.423, "linear": 0.451, "constant": 1.001}[schedule], abs=2e-3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch": 512}, "a batch has 512 pairs, but there are"),
        ({"media": 2}, "media must be 1 where no gated decoder tells pictures apart, got 2"),
    ],
)
def test_refusals(new_trainer, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        new_trainer("clip", **changes)


def test_evaluation_stands_beside_chance(new_trainer, task):
    objectives = (
        ("contrastive", 1.0),
        ("captioning", 1.0),
        ("matching", 1.0),
        ("classification", 1.0),
        ("sigmoid", 1.0),
    )
    trainer = finish(new_trainer("clip", 1, objectives=objectives))
    scores = evaluate(trainer.model, task, trainer.setup.recipe)
    assert list(scores) == [name for name, _ in objectives]
    for sides in scores.values():
        assert list(sides) == ["held_out", "known_views"]
        for part in sides.values():
            assert all(0 <= score.model <= 100 and 0 <= score.chance <= 100 for score in part)
    plain = as_json(scores)
    chance = plain["contrastive"]["held_out"]["image to text R@1"]["chance"]
    assert chance == pytest.approx(100 / len(task.held_out), abs=0.01)
    assert plain["matching"]["held_out"]["accuracy"]["majority"] == 50.0
    assert len(as_tables(scores)) == 2 * len(objectives)
