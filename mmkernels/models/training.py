"""The demo's training: two stages, each with parameters of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from mmkernels.models.batches import BatchMaker
from mmkernels.models.checkpoint import Checkpoint
from mmkernels.models.corpus import Corpus
from mmkernels.models.loop import Loop, adamw, fastest_quarter
from mmkernels.models.model import MultimodalModel, Sizes
from mmkernels.models.objectives import PRETRAIN_LOSSES, VQA_LOSSES, pretrain_losses, vqa_losses
from mmkernels.models.presets import ModelConfig, Plan, Recipe
from mmkernels.models.schedule import learning_rate

STAGES = {"pretrain": PRETRAIN_LOSSES, "vqa": VQA_LOSSES}


class Trainer(Loop):
    """A model on its way through a plan.

    Args:
        seed: of weights, data order, augmentation and dropout.
        backend: a backend's name, or None for the best there is; see `backends.Backends`.
    """

    def __init__(
        self, corpus: Corpus, config: ModelConfig, recipe: Recipe, plan: Plan, seed: int, backend: str | None = None
    ) -> None:
        torch.manual_seed(seed)
        self.corpus, self.config, self.recipe, self.plan = corpus, config, recipe, plan
        self.seed, self.backend = seed, backend
        self.sizes = sizes_of(corpus)
        self.model: MultimodalModel = MultimodalModel(config, self.sizes, backend)
        self.batches = BatchMaker(corpus, recipe, seed)
        self.names = {parameter: name for name, parameter in self.model.named_parameters()}
        self.history = {stage: [] for stage in STAGES}
        self.clip_norm = recipe.clip_norm
        self.stage = "pretrain"
        self.optimizer = self._new_optimizer()

    @classmethod
    def resume(cls, path: Path, corpus: Corpus, backend: str | None = None) -> Trainer:
        """A trainer that goes on where a checkpoint stands, with the checkpoint's own seed, plan and backend.

        Args:
            backend: another backend than the checkpoint's.

        Raises:
            ValueError: the checkpoint cannot be read or is of other data.
        """
        saved = Checkpoint.load(path)
        saved.check_data(corpus, path)
        trainer = cls(corpus, saved.config, saved.recipe, saved.plan, saved.seed, backend or saved.backend)
        trainer.stage = saved.stage
        trainer.optimizer = trainer._new_optimizer()
        trainer.restore(saved)
        return trainer

    @property
    def total(self) -> int:
        return self.plan.total

    def before_step(self) -> None:
        """The second stage begins when the first is done."""
        if self.stage == "pretrain" and self.step >= self.plan.pretrain:
            self.model.start_answerer()
            self.stage = "vqa"
            self.optimizer = self._new_optimizer()

    def losses(self) -> Iterator[dict[str, Tensor]]:
        """Those of the stage; a step has one batch."""
        if self.stage == "pretrain":
            yield pretrain_losses(self.model, self.batches.pretrain(self.step), self.recipe)
        else:
            yield vqa_losses(self.model, self.batches.vqa(self.step - self.plan.pretrain))

    def rate(self) -> float:
        """The stage's peak under its schedule."""
        if self.stage == "pretrain":
            place, steps, peak = self.step, self.plan.pretrain, self.recipe.pretrain_rate
        else:
            place, steps, peak = self.step - self.plan.pretrain, self.plan.vqa, self.recipe.vqa_rate
        return learning_rate(peak, place, steps, self.recipe.warm_up)

    def checkpoint(self) -> Checkpoint:
        """The run as it stands."""
        return Checkpoint(
            config=self.config,
            recipe=self.recipe,
            plan=self.plan,
            sizes=self.sizes,
            seed=self.seed,
            backend=self.backend,
            fingerprint=self.corpus.fingerprint,
            **self.state(),
        )

    def parameters(self) -> list[nn.Parameter]:
        """The answerer's in the second stage, all others in the first."""
        answerer = set(self.model.answerer.parameters())
        return [p for p in self.model.parameters() if (p in answerer) == (self.stage == "vqa")]

    def _new_optimizer(self) -> torch.optim.Optimizer:
        recipe = self.recipe
        return adamw(self.parameters(), recipe.pretrain_rate, recipe.weight_decay, recipe.betas)


def sizes_of(corpus: Corpus) -> Sizes:
    """How many words, answers and labels the task has."""
    return Sizes(
        vocabulary=corpus.tokenizer.size,
        answers=len(corpus.answers),
        subgroups=len(corpus.subgroups),
        tags=corpus.tag_targets.shape[1],
    )


def measure_step_seconds(trainer: Trainer, steps: int = 12) -> tuple[float, float]:
    """Time of a step of each stage, taking turns, on a copy: the trainer and torch's generator stay as they are."""
    with torch.random.fork_rng(devices=[]):
        probes = [
            Trainer(trainer.corpus, trainer.config, trainer.recipe, plan, trainer.seed, trainer.backend)
            for plan in (Plan(steps + 2, 1), Plan(0, steps + 2))
        ]
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(steps + 2):
            for probe, taken in zip(probes, seconds):
                before = probe.seconds
                probe.train_step()
                taken.append(probe.seconds - before)
    return fastest_quarter(seconds[0][2:]), fastest_quarter(seconds[1][2:])
