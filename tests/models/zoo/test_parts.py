"""The parts by themselves: who sees what, and what the objectives draw."""

from __future__ import annotations

import math
import random

import pytest
import torch

from mmkernels.models.config import CnnConfig, SingleStreamConfig, TextConfig, TransformerConfig, VitConfig
from mmkernels.models.interaction import SingleStream
from mmkernels.models.tokenizer import BOS, EOS, PAD, UNK, Tokens
from mmkernels.models.towers import CnnTower, RelativePositions, TextTower, VitTower
from mmkernels.models.transformer import QuickGelu, TransformerBlock, local
from mmkernels.models.zoo.objectives.captioning import context, interleaved
from mmkernels.models.zoo.objectives.masked_patches import GREY, cells_of, grey
from mmkernels.models.zoo.objectives.masked_words import hide
from mmkernels.models.zoo.objectives.matching import negatives
from mmkernels.nn import SelfAttention

SMALL = TransformerConfig(width=32, heads=2, layers=1, mlp=64)


def test_segments_of_self_attention_mean_their_concatenation():
    torch.manual_seed(0)
    layer = SelfAttention(32, heads=2, scale=0.3)
    parts = [torch.randn(2, 3, 32), torch.randn(2, 5, 32), torch.randn(2, 1, 32)]
    together = layer(torch.cat(parts, 1))
    torch.testing.assert_close(torch.cat(layer(parts), 1), together, rtol=1e-5, atol=1e-6)
    plain = SelfAttention(32, heads=2)
    plain.load_state_dict(layer.state_dict())
    assert (plain(parts[0]) - layer(parts[0])).abs().max() > 1e-4, "the scale is used"


def test_local_attention_sees_the_window_and_no_more():
    torch.manual_seed(0)
    block = TransformerBlock(SMALL, None).eval()
    x = torch.randn(1, 12, 32)
    changed = x.clone()
    changed[:, 9:] = torch.randn(1, 3, 32)
    with torch.no_grad():
        for causal, near in ((False, slice(7, 9)), (True, slice(0, 0))):
            a, b = (block(value, local(2, causal)) for value in (x, changed))
            unseen = 9 if causal else 7
            torch.testing.assert_close(a[:, :unseen], b[:, :unseen], rtol=0, atol=0)
            assert all(difference > 1e-4 for difference in (a - b)[0, near].abs().amax(1))
        first = x.clone()
        first[:, 0] = torch.randn(1, 32)
        a, b = (block(value, local(2, True))[0] for value in (x, first))
    assert (a[2] - b[2]).abs().max() > 1e-4 and torch.equal(a[3:], b[3:])


