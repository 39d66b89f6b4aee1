"""Modality embedding of videos: every frame through the picture tower, and who may look at which frame."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmkernels.models.config import SEES
from mmkernels.models.towers import POSITION_STD
from mmkernels.nn import ConcatFusion


class VideoTower(nn.Module):
    """Frames as media items of a picture tower: their tokens follow each other on one axis, frame after frame.

    A text attends to them with `Mask.media(frames_seen(...), tokens_per_frame)`; a frame that no token may look at
    costs nothing.

    Args:
        image_tower: any module from (B, 3, S, S) to tokens (B, N, width), and by `pool` to one vector, (B, width).
        frames: the most frames of a clip.
        width: of the tokens.
        backend: name of a backend, or None.

    Parameters: `image_tower`, `position` (frames, 1, width), which tells the frames apart, and `order`, which fuses
    the frames' vectors to one.
    """

    prefix = 0  # tokens before those of the frames

    def __init__(self, image_tower: nn.Module, frames: int, width: int, backend: str | None = None) -> None:
        super().__init__()
        if frames < 1:
            raise ValueError(f"frames must be at least 1, got {frames}")
        self.image_tower: Any = image_tower
        self.position = nn.Parameter(torch.randn(frames, 1, width) * POSITION_STD)
        self.order = ConcatFusion([width] * frames, width, activation="gelu", backend=backend)

    def forward(self, clips: Tensor) -> Tensor:
        """RGB in [0, 1], (B, T, 3, S, S) -> tokens (B, T * N, width), N a frame."""
        if clips.dim() != 5 or not 1 <= clips.shape[1] <= len(self.position):
            most = len(self.position)
            raise ValueError(f"clips has shape {tuple(clips.shape)}, expected (B, T, 3, S, S), T from 1 to {most}")
        batch, frames = clips.shape[:2]
        tokens = self.image_tower(clips.flatten(0, 1)).unflatten(0, (batch, frames))
        return (tokens + self.position[:frames]).flatten(1, 2)

    def pool(self, tokens: Tensor) -> Tensor:
        """One vector per clip of all frames, (B, T * N, width) -> (B, width): theirs side by side, in their order."""
        frames = tokens.unflatten(1, (len(self.position), -1))
        vectors = self.image_tower.pool(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return self.order(list(vectors.unbind(1)))


def frames_seen(starts: Tensor, lengths: Tensor, frames: int, see: str = "latest") -> Tensor:
    """Which frames each token of a text may look at: `media_of_query` of `Mask.media`.

    A text is about one frame after the other; a token where `starts` is True begins what is said of the next one, the
    first such token of frame 0. Tokens before it, and padding, look at nothing.

    Args:
        starts: bool (B, L).
        lengths: real tokens of each text, (B,).
        frames: of every clip.
        see: "latest" the frame that is being described, "so_far" it and those before it, "all" every frame.

    Returns:
        int64 (B, L, 2): first and last frame, both included; -1 and -1 where there is none.

    Raises:
        ValueError: shapes that do not fit, a text that describes more frames than there are. Values are read on the
            host: this prepares data.
    """
    if starts.dtype != torch.bool or starts.dim() != 2:
        raise ValueError(f"starts must be bool (B, L), got {starts.dtype} of shape {tuple(starts.shape)}")
    if lengths.shape != starts.shape[:1]:
        raise ValueError(f"lengths has shape {tuple(lengths.shape)}, expected ({len(starts)},)")
    if see not in SEES:
        raise ValueError(f"see must be one of {', '.join(SEES)}, got {see!r}")
    real = torch.arange(starts.shape[1], device=starts.device) < lengths[:, None]
    current = (starts & real).cumsum(1) - 1
    described = int(current.max()) + 1 if current.numel() else 0
    if described > frames:
        raise ValueError(f"a text describes {described} frames, but a clip has {frames}")
    looks = real & (current >= 0)
    first = current if see == "latest" else torch.zeros_like(current)
    last = torch.full_like(current, frames - 1) if see == "all" else current
    return torch.where(looks[..., None], torch.stack([first, last], -1), -1)
