"""The tower of whatever texts are about."""

from __future__ import annotations

from mmkernels.models.audio import AudioTower
from mmkernels.models.config import AudioConfig, MediaConfig, VideoConfig
from mmkernels.models.efficient_net import EfficientNetConfig
from mmkernels.models.towers import ImageTower, image_tower
from mmkernels.models.video import VideoTower

MediaTower = ImageTower | VideoTower | AudioTower
"""From media to tokens (B, `prefix` + N, width), and by `pool` to one vector each."""


def media_tower(config: MediaConfig | EfficientNetConfig, backend: str | None) -> MediaTower:
    """The tower of a configuration."""
    if isinstance(config, VideoConfig):
        return VideoTower(image_tower(config.picture, backend), config.frames, config.width, backend)
    if isinstance(config, AudioConfig):
        return AudioTower(config.blocks, patch=config.patch, seconds=config.seconds, backend=backend)
    return image_tower(config, backend)
