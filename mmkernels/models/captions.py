"""Preprocessing: the words of a caption."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmkernels.models.openmoji import Emoji

MAX_TAGS = 8  # in a full caption
NAME_ALONE, WITH_NAME = 0.3, 0.9  # of the training captions: these shares are the bare name, or hold the name


def words(text: str) -> list[str]:
    """Lower-case words and numbers: "Man's hat (red)" -> ["man's", "hat", "red"]."""
    return re.findall(r"[a-z0-9']+", text.lower().replace("_", " "))


def full_caption(row: Emoji) -> str:
    """Name, tags and subgroup: the text that an evaluation retrieves."""
    return " ".join([row.name, *row.tags[:MAX_TAGS], row.subgroup])


def training_caption(row: Emoji, rng: random.Random) -> str:
    """`mixed_caption` of an emoji."""
    return mixed_caption(row.name, row.tags, row.subgroup, rng)


def mixed_caption(name: str, tags: Sequence[str], label: str, rng: random.Random) -> str:
    """The name alone, or (nearly always with the name) some tags and perhaps the label, drawn anew each time.

    A text tower that saw only names could not read the words that held-out names are made of.
    """
    draw = rng.random()
    if draw < NAME_ALONE:
        return name
    drawn = list(tags)
    rng.shuffle(drawn)
    parts = [name] if draw < WITH_NAME else []
    parts += drawn[: rng.randint(1, 6)]
    if rng.random() < 0.5 or not parts:
        parts.append(label)
    return " ".join(parts)
