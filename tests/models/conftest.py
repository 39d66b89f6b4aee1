"""One small corpus, one cache of pictures and one trained model for the tests of the reference model."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmkernels.models import presets
from mmkernels.models.corpus import Corpus, load_corpus
from mmkernels.models.presets import Plan
from mmkernels.models.training import Trainer


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
