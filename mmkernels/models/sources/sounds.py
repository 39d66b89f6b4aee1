"""Sounds and what they are called, synthesised with torch: notes, beeps, sweeps, chords, melodies, noises.

No microphone heard them: "plucked" and "bell" are sums of decaying sines that imitate. No registry package that makes
sounds installs without a system library and with a free set of samples; docs/data.md says what was looked at.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmkernels.models.audio import RATE, LogMel
from mmkernels.models.captions import words
from mmkernels.models.sources.images import in_white_square
from mmkernels.models.split import HELD_OUT_SHARE, SPLIT_SEED

SECONDS = 1.0
LOUDEST, QUIETEST, HISS = 0.8, 0.3, 1e-3  # peak of a sound; of the noise under it
RAMP = 0.008  # seconds in which a note swells and fades, so that it does not click
HIGHEST = 0.45 * RATE  # partials above would fold back

PITCHES = {"low": (110.0, 190.0), "middle": (330.0, 520.0), "high": (1000.0, 1600.0)}  # hertz
# Partials of a timbre: (multiple of the frequency, amplitude, decay per second).
PARTIALS: dict[str, list[tuple[float, float, float]]] = {
    "pure": [(1, 1, 0)],
    "hollow": [(n, 1 / n, 0) for n in (1, 3, 5, 7, 9)],
    "bright": [(n, 1 / n, 0) for n in range(1, 13)],
    "plucked": [(n, 1 / n, 3 + 2 * n) for n in range(1, 9)],
    "bell": [(0.56, 0.7, 2), (0.92, 1, 3), (1.19, 0.7, 4), (1.71, 0.5, 5), (2, 0.6, 6), (2.74, 0.4, 8), (3.76, 0.3, 9)],
}
NUMBERS = ("one", "two", "three", "four")
STEADY = ("pure", "hollow", "bright")
PLAIN_SEED = 7


@dataclass(frozen=True)
class Sound:
    """A kind of sound: what it is called, its class, and how one is drawn: (samples,)."""

    caption: str
    label: str
    make: Callable[[random.Random], Tensor]


@dataclass(frozen=True)
class SoundBatch:
    """B sounds of a second and their texts."""

    waves: Tensor  # float (B, samples) in [-1, 1], `RATE` samples a second
    captions: list[str]
    labels: list[str]


class SoundMaker:
    """Makes the sounds of a run: a batch is a function of (seed, step) alone.

    About 15 % of the kinds are held out, whatever the seed; every word of theirs occurs in training with others.

    Args:
        batch: sounds at a time.
        held_out: kinds of the held-out side.
    """

    def __init__(self, *, batch: int = 16, seed: int = 0, held_out: bool = False) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        train, test = split_sounds()
        self.sounds = test if held_out else train
        self.batch_size, self.seed = batch, seed

    def batch(self, step: int) -> SoundBatch:
        """The sounds of a step."""
        rng = random.Random(f"{self.seed}/sounds/{step}")
        drawn = [rng.choice(self.sounds) for _ in range(self.batch_size)]
        waves = torch.stack([draw_sound(sound, rng) for sound in drawn])
        return SoundBatch(waves, [sound.caption for sound in drawn], [sound.label for sound in drawn])


@dataclass(frozen=True)
class Sounds:
    """Kinds of sound as the media of a task, another one of its kind whenever a row occurs."""

    sounds: list[Sound]

    def plain(self, rows: list[int]) -> Tensor:
        """(n, samples), a function of the rows alone."""
        return self.views(rows, torch.Generator().manual_seed(PLAIN_SEED))

    def views(self, rows: list[int], generator: torch.Generator) -> Tensor:
        """(n, samples), drawn anew."""
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        return torch.stack([draw_sound(self.sounds[row], rng) for row in rows])

    def shown(self, medium: Tensor) -> Tensor:
        """The spectrogram in grey, low notes at the bottom, in the middle of a white square."""
        energy = LogMel()(medium[None])[0].flip(0)
        low, high = energy.min(), energy.max()
        dark = 1 - (energy - low) / (high - low).clamp(min=1e-6)
        return in_white_square(dark.expand(3, -1, -1))


def draw_sound(sound: Sound, rng: random.Random) -> Tensor:
    """One of a kind, (samples,), at a loudness of its own over a faint hiss."""
    wave = sound.make(rng)
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    wave = wave / wave.abs().max() * rng.uniform(QUIETEST, LOUDEST)
    return wave + HISS * torch.randn(len(wave), generator=generator)


def split_sounds() -> tuple[list[Sound], list[Sound]]:
    """All kinds, in training and held out."""
    sounds = all_sounds()
    count = Counter(word for sound in sounds for word in set(words(sound.caption)))
    order = list(sounds)
    random.Random(SPLIT_SEED).shuffle(order)
    held_out: set[str] = set()
    for sound in order:
        own = set(words(sound.caption))
        # Twice, so that a word is learnt as a word and not as one sound.
        if len(held_out) < HELD_OUT_SHARE * len(sounds) and all(count[word] > 2 for word in own):
            held_out.add(sound.caption)
            count.subtract(own)
    return [s for s in sounds if s.caption not in held_out], [s for s in sounds if s.caption in held_out]


def all_sounds() -> list[Sound]:
    """Every kind of sound."""
    sounds = []
    for pitch in PITCHES:
        for timbre in PARTIALS:
            sounds.append(Sound(f"a {pitch} {timbre} note", "note", _note(pitch, timbre)))
        for count, number in enumerate(NUMBERS, 1):
            beeps = f"{number} {pitch} beep{'s' if count > 1 else ''}"
            sounds.append(Sound(beeps, "beeps", _beeps(pitch, count)))
    for timbre in STEADY:
        for direction, octaves in (("rising", 1.5), ("falling", -1.5)):
            sounds.append(Sound(f"a {direction} {timbre} tone", "sweep", _sweep(timbre, octaves)))
        sounds.append(Sound(f"a wailing {timbre} tone", "siren", _siren(timbre)))
    for timbre in PARTIALS:
        for name, third in (("major", 4), ("minor", 3)):
            sounds.append(Sound(f"a {name} {timbre} chord", "chord", _chord(timbre, third)))
        for direction, sign in (("up", 1), ("down", -1)):
            sounds.append(Sound(f"three {timbre} notes going {direction}", "melody", _melody(timbre, sign)))
    for noise, band in (("hiss", (3000, 7000)), ("rumble", (40, 200)), ("rustle", (500, 2000))):
        for shape in ("steady", "fading", "swelling"):
            sounds.append(Sound(f"a {shape} {noise}", "noise", _noise(band, shape)))
    return sounds


def tone(frequency: Tensor, timbre: str) -> Tensor:
    """A tone of a frequency in hertz at each sample, (samples,), with its timbre's partials and soft ends."""
    count = len(frequency)
    time = torch.arange(count) / RATE
    phase = 2 * math.pi * frequency.double().cumsum(0) / RATE
    wave = torch.zeros(count)
    for multiple, amplitude, decay in PARTIALS[timbre]:
        partial = amplitude * torch.exp(-decay * time) * (multiple * phase).sin().float()
        wave += partial * (multiple * frequency < HIGHEST)
    ramp = torch.minimum(time, time.flip(0)) / RAMP
    return wave * ramp.clamp(max=1)