@pytest.mark.parametrize("norm_first", [True, False])
def test_blocks_are_the_textbook_s(norm_first):
    torch.manual_seed(0)
    ours = TransformerBlock(TransformerConfig(32, 2, 1, 64, activation="relu", norm_first=norm_first), None).eval()
    theirs = torch.nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True, norm_first=norm_first).eval()
    names = {
        "self_attn.in_proj_weight": "attention.qkv.weight",
        "self_attn.in_proj_bias": "attention.qkv.bias",
        "self_attn.out_proj": "attention.out",
        "linear1": "mlp.0",
        "linear2": "mlp.2",
        "norm1": "attention_norm",
        "norm2": "mlp_norm",
    }
    state = ours.state_dict()
    for name in theirs.state_dict():
        stem = next(old for old in names if name.startswith(old))
        theirs.state_dict()[name].copy_(state[name.replace(stem, names[stem])])
    x = torch.randn(3, 7, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_quick_gelu():
    x = torch.linspace(-4, 4, 9)
    expected = [value / (1 + math.exp(-1.702 * value)) for value in x.tolist()]
    torch.testing.assert_close(QuickGelu()(x), torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_buckets(bidirectional):
    """The first half one distance each, then ever wider ones; the last bucket takes all that is far."""
    positions = RelativePositions(2, 32, 128, bidirectional)
    bucket = lambda distance: int(positions.bucket(torch.tensor([distance]))[0])  # noqa: E731
    exact = 8 if bidirectional else 16
    assert [bucket(-distance) for distance in range(exact)] == list(range(exact))
    ahead = [bucket(distance) for distance in (1, 5, 1000)]
    assert ahead == ([17, 21, 31] if bidirectional else [0, 0, 0])
    assert bucket(-128) == bucket(-5000) == (15 if bidirectional else 31)
    far = [bucket(-distance) for distance in range(1, 200)]
    assert far == sorted(far)
    table = positions(5).table
    assert table.shape == (2, 9) and torch.equal(table[:, 4], positions.bias.weight[0])


def test_pictures_of_other_sizes_have_interpolated_positions():
    for tower in (CnnTower(CnnConfig(width=32, stem=(8, 16))), VitTower(VitConfig(SMALL, pool="class"), None)):
        assert tower(torch.rand(2, 3, 64, 64)).shape == (2, tower.prefix + 64, 32)
        assert tower(torch.rand(2, 3, 32, 32)).shape == (2, tower.prefix + 16, 32)


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
def test_padding_of_texts_changes_nothing(pool):
    torch.manual_seed(0)
    for config in (TextConfig(SMALL, pool=pool), TextConfig(SMALL, position="relative", pool=pool)):
        tower = TextTower(config, 50, None).eval()
        ids = torch.randint(4, 50, (3, 8))
        tokens = Tokens(ids, torch.tensor([8, 5, 2]))
        changed = Tokens(torch.cat([ids, torch.full((3, 4), 9)], 1), tokens.lengths)
        a, b = (tower.pool(tower(entry), entry.lengths) for entry in (tokens, changed))
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_texts_longer_than_their_positions_are_refused():
    tower = TextTower(TextConfig(SMALL, length=6), 50, None)
    with pytest.raises(ValueError, match="tokens have a length of 7, expected at most 6 positions"):
        tower(Tokens(torch.full((1, 7), 5), torch.tensor([7])))


def test_a_single_stream_is_one_transformer_over_all_tokens():
    torch.manual_seed(0)
    stream = SingleStream(SingleStreamConfig(SMALL), [32, 16], None).eval()
    words, pictures = torch.randn(2, 6, 32), torch.randn(2, 4, 16)
    lengths = torch.tensor([6, 3])
    seen = stream([words, pictures], [lengths, None])
    assert [tuple(part.shape) for part in seen] == [(2, 6, 32), (2, 4, 32)]
    words[1, 3:] = 100.0  # padding
    again = stream([words, pictures], [lengths, None])
    torch.testing.assert_close(again[1], seen[1], rtol=0, atol=0)
    pictures[:, 2] += 1
    assert (stream([words, pictures], [lengths, None])[0] - again[0]).abs().amax((1, 2)).min() > 1e-4


def test_words_see_their_own_picture_alone(new_trainer):
    trainer = new_trainer("flamingo")
    batch = trainer.batches.batch(0)
    system, written = trainer.model.eval(), batch.drawn["captioning"]
    tokens = system.see(batch.pairs.pictures)
    changed = tokens.clone()
    changed[1::4] += 1.0  # the second picture of each text
    with torch.no_grad():
        a, b = (system.write(written.texts, context(system, x, written.media)) for x in (tokens, changed))
    first = written.media <= 0
    torch.testing.assert_close(a[first], b[first], rtol=0, atol=0)
    second = written.media == 1
    assert (a[second] - b[second]).abs().max() > 1e-4


def test_texts_about_several_pictures():
    names = Tokens(torch.tensor([[BOS, 7, 8, EOS], [BOS, 9, EOS, PAD]]), torch.tensor([4, 3]))
    written = interleaved(names, 2, 50)
    assert written.texts.ids[0, :8].tolist() == [BOS, 50, 7, 8, EOS, 50, 9, EOS]
    assert written.texts.lengths.tolist() == [8]
    assert written.media[0, :8].tolist() == [-1, 0, 0, 0, 0, 1, 1, 1]


def test_hidden_words(task):
    texts = task.encode([task.full_text(i) for i in task.train[:64]], 16)
    masked = hide(texts, 0.3, task, random.Random(0))
    assert torch.equal(texts.ids.flatten()[masked.places], masked.words)
    untouched = torch.ones(texts.ids.numel(), dtype=torch.bool)
    untouched[masked.places] = False
    assert torch.equal(texts.ids.flatten()[untouched], masked.texts.ids.flatten()[untouched])
    shown = masked.texts.ids.flatten()[masked.places]
    assert 0.7 < (shown == task.mask_word).float().mean() < 0.9
    assert not set(masked.words.tolist()) & {BOS, EOS, PAD} and all(word > UNK for word in shown.tolist())


def test_hidden_cells():
    pictures = torch.rand(2, 3, 16, 16)
    hidden = torch.tensor([[True, False, False, False], [False, False, True, False]])
    seen = grey(pictures, hidden, 8)
    assert (seen[0, :, :8, :8] == GREY).all() and (seen[1, :, 8:, :8] == GREY).all()
    assert torch.equal(cells_of(seen, 8)[~hidden], cells_of(pictures, 8)[~hidden])
    assert torch.equal(cells_of(pictures, 8)[1, 1], pictures[1, :, :8, 8:].permute(1, 2, 0).reshape(64, 3))


def test_negatives():
    labels = [3, 1, 3, 2, 1, 3]
    hard = negatives(labels, True, random.Random(0))
    assert all(other != row for row, other in enumerate(hard))
    assert [labels[other] for row, other in enumerate(hard) if labels[row] != 2] == [3, 1, 3, 1, 3]
    easy = {tuple(negatives(labels, False, random.Random(seed))) for seed in range(20)}
    assert any(labels[other] != labels[row] for entry in easy for row, other in enumerate(entry))


def test_noise_deals_texts_to_other_pictures(new_trainer):
    clean, noisy = (new_trainer("align", noise=noise, batch=64).batches for noise in (0.0, 0.5))
    a, b = clean.batch(0).pairs, noisy.batch(0).pairs
    assert torch.equal(a.labels, b.labels), "the same pictures"
    same = [x.tolist() == y.tolist() for x, y in zip(a.names.ids[:, :4], b.names.ids[:, :4])]
    assert 0.3 < sum(same) / len(same) < 0.7
