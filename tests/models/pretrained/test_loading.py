"""The account of every tensor, and what is refused, in one sentence."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed")

import transformers as tf

from mmkernels.models import pretrained
from mmkernels.models.config import with_dropout
from mmkernels.models.pretrained.table import Row, find, to_theirs, under
from mmkernels.models.zoo.system import Sizes, System
from tests.models.pretrained.cases import CASES, T5, made, randomize

BY_NAME = {case.name: case for case in CASES}


def model_of(name):
    return made(BY_NAME[name])[0]


def test_rows_read_in_both_directions():
    rows = under("tower.#", "encoder.layer.#", (Row("qkv.*", "self.{q,k}.*"), Row("place", "place", axes=2)))
    match = find(rows, "tower.3.qkv.bias")
    assert match.theirs == ("encoder.layer.3.self.q.bias", "encoder.layer.3.self.k.bias")
    assert find(rows, "tower.3.qkv.inner.bias") is None and find(rows, "xtower.3.qkv.bias") is None
    parts = [torch.randn(2, 3), torch.randn(2, 3)]
    whole = match.row.read(parts)
    found = to_theirs(rows, {"tower.3.qkv.bias": whole, "tower.0.place": torch.ones(1, 1, 4), "other": whole})
    assert [torch.equal(found[name], part) for name, part in zip(match.theirs, parts)] == [True, True]
    assert found["encoder.layer.0.place"].shape == (4,) and len(found) == 3


def test_every_tensor_is_accounted_for():
    report = pretrained.from_transformers(model_of("BERT, one type of tokens")).report
    assert report.left_out == {
        f"cls.seq_relationship.{leaf}": "no objective here asks whether one sentence follows another"
        for leaf in ("weight", "bias")
    }
    assert report.second_names == {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    query, key, value = (f"bert.encoder.layer.1.attention.self.{part}.weight" for part in ("query", "key", "value"))
    assert report.used["text_tower.blocks.1.attention.qkv.weight"] == (query, key, value)
    assert "left out: cls.seq_relationship.bias: no objective here" in str(report)


def test_parts_without_a_counterpart_are_kept_and_listed():
    model = model_of("CLIP")
    config = pretrained.system_config(model.config)
    system = System(config, Sizes(99, 0, 5), ["contrastive", "classification"])
    before = system.heads["classification"].weight.clone()
    report = pretrained.load(system, model.state_dict(), "clip")
    assert report.kept == ["heads.classification.weight", "heads.classification.bias"]
    assert torch.equal(system.heads["classification"].weight, before)
    assert "kept: heads.classification.weight" in str(report)


def test_second_names_serve_where_the_first_is_missing():
    model = model_of("T5")
    expected = pretrained.from_transformers(model).system.text_tower.embedding.weight
    state = dict(model.state_dict())
    del state["shared.weight"], state["lm_head.weight"]
    system = System(pretrained.system_config(model.config), Sizes(99, 0, 0), ["text_to_text"])
    report = pretrained.load(system, state, "t5")
    assert torch.equal(system.text_tower.embedding.weight, expected)
    assert report.used["text_tower.embedding.weight"] == ("encoder.embed_tokens.weight",)
    assert report.second_names == {"decoder.embed_tokens.weight": "encoder.embed_tokens.weight"}


def test_a_tied_output_fills_a_layer_of_its_own():
    """T5 1.1 as transformers makes it: its output is not scaled, and one tensor with the embedding."""
    model = randomize(tf.T5ForConditionalGeneration(tf.T5Config(**T5, tie_word_embeddings=False)))
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    system = pretrained.from_transformers(model).system
    assert not system.config.decoder.tied
    pretrained.load(system, state, "t5")
    assert torch.equal(system.decoder.words.weight, model.shared.weight)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("CLIP", {"logit_scale": None}, "tensors of clip are missing: logit_scale"),
        ("ViT", {"vit.encoder.layer.9.mlp.fc1.weight": torch.ones(1)}, "not known to vit, .*: vit.encoder.layer.9.mlp"),
        ("BERT", {"gpt.weight": torch.ones(1)}, "not known to bert, or this system has no part for them: gpt.weight"),
        ("ALIGN", {"vision_model.embeddings.batchnorm.running_var": None}, "missing: vision_.*batchnorm.running_var"),
    ],
)  # fmt: skip
def test_missing_and_unknown_tensors(name, change, sentence, strict):
    model = model_of(name)
    system = pretrained.from_transformers(model).system
    state = {key: value for key, value in {**model.state_dict(), **change}.items() if value is not None}
    if not strict:
        report = pretrained.load(system, state, BY_NAME[name].architecture, strict=False)
        assert report.missing + report.unknown == list(change)
        return
    before = {key: value.clone() for key, value in system.state_dict().items()}
    other = {key: value * 2 for key, value in state.items()}
    with pytest.raises(ValueError, match=sentence):
        pretrained.load(system, other, BY_NAME[name].architecture)
    assert all(torch.equal(value, before[key]) for key, value in system.state_dict().items()), "nothing was written"


@pytest.mark.parametrize(
    ("name", "change", "error", "sentence"),
    [
        ("CLIP", {"logit_scale": torch.ones(2)}, ValueError, r"logit_scale has shape \(2,\), expected \(\)"),
        ("ViT", {"vit.layers.1.attention.k_proj.weight": torch.ones(48, 49)}, ValueError,
         r"vit.layers.1.attention.k_proj.weight has shape \(48, 49\), expected \(48, 48\)"),
        ("CLIP", {"logit_scale": torch.ones((), dtype=torch.long)}, TypeError, "logit_scale has dtype torch.int64"),
        ("CLIP", {"logit_scale": 1.0}, TypeError, "logit_scale must be a tensor, got float"),
        ("BERT", {"cls.predictions.decoder.weight": torch.ones(99, 32)}, ValueError,
         "cls.predictions.decoder.weight differs from bert.embeddings.word_embeddings.weight"),
        ("T5", {"lm_head.weight": torch.ones(99, 32)}, ValueError, "lm_head.weight differs from shared.weight"),
        ("ViT", {"embeddings.cls_token": torch.ones(1, 1, 48)}, ValueError,
         "vit.embeddings.cls_token and embeddings.cls_token are names of the same tensor"),
    ],
)  # fmt: skip
def test_refused_tensors(name, change, error, sentence):
    model = model_of(name)
    system = pretrained.from_transformers(model).system
    with pytest.raises(error, match=sentence):
        pretrained.load(system, {**model.state_dict(), **change}, BY_NAME[name].architecture)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (lambda: tf.GPT2Config(), "architecture must be one of clip, align, vit, bert, t5, got 'gpt2'"),
        (lambda: tf.ViTConfig(qkv_bias=False), "qkv_bias must be True for the towers here, got False"),
        (lambda: tf.ViTConfig(num_channels=1), "num_channels must be 3 for the towers here, got 1"),
        (lambda: tf.ViTConfig(image_size=(32, 64)), "image_size must be one number for both directions"),
        (lambda: tf.BertConfig(hidden_act="mish"), "hidden_act must be one of gelu, .*got 'mish'"),
        (lambda: tf.BertConfig(is_decoder=True), "is_decoder must be False"),
        (lambda: tf.AlignConfig(vision_config={"pooling_type": "max"}), "pooling_type must be 'mean'"),
        (lambda: tf.AlignConfig(vision_config={"in_channels": [32, 16, 24, 40, 80, 112, 80]}),
         "in_channels must be what the stage before gives"),
    ],
)  # fmt: skip
def test_refused_configurations(config, sentence):
    with pytest.raises(ValueError, match=sentence):
        pretrained.system_config(config())


def test_a_scale_above_the_largest_is_kept():
    model = model_of("CLIP")
    with torch.no_grad():
        model.logit_scale.fill_(5.0)
    system = pretrained.from_transformers(model).system
    assert system.heads["contrastive"].scale.item() == pytest.approx(148.41, rel=1e-4)
    assert system.config.contrastive.largest_scale is None


def test_halves_become_the_system_s_dtype():
    model = model_of("ViT").half()
    system = pretrained.from_transformers(model).system
    weight = system.heads["classification"].weight
    assert weight.dtype == torch.float32 and torch.equal(weight, model.classifier.weight.float())


def test_a_system_may_have_dropout():
    model = model_of("ViT")
    config = pretrained.system_config(model.config)
    system = System(with_dropout(config, 0.1), Sizes(0, 0, 7), ["classification"])
    assert not pretrained.load(system, model.state_dict(), "vit").kept
