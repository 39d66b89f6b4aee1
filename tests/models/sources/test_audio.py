"""Log-mel spectrograms against plain sums, and the audio tower."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmkernels.models.audio import (
    FLOOR,
    HOP,
    MEAN,
    MELS,
    RATE,
    SILENCE,
    SPREAD,
    WINDOW,
    AudioTower,
    LogMel,
    mel_filters,
)
from mmkernels.models.config import TransformerConfig
from mmkernels.models.sources.sounds import SoundMaker, all_sounds

TINY = TransformerConfig(width=32, heads=2, layers=2, mlp=96)


def log_mel_naively(wave):
    """(frames, mels) in float64: every frame multiplied by every sine, no Fourier library."""
    wave = np.concatenate([np.zeros(256), wave.double().numpy(), np.zeros(256)])
    window = np.zeros(512)
    inside = np.arange(WINDOW)
    window[(512 - WINDOW) // 2 :][:WINDOW] = 0.5 - 0.5 * np.cos(2 * np.pi * inside / WINDOW)
    basis = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(512)) / 512)
    corner_mels = np.linspace(*(2595 * np.log10(1 + np.array([40.0, 7600.0]) / 700)), MELS + 2)
    corners = 700 * (10 ** (corner_mels / 2595) - 1)
    rows = []
    for start in range(0, (len(wave) - 512) // HOP * HOP, HOP):
        power = np.abs(basis @ (wave[start : start + 512] * window)) ** 2
        filters = [
            sum(
                p * np.interp(hertz, corners[m : m + 3], [0, 1, 0])
                for hertz, p in zip(np.arange(257) * RATE / 512, power)
            )
            for m in range(MELS)
        ]
        rows.append((np.log(np.array(filters) + FLOOR) - MEAN) / SPREAD)
    return np.array(rows)


def test_spectrogram_against_plain_sums():
    wave = SoundMaker(batch=1).batch(0).waves[0, 4000:6400]
    found = LogMel()(wave[None])[0].T
    expected = torch.from_numpy(log_mel_naively(wave))
    assert found.shape == (15, MELS) == expected.shape
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-4)


def test_filters_cover_the_band_evenly():
    filters = mel_filters().double()
    assert filters.shape == (MELS, 257) and (filters.max(1).values > 0.5).all()
    hertz = torch.arange(257) * RATE / 512
    inside = (hertz > 120) & (hertz < 7000)
    torch.testing.assert_close(filters.sum(0)[inside], torch.ones(int(inside.sum())).double(), rtol=0, atol=1e-5)
    assert not filters[:, hertz > 7600].any() and not filters[:, 0].any()
    with pytest.raises(ValueError, match="lowest < highest"):
        mel_filters(lowest=9000.0)


def test_a_pure_tone_stands_in_its_band_and_silence_is_finite():
    time = torch.arange(RATE) / RATE
    for hertz in (300.0, 1000.0, 5000.0):
        picture = LogMel()(torch.sin(2 * math.pi * hertz * time)[None])[0, :, 50]
        band = picture.argmax().item()
        mel = 2595 * math.log10(1 + hertz / 700)
        low, high = (2595 * math.log10(1 + each / 700) for each in (40, 7600))
        assert abs(band - ((mel - low) / (high - low) * (MELS + 1) - 1)) < 1
    silent = LogMel()(torch.zeros(1, RATE))
    torch.testing.assert_close(silent, torch.full((1, MELS, 100), SILENCE))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(LogMel()(torch.zeros(1, RATE)), silent)


@pytest.mark.parametrize("wrong", [torch.zeros(RATE), torch.zeros(1, HOP - 1), torch.zeros(1, RATE).long()])
def test_wrong_waves(wrong):
    with pytest.raises(ValueError, match="waves must be float"):
        LogMel()(wrong)


# ---- tower ----


def test_tokens_of_sounds():
    tower = AudioTower(TINY).eval()
    x = tower(SoundMaker(batch=3).batch(0).waves)
    assert x.shape == (3, 4 * 10, TINY.width) and x.isfinite().all()
    x.square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.any()
        for name, parameter in tower.named_parameters()
        if "bias" not in name
    )


def test_a_padded_sound_is_the_same_as_alone():
    tower = AudioTower(TINY).eval()
    waves = SoundMaker(batch=3).batch(0).waves
    samples = torch.tensor([16000, 9000, 4001])
    padded = waves.clone()
    for wave, count in zip(padded, samples.tolist()):
        wave[count:] = float("nan")
    together = tower(padded, samples)
    for i, count in enumerate(samples.tolist()):
        length = tower.token_lengths(samples)[i]
        alone = tower(waves[i : i + 1, :count])
        assert alone.shape[1] == length
        torch.testing.assert_close(together[i, :length], alone[0], rtol=1e-4, atol=1e-5)


def test_tokens_are_in_order_of_time():
    """A click late in the sound changes, before the blocks mix them, the late tokens only."""
    tower = AudioTower(replace(TINY, layers=0)).eval()
    wave = torch.zeros(2, RATE)
    wave[1, 12_000] = 1
    quiet, click = tower(wave)
    changed = (quiet - click).abs().amax(1).view(10, 4).amax(1) > 1e-6
    assert changed.nonzero().flatten().tolist() == [7]


def test_a_window_hides_what_is_far_away():
    """The 4 bands of a time, and the 4 of its neighbours: a late click does not reach the first token."""
    near, far = (AudioTower(replace(TINY, layers=1, window=window)).eval() for window in (4, None))
    far.load_state_dict(near.state_dict())
    wave = torch.zeros(2, RATE)
    wave[1, 12_000] = 1
    samples = torch.tensor([RATE, RATE])
    for tower, changes in ((near, False), (far, True)):
        quiet, click = tower(wave, samples)
        assert torch.equal(quiet[0], click[0]) != changes


def test_a_dense_twin_of_the_tower():
    """The blocks' attention as plain torch, with a dense mask."""
    config = replace(TINY, layers=1)
    tower = AudioTower(config).eval()
    bare = AudioTower(replace(TINY, layers=0)).eval()
    bare.load_state_dict(tower.state_dict(), strict=False)
    bare.norm = torch.nn.Identity()
    waves, samples = SoundMaker(batch=2).batch(1).waves, torch.tensor([16000, 5000])
    x, block = bare(waves, samples), tower.blocks[0]
    lengths = tower.token_lengths(samples)
    mask = (torch.arange(x.shape[1]) < lengths[:, None])[:, None, None]
    q, k, v = block.attention.qkv(block.attention_norm(x)).unflatten(-1, (3, config.heads, -1)).permute(2, 0, 3, 1, 4)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    x = x + block.attention.out(attended)
    expected = tower.norm(x + block.mlp(block.mlp_norm(x)))
    found = tower(waves, samples)
    for i, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(found[i, :length], expected[i, :length], rtol=1e-4, atol=1e-5)


