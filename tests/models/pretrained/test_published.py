"""Presets of published sizes are what transformers' configurations of these sizes mean."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed")

import transformers

from mmkernels.models import presets, pretrained
from mmkernels.models.zoo.system import Sizes, System


def clip(patch, width, layers, heads, text_width, text_heads, side=224):
    vision = {"patch_size": patch, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
              "intermediate_size": 4 * width, "image_size": side}  # fmt: skip
    text = {"hidden_size": text_width, "num_attention_heads": text_heads, "intermediate_size": 4 * text_width}
    return transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=text_width)


def vit(width, layers, heads, patch=16):
    return transformers.ViTConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width,
        patch_size=patch, num_labels=1000,
    )  # fmt: skip


def flan(width, layers, heads, mlp):
    return transformers.T5Config(
        d_model=width, num_layers=layers, num_heads=heads, d_ff=mlp, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )  # fmt: skip


CONFIGS = {
    "clip:ViT-B-32": lambda: transformers.CLIPConfig(),
    "clip:ViT-B-16": lambda: clip(16, 768, 12, 12, 512, 8),
    "clip:ViT-L-14": lambda: clip(14, 1024, 24, 16, 768, 12),
    "clip:ViT-L-14-336": lambda: clip(14, 1024, 24, 16, 768, 12, side=336),
    "align:base": lambda: transformers.AlignConfig(),
    "vit:base": lambda: transformers.ViTConfig(num_labels=1000),
    "vit:base-32": lambda: vit(768, 12, 12, 32),
    "vit:large": lambda: vit(1024, 24, 16),
    "vit:huge": lambda: vit(1280, 32, 16, 14),
    "bert:base": lambda: transformers.BertConfig(),
    "bert:large": lambda: transformers.BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
    "flan-t5:small": lambda: flan(512, 8, 6, 1024),
    "flan-t5:base": lambda: flan(768, 12, 12, 2048),
    "flan-t5:large": lambda: flan(1024, 24, 16, 2816),
    "flan-t5:xl": lambda: flan(2048, 24, 32, 5120),
    "flan-t5:xxl": lambda: flan(4096, 24, 64, 10240),
}
CLASSES = {
    "clip": "CLIPModel",
    "align": "AlignModel",
    "vit": "ViTForImageClassification",
    "bert": "BertForMaskedLM",
    "t5": "T5ForConditionalGeneration",
}
COUNTED = ("clip:ViT-B-32", "align:base", "vit:base", "bert:base", "flan-t5:base")


def test_every_published_size_is_here():
    known = {"clip", "align", "vit", "bert", "flan-t5"}
    assert set(CONFIGS) == {f"{name}:{size}" for name in known for size in presets.PAGES[name].published}


@pytest.mark.parametrize("name", list(CONFIGS))
def test_presets_are_what_the_configurations_mean(name):
    assert pretrained.system_config(CONFIGS[name]()) == presets.find(name)[1]


@pytest.mark.parametrize("name", COUNTED)
def test_every_tensor_has_its_place_at_published_sizes(name):
    """On the meta device: names, shapes and parameter counts, without the memory."""
    page, config = presets.find(name)
    theirs = CONFIGS[name]()
    with torch.device("meta"):
        model = getattr(transformers, CLASSES[theirs.model_type])(theirs)
        if theirs.model_type == "t5":
            model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
        system = System(config, Sizes(config.vocabulary or 0, 0, config.classes or 0), [page.main])
    architecture = pretrained.ARCHITECTURES[theirs.model_type]
    # Second names are compared by value, and these tensors have none.
    state = {key: value for key, value in model.state_dict().items() if key not in architecture.same}
    if theirs.model_type == "t5":
        state["lm_head.weight"] = model.lm_head.weight
    report = pretrained.load(system, state, theirs.model_type)
    assert not report.kept
    left_out = sum(state[key].numel() for key in report.left_out)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in system.parameters()) == count - left_out
