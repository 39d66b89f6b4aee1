"""Few labels: who keeps one, what pseudo-labels are learnt from, the comparison with seeds, its command."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from mmkernels.models.loop import StopRequest
from mmkernels.models.presets import PAGES
from mmkernels.models.regimes import PseudoLabelConfig
from mmkernels.models.saved_run import FILE_NAME
from mmkernels.models.zoo.compression.smaller import smaller
from mmkernels.models.zoo.objectives import OBJECTIVES, Side
from mmkernels.models.zoo.objectives.base import Seen
from mmkernels.models.zoo.objectives.pseudo_labels import confident, cut_out
from mmkernels.models.zoo.semi_supervised import commands
from mmkernels.models.zoo.semi_supervised.few_labels import few_labels, with_labels
from mmkernels.models.zoo.semi_supervised.study import ALONE, PSEUDO, Plan, Study, as_table, compare, verdict
from mmkernels.models.zoo.task import openmoji_task
from mmkernels.models.zoo.training import Setup, Trainer
from tests.models.zoo.runs import arguments, assert_same, finish, state

BOTH = (("classification", 1.0), ("pseudo_labels", 1.0))


@pytest.fixture(scope="module")
def groups(task):
    return with_labels(task, "group")


def new(task, steps=2, confidence=0.95, objectives=BOTH, batch=8):
    pseudo = PseudoLabelConfig(12, confidence)
    recipe = replace(PAGES["vit"].recipe, objectives=objectives, batch=batch, pseudo_labels=pseudo)
    return Trainer(task, Setup("vit", PAGES["vit"].small, recipe, steps))


def test_few_labels(groups):
    few = few_labels(groups, 3, seed=0)
    counts = {name: sum(groups.labels[i] == name for i in few.train) for name in groups.classes}
    there = {name: sum(groups.labels[i] == name for i in groups.train) for name in groups.classes}
    assert counts == {name: min(3, there[name]) for name in groups.classes}
    assert sorted(few.train + few.unlabelled) == sorted(groups.train) and few.held_out == groups.held_out
    assert few.classes == groups.classes
    other = few_labels(groups, 3, seed=1)
    assert other.train != few.train and other.fingerprint != few.fingerprint
    assert few_labels(groups, 3, seed=0).train == few.train
    with pytest.raises(ValueError, match="labels per class must be at least 1, got 0"):
        few_labels(groups, 0, seed=0)


def test_labels_of_groups(task, groups):
    assert with_labels(task, "own") is task
    assert set(groups.labels) == {row.group for row in task.corpus.rows} and len(groups.classes) < len(task.classes)
    with pytest.raises(ValueError, match="labels must be one of own, group, got 'colour'"):
        with_labels(task, "colour")
    with pytest.raises(ValueError, match="labels must be own where the pictures are not emoji"):
        with_labels(replace(task, corpus=None), "group")


def test_labels_of_unlabelled_pictures_are_not_looked_at(groups):
    """Training is the same, bit for bit, whatever they are."""
    few = few_labels(groups, 2, seed=0)
    hidden = set(few.unlabelled)
    wrong = [few.classes[0] if i in hidden else label for i, label in enumerate(few.labels)]
    a, b = (finish(new(task, 3, confidence=0.0)) for task in (few, replace(few, labels=wrong)))
    assert_same(state(a), state(b))
    assert a.history["train"][0][2] > 0, "and they are learnt from"


def test_only_what_is_sure_counts(groups):
    few = few_labels(groups, 2, seed=0)
    trainer = new(few)
    batch, model = trainer.batches.batch(0), trainer.model
    views, classes = batch.drawn["pseudo_labels"], OBJECTIVES["classification"]
    with torch.no_grad():
        weak = classes.logits(model, model.see(views.weak)).softmax(-1)
        strong = classes.logits(model, model.see(views.strong)).log_softmax(-1)
    half, wanted = weak.max(1).values.median().item(), 0.0
    for row in range(12):
        if weak[row].max() >= half:
            wanted -= strong[row, weak[row].argmax()].item() / 12
    assert (weak.max(1).values < half).any()
    recipe = replace(trainer.setup.recipe, pseudo_labels=PseudoLabelConfig(12, half))
    loss = OBJECTIVES["pseudo_labels"].loss(model, Seen(model, batch.pairs, recipe), views)
    assert loss.item() == pytest.approx(wanted, rel=1e-4)
    loss.backward()
    assert model.heads["classification"].weight.grad.abs().sum() > 0
    strict = replace(recipe, pseudo_labels=PseudoLabelConfig(12, 1.0))
    assert OBJECTIVES["pseudo_labels"].loss(model, Seen(model, batch.pairs, strict), views) == 0


def test_confidence_has_a_least_probability():
    logits = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 9.0]])
    recipe = replace(PAGES["vit"].recipe, pseudo_labels=PseudoLabelConfig(confidence=0.9))
    sure, guess = confident(logits, recipe)
    assert sure.tolist() == [False, True, True] and guess[1:].tolist() == [0, 1]


def test_cut_out_hides_a_square():
    generator = torch.Generator().manual_seed(0)
    hidden = cut_out(torch.ones(64, 3, 32, 32), generator) != 1
    assert (hidden[:, 0] == hidden[:, 2]).all()
    for mask in hidden[:, 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None]) and 8 <= rows.sum() <= 16 and 8 <= columns.sum() <= 16
    assert len({tuple(mask.any(1).tolist()) for mask in hidden[:, 0]}) > 10


def test_judge_counts_the_confident_alone(groups, monkeypatch):
    few = few_labels(groups, 2, seed=0)
    trainer = new(few)
    rows = few.unlabelled[:4]
    target = few.label_of[rows]
    logits = torch.zeros(4, len(few.classes))
    logits[0, target[0]] = 20.0  # sure and right
    logits[1, (target[1] + 1) % len(few.classes)] = 20.0  # sure and wrong
    monkeypatch.setattr(type(OBJECTIVES["classification"]), "logits", lambda *_: logits)
    scores = OBJECTIVES["pseudo_labels"].judge(
        trainer.model, few, Side("x", rows, few.plain(rows)), trainer.setup.recipe
    )
    assert [score.model for score in scores] == [50.0, 50.0]


def test_resumed_run_equals_an_uninterrupted_one(groups, tmp_path):
    few = few_labels(groups, 2, seed=0)
    wanted = state(finish(new(few, 4, confidence=0.2)))
    first = new(few, 4, confidence=0.2)
    first.train_step()
    first.checkpoint().save(tmp_path / FILE_NAME)
    second = Trainer.resume(tmp_path / FILE_NAME, few)
    assert_same(state(finish(second)), wanted)
    with pytest.raises(ValueError, match="was trained on other data"):
        Trainer.resume(tmp_path / FILE_NAME, few_labels(groups, 2, seed=1))


def test_refusals(task, groups):
    with pytest.raises(ValueError, match="needs pictures without labels, which this task has not"):
        new(task).train_step()
    with pytest.raises(ValueError, match="objective pseudo_labels needs classification beside it"):
        new(few_labels(groups, 2, 0), objectives=(("pseudo_labels", 1.0),))
    with pytest.raises(ValueError, match=r"confidence must be in \[0, 1\], got 2"):
        PseudoLabelConfig(confidence=2.0)
    with pytest.raises(ValueError, match="the batch of pseudo-labels must be at least 1, got 0"):
        PseudoLabelConfig(batch=0)


def test_comparison(groups, tmp_path):
    page, plan = PAGES["vit"], Plan(2, 2, 2, 2, pseudo_labels=PseudoLabelConfig(8, 0.3))
    with StopRequest() as stop:
        study = Study("vit", smaller(page.small, 0.25, 0.34), replace(page.recipe, batch=16), groups, plan)
        results = compare(study, tmp_path, stop)
        assert compare(study, tmp_path, stop) == results, "finished runs are not trained again"
    assert list(results["accuracy"]) == [ALONE, PSEUDO, "pre-trained, labels alone", "pre-trained, pseudo-labels"]
    assert results["labelled"] + results["unlabelled"] == len(groups.train)
    entry = results["gain"][PSEUDO]["held_out"]
    pairs = zip(results["accuracy"][PSEUDO]["held_out"], results["accuracy"][ALONE]["held_out"])
    assert entry["seeds"] == [a - b for a, b in pairs] and entry["mean"] == pytest.approx(sum(entry["seeds"]) / 2)
    title, head, rows = as_table(results)
    assert "2 seeds" in title and {len(row) for row in rows} == {len(head)} and rows[0][2] == ""
    assert len(verdict(results)) == 3
    pretrained = tmp_path / "seed-0" / "pre-training" / FILE_NAME
    assert pretrained.exists()


@pytest.mark.parametrize(("gains", "said"), [([1, 2], "gains on"), ([1, -2], "not always"), ([0, -1], "does not gain")])
def test_verdict_says_so_where_nothing_is_gained(gains, said):
    found = verdict({"gain": {PSEUDO: {"held_out": {"seeds": gains}}}})
    assert len(found) == 1 and said in found[0]


def test_command(task, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands, "load_task", lambda *_: task)
    line = f"--out {tmp_path} --steps 1 --pretrain-steps 0 --seeds 1 --per-class 1 --unlabelled 4 --labels group"
    assert commands.semi_supervised(arguments(f"{line} --json", commands.add_arguments)) == 0
    results = json.loads(capsys.readouterr().out)
    assert list(results["accuracy"]) == [ALONE, PSEUDO] and results["classes"] < 15
    assert json.loads((tmp_path / commands.RESULTS_NAME).read_text()) == results
    assert commands.semi_supervised(arguments(line, commands.add_arguments)) == 0
    assert "on held-out concepts" in capsys.readouterr().out
    for wrong in ("--per-class 0", "--seeds 0", "--confidence 2", "--preset bert", "--labels colour", "--rate 0"):
        with pytest.raises(ValueError, match=r"must be|needs an image tower"):
            commands.semi_supervised(arguments(f"{line} {wrong}", commands.add_arguments))


@pytest.mark.nightly
def test_every_arm_learns_from_few_labels(full_corpus, tmp_path):
    """The table of docs/compression.md, shorter: no gain is claimed there, but what is learnt is far above majority."""
    page, plan = PAGES["vit"], Plan(8, 150, 150, 2, pseudo_labels=PseudoLabelConfig(64, 0.8))
    task = with_labels(openmoji_task(32, full_corpus), "group")
    study = Study("vit", smaller(page.small, 0.5, 0.67), page.recipe, task, plan)
    with StopRequest() as stop:
        results = compare(study, tmp_path, stop)
    for name, sides in results["accuracy"].items():
        assert min(sides["unlabelled"]) > 1.2 * results["baselines"]["unlabelled"]["majority"], name


@pytest.mark.nightly
def test_pseudo_labels_gain_where_the_labels_alone_teach_enough(full_corpus, tmp_path):
    """The other table of docs/compression.md: a CNN, mean over three seeds."""
    page, plan = PAGES["align"], Plan(8, 250, 0, 3, pseudo_labels=PseudoLabelConfig(64, 0.8))
    task = with_labels(openmoji_task(32, full_corpus), "group")
    study = Study("align", smaller(page.small, 0.5, 1.0), page.recipe, task, plan)
    with StopRequest() as stop:
        results = compare(study, tmp_path, stop)
    assert results["gain"][PSEUDO]["unlabelled"]["mean"] > 0
