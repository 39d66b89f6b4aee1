"""Clips and sounds as tasks: what a row is, what words see, that they are judged beside chance, bits after a resume."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from mmkernels.cli import run
from mmkernels.mask import Mask
from mmkernels.models.config import AudioConfig, VideoConfig, with_dropout
from mmkernels.models.presets import PAGES
from mmkernels.models.saved_run import FILE_NAME
from mmkernels.models.sources.clips import MOTIONS
from mmkernels.models.sources.sounds import Sound, Sounds, split_sounds
from mmkernels.models.sources.task import clip_task
from mmkernels.models.tokenizer import Tokens
from mmkernels.models.zoo.checkpoint import ZooCheckpoint
from mmkernels.models.zoo.evaluate import evaluate, sides_of
from mmkernels.models.zoo.maps import look
from mmkernels.models.zoo.objectives import OBJECTIVES
from mmkernels.models.zoo.objectives.narration import context, frames_of, frames_right, phrases
from mmkernels.models.zoo.report import Story, render
from mmkernels.models.zoo.training import Trainer

VIDEO, AUDIO = PAGES["video"].small, PAGES["audio"].small
BOTH = ["video", "audio"]


@pytest.fixture
def clips(task_for):
    return task_for(VIDEO)


# ---- tasks ----


def test_clips_of_a_small_source(source):
    task = clip_task(source, 3)
    assert len(task.train) == 5 * len(MOTIONS) and len(task.held_out) == len(MOTIONS), "few pictures, every motion"
    assert task.captions[0] == ("dot moves to the right",) and task.labels[0] == "moves to the right"
    assert task.narrations[0] == "dot at the left then in the middle then at the right"
    assert all("cube" in task.captions[i][0] for i in task.held_out) and "cube" not in task.tokenizer
    assert task.classes == sorted(MOTIONS) and "then" in task.tokenizer
    assert clip_task(source, 4).fingerprint != task.fingerprint == clip_task(source, 3).fingerprint


def test_clips_of_many_pictures(clips):
    judged = clips.judged
    assert not set(judged["known_views"]) & set(clips.held_out) and judged["held_out"] == clips.held_out
    for rows in judged.values():
        assert len({clips.labels[i] for i in rows}) == len(MOTIONS), "every motion is judged"
    assert max(len(text.split()) for text in clips.narrations) + 2 <= PAGES["video"].recipe.text_tokens


def test_media_of_rows(task_for):
    for config, shape in ((VIDEO, (2, 3, 3, 32, 32)), (AUDIO, (2, 16_000))):
        task = task_for(config)
        rows = task.held_out[:2]
        assert task.plain(rows).shape == shape and torch.equal(task.plain(rows), task.plain(rows))
        one, same, other = (task.views(rows, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert torch.equal(one, same) and not torch.equal(one, other)
        shown = task.media.shown(one[0])
        assert shown.shape[0] == 3 and shown.shape[1] == shown.shape[2] and 0 <= shown.min() and shown.max() <= 1


def test_sounds_are_heard_several_times(task_for):
    task = task_for(AUDIO)
    train, held_out = split_sounds()
    assert [task.captions[i][0] for i in task.held_out] == [sound.caption for sound in held_out]
    assert len(task.train) == len(train) and not {s.caption for s in train} & {s.caption for s in held_out}
    side = sides_of(task)[0]
    takes = [at for at, row in enumerate(side.rows) if row == task.held_out[0]]
    assert len(takes) == task.takes == 8
    assert len({side.pictures[at].numpy().tobytes() for at in takes}) == 8, "another sound each time"


def test_every_row_sounds_as_its_kind():
    time = torch.arange(16_000) / 16_000
    hertz = (300, 2000)
    kinds = [Sound(str(h), "x", lambda rng, h=h: torch.sin(2 * math.pi * h * time)) for h in hertz]
    rows = [1, 0, 1, 1, 0]
    waves = Sounds(kinds).plain(rows)
    assert torch.fft.rfft(waves).abs().argmax(1).tolist() == [hertz[row] for row in rows]


# ---- narrations ----


def test_words_see_the_frame_that_they_are_about(new_trainer):
    trainer = new_trainer("video")
    batch = trainer.batches.batch(0)
    system, told = trainer.model.eval(), batch.drawn["narration"]
    turn = trainer.task.word("then")
    for ids, length, frames in zip(told.texts.ids.tolist(), told.texts.lengths.tolist(), told.frames.tolist()):
        for at in range(len(ids)):
            frame = ids[: at + 1].count(turn) if at < length else -1
            assert frames[at] == [frame, frame]
    tokens = system.see(batch.pairs.pictures)
    changed = tokens.clone()
    changed[:, 16:32] += 1.0  # the second frame
    with torch.no_grad():
        a, b = (system.write(told.texts, context(system, x, told.frames)) for x in (tokens, changed))
    first, second = told.frames[..., 0] == 0, told.frames[..., 0] == 1
    torch.testing.assert_close(a[first], b[first], rtol=0, atol=0)
    assert ((a - b)[second].abs().amax(-1) > 1e-4).all()


def test_a_text_that_turns_too_often_stays_with_the_last_frame(clips):
    turn = clips.word("then")
    tokens = Tokens(torch.tensor([[1, turn, turn, turn, turn]]), torch.tensor([5]))
    assert frames_of(tokens, clips, VIDEO)[0, :, 0].tolist() == [0, 1, 2, 2, 2]


@pytest.mark.parametrize("see", ["so_far", "all"])
def test_other_layouts(new_trainer, see):
    config = VIDEO.__class__(image=VideoConfig(frames=3, see=see), decoder=VIDEO.decoder)
    trainer = new_trainer("video", config=config)
    frames = trainer.batches.batch(0).drawn["narration"].frames
    real = frames[..., 0] >= 0
    assert (frames[real][:, 0] == 0).all()
    assert set(frames[real][:, 1].tolist()) == ({2} if see == "all" else {0, 1, 2})
    assert trainer.train_step().losses["narration"] > 0


def test_frames_are_judged_one_by_one(source):
    task = clip_task(source, 3)
    assert phrases(task, 0) == ["at the left", "in the middle", "at the right"]
    row = next(i for i in task.train if task.captions[i][0] == "a toy grows")
    assert phrases(task, row) == ["small", "medium", "large"]
    nameless = task.captions.index(("moves to the right",))
    assert phrases(task, nameless) == phrases(task, 0)
    right = [["at the left", "in the middle", "at the right"]]
    for text, hits in (
        ("dot at the left then in the middle then at the right", 3),
        ("at the left then in the middle", 2),
        ("a wrong name at the left then at the left then at the right then at the right", 2),
        ("", 0),
        ("beat the left", 0),
    ):
        assert frames_right([text], right) == pytest.approx(100 * hits / 3, abs=0.01), text


def test_a_perfect_model_is_right_and_chance_is_not(clips, monkeypatch):
    """The figures of a model that tells every clip as it is."""
    objective, side = OBJECTIVES["narration"], sides_of(clips)[0]
    truth = [clips.narrations[i] for i in side.rows]
    monkeypatch.setattr(objective, "_told", lambda *_: truth)
    frames, f1, exact = objective.judge(None, clips, side, PAGES["video"].recipe)
    assert frames.model == f1.model == exact.model == 100.0
    assert 10 < frames.chance < 50 and 15 < frames.majority < 40 and exact.chance < 20


def test_narrations_need_clips(new_trainer, task):
    trainer = new_trainer("video")
    setup = trainer.setup
    with pytest.raises(ValueError, match="narrations are of clips, which this data has not"):
        Trainer(task, setup).train_step()
    with pytest.raises(ValueError, match="objective narration needs a tower of clips and a decoder"):
        new_trainer("flamingo", objectives=(("narration", 1.0),))
    for objective in ("vqa", "masked_patches"):
        with pytest.raises(ValueError, match=f"objective {objective} needs an image tower"):
            new_trainer("video", objectives=((objective, 1.0),))


# ---- towers ----


def test_the_order_of_frames_reaches_the_class(new_trainer):
    trainer = new_trainer("video")
    clip = trainer.task.views(trainer.task.train[:1], torch.Generator().manual_seed(0))
    system = trainer.model.eval()
    with torch.no_grad():
        a, b = (system.picture_vector(system.see(x)) for x in (clip, clip.flip(1)))
    assert (a - b).abs().max() > 1e-3


def test_a_clip_s_mask_is_media(new_trainer, monkeypatch):
    """Frames stay one key axis behind `Mask.media`; no dense mask is made."""
    asked = []
    media = Mask.media.__func__
    monkeypatch.setattr(Mask, "media", classmethod(lambda cls, *a, **k: asked.append(a[1]) or media(cls, *a, **k)))
    new_trainer("video").train_step()
    assert set(asked) == {16}


def test_resampled_frames(new_trainer):
    config = replace(VIDEO, decoder=replace(VIDEO.decoder, latents=4))
    trainer = new_trainer("video", config=config)
    pairs = trainer.batches.batch(0)
    seen = context(trainer.model, trainer.model.see(pairs.pairs.pictures), pairs.drawn["narration"].frames)
    assert seen.tokens.shape[1] == 3 * 4


# ---- training ----


@pytest.mark.parametrize("name", BOTH)
def test_resumed_run_equals_an_uninterrupted_one(new_trainer, tmp_path, name):
    """Bit for bit, with dropout."""

    def finish(trainer):
        while not trainer.finished:
            trainer.train_step()
        return trainer.model.state_dict(), torch.get_rng_state()

    config = with_dropout(PAGES[name].small, 0.1)
    wanted, rng = finish(new_trainer(name, 4, config=config, batch=8))
    first = new_trainer(name, 4, config=config, batch=8)
    first.train_step()
    first.train_step()
    first.checkpoint().save(tmp_path / FILE_NAME)
    torch.manual_seed(12345)
    second = Trainer.resume(tmp_path / FILE_NAME, first.task)
    found, again = finish(second)
    assert second.setup == first.setup and torch.equal(rng, again)
    assert not [key for key in wanted if not torch.equal(found[key], wanted[key])]


@pytest.mark.parametrize("name", BOTH)
def test_judged_and_reported(new_trainer, name):
    trainer = new_trainer(name, batch=8)
    trainer.train_step()
    task, saved = trainer.task, trainer.checkpoint()
    sides = {key: rows[:40] for key, rows in task.judged.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(task), "judged", property(lambda self: sides))
        scores = evaluate(trainer.model, task, trainer.setup.recipe)
        text = render(Story(saved, trainer.model, task, scores))
    assert list(scores) == [objective for objective, _ in PAGES[name].recipe.objectives]
    for part in scores.values():
        assert all(0 <= s.model <= 100 and 0 < s.baseline < 100 for side in part.values() for s in side[:1])
    assert text.count('class="card"') == 2 * 2 * 10 and ("OpenMoji" in text) == (name == "video")
    assert look(trainer.model, task, sides_of(task)[0].pictures[0], "a note") is None


def test_the_same_sound_twice_is_no_mistake(task_for, new_trainer, monkeypatch):
    """A text that several takes share stands once among the candidates, and any of its takes is right."""
    trainer = new_trainer("audio")
    task, side = trainer.task, sides_of(trainer.task)[0]
    objective = OBJECTIVES["contrastive"]
    rows = torch.tensor([task.held_out.index(row) for row in side.rows])
    monkeypatch.setattr(objective, "_similarity", lambda *_: torch.eye(10)[rows])
    scores = {score.measure: score for score in objective.judge(trainer.model, task, side, trainer.setup.recipe)}
    assert scores["image to text R@1"].model == 100 and scores["image to text R@1"].chance == 10
    assert scores["text to image R@1"].model == 100 and scores["text to image R@1"].chance == 10
    assert scores["text to image R@5"].chance > 40, "five of 80 sounds, eight of which are right"


@pytest.mark.parametrize("name", BOTH)
def test_commands(tmp_path, capsys, name):
    out = str(tmp_path)
    assert run(["train", "--preset", name, "--steps", "1", "--batch", "8", "--out", out, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["data"] == ("openmoji" if name == "video" else "sounds") and said["finished"]
    saved = ZooCheckpoint.load(tmp_path / FILE_NAME)
    assert isinstance(saved.config.image, VideoConfig if name == "video" else AudioConfig)
    other = "sounds" if name == "video" else "openmoji"
    assert run(["train", "--preset", name, "--data", other, "--out", str(tmp_path / "other")]) == 2
    assert "data must be" in capsys.readouterr().err
