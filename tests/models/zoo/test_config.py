"""Configurations: JSON both ways, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mmkernels.models import presets
from mmkernels.models.config import (
    CnnConfig,
    DecoderConfig,
    SingleStreamConfig,
    SystemConfig,
    TextConfig,
    TransformerConfig,
    VitConfig,
    with_dropout,
    with_window,
)
from mmkernels.models.presets import PAGES
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.serial import from_json, to_json
from mmkernels.models.zoo.objectives import choose, parse

BLOCKS = TransformerConfig()
ONE = (("contrastive", 1.0),)


@pytest.mark.parametrize("name", list(PAGES))
def test_round_trip(name):
    page = PAGES[name]
    for config in [page.small, page.recipe, *page.published.values()]:
        assert from_json(json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"type": "Transformer"}, "type must be one of TransformerConfig"),
        ({}, "type must be one of"),
        ({"type": "CnnConfig", "depth": 3}, "CnnConfig has no field depth"),
        ({"type": "CnnConfig", "side": 30}, "side must be a multiple of 8, got 30"),
    ],
)
def test_foreign_headers(value, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_json(value)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: TransformerConfig(width=100, heads=3), "width must be a multiple of heads, got 100 and 3"),
        (lambda: TransformerConfig(layers=-1), "layers must be at least 0, got -1"),
        (lambda: TransformerConfig(activation="swish"), "activation must be one of gelu, .*got 'swish'"),
        (lambda: TransformerConfig(norm="batch"), "norm must be one of layer, rms"),
        (lambda: TransformerConfig(dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (lambda: TransformerConfig(window=0), "window must be at least 1, got 0"),
        (lambda: VitConfig(side=30), "side must be a multiple of patch, got 30 and 8"),
        (lambda: VitConfig(BLOCKS, pool="last"), "pool must be one of mean, class"),
        (lambda: VitConfig(replace(BLOCKS, window=2), pool="class"), "a class token sees all patches"),
        (lambda: TextConfig(causal=True, pool="first"), "it sees nothing but itself"),
        (lambda: TextConfig(position="rotary"), "position must be one of learned, relative"),
        (lambda: DecoderConfig(TextConfig()), "text must be causal"),
        (lambda: DecoderConfig(look="away"), "look must be one of gated, cross"),
        (lambda: SystemConfig(), "needs an image tower, a text tower, or both"),
        (lambda: SystemConfig(image=CnnConfig(), interaction=SingleStreamConfig()), "interaction needs"),
        (lambda: SystemConfig(text=TextConfig(), shared_words=True), "shared_words needs"),
        (lambda: TrainConfig(()), "objectives must name at least one"),
        (lambda: TrainConfig((("vqa", 0.0),)), "the weight of vqa must be positive, got 0.0"),
        (lambda: TrainConfig((("vqa", float("nan")),)), "the weight of vqa must be positive, got nan"),
        (lambda: TrainConfig(ONE, batch=0), "batch must be at least 1, got 0"),
        (lambda: TrainConfig(ONE, schedule="steps"), "schedule must be one of cosine, linear, constant"),
        (lambda: TrainConfig(ONE, autocast="fp8"), "autocast must be one of None, bf16"),
        (lambda: TrainConfig(ONE, rate=0.0), "rate must be positive, got 0.0"),
        (lambda: TrainConfig(ONE, batch=10, media=4), "batch must be a multiple of media, got 10 and 4"),
        (lambda: TrainConfig(ONE, negatives="easy"), "negatives must be one of hard, batch"),
        (lambda: presets.find("gpt"), "preset must be one of demo, tiny, clip, .*got 'gpt'"),
        (lambda: presets.find("clip:huge"), "the published sizes of preset clip are ViT-B-32, .*got 'huge'"),
        (lambda: presets.find("align:huge"), "the published sizes of preset align are base, got 'huge'"),
        (lambda: choose(["vqa", "vqa"], PAGES["clip"].small), "must name each once"),
        (lambda: choose(["sleep"], PAGES["clip"].small), "objective must be one of contrastive, .*got 'sleep'"),
        (lambda: choose(["contrastive"], PAGES["uniter"].small), "needs a text tower with layers"),
        (lambda: choose(["masked_words"], PAGES["clip"].small), "sees both sides of a word"),
        (lambda: parse("contrastive:much"), "the weight of objective contrastive must be a number, got 'much'"),
    ],
)
def test_refusals(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_numbers_that_are_none():
    with pytest.raises(TypeError, match="heads must be an int, got float"):
        TransformerConfig(heads=4.0)
    with pytest.raises(TypeError, match="batch must be an int, got bool"):
        TrainConfig(ONE, batch=True)


def test_parse():
    assert parse("contrastive, captioning:0.5") == (("contrastive", 1.0), ("captioning", 0.5))


def test_changes_of_a_configuration():
    dropped = with_dropout(PAGES["vilbert"].published["base"], 0.1)
    assert dropped.text.blocks.dropout == dropped.interaction.image.dropout == 0.1
    assert with_dropout(dropped, 0.0) == PAGES["vilbert"].published["base"]
    local = with_window(PAGES["vit"].published["base"], 14)
    assert local.image.blocks.window == 14 and local.image.pool == "mean"
    with pytest.raises(ValueError, match="window needs a Transformer tower"):
        with_window(SystemConfig(image=CnnConfig()), 3)
