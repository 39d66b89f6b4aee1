"""Preprocessing: unseen views of a picture: rotation, scale, shift, mirror, colour, background."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkernels.models.captions import words
from mmkernels.models.openmoji import Emoji

HANDED_WORDS = {"left", "right", "clockwise", "flag", "button"}
HANDED_GROUPS = ("symbols", "flags")
TRAINING_STRENGTH = 0.5

MAX_ANGLE = 0.3  # radians, at strength 1 as everything below
SCALE_RANGE, SCALE_CENTRE = 0.5, 0.65  # from 0.675 to 1.175 of the size
MAX_SHIFT = 0.125  # of half the picture
COLOUR_MIXING, COLOUR_SHIFT = 0.08, 0.05
WHITE_BACKGROUND = 0.4  # this share; the rest has a random colour, half of it with a vertical ramp


def may_mirror(rows: list[Emoji]) -> Tensor:
    """bool (N,): False where a mirrored picture would be something else."""
    return torch.tensor([not (HANDED_WORDS & set(words(r.name)) or r.group in HANDED_GROUPS) for r in rows])


def augment(pictures: Tensor, mirror: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """A random view of each picture.

    Args:
        pictures: premultiplied RGBA, float (B, 4, S, S).
        mirror: bool (B,), whether the picture may be mirrored.
        strength: 0 leaves geometry and colour alone; training uses 0.5.

    Returns:
        RGB in [0, 1], (B, 3, S, S).
    """
    batch, _, size, _ = pictures.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    angle = (uniform(batch) - 0.5) * 2 * MAX_ANGLE * strength
    zoom = 1 / (1 + (uniform(batch) - SCALE_CENTRE) * SCALE_RANGE * strength)
    flip = torch.where((uniform(batch) < 0.5) & mirror, -1.0, 1.0)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    shift = (uniform(batch, 2) - 0.5) * 2 * MAX_SHIFT * strength
    rows = [torch.stack([cos * flip, -sin, shift[:, 0]], 1), torch.stack([sin * flip, cos, shift[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), [batch, 4, size, size], align_corners=False)
    x = F.grid_sample(pictures, grid, align_corners=False)

    colour, alpha = x[:, :3], x[:, 3:]
    mixing = torch.eye(3) + normal(batch, 3, 3) * COLOUR_MIXING * strength
    colour = torch.einsum("bij,bjhw->bihw", mixing, colour)
    colour = colour + alpha * normal(batch, 3, 1, 1) * COLOUR_SHIFT * strength
    white = uniform(batch, 1, 1, 1) < WHITE_BACKGROUND
    background = torch.where(white, torch.ones(batch, 3, 1, 1), uniform(batch, 3, 1, 1))
    ramp = torch.linspace(-0.3, 0.3, size).view(1, 1, size, 1) * normal(batch, 3, 1, 1)
    background = background + ramp * (uniform(batch, 1, 1, 1) < 0.5)
    return (colour + background * (1 - alpha)).clamp(0, 1)
