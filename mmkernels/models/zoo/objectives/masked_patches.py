"""Pixels of cells that were greyed out, from the rest of the picture and, where there is an interaction, the text.

Sources: Xie et al., "SimMIM", 2022; UNITER's masked region modelling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from mmkernels.models.config import SystemConfig
from mmkernels.models.metrics import percent
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.zoo.objectives.base import CHUNK, Objective, Score, Seen, Side

if TYPE_CHECKING:
    from mmkernels.models.tokenizer import Tokens
    from mmkernels.models.zoo.batches import Draw
    from mmkernels.models.zoo.system import System
    from mmkernels.models.zoo.task import Task

GREY = 0.5
JUDGE_SEED, JUDGE_SHARE = 23, 0.3
MIN_SHARE = 0.3  # patches are more alike than words: fewer hidden ones teach little


class Hidden(NamedTuple):
    """Which cells of each picture are hidden, bool (B, N)."""

    cells: Tensor


class MaskedPatches(Objective):
    """Mean squared error of the hidden cells' pixels."""

    name = "masked_patches"

    def missing(self, config: SystemConfig) -> str | None:
        return "an image tower" if config.image is None else None

    def head(self, system: System) -> nn.Module:
        assert system.config.image is not None, "missing() has said so"
        return nn.Linear(system.widths[1], 3 * system.config.image.patch**2)

    def draw(self, draw: Draw, held_out: bool) -> Hidden:
        assert draw.pairs is not None and draw.config.image is not None, "this objective is about pictures"
        cells = (draw.pairs.pictures.shape[-1] // draw.config.image.patch) ** 2
        share = max(MIN_SHARE, draw.recipe.mask_share)
        return Hidden(torch.rand(len(draw.rows), cells, generator=draw.generator) < share)

    def loss(self, system: System, seen: Seen, drawn: Hidden) -> Tensor:
        texts = None if system.interaction is None else seen.pairs.texts
        tags = None if system.interaction is None else seen.pairs.tags
        wrong = self._errors(system, seen.pairs.pictures, drawn.cells, texts, tags)
        return (wrong * drawn.cells).sum() / drawn.cells.sum().clamp(min=1)

    def judge(self, system: System, task: Task, side: Side, recipe: TrainConfig) -> list[Score]:
        """How much of the variance of hidden pixels is explained, beside the mean colour of the visible cells (0 %)."""
        assert system.config.image is not None, "missing() has said so"
        generator, patch = torch.Generator().manual_seed(JUDGE_SEED), system.config.image.patch
        ours, plain = 0.0, 0.0
        for at in range(0, len(side.rows), CHUNK):
            pictures, rows = side.pictures[at : at + CHUNK], side.rows[at : at + CHUNK]
            pixels = cells_of(pictures, patch)
            hidden = torch.rand(pixels.shape[:2], generator=generator) < JUDGE_SHARE
            texts, tags = None, None
            if system.interaction is not None:
                texts = task.encode(task.texts(rows, system.config.tagged), recipe.text_tokens)
                tags = task.encode(task.tag_texts(rows), recipe.text_tokens)
            ours += float((self._errors(system, pictures, hidden, texts, tags) * hidden).sum())
            visible = (~hidden)[..., None, None]
            mean = (pixels * visible).sum((1, 2), keepdim=True) / (visible.sum((1, 2), keepdim=True) * pixels.shape[2])
            plain += float(((pixels - mean).square().mean((2, 3)) * hidden).sum())
        return [Score("explained variance", percent(1 - ours / plain), 0.0)]

    def _errors(
        self, system: System, pictures: Tensor, hidden: Tensor, texts: Tokens | None, tags: Tokens | None
    ) -> Tensor:
        """Mean squared error of every cell, hidden or not, (B, N)."""
        assert system.config.image is not None, "missing() has said so"
        patch = system.config.image.patch
        tokens = system.see(grey(pictures, hidden, patch))
        if texts is not None:
            tokens = system.join(texts, tokens, tags).pictures
        said = system.heads[self.name](tokens[:, system.image_tower.prefix :])
        return (said - cells_of(pictures, patch).flatten(2)).square().mean(-1)


def cells_of(pictures: Tensor, patch: int) -> Tensor:
    """(B, 3, S, S) -> (B, N, patch * patch, 3), row by row."""
    rows = pictures.unfold(2, patch, patch).unfold(3, patch, patch)  # (B, 3, S/p, S/p, p, p)
    return rows.flatten(4).flatten(2, 3).permute(0, 2, 3, 1)


def grey(pictures: Tensor, hidden: Tensor, patch: int) -> Tensor:
    """Pictures without the hidden cells, which are bool (B, N)."""
    side = pictures.shape[-1] // patch
    mask = hidden.view(-1, 1, side, side).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return pictures.masked_fill(mask, GREY)
