"""The report of a zoo run and its attention maps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmkernels.models.attention_maps import self_weights
from mmkernels.models.presets import PAGES
from mmkernels.models.zoo.evaluate import evaluate, sides_of
from mmkernels.models.zoo.maps import look
from mmkernels.models.zoo.report import Story, render, write_report
from mmkernels.models.zoo.window_times import tower_blocks, window_times
from mmkernels.nn import SelfAttention


def test_self_weights_reproduce_the_layer():
    torch.manual_seed(0)
    layer = SelfAttention(16, heads=2, scale=0.7)
    segments = [torch.randn(2, 3, 16), torch.randn(2, 5, 16)]
    weights = self_weights(layer, segments)
    value = torch.cat([layer.heads_of(x)[2] for x in segments], 2)
    expected = layer.out((weights @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(torch.cat(layer(segments), 1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "objectives"),
    [("uniter", None), ("oscar", None), ("vilbert", None), ("clip", (("captioning", 1.0),)), ("vit", None)],
)
def test_maps_of_words_over_a_picture(new_trainer, task, name, objectives):
    trainer = new_trainer(name, **({} if objectives is None else {"objectives": objectives}))
    picture = task.plain(task.held_out[:1])[0]
    maps = look(trainer.model, task, picture, "red apple")
    assert maps.words == (["class token"] if name == "vit" else ["red", "apple"])
    assert maps.weights.shape == (len(maps.words), 4, 4) and (maps.weights >= 0).all()
    whole = maps.weights.sum((1, 2))
    if name in ("vilbert", "clip"):  # words attend to the picture alone
        torch.testing.assert_close(whole, torch.ones(len(whole)))
    else:
        assert (whole < 1).all() and (whole > 0.05).all(), "the rest goes to words, tags or the class token"
    assert not any(module._forward_pre_hooks for module in trainer.model.modules())


def test_no_map_where_nothing_attends_to_cells(new_trainer, task):
    picture = task.plain(task.held_out[:1])[0]
    for name in ("bert", "align", "flamingo"):  # no picture; no attention to it; latents that stand nowhere
        assert look(new_trainer(name).model, task, picture, "red apple") is None


def test_report(new_trainer, task, tmp_path):
    trainer = new_trainer(
        "clip", steps=2, objectives=(("contrastive", 1.0), ("captioning", 1.0), ("classification", 1.0))
    )
    while not trainer.finished:
        trainer.train_step()
    story = Story(trainer.checkpoint(), trainer.model, task, evaluate(trainer.model, task, trainer.setup.recipe))
    path = tmp_path / "report.html"
    write_report(story, path)
    text = path.read_text()
    assert text == render(story), "the same run gives the same report"
    for name in ("summary", "training", "examples", "attention"):
        assert f'<section id="{name}">' in text
    assert text.count('class="card"') == 3 * 2 * 10 and "OpenMoji" in text and "<script" not in text
    assert "data:image/svg+xml" in text and "attention of:" in text
    assert "Not measured" in text and "2.00 x" in render(replace(story, windows={"16": 1.0, "all": 2.0}))


def test_window_times():
    times = window_times(tower_blocks(PAGES["clip"].small), tokens=64)
    assert list(times) == ["16", "64", "256", "1024", "all"] and all(value > 0 for value in times.values())
    assert tower_blocks(PAGES["uniter"].small) is None, "a CNN, and words without layers"


def test_sides_are_the_split(task):
    held_out, known = sides_of(task)
    assert held_out.rows == task.held_out and not set(known.rows) & set(task.held_out)
    assert torch.equal(held_out.pictures, task.plain(task.held_out))
    assert not torch.equal(known.pictures, task.plain(known.rows))
