"""Every preset: a step of its own objectives, the published sizes, and what it is made of."""

from __future__ import annotations

import pytest
import torch

from mmkernels.models import presets
from mmkernels.models.config import with_window
from mmkernels.models.presets import PAGES
from mmkernels.models.zoo.objectives import OBJECTIVES
from mmkernels.models.zoo.system import Sizes, System
from mmkernels.nn.common import Backed

QUICK = ("clip", "uniter")  # in `make test`; the others in `make test-all`
EVERY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PAGES]
PUBLISHED = [f"{name}:{size}" for name, page in PAGES.items() for size in page.published]
PARAMETERS = {  # of the published models, as transformers counts them
    "clip:ViT-B-32": 151_277_313,
    "clip:ViT-L-14": 427_616_513,
    "vit:base": 86_567_656,
    "vit:large": 304_326_632,
    "bert:base": 109_514_298,
    "bert:large": 335_174_458,
    "flan-t5:small": 76_961_152,
    "flan-t5:base": 247_577_856,
    "flan-t5:xl": 2_849_757_184,
}


@pytest.mark.parametrize("name", EVERY)
def test_a_step_reaches_every_parameter(new_trainer, name):
    trainer = new_trainer(name)
    before = {key: value.clone() for key, value in trainer.model.named_parameters()}
    report = trainer.train_step()
    assert list(report.losses) == ["total", *(objective for objective, _ in PAGES[name].recipe.objectives)]
    assert all(0 < value < 50 for value in report.losses.values())
    without = [key for key, p in trainer.model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    assert not [key for key, p in trainer.model.named_parameters() if p.ndim > 1 and torch.equal(p, before[key])]


@pytest.mark.parametrize("name", EVERY)
def test_fused_equals_the_reference(new_trainer, name):
    ours, naive = new_trainer(name), new_trainer(name, backend="reference")
    named = {part.backend for part in naive.model.modules() if isinstance(part, Backed)}
    assert named == {"reference"}
    for _ in range(2):
        a, b = ours.train_step().losses, naive.train_step().losses
        for objective in a:
            assert abs(a[objective] - b[objective]) <= 1e-3 * abs(b[objective]), objective
    assert {key: value.shape for key, value in ours.model.state_dict().items()} == {
        key: value.shape for key, value in naive.model.state_dict().items()
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    page, config = presets.find(name)
    objectives = [page.main]
    sizes = Sizes(vocabulary=config.vocabulary or 0, answers=0, classes=config.classes or 0)
    with torch.device("meta"):
        system = System(config, sizes, objectives)
    count = sum(p.numel() for p in system.parameters())
    assert count == PARAMETERS.get(name, count) and count > 50_000_000


def test_main_objectives_are_those_of_the_systems():
    assert {name: page.main for name, page in PAGES.items()} == {
        "clip": "contrastive",
        "align": "contrastive",
        "vit": "classification",
        "bert": "masked_words",
        "flan-t5": "text_to_text",
        "uniter": "masked_words",
        "oscar": "masked_words",
        "vilbert": "matching",
        "flamingo": "captioning",
        "video": "narration",
        "audio": "contrastive",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PAGES))
@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_every_objective_that_a_system_has_the_parts_for(new_trainer, task, name, objective):
    missing, beside = OBJECTIVES[objective].missing(PAGES[name].small), OBJECTIVES[objective].beside
    objectives = ((objective, 2.0), *(() if beside is None else ((beside, 1.0),)))
    if missing:
        with pytest.raises(ValueError, match=f"objective {objective} needs {missing}"):
            new_trainer(name, objectives=objectives)
        return
    losses = new_trainer(name, objectives=objectives, batch=8, unlabelled=task.held_out[:8]).train_step().losses
    expected = sum(weight * losses[each] for each, weight in objectives)
    assert losses["total"] == pytest.approx(expected, rel=1e-6)


def test_several_objectives_share_the_towers(new_trainer, monkeypatch):
    trainer = new_trainer(
        "clip", objectives=(("contrastive", 1.0), ("captioning", 0.5), ("matching", 0.25), ("classification", 0.125))
    )
    seen = []
    monkeypatch.setattr(System, "see", lambda self, pictures: seen.append(1) or self.image_tower(pictures))
    losses = trainer.train_step().losses
    expected = sum(weight * losses[name] for name, weight in trainer.setup.recipe.objectives)
    assert losses["total"] == pytest.approx(expected, rel=1e-6)
    assert len(seen) == 1 + 2, "once in the step, and once in each of the two batches of the held-out look"


@pytest.mark.parametrize("name", ["align", "clip", "flan-t5"])
def test_windows_reach_the_towers(new_trainer, name):
    """Local and full attention of the same weights differ, in every tower that attends."""
    config = presets.find(name)[1]
    full, near = new_trainer(name), new_trainer(name, config=with_window(config, 1))
    near.model.load_state_dict(full.model.state_dict())
    pairs = full.batches.batch(0).pairs
    with torch.no_grad():
        a, b = ([trainer.model.eval().read(pairs.texts)] for trainer in (full, near))
        if name == "clip":
            a, b = ([*part, trainer.model.see(pairs.pictures)] for part, trainer in ((a, full), (b, near)))
    assert all((x - y).abs().max() > 1e-3 for x, y in zip(a, b, strict=True))
