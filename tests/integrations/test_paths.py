"""`report.paths`: which way each layer's attention takes, and why."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="transformers is not installed")

import mmkernels as mmk
from mmkernels.ops.attention import front
from tests.integrations import diffusion_rows
from tests.integrations.checks import forward, make
from tests.integrations.table import BY_NAME

ROWS = BY_NAME | {row.name: row for row in diffusion_rows.ROWS}


def ways(name):
    """The way of every layer, and what the run returned beside what it returns unwatched."""
    model, inputs = make(ROWS[name])
    report = mmk.patch(model)
    expected = forward(ROWS[name], model, inputs)
    found = []
    paths = report.paths(lambda: found.extend(forward(ROWS[name], model, inputs)))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not front.watchers and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    return paths


@pytest.mark.parametrize("name, expected", [
    ("FLAN-T5", {
        "encoder.block.0.layer.0.SelfAttention": "a mask as intervals, a bias by distance, as a table",
        "decoder.block.0.layer.1.EncDecAttention": "a mask as intervals",
    }),
    ("VisualBERT", {"encoder.layer.1.attention.self": "a mask of the keys alone, with gaps"}),
    ("LayoutLMv3", {"encoder.layer.0.attention.self": "a mask of the keys alone, with gaps, a dense bias"}),
    ("SAM", {"vision_encoder.layers.0.attn": "no mask, a bias by row and column, as two factors"}),
    ("Qwen2.5-VL", {"model.visual.blocks.0.attn": "4 packed sequences, no mask"}),
    ("SD3", {"transformer_blocks.0.attn": "keys in 2 segments, no mask"}),
])  # fmt: skip
def test_the_way_of_a_layer(name, expected):
    paths = {entry.name: entry.note for entry in ways(name)}
    for layer, way in expected.items():
        assert paths[layer] == f"cpu: {way}", paths[layer]


def test_every_replaced_layer_is_named_and_says_if_it_was_not_called():
    model, inputs = make(ROWS["VisualBERT"])
    report = mmk.patch(model)
    paths = report.paths(lambda: None)
    assert [entry.name for entry in paths] == [entry.name for entry in report.replaced]
    assert {entry.note for entry in paths} == {"was not called, or not eagerly"}
    text = str(report.paths(lambda: model(**inputs)))
    assert "2 x VisualBertSelfAttention (encoder.layer.0.attention.self, ...): cpu: a mask of the keys alone" in text


def test_a_dense_mask_and_the_reason_for_the_reference():
    attention = nn.MultiheadAttention(16, 2, batch_first=True)
    report = mmk.patch(attention)
    x, mask = torch.randn(2, 6, 16), torch.rand(6, 6) < 0.5
    mask[:, 0], mask[0, :4] = False, torch.tensor([False, True, False, True])
    (path,) = report.paths(lambda: attention(x, x, x, attn_mask=mask, need_weights=False))
    assert path.note == "cpu: a dense mask: its rows are not intervals" and "(the model)" in str(report)
    attention.double()
    (path,) = report.paths(lambda: attention(*[x.double()] * 3, need_weights=False))
    assert path.note.startswith("reference: no mask (cpu cannot: ") and "float64" in path.note


def test_watching_ends_when_the_model_fails():
    attention = nn.MultiheadAttention(16, 2)
    with pytest.raises(RuntimeError, match="on purpose"):
        mmk.patch(attention).paths(lambda: (_ for _ in ()).throw(RuntimeError("on purpose")))
    assert not front.watchers and not attention._forward_hooks
