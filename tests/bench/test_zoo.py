"""The training steps of the zoo: the published shapes, and a naive side that computes the same."""

from __future__ import annotations

import json

import pytest
import torch

from bench.zoo.__main__ import NAIVE, OURS, main, measure
from bench.zoo.plain import REPLACED, Plain
from bench.zoo.systems import SIZES, Size, noise_task, setup, shallow
from mmkernels.bias import RelativeBias
from mmkernels.mask import Mask
from mmkernels.models import presets
from mmkernels.models.config import TransformerConfig
from mmkernels.ops.attention.api import attention, joint_attention
from mmkernels.ops.contrastive.api import contrastive_loss
from mmkernels.ops.fusion.api import concat_fusion


def test_every_preset_at_its_published_widths():
    assert list(SIZES) == list(presets.PAGES)
    for name, size in SIZES.items():
        config, recipe = setup(size)
        assert recipe.objectives == presets.PAGES[name].recipe.objectives
        if name == "align":
            continue
        published = presets.find(size.preset)[1]
        for tower in ("image", "text"):
            ours, theirs = getattr(config, tower), getattr(published, tower)
            assert (ours is None) == (theirs is None)
            if ours is not None:
                assert ours.width == theirs.width and ours.width >= 512
        blocks = [c.interaction or c.decoder for c in (config, published)]
        if hasattr(blocks[0], "blocks"):
            assert blocks[0].blocks.heads == blocks[1].blocks.heads and blocks[0].blocks.layers <= 2


def test_shallow():
    config = shallow(presets.PAGES["flamingo"].published["3B"], 1)
    assert config.image.blocks.layers == config.decoder.text.blocks.layers == config.decoder.resampler_layers == 1
    assert config.decoder.text.blocks.width == 2048 and shallow(TransformerConfig(layers=0), 2).layers == 0


@pytest.mark.parametrize("kind", ["none", "padding", "causal", "media", "bias", "segments"])
def test_plain_attention_is_attention(kind):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, length, 8, requires_grad=True) for length in (5, 6, 6))
    call = {
        "none": {},
        "padding": {"mask": Mask.key_lengths(torch.tensor([6, 2]))},
        "causal": {"mask": Mask.causal(), "scale": 0.3},
        "media": {"mask": Mask.media(torch.tensor([[-1, 0, 0, 1, 1], [0, 0, 1, 1, -1]]), 3)},
        "bias": {"bias": RelativeBias(torch.randn(3, 10))},
        "segments": {"mask": Mask.segments([Mask.key_lengths(torch.tensor([4, 1])), None])},
    }[kind]
    keys, values = (x.split([4, 2], 2) if kind == "segments" else x for x in (key, value))
    outs = [op(query, keys, values, **call) for op in (Plain().attention, attention)]
    torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-6)
    grads = [torch.autograd.grad(out.square().sum(), [query, key, value]) for out in outs]
    for plain, ours in zip(*grads):
        torch.testing.assert_close(plain, ours, rtol=1e-4, atol=1e-5)


def test_plain_ops_are_the_ops():
    torch.manual_seed(0)
    plain, parts = Plain(), [torch.randn(2, 3, length, 8) for length in (4, 2)]
    mask = Mask.segments([Mask.key_lengths(torch.tensor([4, 1])), None])
    for a, b in zip(
        plain.joint_attention(parts, parts, parts, mask=mask), joint_attention(parts, parts, parts, mask=mask)
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    inputs, weight, bias = [torch.randn(2, 5, 4), torch.randn(2, 1, 3)], torch.randn(6, 7), torch.randn(6)
    a, b = (op(inputs, weight, bias, activation="gelu") for op in (plain.concat_fusion, concat_fusion))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    image, text = (torch.nn.functional.normalize(torch.randn(6, 8), dim=1) for _ in range(2))
    for kind, logit_bias in (("softmax", None), ("sigmoid", torch.tensor(-2.0))):
        call = {"kind": kind, "logit_bias": logit_bias}
        a, b = (op(image, text, torch.tensor(5.0), **call) for op in (plain.contrastive_loss, contrastive_loss))
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="gelu or nothing"):
        plain.concat_fusion(inputs, weight, bias, activation="relu")


def test_a_mask_becomes_dense_once_a_step(monkeypatch):
    asked, dense = [], Mask.to_dense
    monkeypatch.setattr(Mask, "to_dense", lambda self, *a, **k: asked.append(1) or dense(self, *a, **k))
    plain, x, mask = Plain(), torch.randn(1, 2, 4, 8), Mask.causal()
    for _ in range(2):
        with plain.in_place():
            for _ in range(3):
                plain.attention(x, x, x, mask=mask)
    assert len(asked) == 2


def test_ours_are_back_afterwards():
    from mmkernels.nn import cross

    with Plain().in_place():
        assert cross.attention is not attention
    assert cross.attention is attention and len(REPLACED) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SIZES))
def test_both_sides_of_a_step_agree(name):
    size = SIZES[name]
    batch = 2 * setup(size)[1].media
    small = Size(size.preset, batch, min(size.tokens, 32), 1, size.frames)
    step = measure(small, "float32", most=1, seconds=0)
    assert step["agree"] and set(step["runs"]) == {OURS, NAIVE} and step["naive / mmkernels"]["median"] > 0


def test_the_program(tmp_path, capsys):
    out = tmp_path / "zoo.json"
    arguments = ["--presets", "uniter", "--layers", "1", "--batch", "2", "--rounds", "1", "--seconds", "0"]
    assert main([*arguments, "--out", str(out)]) == 0
    steps = json.loads(out.read_text())["steps"]
    assert [step["dtype"] for step in steps] == ["float32", "bfloat16"] and all(step["agree"] for step in steps)
    said = capsys.readouterr().out
    assert "uniter:base" in said and "naive / mmkernels" in said


def test_noise_fits_the_towers():
    for size in SIZES.values():
        config, _ = setup(size)
        task = noise_task(config, size.tokens)
        assert task.vocabulary <= config.vocabulary and task.plain([0]).shape[0] == 1
        assert max(len(text.split()) for text in task.narrations) + 2 <= size.tokens
