"""Augmentation, captions, tokens and batches."""

from __future__ import annotations

import random

import pytest
import torch

from mmkernels.models import presets
from mmkernels.models.augment import augment, may_mirror
from mmkernels.models.batches import BatchMaker
from mmkernels.models.captions import full_caption, training_caption, words
from mmkernels.models.openmoji import Emoji
from mmkernels.models.tokenizer import BOS, EOS, PAD, UNK, WordTokenizer

ROW = Emoji("x", "alarm clock", ("bell", "morning", "wake"), "time", "travel-and-places")


def test_words():
    assert words("Man's hat_(Red), 2!") == ["man's", "hat", "red", "2"]


def test_training_captions_hold_words_of_the_row_only():
    rng = random.Random(0)
    captions = [training_caption(ROW, rng) for _ in range(500)]
    allowed = {"alarm", "clock", *ROW.tags, "time"}
    assert all(caption and set(caption.split()) <= allowed for caption in captions)
    assert 0.2 < sum(caption == ROW.name for caption in captions) / 500 < 0.4
    assert 0.02 < sum("clock" not in caption for caption in captions) / 500 < 0.2
    bare = Emoji("x", "thing", (), "time", "objects")
    assert all(training_caption(bare, rng) for _ in range(200)), "a caption is never empty"
    assert full_caption(ROW) == "alarm clock bell morning wake time"


def test_augmentation_depends_on_the_generator_only(corpus):
    rows = corpus.train[:40]

    def views(seed, strength=0.5):
        generator = torch.Generator().manual_seed(seed)
        return augment(corpus.pictures[rows], corpus.mirror[rows], generator, strength)

    torch.manual_seed(1)
    first = views(0)
    torch.manual_seed(2)
    assert torch.equal(first, views(0)) and not torch.equal(first, views(1))
    assert first.shape == (40, 3, 32, 32) and first.min() >= 0 and first.max() <= 1


def test_augmentation_of_strength_zero_keeps_the_shape(corpus):
    rows = corpus.train[:200]
    alpha = corpus.pictures[rows][:, 3]
    still = torch.zeros(len(rows), dtype=torch.bool)
    views = augment(corpus.pictures[rows], still, torch.Generator().manual_seed(0), 0.0)
    opaque = alpha > 1 - 1e-6
    expected = corpus.pictures[rows][:, :3].movedim(1, -1)[opaque]
    torch.testing.assert_close(views.movedim(1, -1)[opaque], expected, rtol=0, atol=1e-4)


def test_handed_pictures_are_never_mirrored():
    rows = [
        Emoji("", "left arrow", (), "arrow", "symbols"),
        Emoji("", "man facing right", (), "person", "people"),
        Emoji("", "dog", (), "animal-mammal", "animals"),
    ]
    assert may_mirror(rows).tolist() == [False, False, True]
    picture = torch.zeros(64, 4, 32, 32)
    picture[:, :, :, :10] = 1  # white on the left
    for mirror, both in ((False, False), (True, True)):
        views = augment(picture, torch.full((64,), mirror), torch.Generator().manual_seed(0), 0.1)
        # White pixels stand left of the middle in an unmirrored view, whatever its background.
        white = (views > 0.95).all(1)
        sides = {bool(white[i, 8:24, 2:6].all()) for i in range(64)}
        assert sides == ({True, False} if both else {True})


@pytest.fixture(scope="module")
def tokenizer():
    return WordTokenizer.train(["red apple", "it's a dog's 2nd apple", "Face_with tears"])


def test_tokenizer_round_trip(tokenizer):
    texts = ["red apple", "a dog's apple", "face with tears", "2nd"]
    tokens = tokenizer.encode(texts, 12)
    assert [tokenizer.decode(row) for row in tokens.ids.tolist()] == [" ".join(words(text)) for text in texts]
    assert tokens.ids[:, 0].eq(BOS).all()
    assert tokens.lengths.tolist() == [len(words(text)) + 2 for text in texts]
    for row, length in zip(tokens.ids, tokens.lengths.tolist()):
        assert row[length - 1] == EOS and (row[length:] == PAD).all() and (row[:length] != PAD).all()


def test_tokenizer_agrees_with_words(tokenizer, full_corpus):
    captions = [full_caption(row) for row in full_corpus.rows] + ["Punctuation, like: THIS_one (and that)!", ""]
    tokens = full_corpus.tokenizer.encode(captions, 200)
    assert tokens.lengths.tolist() == [len(words(caption)) + 2 for caption in captions]


def test_tokenizer_unknown_words_truncation_and_empty_text(tokenizer):
    assert tokenizer.encode(["red zebra"], 9).ids.tolist()[0][2] == UNK
    cut = tokenizer.encode(["red apple red apple red apple"], 5).ids.tolist()[0]
    assert len(cut) == 5 and cut[0] == BOS and cut[-1] == EOS
    assert tokenizer.encode([""], 5).ids.tolist() == [[BOS, EOS]]
    assert "red" in tokenizer and "zebra" not in tokenizer


def test_tokenizer_state(tokenizer):
    again = WordTokenizer(tokenizer.state)
    assert again.size == tokenizer.size and again.encode(["a red dog's"], 9).ids.equal(
        tokenizer.encode(["a red dog's"], 9).ids
    )


def test_batches_are_a_function_of_seed_and_step(corpus):
    recipe = presets.TINY_RECIPE
    maker, other = BatchMaker(corpus, recipe, 0), BatchMaker(corpus, recipe, 0)
    maker.pretrain(3), maker.vqa(1)
    torch.manual_seed(7)
    for make in ("pretrain", "vqa"):
        for step in (5, 2):
            a, b = getattr(maker, make)(step), getattr(other, make)(step)
            assert torch.equal(a.pictures, b.pictures)
            assert not torch.equal(a.pictures, getattr(BatchMaker(corpus, recipe, 1), make)(step).pictures)
    assert torch.equal(maker.vqa(2).questions.ids, other.vqa(2).questions.ids)
    assert torch.equal(maker.pretrain(9).texts.ids, other.pretrain(9).texts.ids)


def test_an_epoch_shows_every_row_at_most_once_and_no_held_out_row(corpus):
    maker = BatchMaker(corpus, presets.TINY_RECIPE, 0)
    names = [row.name for row in corpus.rows]
    assert len(set(names)) == len(names)
    seen = []
    for step in range(maker.epochs.length):
        rows = maker.epochs.rows(step)
        assert torch.equal(maker.pretrain(step).subgroups, corpus.subgroup_of[rows])
        seen += rows
    assert len(set(seen)) == len(seen) == maker.epochs.length * 16
    assert not set(seen) & set(corpus.held_out)


def test_batch_larger_than_the_corpus_is_refused(corpus):
    with pytest.raises(ValueError, match="a batch has 100000 pairs"):
        BatchMaker(corpus, presets.Recipe(batch=100000), 0)
