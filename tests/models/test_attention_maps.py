"""Attention weights recomputed from lse are the softmax, and belong to the words they are shown with."""

from __future__ import annotations

import pytest
import torch

from mmkernels.mask import Mask
from mmkernels.models.attention_maps import attention_weights, caption_maps, cross_weights, question_maps
from mmkernels.models.batches import BatchMaker
from mmkernels.models.presets import TINY_RECIPE
from mmkernels.models.tokenizer import Tokens
from mmkernels.nn import CrossAttention


def test_weights_are_the_softmax():
    query, key = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    expected = (query @ key.mT / 8**0.5).softmax(-1)
    torch.testing.assert_close(attention_weights(query, key), expected, rtol=1e-5, atol=1e-6)


def test_masked_weights_are_zero_and_empty_rows_too():
    query, key = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    weights = attention_weights(query, key, mask=Mask.key_lengths(torch.tensor([4, 0])))
    logits = query @ key.mT / 8**0.5
    torch.testing.assert_close(weights[0, ..., :4], logits[0, ..., :4].softmax(-1), rtol=1e-5, atol=1e-6)
    assert not weights[0, ..., 4:].any() and not weights[1].any()


def test_layer_weights_reproduce_the_layer():
    layer = CrossAttention(16, heads=2)
    x, context = torch.randn(2, 5, 16), torch.randn(2, 9, 16)
    weights = cross_weights(layer, x, context)
    value = layer.kv(context).chunk(2, -1)[1].unflatten(-1, (2, 8)).transpose(1, 2)
    expected = layer.out((weights @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x, context), expected, rtol=1e-5, atol=1e-5)


def test_caption_maps(trained, corpus, monkeypatch):
    ids = corpus.tokenizer.encode(["red apple with a face"], 12).ids[0, 1:-1].tolist()
    monkeypatch.setattr(trained.model.captioner, "generate", lambda images: [ids])
    trained.model.eval()
    picture = corpus.over_white(corpus.train[:1])[0]
    maps = caption_maps(trained.model, picture, corpus.tokenizer.pieces)
    assert " ".join(maps.words) == corpus.tokenizer.decode(ids) and len(maps.words) == len(ids)
    assert maps.weights.shape == (len(ids), 4, 4)
    torch.testing.assert_close(maps.weights.sum((1, 2)), torch.ones(len(ids)))
    monkeypatch.setattr(trained.model.captioner, "generate", lambda images: [[]])
    assert caption_maps(trained.model, picture, corpus.tokenizer.pieces).words == []


def test_question_maps(trained, corpus):
    trained.model.eval()
    batch = BatchMaker(corpus, TINY_RECIPE, 0).vqa(0)
    questions = Tokens(batch.questions.ids[:4], batch.questions.lengths[:4])
    maps = question_maps(trained.model, batch.pictures[0], questions, corpus.tokenizer.pieces)
    assert [" ".join(entry.words) for entry in maps] == [q.text for q in batch.scenes[0].questions]
    for entry in maps:
        assert entry.weights.shape == (len(entry.words), 8, 8)
        torch.testing.assert_close(entry.weights.sum((1, 2)), torch.ones(len(entry.words)))
    alone = Tokens(questions.ids[1:2], questions.lengths[1:2])
    (single,) = question_maps(trained.model, batch.pictures[0], alone, corpus.tokenizer.pieces)
    torch.testing.assert_close(single.weights, maps[1].weights, rtol=1e-4, atol=1e-6)


def test_hooks_are_removed(trained, corpus):
    batch = BatchMaker(corpus, TINY_RECIPE, 0).vqa(0)
    questions = Tokens(batch.questions.ids[:4], batch.questions.lengths[:4])
    with pytest.raises(RuntimeError):
        question_maps(trained.model, torch.zeros(4, 64, 64), questions, corpus.tokenizer.pieces)
    question_maps(trained.model, batch.pictures[0], questions, corpus.tokenizer.pieces)
    assert not any(module._forward_pre_hooks for module in trained.model.modules())
