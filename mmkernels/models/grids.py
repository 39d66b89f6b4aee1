"""Preprocessing: pictures of 2 x 2 grids, for the questions of `questions`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkernels.models.openmoji import over
from mmkernels.models.questions import EMPTY, Scene

CELL = 32
WHITE_BACKGROUND = 0.5
SMALLEST, SCALE_RANGE = 0.75, 0.35
MAX_SHIFT = 0.15  # of half a cell


def compose(scenes: list[Scene], pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Draws scenes: each emoji is scaled and shifted within its cell, over white or a pale colour.

    Args:
        pictures: premultiplied RGBA of all emoji, float (N, 4, CELL, CELL).

    Returns:
        RGB in [0, 1], (len(scenes), 3, 2 * CELL, 2 * CELL).
    """
    index = torch.tensor([cell for scene in scenes for cell in scene.cells])
    x = pictures[index.clamp(min=0)] * (index != EMPTY).view(-1, 1, 1, 1)
    zoom = 1 / (SMALLEST + SCALE_RANGE * torch.rand(len(index), generator=generator))
    transform = torch.zeros(len(index), 2, 3)
    transform[:, 0, 0] = zoom
    transform[:, 1, 1] = zoom
    transform[:, :, 2] = (torch.rand(len(index), 2, generator=generator) - 0.5) * 2 * MAX_SHIFT
    x = F.grid_sample(x, F.affine_grid(transform, list(x.shape), align_corners=False), align_corners=False)

    count = len(scenes)
    x = x.view(count, 2, 2, 4, CELL, CELL).permute(0, 3, 1, 4, 2, 5).reshape(count, 4, 2 * CELL, 2 * CELL)
    white = torch.rand(count, 1, 1, 1, generator=generator) < WHITE_BACKGROUND
    pale = 0.6 + 0.4 * torch.rand(count, 3, 1, 1, generator=generator)
    return over(torch.where(white, torch.ones(()), pale), x)
