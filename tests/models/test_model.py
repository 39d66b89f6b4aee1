"""The rooms of the model: shapes, padding, broadcasting, and that every part learns."""

from __future__ import annotations

import pytest
import torch

from mmkernels.models import presets
from mmkernels.models.backends import Backends
from mmkernels.models.batches import BatchMaker
from mmkernels.models.model import MultimodalModel
from mmkernels.models.objectives import pretrain_losses, vqa_losses
from mmkernels.models.tokenizer import EOS, PAD, Tokens
from mmkernels.models.training import sizes_of

CONFIG, RECIPE = presets.PRESETS["tiny"]


@pytest.fixture
def model(corpus):
    torch.manual_seed(0)
    return MultimodalModel(CONFIG, sizes_of(corpus), "reference").eval()


def pad(tokens, extra, value):
    filler = torch.full((len(tokens.ids), extra), value)
    return Tokens(torch.cat([tokens.ids, filler], 1), tokens.lengths)


def test_padding_changes_nothing(model, corpus):
    maker = BatchMaker(corpus, RECIPE, 0)
    pairs, grids = maker.pretrain(0), maker.vqa(0)
    with torch.no_grad():
        texts = model.embed_texts(pairs.texts)
        answers = model.answerer(grids.pictures, grids.questions)
        for value in (PAD, 7):  # what stands in the padding is of no interest either
            torch.testing.assert_close(model.embed_texts(pad(pairs.texts, 5, value)), texts, rtol=1e-5, atol=1e-6)
            again = model.answerer(grids.pictures, pad(grids.questions, 5, value))
            torch.testing.assert_close(again, answers, rtol=1e-5, atol=1e-6)


def test_captioner_does_not_see_later_words(model, corpus):
    pairs = BatchMaker(corpus, RECIPE, 0).pretrain(0)
    captions = pairs.captions
    with torch.no_grad():
        images = model.image_tower(pairs.pictures[: len(captions.ids)])
        before = model.captioner(images, captions)
        changed = captions.ids.clone()
        changed[:, 2:] = 9
        after = model.captioner(images, Tokens(changed, captions.lengths))
    torch.testing.assert_close(after[:, :2], before[:, :2], rtol=1e-5, atol=1e-6)
    assert (after[:, 2:] - before[:, 2:]).abs().max() > 1e-3


def test_answers_depend_on_their_own_picture_and_question_only(model, corpus):
    grids = BatchMaker(corpus, RECIPE, 0).vqa(0)
    with torch.no_grad():
        together = model.answerer(grids.pictures, grids.questions)
        alone = [
            model.answerer(grids.pictures[i : i + 1], Tokens(*(part[4 * i : 4 * i + 4] for part in grids.questions)))
            for i in range(len(grids.pictures))
        ]
        shuffled = model.answerer(grids.pictures.roll(1, 0), grids.questions)
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=1e-5)
    assert (shuffled - together).abs().amax(1).min() > 1e-5


def test_every_parameter_gets_a_gradient(model, corpus):
    maker = BatchMaker(corpus, RECIPE, 0)
    model.train()
    (pretrain_losses(model, maker.pretrain(0), RECIPE)["total"] + vqa_losses(model, maker.vqa(0))["total"]).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias of keys moves all logits of a row alike, so that its gradient is 0 but for rounding.
    assert not without


def test_answerer_starts_from_the_pretrained_towers(model):
    with torch.no_grad():
        for parameter in model.image_tower.parameters():
            parameter.add_(0.5)
    model.start_answerer()
    ours, theirs = model.image_tower.state_dict(), model.answerer.image_tower.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if name != "position")
    assert ours["position"].shape == (1, 16, 32) and theirs["position"].shape == (1, 64, 32)
    with torch.no_grad():
        model.answerer.image_tower.norm.weight.add_(1)
    assert not torch.equal(model.image_tower.norm.weight, model.answerer.image_tower.norm.weight), (
        "a copy, not an alias"
    )


def test_generation_stops_at_the_end(model, corpus):
    images = model.image_tower(corpus.over_white(corpus.train[:6]))
    rows = model.captioner.generate(images, max_words=5)
    assert len(rows) == 6 and all(len(row) <= 5 and EOS not in row for row in rows)


def test_backends_are_chosen_per_op():
    assert Backends.choose(None) == Backends()
    assert Backends.choose("reference") == Backends("reference", "reference", "reference")
    with pytest.raises(ValueError, match="backend must be None or one of"):
        Backends.choose("fastest")
    with pytest.raises(ValueError, match='"cuda" cannot run here'):
        Backends.choose("cuda")


def test_named_backend_reaches_every_op(corpus, monkeypatch):
    from mmkernels.models import backends as room

    entry = {"available": True, "reasons": [], "ops": ["attention"]}
    monkeypatch.setattr(room, "backends", lambda: {"cpu": entry})
    chosen = Backends.choose("cpu")
    assert chosen == Backends("cpu", None, None)
    assert chosen.describe()["concat_fusion"] == "best available"
    model = MultimodalModel(CONFIG, sizes_of(corpus), "cpu")
    named = {type(m).__name__: m.backend for m in model.modules() if hasattr(m, "backend")}
    assert named == {
        "SelfAttention": "cpu",
        "CrossAttention": "cpu",
        "GatedCrossAttention": "cpu",
        "ConcatFusion": None,
    }
