"""In which form masks and biases reach attention: intervals, tables and factors, not matrices of Lq x Lk."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="transformers is not installed")

import mmkernels as mmk
from mmkernels.integrations import transformers as hugging_face
from mmkernels.integrations.stand_ins import common
from tests.integrations.checks import forward, make, serve
from tests.integrations.table import BY_NAME


@pytest.fixture
def calls(monkeypatch):
    """(mask, bias) of every attention call that is made for a model."""
    seen = []

    def record(*operands, mask=None, bias=None, **call):
        seen.append((mask, bias))
        return mmk.attention(*operands, mask=mask, bias=bias, **call)

    monkeypatch.setattr(hugging_face, "attention", record)
    monkeypatch.setattr(common, "attention", record)
    return seen


def run(name):
    model, inputs = make(BY_NAME[name])
    serve(BY_NAME[name], model)
    forward(BY_NAME[name], model, inputs)
    return model


def kinds(calls):
    return [None if mask is None else mask.kind for mask, _ in calls]


def test_t5_has_a_table_of_distances_and_no_zeros(calls):
    model = run("FLAN-T5")
    biases = [bias for _, bias in calls]
    heads, encoder, decoder = model.config.num_heads, 9, 7
    tables = [bias.table.shape for bias in biases if isinstance(bias, mmk.RelativeBias)]
    assert tables == [(heads, 2 * encoder - 1)] * 2 + [(heads, 2 * decoder - 1)] * 2
    assert biases[0].table is biases[1].table and biases[0].table.requires_grad
    assert [bias for bias in biases if not isinstance(bias, mmk.RelativeBias)] == [None, None]  # cross-attention
    assert kinds(calls) == ["intervals", "intervals", *["causal & intervals", "intervals"] * 2]


def test_sam_has_two_factors(calls):
    run("SAM")
    factors = [bias for _, bias in calls if bias is not None]
    assert all(isinstance(bias, mmk.DecomposedBias) for bias in factors) and len(factors) == 2
    assert [bias.rel_h.shape[-1] * bias.rel_w.shape[-1] for bias in factors] == [4 * 4, 6 * 6]


def test_mllamas_tiles_are_intervals(calls):
    run("mllama")
    found = kinds(calls)
    assert found[3:] == ["causal & intervals", "intervals"] * 2  # after the vision tower
    assert all(bias is None for _, bias in calls[3:])


@pytest.mark.parametrize("name", ["LXMERT", "BLIP captioning", "Perceiver", "Llava"])
def test_padding_at_the_end_is_intervals(name, calls):
    run(name)
    assert all(bias is None for _, bias in calls)
    assert any("intervals" in (kind or "") for kind in kinds(calls))
    assert not any("dense" in (kind or "") for kind in kinds(calls))


@pytest.mark.parametrize("name", ["VisualBERT", "ViLT"])
def test_padding_between_text_and_image_is_of_the_keys_alone(name, calls):
    run(name)
    for mask, bias in calls:
        assert bias is None and mask.parts[0].tensor.shape[:3] == (2, 1, 1)


def test_masks_are_read_once_for_all_layers(calls, monkeypatch):
    from mmkernels.integrations import given_masks

    reads = []
    read = given_masks._read
    monkeypatch.setattr(given_masks, "_read", lambda given: reads.append(1) or read(given))
    run("VisualBERT")
    assert len(calls) == 2 and len(reads) == 1
