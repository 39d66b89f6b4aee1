"""Modality embedding of sounds: log-mel spectrograms, cut into patches, through Transformer blocks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkernels.mask import Mask
from mmkernels.models.config import TransformerConfig
from mmkernels.models.towers import POSITION_STD
from mmkernels.models.transformer import TransformerBlock, both, local, make_norm

RATE = 16_000  # samples a second
WINDOW, HOP, BINS = 400, 160, 512  # samples: 25 ms, 10 ms; length of the Fourier transform
MELS = 64
LOWEST, HIGHEST = 40.0, 7600.0  # hertz
FLOOR = 1e-5  # added to energies, so that the logarithm stays finite
MEAN, SPREAD = -5.0, 5.0  # of log energies, roughly, over silence and sound
SILENCE = (math.log(FLOOR) - MEAN) / SPREAD


def mel_filters(
    mels: int = MELS, bins: int = BINS, rate: int = RATE, lowest: float = LOWEST, highest: float = HIGHEST
) -> Tensor:
    """Triangular filters, evenly spaced in mel = 2595 log10(1 + hertz / 700): (mels, bins / 2 + 1), float32.

    Each peaks at 1, perhaps between two bins, where its neighbours begin and end.

    Source: O'Shaughnessy, "Speech communication", 1987.
    """
    if mels < 1 or not 0 <= lowest < highest <= rate / 2:
        raise ValueError(f"expected mels >= 1 and 0 <= lowest < highest <= {rate / 2}, got {mels}, {lowest}, {highest}")
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (lowest, highest))
    corners = 700 * (10 ** (torch.linspace(low, high, mels + 2, dtype=torch.float64) / 2595) - 1)
    hertz = torch.arange(bins // 2 + 1, dtype=torch.float64) * rate / bins
    rising = (hertz - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - hertz) / (corners[2:] - corners[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0).float()


class LogMel(nn.Module):
    """Waves to log-mel spectrograms, about zero mean and unit spread. No parameters."""

    filters: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", mel_filters(), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    def forward(self, waves: Tensor) -> Tensor:
        """(B, samples) -> (B, MELS, samples // HOP), frame t around sample t * HOP."""
        if waves.dim() != 2 or waves.shape[1] < HOP or not waves.is_floating_point():
            raise ValueError(
                f"waves must be float (B, samples) of {HOP} samples or more, got {waves.dtype} {tuple(waves.shape)}"
            )
        # Fourier transforms and energies of quiet sounds need fp32, whatever is around.
        with torch.autocast(waves.device.type, enabled=False):
            spectrum = torch.stft(
                waves.float(), BINS, HOP, WINDOW, self.window, pad_mode="constant", return_complex=True
            )
            energy = self.filters @ spectrum.abs().square()[..., : waves.shape[1] // HOP]
            return ((energy + FLOOR).log() - MEAN) / SPREAD


class AudioTower(nn.Module):
    """A spectrogram's patches as tokens, and Transformer blocks over them: the blocks of the other towers.

    Tokens are in order of time, all mel bands of a time together, so that a shorter sound's padding stands at the end.

    Args:
        config: the blocks.
        patch: (mels, frames) of a patch; mels divides 64.
        seconds: of the longest sound.
        backend: name of a backend, or None.

    Source: Gong et al., "AST: audio spectrogram transformer", 2021 (whose patches overlap; these do not).
    """

    prefix = 0  # tokens before those of the patches

    def __init__(
        self,
        config: TransformerConfig,
        *,
        patch: tuple[int, int] = (16, 10),
        seconds: float = 1.0,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        mels, frames = patch
        if mels < 1 or frames < 1 or MELS % mels:
            raise ValueError(f"patch must be (mels, frames), mels a divisor of {MELS}, got {patch}")
        if seconds * RATE < HOP:
            raise ValueError(f"seconds must be at least {HOP / RATE}, got {seconds}")
        self.patch, self.bands, self.window = patch, MELS // mels, config.window
        self.times = math.ceil(int(seconds * RATE) // HOP / frames)
        width = config.width
        self.spectrogram = LogMel()
        self.embedding = nn.Conv2d(1, width, patch, patch)
        self.time_position = nn.Parameter(torch.randn(self.times, 1, width) * POSITION_STD)
        self.band_position = nn.Parameter(torch.randn(self.bands, width) * POSITION_STD)
        self.blocks = nn.ModuleList(TransformerBlock(config, backend) for _ in range(config.layers))
        self.norm = make_norm(config)

    def token_lengths(self, samples: Tensor) -> Tensor:
        """How many tokens of each sound are real, (B,), given how many of its samples are."""
        times = (samples // HOP).clamp(min=1).add(self.patch[1] - 1) // self.patch[1]
        return times * self.bands

    def forward(self, waves: Tensor, samples: Tensor | None = None) -> Tensor:
        """Sounds to tokens.

        Args:
            waves: (B, samples), `RATE` a second.
            samples: how many of each are real, (B,); None for all. What stands behind them does not matter.

        Returns:
            (B, N, width); what stands at padded places is arbitrary.
        """
        if samples is not None:
            real = torch.arange(waves.shape[1], device=waves.device) < samples[:, None]
            waves = waves.where(real, 0)
        picture = self.spectrogram(waves)
        if samples is not None:  # the frame behind the last one still hears it: alone or padded must be the same
            heard = torch.arange(picture.shape[-1], device=waves.device) < (samples // HOP)[:, None, None]
            picture = picture.where(heard, SILENCE)
        short = -picture.shape[-1] % self.patch[1]
        x = self.embedding(F.pad(picture, (0, short), value=SILENCE)[:, None])
        if x.shape[-1] > self.times:
            raise ValueError(f"waves has {waves.shape[1]} samples, this tower takes {self.times * self.patch[1] * HOP}")
        x = x.permute(0, 3, 2, 1) + self.time_position[: x.shape[-1]] + self.band_position
        x = x.flatten(1, 2)
        padding = None if samples is None else Mask.key_lengths(self.token_lengths(samples))
        mask = both(local(self.window, causal=False), padding)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def pool(self, tokens: Tensor) -> Tensor:
        """One vector per sound of full length: (B, N, width) -> (B, width)."""
        return tokens.mean(1)
