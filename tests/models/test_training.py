"""Training: it learns, it is reproducible, and stopping it loses nothing."""

from __future__ import annotations

import signal

import pytest
import torch

from mmkernels import _native
from mmkernels.models import presets
from mmkernels.models.checkpoint import FILE_NAME, Checkpoint
from mmkernels.models.comparison import TOLERANCE, first_steps, largest_relative_difference
from mmkernels.models.loop import StopRequest, train
from mmkernels.models.presets import Plan, plan_for_seconds, plan_for_steps
from mmkernels.models.schedule import learning_rate
from mmkernels.models.training import Trainer, measure_step_seconds

needs_native = pytest.mark.skipif(not _native.loaded, reason=f"no C++ kernels: {_native.why_not_loaded}")


def new_trainer(corpus, plan, seed=0, dropout=0.0, backend=None):
    config, recipe = presets.configure("tiny", dropout)
    return Trainer(corpus, config, recipe, plan, seed, backend)


def state(trainer):
    saved = trainer.checkpoint()
    groups = {"model": saved.model, "optimizer": saved.optimizer, "history": saved.history}
    return {f"{group}/{name}": t.clone() for group, part in groups.items() for name, t in part.items()} | {
        "rng": saved.torch_rng
    }


def assert_same(a, b):
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


def test_losses_fall(trained):
    totals = [row[0] for row in trained.history["pretrain"]]
    assert sum(totals[-5:]) < 0.9 * sum(totals[:5])
    answers = [row[0] for row in trained.history["vqa"]]
    assert sum(answers[-5:]) < 0.95 * sum(answers[:5])


def test_same_seed_same_run_other_seed_other_run(corpus):
    a, b, c = (new_trainer(corpus, Plan(3, 2), seed, dropout=0.1) for seed in (4, 4, 5))
    for trainer in (a, b, c):
        torch.manual_seed(4 if trainer is not c else 5)
        while not trainer.finished:
            trainer.train_step()
    assert_same(state(a), state(b))
    assert a.history != c.history


@pytest.mark.parametrize("at", [2, 4, 6], ids=["in pretrain", "between the stages", "in vqa"])
def test_resumed_run_equals_an_uninterrupted_one(corpus, tmp_path, at):
    """Bit for bit, with dropout, wherever it was stopped."""
    plan = Plan(4, 4)
    whole = new_trainer(corpus, plan, dropout=0.1)
    while not whole.finished:
        whole.train_step()
    wanted = state(whole)

    first = new_trainer(corpus, plan, dropout=0.1)
    for _ in range(at):
        first.train_step()
    first.checkpoint().save(tmp_path / FILE_NAME)
    torch.manual_seed(12345)
    second = Trainer.resume(tmp_path / FILE_NAME, corpus)
    assert second.step == at and not second.finished
    while not second.finished:
        second.train_step()
    assert_same(state(second), wanted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_leaves(corpus, tmp_path, number):
    trainer = new_trainer(corpus, Plan(30, 30))
    path = tmp_path / FILE_NAME

    def interrupt(report):
        if report.step == 3:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not train(trainer, path, interrupt, stop=stop)
    assert stop.signal == number and signal.getsignal(number) == before
    assert Checkpoint.load(path).step == trainer.step == 3


def test_second_interrupt_is_not_swallowed():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_checkpoints_are_written_on_the_way(corpus, tmp_path):
    trainer = new_trainer(corpus, Plan(5, 1))
    path, steps = tmp_path / FILE_NAME, []

    def look(report):
        steps.append(Checkpoint.load(path).step if path.exists() else None)

    assert train(trainer, path, look, save_every=2)
    assert steps == [None, None, 2, 2, 4, 4] and Checkpoint.load(path).step == 6
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE_NAME]