def test_wrong_towers_and_sounds():
    for options, sentence in (({"patch": (15, 10)}, "divisor of 64"), ({"seconds": 0.001}, "seconds must be at least")):
        with pytest.raises(ValueError, match=sentence):
            AudioTower(TINY, **options)
    with pytest.raises(ValueError, match="this tower takes 16000"):
        AudioTower(TINY)(torch.zeros(1, 20_000))


@pytest.mark.slow
def test_the_tower_learns_to_tell_sounds_apart():
    """Class of a sound, new kinds included: far above the 1 in 7 of chance."""
    labels = sorted({sound.label for sound in all_sounds()})
    torch.manual_seed(0)
    tower, head = AudioTower(TINY), torch.nn.Linear(TINY.width, len(labels))
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=3e-3)

    def answers(maker, step):
        batch = maker.batch(step)
        return head(tower(batch.waves).mean(1)), torch.tensor([labels.index(label) for label in batch.labels])

    train = SoundMaker(batch=32)
    for step in range(250):
        logits, target = answers(train, step)
        loss = F.cross_entropy(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tower.eval()
    held_out = SoundMaker(batch=64, held_out=True)
    with torch.no_grad():
        for maker, least in ((train, 0.7), (held_out, 0.5)):
            logits, target = answers(maker, 9999)
            assert (logits.argmax(1) == target).float().mean() > least