def _note(pitch: str, timbre: str) -> Callable[[random.Random], Tensor]:
    def make(rng: random.Random) -> Tensor:
        return _placed([(rng.uniform(0.02, 0.2), _held(_frequency(pitch, rng), 0.7, timbre))])

    return make


def _beeps(pitch: str, count: int) -> Callable[[random.Random], Tensor]:
    def make(rng: random.Random) -> Tensor:
        frequency, start = _frequency(pitch, rng), rng.uniform(0.02, 0.15)
        period = rng.uniform(0.16, 0.2)
        return _placed([(start + i * period, _held(frequency, 0.09, "pure")) for i in range(count)])

    return make


def _sweep(timbre: str, octaves: float) -> Callable[[random.Random], Tensor]:
    def make(rng: random.Random) -> Tensor:
        middle, extent = rng.uniform(350, 700), octaves * rng.uniform(0.7, 1)
        place = torch.linspace(-0.5, 0.5, _samples(rng.uniform(0.6, 0.75)))
        return _placed([(rng.uniform(0.02, 0.2), tone(middle * 2 ** (extent * place), timbre))])

    return make


def _siren(timbre: str) -> Callable[[random.Random], Tensor]:
    def make(rng: random.Random) -> Tensor:
        middle, speed, start = rng.uniform(400, 800), rng.uniform(2.5, 4), rng.uniform(0, 2 * math.pi)
        time = torch.arange(_samples(0.9)) / RATE
        wave = tone(middle * 2 ** (0.6 * torch.sin(2 * math.pi * speed * time + start)), timbre)
        return _placed([(rng.uniform(0.02, 0.08), wave)])

    return make


def _chord(timbre: str, third: int) -> Callable[[random.Random], Tensor]:
    def make(rng: random.Random) -> Tensor:
        root, start = rng.uniform(200, 400), rng.uniform(0.02, 0.2)
        return _placed([(start, _held(root * 2 ** (step / 12), 0.7, timbre)) for step in (0, third, 7)])

    return make


def _melody(timbre: str, sign: int) -> Callable[[random.Random], Tensor]:
    def make(rng: random.Random) -> Tensor:
        frequency, start, notes = rng.uniform(350, 600), rng.uniform(0.02, 0.1), []
        for i in range(3):
            notes.append((start + 0.28 * i, _held(frequency, 0.26, timbre)))
            frequency *= 2 ** (sign * rng.uniform(2, 5) / 12)
        return _placed(notes)

    return make


def _noise(band: tuple[float, float], shape: str) -> Callable[[random.Random], Tensor]:
    def make(rng: random.Random) -> Tensor:
        count = _samples(0.9)
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        spectrum = torch.fft.rfft(torch.randn(count, generator=generator))
        hertz = torch.fft.rfftfreq(count, 1 / RATE)
        wave = torch.fft.irfft(spectrum * ((hertz >= band[0]) & (hertz <= band[1])), count)
        fading = torch.linspace(1, 0, count) ** 2
        envelope = {"steady": torch.ones(count), "fading": fading, "swelling": fading.flip(0)}[shape]
        return _placed([(rng.uniform(0, 0.1), wave * envelope)])

    return make


def _frequency(pitch: str, rng: random.Random) -> float:
    low, high = PITCHES[pitch]
    return low * (high / low) ** rng.random()


def _held(frequency: float, seconds: float, timbre: str) -> Tensor:
    return tone(torch.full((_samples(seconds),), frequency), timbre)


def _samples(seconds: float) -> int:
    return round(seconds * RATE)


def _placed(parts: list[tuple[float, Tensor]]) -> Tensor:
    """Waves at their starts (seconds), added up; what reaches beyond the end is cut."""
    whole = torch.zeros(_samples(SECONDS))
    for start, wave in parts:
        place = whole[_samples(start) :][: len(wave)]
        place += wave[: len(place)]
    return whole
