"""The demo's checkpoints."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmkernels.models.corpus import Corpus
from mmkernels.models.model import MultimodalModel, Sizes
from mmkernels.models.presets import ModelConfig, Plan, Recipe
from mmkernels.models.saved_run import FILE_NAME, SavedRun

__all__ = ["FILE_NAME", "Checkpoint"]


@dataclass(kw_only=True)
class Checkpoint(SavedRun):
    """A run of the demo at one step."""

    KIND = "checkpoint"

    config: ModelConfig
    recipe: Recipe
    plan: Plan
    sizes: Sizes

    def pack(self) -> dict[str, Any]:
        return {name: asdict(getattr(self, name)) for name in ("config", "recipe", "plan", "sizes")}

    @classmethod
    def unpack(cls, header: dict[str, Any]) -> dict[str, Any]:
        config, recipe = header["config"], header["recipe"]
        return {
            "config": ModelConfig(**{**config, "stem": tuple(config["stem"])}),
            "recipe": Recipe(**{**recipe, "betas": tuple(recipe["betas"])}),
            "plan": Plan(**header["plan"]),
            "sizes": Sizes(**header["sizes"]),
        }

    def check_data(self, corpus: Corpus, path: Path) -> None:
        """Raises ValueError where the installed data is not what the run was trained on."""
        self.check_fingerprint(corpus.fingerprint, path)

    def build_model(self, backend: str | None) -> MultimodalModel:
        """The model with its weights, on a backend of choice."""
        model = MultimodalModel(self.config, self.sizes, backend)
        self.load_weights(model)
        return model
