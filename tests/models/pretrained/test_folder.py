"""Folders as transformers writes them: what is read, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed")

import transformers as tf

from mmkernels.models import presets, pretrained
from mmkernels.models.presets import clip as clip_preset
from mmkernels.models.pretrained.folder import pixels_of
from mmkernels.models.zoo.task import openmoji_task
from mmkernels.models.zoo.training import Setup, Trainer
from tests.models.pretrained.cases import CASES, VISION, made, randomize

BY_NAME = {case.name: case for case in CASES}


@pytest.fixture
def folder(tmp_path):
    """folder("CLIP", max_shard_size="40KB"): a model of this name, saved."""

    def save(name, **options):
        model, _ = made(BY_NAME[name])
        model.save_pretrained(tmp_path / "model", **options)
        return tmp_path / "model"

    return save


@pytest.mark.parametrize("name", list(BY_NAME))
def test_a_saved_model_is_the_model(folder, name):
    path = folder(name)
    model, inputs = made(BY_NAME[name])
    expected, found = pretrained.from_transformers(model), pretrained.from_folder(path)
    assert found.system.config == expected.system.config
    assert not found.report.kept and not found.system.training
    state = expected.system.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in found.system.state_dict().items())
    with torch.no_grad():
        outputs = [BY_NAME[name].ours(loaded.system, inputs) for loaded in (found, expected)]
    assert all(torch.equal(outputs[0][key], outputs[1][key]) for key in outputs[0])


def test_names_of_before_transformers_5(folder):
    """Which save_pretrained writes, and published files have."""
    path = folder("ViT")
    report = pretrained.from_folder(path).report
    assert report.used["image_tower.blocks.2.attention.qkv.bias"][0] == (
        "vit.encoder.layer.2.attention.attention.query.bias"
    )
    bert = BY_NAME["BERT"]
    model, _ = made(bert)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in model.state_dict().items()
    } | {"bert.embeddings.position_ids": torch.arange(20)[None]}
    report = pretrained.load(pretrained.from_transformers(model).system, old, "bert")
    assert report.used["text_tower.embedding_norm.weight"] == ("bert.embeddings.LayerNorm.gamma",)
    assert list(report.left_out) == ["bert.embeddings.position_ids"]


def test_shards(folder):
    path = folder("T5", max_shard_size="40KB")
    assert len(list(path.glob("model-*.safetensors"))) > 1
    assert not pretrained.from_folder(path).report.kept


def test_start_weights_are_by_our_names(folder):
    path = folder("CLIP")
    weights = pretrained.start_weights(path)
    assert weights["heads.contrastive.log_scale"].shape == ()
    assert weights.keys() == pretrained.from_folder(path).system.state_dict().keys()
    with pytest.raises(ValueError, match=r"cannot read .*nothing"):
        pretrained.start_weights(path / "nothing")


def test_pictures_are_standardized_as_the_folder_says(folder):
    path = folder("CLIP")
    assert pretrained.from_folder(path).system.config.image.mean == clip_preset.MEAN
    said = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "rescale_factor": 1 / 255}
    (path / "preprocessor_config.json").write_text(json.dumps(said))
    system = pretrained.from_folder(path).system
    assert system.config.image.mean == (0.1, 0.2, 0.3) and system.config.image.spread == (0.4, 0.5, 0.6)
    grey = system.image_tower.standardize(torch.full((1, 3, 2, 2), 0.5))
    torch.testing.assert_close(grey[0, :, 0, 0], torch.tensor([1.0, 0.6, 1 / 3]), rtol=1e-6, atol=1e-6)
    (path / "preprocessor_config.json").unlink()
    (path / "processor_config.json").write_text(json.dumps({"image_processor": said}))
    assert pretrained.from_folder(path).system.config.image.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, (0.5, 0.5)),
        ({"do_normalize": False}, (0.0, 1.0)),
        ({"do_normalize": False, "rescale_factor": 0.00784313725490196, "rescale_offset": True}, (0.5, 0.5)),
        ({"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "do_rescale": False}, (0.0, 1.0)),
    ],
)
def test_what_processors_do_to_pixels(said, expected, tmp_path):
    mean, spread = pixels_of(said, tmp_path)
    assert (mean, spread) == ((expected[0],) * 3, (expected[1],) * 3)


def damaged_weights(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])


def pickled(path):
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(b"")


def index(path, **content):
    (path / "model.safetensors").unlink()
    (path / "model.safetensors.index.json").write_text(json.dumps(content))


def config(path, **changes):
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (shutil.rmtree, "cannot read .*config.json: No such file"),
        (lambda path: (path / "config.json").unlink(), "cannot read .*config.json: No such file"),
        (lambda path: (path / "config.json").write_text("{"), "config.json is damaged: it is not JSON"),
        (lambda path: (path / "config.json").write_text("[]"), "config.json is damaged: it is not a JSON object"),
        (lambda path: config(path, model_type="gpt2"), "model_type of .* must be one of clip, .*got 'gpt2'"),
        (lambda path: config(path, hidden_size="wide"), "cannot understand .*config.json"),
        (lambda path: config(path, num_attention_heads=5), "width must be a multiple of heads, got 48 and 5"),
        (lambda path: config(path, hidden_size=96), r"has shape \(1, 10, 48\), expected \(1, 10, 96\)"),
        (lambda path: config(path, num_hidden_layers=4), "tensors of vit are missing: vit.layers.3.layernorm_before"),
        (lambda path: config(path, num_hidden_layers=2), "not known to vit, .*: vit.encoder.layer.2.attention"),
        (damaged_weights, "model.safetensors is damaged, or not a safetensors file"),
        (pickled, r"has no model.safetensors .*pytorch_model.bin is a pickle, which can run code: it is not read"),
        (index, "model.safetensors.index.json is damaged: it has no weight_map"),
        (lambda path: index(path, weight_map={"a": "gone.safetensors"}), "has no file gone.safetensors, which"),
        (lambda path: index(path, weight_map={"a": "../a.safetensors"}), "names a file outside of its folder"),
    ],
)  # fmt: skip
def test_refused_folders(folder, damage, sentence):
    path = folder("ViT")
    damage(path)
    with pytest.raises(ValueError, match=sentence) as raised:
        pretrained.from_folder(path)
    assert "\n" not in str(raised.value)


def test_training_starts_from_a_folder(corpus, tmp_path):
    """Every tower's tensor is taken; the head, of other classes, is drawn."""
    torch.manual_seed(0)
    vision = VISION | {"image_size": 32, "patch_size": 8}
    model = randomize(tf.ViTForImageClassification(tf.ViTConfig(**vision, num_labels=3)))
    model.save_pretrained(tmp_path)
    task, recipe = openmoji_task(32, corpus), presets.PAGES["vit"].recipe
    config = replace(pretrained.system_config(model.config), classes=None)
    setup = Setup("vit", config, replace(recipe, batch=8), steps=1)
    trainer = Trainer(task, setup, pretrained.start_weights(tmp_path))
    assert set(trainer.model.state_dict()) - set(trainer.taken) == {
        "heads.classification.weight", "heads.classification.bias"
    }  # fmt: skip
    assert torch.equal(trainer.model.image_tower.class_token, model.vit.embeddings.cls_token)
    assert trainer.train_step().losses["classification"] > 0
