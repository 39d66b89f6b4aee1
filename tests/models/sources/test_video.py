"""The video tower, and who may look at which frame, against loops and a dense twin."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import mmkernels as mmk
from mmkernels.models.config import CnnConfig
from mmkernels.models.sources.clips import MOTIONS, NEXT_FRAME, ClipMaker, narration
from mmkernels.models.tokenizer import BOS, WordTokenizer
from mmkernels.models.towers import CnnTower
from mmkernels.models.video import VideoTower, frames_seen
from mmkernels.nn import GatedCrossAttention

SIZE = 32  # of the source's pictures
TINY = CnnConfig(width=32, stem=(8, 16), side=SIZE)
HEADS = 2


def looped(starts, lengths, frames, see):
    """`frames_seen` with loops over pairs: bool (B, L, frames)."""
    batch, length = starts.shape
    visible = torch.zeros(batch, length, frames, dtype=torch.bool)
    for b in range(batch):
        current = -1
        for i in range(int(lengths[b])):
            current += bool(starts[b, i])
            for frame in range(frames if current >= 0 else 0):
                visible[b, i, frame] = {"latest": frame == current, "so_far": frame <= current, "all": True}[see]
    return visible


def drawn(batch=5, length=13, frames=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    starts = torch.zeros(batch, length, dtype=torch.bool)
    for row in starts:
        places = torch.randperm(length, generator=generator)[
            : int(torch.randint(0, frames + 1, (), generator=generator))
        ]
        row[places] = True
    lengths = torch.randint(1, length + 1, (batch,), generator=generator)
    return starts, lengths


@pytest.mark.parametrize("see", ["latest", "so_far", "all"])
@pytest.mark.parametrize("seed", range(5))
def test_layout_against_loops(see, seed):
    starts, lengths = drawn(seed=seed)
    seen = frames_seen(starts, lengths, 4, see)
    mask = mmk.Mask.media(seen, 3).to_dense(5, 1, 13, 12)[:, 0]
    assert torch.equal(mask, looped(starts, lengths, 4, see).repeat_interleave(3, 2))


def test_layout_of_a_narration(source):
    batch = ClipMaker(source, batch=32).batch(0)
    tokenizer = WordTokenizer.train([*batch.narrations, NEXT_FRAME])
    tokens = tokenizer.encode(batch.narrations, 40)
    starts = (tokens.ids == BOS) | (tokens.ids == tokenizer.encode([NEXT_FRAME], 3).ids[0, 1])
    seen = frames_seen(starts, tokens.lengths, 3)
    pieces = tokenizer.pieces(tokens.ids[0].tolist())
    for i in range(int(tokens.lengths[0])):
        assert seen[0, i].tolist() == [pieces[: i + 1].count(NEXT_FRAME)] * 2
    assert (seen[0, int(tokens.lengths[0]) :] == -1).all()


def test_wrong_layouts():
    starts, lengths = drawn()
    with pytest.raises(ValueError, match="a text describes 3 frames, but a clip has 2"):
        frames_seen(torch.ones(1, 3, dtype=torch.bool), torch.tensor([3]), 2)
    with pytest.raises(ValueError, match="see must be one of"):
        frames_seen(starts, lengths, 4, "next")
    with pytest.raises(ValueError, match="starts must be bool"):
        frames_seen(starts.long(), lengths, 4)
    with pytest.raises(ValueError, match=r"lengths has shape \(4,\)"):
        frames_seen(starts, lengths[:4], 4)


# ---- the tower ----


def look_naively(layer, x, context, visible):
    """`GatedCrossAttention` with every score and a dense mask, in plain torch."""
    heads = layer.attention.heads

    def split(t):
        return t.unflatten(-1, (heads, -1)).transpose(1, 2)

    inside = layer.attention
    query = split(inside.q(layer.norm(x)))
    key, value = (split(t) for t in inside.kv(context).chunk(2, -1))
    scores = (query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5
    scores = scores.masked_fill(~visible[:, None], float("-inf"))
    probabilities = scores.softmax(-1).nan_to_num(0)  # a row that sees nothing
    out = inside.out((probabilities @ value).transpose(1, 2).flatten(2))
    return x + layer.attention_gate.tanh() * out


@pytest.mark.parametrize("see", ["latest", "so_far", "all"])
def test_text_attends_to_frames_as_its_dense_twin(source, see):
    clips = ClipMaker(source, batch=5, frames=4).batch(0).frames
    tower = VideoTower(CnnTower(TINY), 4, TINY.width).eval()
    layer = GatedCrossAttention(TINY.width, heads=HEADS, ffn_dim=0)
    torch.nn.init.constant_(layer.attention_gate, 1.0)
    starts, lengths = drawn(seed=1)
    words = torch.randn(5, 13, TINY.width)
    mask = mmk.Mask.media(frames_seen(starts, lengths, 4, see), 16)
    visible = looped(starts, lengths, 4, see).repeat_interleave(16, 2)
    gradient = torch.randn(5, 13, TINY.width)

    def run(look):
        tower.zero_grad(), layer.zero_grad()
        tokens = tower(clips)
        assert tokens.shape == (5, 4 * 16, TINY.width)
        out = look(tokens)
        out.backward(gradient)
        return [out.detach(), tower.position.grad.clone(), layer.attention.kv.weight.grad.clone()]

    ours = run(lambda tokens: layer(words, tokens, mask=mask))
    segments = run(lambda tokens: layer(words, list(tokens.unflatten(1, (4, 16)).unbind(1)), mask=mask))
    naive = run(lambda tokens: look_naively(layer, words, tokens, visible))
    for found, joined, expected in zip(ours, segments, naive):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(joined, expected, rtol=1e-4, atol=1e-5)


def test_a_frame_that_nobody_sees_reaches_nobody(source):
    tower = VideoTower(CnnTower(TINY), 3, TINY.width).eval()
    layer = GatedCrossAttention(TINY.width, heads=HEADS)
    torch.nn.init.constant_(layer.attention_gate, 1.0)
    words = torch.randn(1, 6, TINY.width)
    seen = frames_seen(torch.tensor([[True, False, False, True, False, False]]), torch.tensor([6]), 3)
    clip = ClipMaker(source, batch=1).batch(0).frames
    damaged = clip.clone()
    damaged[:, 2] = float("nan")
    outs = [layer(words, tower(x), mask=mmk.Mask.media(seen, 16)) for x in (clip, damaged)]
    assert torch.equal(*outs)
    damaged[:, 1] = 0
    changed = layer(words, tower(damaged), mask=mmk.Mask.media(seen, 16))
    assert torch.equal(changed[:, :3], outs[0][:, :3]) and not torch.equal(changed[:, 3:], outs[0][:, 3:])


def test_frames_are_told_apart_and_shapes_are_checked(source):
    tower = VideoTower(CnnTower(TINY), 3, TINY.width).eval()
    clip = ClipMaker(source, batch=2).batch(0).frames
    still = clip[:, :1].expand(-1, 3, -1, -1, -1)
    tokens = tower(still).unflatten(1, (3, 16))
    assert not torch.equal(tokens[:, 0], tokens[:, 1])
    moving = tower(clip).unflatten(1, (3, 16))
    for i in range(3):
        alone = tower.image_tower(clip[:, i]) + tower.position[i]
        torch.testing.assert_close(moving[:, i], alone, rtol=1e-5, atol=1e-5)
    assert tower(clip[:, :2]).shape == (2, 32, TINY.width), "shorter clips"
    for wrong in (clip[:, 0], clip.repeat(1, 2, 1, 1, 1), clip[:, :0]):
        with pytest.raises(ValueError, match="clips has shape"):
            tower(wrong)
    with pytest.raises(ValueError, match="frames must be at least 1"):
        VideoTower(tower.image_tower, 0, 8)


@pytest.mark.slow
def test_words_learn_to_describe_their_frame(source):
    """The place of each frame, told from the tokens of its narration: far above the 1 in 9 of chance."""
    maker = ClipMaker(source, batch=24)
    phrases = sorted({phrase for passed in MOTIONS.values() for phrase in passed})
    torch.manual_seed(0)
    tower = VideoTower(CnnTower(TINY), 3, TINY.width)
    asked = torch.nn.Parameter(torch.zeros(1, 3, TINY.width))
    layer, head = GatedCrossAttention(TINY.width, heads=HEADS), torch.nn.Linear(TINY.width, len(phrases))
    torch.nn.init.constant_(layer.attention_gate, 1.0)
    modules = torch.nn.ModuleList([tower, layer, head])
    optimizer = torch.optim.AdamW([*modules.parameters(), asked], lr=3e-3)
    seen = frames_seen(torch.ones(24, 3, dtype=torch.bool), torch.full((24,), 3), 3)

    def answers(step):
        batch = maker.batch(step)
        told = [narration(motion, 3).split(f" {NEXT_FRAME} ") for motion in batch.motions]
        target = torch.tensor([[phrases.index(phrase) for phrase in row] for row in told])
        x = layer(asked.expand(24, -1, -1), tower(batch.frames), mask=mmk.Mask.media(seen, 16))
        return head(x), target

    for step in range(120):
        logits, target = answers(step)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    modules.eval()
    with torch.no_grad():
        right = [
            (logits.argmax(-1) == target).float().mean().item() for logits, target in map(answers, range(900, 904))
        ]
    assert sum(right) / len(right) > 0.6
