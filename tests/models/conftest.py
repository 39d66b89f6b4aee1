"""A small corpus, a smaller source, one cache of pictures and one trained model for the tests of the models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmkernels.models import presets
from mmkernels.models.corpus import Corpus, load_corpus
from mmkernels.models.presets import Plan
from mmkernels.models.sources.picture_set import Entry, PictureSet, assemble
from mmkernels.models.training import Trainer

SIZE = 32


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory):
    """Pictures are rendered once, into a folder of the test run's own; child processes find it too."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "mmkernels"


@pytest.fixture(scope="session")
def full_corpus(cache_folder: Path) -> Corpus:
    return load_corpus()


@pytest.fixture(scope="session")
def corpus(cache_folder: Path) -> Corpus:
    """About 300 emoji."""
    return load_corpus(limit=300)


@pytest.fixture(scope="session")
def trained(corpus: Corpus) -> Trainer:
    """A tiny model after a few steps of each stage."""
    config, recipe = presets.PRESETS["tiny"]
    trainer = Trainer(corpus, config, recipe, Plan(30, 20), seed=3)
    while not trainer.finished:
        trainer.train_step()
    return trainer


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
