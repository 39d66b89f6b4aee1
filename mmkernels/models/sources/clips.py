"""Short videos, synthesised: a picture moves, grows, shrinks or turns over a plain background, and a text says so.

No camera took them. They are there to have frames whose order matters: most captions cannot be told from one frame.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkernels.models.captions import words
from mmkernels.models.openmoji import over
from mmkernels.models.sources.images import in_white_square
from mmkernels.models.sources.picture_set import PictureSet

NEXT_FRAME = "then"  # in a narration, what follows is about the next frame
WHITE_BACKGROUND = 0.5
USUAL_SCALE, SMALL_SCALE, LARGE_SCALE = 0.5, 0.35, 0.9  # of the frame's side
REACH = 0.45  # how far from the middle a picture moves, of half a side

# What a motion is called, and the places, sizes or attitudes that it passes through.
ACROSS = ("at the left", "in the middle", "at the right")
DOWN = ("at the top", "in the middle", "at the bottom")
SIZES = ("small", "medium", "large")
TURNS = ("upright", "on its side", "upside down")
MOTIONS: dict[str, tuple[str, ...]] = {
    "moves to the right": ACROSS,
    "moves to the left": ACROSS[::-1],
    "moves down": DOWN,
    "moves up": DOWN[::-1],
    "grows": SIZES,
    "shrinks": SIZES[::-1],
    "turns clockwise": TURNS,
    "turns counterclockwise": TURNS,
    "stays in the middle": ("in the middle",) * 3,
}


@dataclass(frozen=True)
class ClipBatch:
    """B clips of T frames, and what is said of each."""

    frames: Tensor  # RGB in [0, 1], (B, T, 3, S, S)
    captions: list[str]  # of the whole clip: "duck moves to the left"
    narrations: list[str]  # frame by frame: "duck at the right then in the middle then at the left"
    motions: list[str]  # a key of MOTIONS each
    rows: list[int]  # which picture


class ClipMaker:
    """Makes the clips of a run: a batch is a function of (seed, step) alone.

    Args:
        source: where the pictures are from; those of its held-out side are used where held_out is True.
        batch: clips at a time.
        frames: of a clip, at least 2.

    Raises:
        ValueError: batch or frames too small, or that side of the source is empty.
    """

    def __init__(
        self, source: PictureSet, *, batch: int = 16, frames: int = 3, seed: int = 0, held_out: bool = False
    ) -> None:
        if batch < 1 or frames < 2:
            raise ValueError(f"expected batch of at least 1 and frames of at least 2, got {batch} and {frames}")
        self.rows = source.held_out if held_out else source.train
        if not self.rows:
            raise ValueError(f"the source has no picture {'held out' if held_out else 'in training'}")
        self.source, self.batch_size, self.frames, self.seed = source, batch, frames, seed

    def batch(self, step: int) -> ClipBatch:
        """The clips of a step."""
        rng = random.Random(f"{self.seed}/clips/{step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        rows = [rng.choice(self.rows) for _ in range(self.batch_size)]
        motions = [rng.choice(list(MOTIONS)) for _ in rows]
        names = [" ".join(words(self.source.captions[i][0])) for i in rows]
        return ClipBatch(
            frames=draw_clips(self.source.pictures[rows], motions, self.frames, generator),
            captions=[" ".join(filter(None, (name, motion))) for name, motion in zip(names, motions)],
            narrations=[
                " ".join(filter(None, (name, narration(motion, self.frames)))) for name, motion in zip(names, motions)
            ],
            motions=motions,
            rows=rows,
        )


@dataclass(frozen=True)
class Clips:
    """Pictures in motion, as the media of a task: row r is picture `picture_of[r]` in `motions[r]`."""

    pictures: Tensor  # premultiplied RGBA, float (N, 4, S, S)
    picture_of: list[int]
    motions: list[str]
    frames: int

    def plain(self, rows: list[int]) -> Tensor:
        """(n, T, 3, S, S), the same in every call; backgrounds and extents are drawn once and for all."""
        return torch.cat([self.views([row], torch.Generator().manual_seed(row)) for row in rows])

    def views(self, rows: list[int], generator: torch.Generator) -> Tensor:
        """(n, T, 3, S, S), backgrounds and extents of the motions drawn anew."""
        pictures = self.pictures[[self.picture_of[row] for row in rows]]
        return draw_clips(pictures, [self.motions[row] for row in rows], self.frames, generator)

    def shown(self, medium: Tensor) -> Tensor:
        """Frames side by side, in the middle of a white square."""
        return in_white_square(torch.cat(list(medium), -1))


def draw_clips(pictures: Tensor, motions: list[str], frames: int, generator: torch.Generator) -> Tensor:
    """Pictures (B, 4, S, S), each in its motion: RGB in [0, 1], (B, T, 3, S, S)."""
    count, size = len(pictures), pictures.shape[-1]
    wobble = 0.85 + 0.15 * torch.rand(count, generator=generator)  # of every motion's extent
    white = torch.rand(count, 1, 1, 1, generator=generator) < WHITE_BACKGROUND
    pale = 0.6 + 0.4 * torch.rand(count, 3, 1, 1, generator=generator)
    background = torch.where(white, torch.ones(()), pale)
    transforms = torch.stack([_transforms(m, frames, w) for m, w in zip(motions, wobble.tolist())])
    moved = pictures.repeat_interleave(frames, 0)
    grid = F.affine_grid(transforms.flatten(0, 1), list(moved.shape), align_corners=False)
    moved = F.grid_sample(moved, grid, align_corners=False)
    rgb = over(background.repeat_interleave(frames, 0), moved)
    return rgb.view(count, frames, 3, size, size).clamp(0, 1)


def narration(motion: str, frames: int) -> str:
    """What each frame shows, frame after frame, `NEXT_FRAME` between them."""
    passed = MOTIONS[motion]
    shown = [passed[round(2 * place)] for place in _places(frames)]
    return f" {NEXT_FRAME} ".join(shown)


def _places(frames: int) -> list[float]:
    """From 0, where a motion begins, to 1."""
    return [i / (frames - 1) for i in range(frames)]


def _transforms(motion: str, frames: int, extent: float) -> Tensor:
    """For every frame the map from its coordinates (x right, y down, -1 to 1) to the picture's: (T, 2, 3)."""
    rows = []
    for place in _places(frames):
        along = (2 * place - 1) * REACH * extent
        x, y, scale, turn = 0.0, 0.0, USUAL_SCALE, 0.0
        if motion in ("moves to the right", "moves to the left"):
            x = along if motion == "moves to the right" else -along
        elif motion in ("moves down", "moves up"):
            y = along if motion == "moves down" else -along
        elif motion in ("grows", "shrinks"):
            grown = place if motion == "grows" else 1 - place
            scale = SMALL_SCALE + (LARGE_SCALE - SMALL_SCALE) * extent * grown
        elif motion in ("turns clockwise", "turns counterclockwise"):
            turn = math.pi * place * (1 if motion == "turns clockwise" else -1)
        # Forward: p -> scale R p + (x, y), where R turns clockwise, since y points down; this is its inverse.
        cos, sin = math.cos(turn) / scale, math.sin(turn) / scale
        rows.append([[cos, sin, -(cos * x + sin * y)], [-sin, cos, sin * x - cos * y]])
    return torch.tensor(rows)
