"""A small source of pictures."""

from __future__ import annotations

import pytest
import torch

from mmkernels.models.sources.picture_set import Entry, PictureSet, assemble

SIZE = 32


@pytest.fixture(scope="session")
def source() -> PictureSet:
    """Six opaque grey squares, each with a black dot at the middle of its top edge and a red one at its left."""
    pictures = []
    for i in range(6):
        picture = torch.ones(4, SIZE, SIZE)
        picture[:3] = 0.5 + 0.02 * i
        picture[:3, 2:8, 13:19] = 0
        picture[:3, 13:19, 2:8] = torch.tensor([1.0, 0, 0])[:, None, None]
        pictures.append(picture)
    names = ["dot", "thing", "A toy.", "ball", "cube", "象"]
    rows = [Entry((name,), "x", name, True, side="held_out" if name == "cube" else "train") for name in names]
    return assemble(rows, pictures, [], "free", set())