def test_damaged_and_foreign_checkpoints_are_refused(trained, corpus, full_corpus, tmp_path):
    path = tmp_path / FILE_NAME
    trained.checkpoint().save(path)
    with pytest.raises(ValueError, match="was trained on other data"):
        Trainer.resume(path, full_corpus)
    content = path.read_bytes()
    for damaged in (content[:-100], content[:1000], b"", content[:5000] + b"\xff" + content[5001:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=FILE_NAME):
            Trainer.resume(path, corpus)
    saved = trained.checkpoint()
    saved.model = {**saved.model, "image_tower.norm.weight": torch.zeros(3)}
    saved.save(path)
    with pytest.raises(ValueError, match="weights are of another model"):
        Trainer.resume(path, corpus)


def test_checkpoint_round_trip(trained, tmp_path):
    saved = trained.checkpoint()
    saved.save(tmp_path / FILE_NAME)
    loaded = Checkpoint.load(tmp_path / FILE_NAME)
    for name in ("config", "recipe", "plan", "sizes", "seed", "step", "stage", "backend", "fingerprint", "seconds"):
        assert getattr(loaded, name) == getattr(saved, name), name
    assert_same(loaded.model, {name: value.cpu() for name, value in saved.model.items()})
    model = loaded.build_model("reference")
    assert_same(dict(model.state_dict()), dict(trained.model.state_dict()))


def test_divergence_is_reported(corpus):
    trainer = new_trainer(corpus, Plan(3, 3))
    with torch.no_grad():
        trainer.model.image_tower.norm.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="step 1 is nan"):
        trainer.train_step()


@needs_native
def test_fused_and_naive_losses_agree(corpus):
    """Without dropout; the tiny model in the quick suite, the demo's own in the slow one."""
    fused = first_steps(corpus, "cpu", 0, 12, "tiny")["losses"]
    naive = first_steps(corpus, "reference", 0, 12, "tiny")["losses"]
    assert largest_relative_difference(fused, naive) < TOLERANCE
    assert fused != naive, "equal to the last bit: did both run on the same backend?"


@needs_native
@pytest.mark.slow
def test_fused_and_naive_losses_agree_over_fifty_steps(full_corpus):
    fused = first_steps(full_corpus, "cpu", 0, 50)["losses"]
    naive = first_steps(full_corpus, "reference", 0, 50)["losses"]
    assert largest_relative_difference(fused, naive) < TOLERANCE


def test_largest_relative_difference_keeps_what_is_not_finite():
    assert largest_relative_difference([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
    assert largest_relative_difference([float("nan"), 1.0], [1.0, 1.0]) == float("inf")
    assert largest_relative_difference([float("inf"), 1.0], [1.0, 1.0]) == float("inf")
    assert largest_relative_difference([1.0, 1.0], [1.0, float("nan")]) == float("inf")


def test_measuring_leaves_the_run_alone(corpus):
    trainer = new_trainer(corpus, Plan(2, 2), dropout=0.1)
    before = state(trainer)
    pretrain, vqa = measure_step_seconds(trainer, steps=1)
    assert pretrain > 0 and vqa > 0
    assert_same(state(trainer), before)


def test_plans():
    assert plan_for_steps(100).total == 100 and plan_for_steps(2) == Plan(1, 1)
    plan = plan_for_seconds(100, pretrain_step=0.1, vqa_step=0.2)
    assert plan.pretrain * 0.1 + plan.vqa * 0.2 == pytest.approx(100, rel=0.02)
    for wrong in (1, 0, -5):
        with pytest.raises(ValueError, match="steps must be at least 2"):
            plan_for_steps(wrong)
    with pytest.raises(ValueError, match="time to train must be positive"):
        plan_for_seconds(0, 1, 1)


def test_learning_rate():
    rates = [learning_rate(1.0, step, 100, 0.05) for step in range(100)]
    assert rates.index(max(rates)) == 4 and max(rates) > 0.98
    assert rates[:5] == sorted(rates[:5]) and rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.01
