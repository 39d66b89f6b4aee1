"""Synthesised sounds are what they are called."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
import torch

from mmkernels.models.audio import RATE
from mmkernels.models.captions import words
from mmkernels.models.sources import sounds
from mmkernels.models.sources.sounds import NUMBERS, PITCHES, SoundMaker, all_sounds, split_sounds

SOUNDS = {sound.caption: sound for sound in all_sounds()}


def sound_of(caption, seed=0):
    return SOUNDS[caption].make(random.Random(seed))


def loudness(wave, span=320):
    return wave[: len(wave) // span * span].view(-1, span).square().mean(1).sqrt()


def strongest(wave):
    """Frequency with most energy, in hertz."""
    spectrum = torch.fft.rfft(wave * torch.hann_window(len(wave)), 4 * len(wave)).abs()
    return spectrum.argmax().item() * RATE / (4 * len(wave))


def middle_of(wave, start, stop):
    """That part of what can be heard: (0, 1) is all of it."""
    heard = (wave.abs() > 1e-3).nonzero()
    first, last = heard[0].item(), heard[-1].item()
    return wave[first + int(start * (last - first)) : first + int(stop * (last - first))]


@pytest.mark.parametrize("pitch", PITCHES)
def test_beeps_can_be_counted(pitch):
    for count, number in enumerate(NUMBERS, 1):
        for seed in range(3):
            wave = sound_of(f"{number} {pitch} beep{'s' if count > 1 else ''}", seed)
            loud = loudness(wave) > 0.1
            assert (loud[1:] & ~loud[:-1]).sum() + loud[0] == count
            low, high = PITCHES[pitch]
            assert low * 0.95 < strongest(wave) < high * 1.05


@pytest.mark.parametrize(("caption", "sign"), [("a rising pure tone", 1), ("a falling pure tone", -1)])
def test_sweeps_go_where_they_say(caption, sign):
    for seed in range(5):
        pitches = [strongest(middle_of(sound_of(caption, seed), i / 5, (i + 1) / 5)) for i in range(5)]
        assert all((later / earlier) ** sign > 1.1 for earlier, later in pairwise(pitches))


@pytest.mark.parametrize(("caption", "sign"), [("three pure notes going up", 1), ("three pure notes going down", -1)])
def test_melodies_go_where_they_say(caption, sign):
    for seed in range(5):
        wave = sound_of(caption, seed)
        first, second, third = (strongest(middle_of(wave, a, a + 0.25)) for a in (0.03, 0.36, 0.7))
        for earlier, later in ((first, second), (second, third)):
            assert 1.9 < 12 * math.log2(later / earlier) * sign < 5.1


@pytest.mark.parametrize(("name", "third"), [("major", 4), ("minor", 3)])
def test_chords_have_their_third(name, third):
    wave = sound_of(f"a {name} pure chord", 1)
    spectrum = torch.fft.rfft(wave * torch.hann_window(len(wave)), 4 * len(wave)).abs()
    hertz = torch.arange(len(spectrum)) * RATE / (4 * len(wave))
    peaks = [
        i for i in range(1, len(spectrum) - 1)
        if spectrum[i] > 0.3 * spectrum.max() and spectrum[i] == spectrum[max(0, i - 40) : i + 41].max()
    ]  # fmt: skip
    found = sorted(hertz[i].item() for i in peaks)
    assert [round(12 * math.log2(each / found[0])) for each in found] == [0, third, 7]


def test_timbres_and_noises():
    hollow = torch.fft.rfft(sound_of("a middle hollow note")).abs()
    base = strongest(sound_of("a middle hollow note")) * len(sound_of("a middle hollow note")) / RATE

    def near(multiple):
        place = round(base * multiple)
        return hollow[place - 5 : place + 6].max()

    assert near(3) > 10 * near(2) and near(5) > 10 * near(4), "odd partials only"
    plucked = loudness(middle_of(sound_of("a low plucked note"), 0.05, 0.95))
    assert plucked[:5].mean() > 3 * plucked[-5:].mean()
    assert strongest(sound_of("a steady rumble")) < 250 < 3000 < strongest(sound_of("a steady hiss"))
    fading, swelling = loudness(sound_of("a fading hiss")), loudness(sound_of("a swelling hiss"))
    assert fading[:15].mean() > 4 * fading[-20:].mean() and swelling[-20:].mean() > 4 * swelling[:10].mean()


def test_every_kind_can_be_heard_within_bounds():
    for sound in SOUNDS.values():
        wave = sound.make(random.Random(7))
        assert wave.shape == (RATE,) and wave.isfinite().all() and wave.abs().max() > 0.05
    assert len(SOUNDS) == len(all_sounds()) > 50, "two kinds of one name"


def test_the_split_holds_out_combinations_of_known_words():
    train, held_out = ([sound.caption for sound in side] for side in split_sounds())
    assert sorted(train + held_out) == sorted(SOUNDS) and 0.1 < len(held_out) / len(SOUNDS) < 0.2
    known = {word for caption in train for word in words(caption)}
    assert all(set(words(caption)) <= known for caption in held_out)
    assert [sound.caption for sound in split_sounds()[1]] == held_out


def test_a_word_that_occurs_once_or_twice_is_never_held_out(monkeypatch):
    captions = [f"word{i // 2} sound" for i in range(40)] + ["common sound"] * 5
    made = [sounds.Sound(caption + "!" * i, "x", lambda rng: torch.zeros(RATE)) for i, caption in enumerate(captions)]
    monkeypatch.setattr(sounds, "all_sounds", lambda: made)
    train, held_out = split_sounds()
    assert held_out and all("common" in sound.caption for sound in held_out)
    assert sum("common" in sound.caption for sound in train) >= 2


def test_batches_are_a_function_of_seed_and_step():
    one, other = SoundMaker(seed=3), SoundMaker(seed=3)
    one.batch(0)
    torch.manual_seed(9)
    random.seed(9)
    a, b = one.batch(5), other.batch(5)
    assert torch.equal(a.waves, b.waves) and a.captions == b.captions and a.labels == b.labels
    assert a.waves.shape == (16, RATE) and a.waves.abs().max() <= 1
    assert a.labels == [SOUNDS[caption].label for caption in a.captions]
    assert not torch.equal(a.waves, SoundMaker(seed=4).batch(5).waves) and not torch.equal(a.waves, one.batch(6).waves)
    held = {sound.caption for sound in split_sounds()[1]}
    assert set(SoundMaker(batch=64, held_out=True).batch(0).captions) <= held
    assert not set(SoundMaker(batch=64).batch(0).captions) & held
    with pytest.raises(ValueError, match="batch must be at least 1"):
        SoundMaker(batch=0)
