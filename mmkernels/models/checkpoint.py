"""Checkpoints: everything a run needs to go on as if it had never stopped, in one sealed safetensors file.

Batches are a function of (seed, step), so that the order of the data and Python's randomness need no state of their
own; torch's generator, which dropout draws from, is saved.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmkernels.models.corpus import Corpus
from mmkernels.models.model import MultimodalModel, Sizes
from mmkernels.models.presets import ModelConfig, Plan, Recipe
from mmkernels.models.sealed import load_sealed, save_sealed

KIND = "checkpoint"
FILE_NAME = "checkpoint.safetensors"


@dataclass
class Checkpoint:
    """A run at one step. `history` holds the losses of every step so far, by stage, one column per name."""

    config: ModelConfig
    recipe: Recipe
    plan: Plan
    sizes: Sizes
    seed: int
    step: int
    stage: str
    backend: str | None
    fingerprint: str
    seconds: float
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    history: dict[str, Tensor]
    torch_rng: Tensor

    def save(self, path: Path) -> None:
        """Writes the file; the previous checkpoint stays until this one is complete on the disk."""
        groups = {"model": self.model, "optimizer": self.optimizer, "history": self.history}
        tensors = {f"{group}/{name}": t for group, entries in groups.items() for name, t in entries.items()}
        tensors["rng/torch"] = self.torch_rng
        metadata = {
            "config": asdict(self.config),
            "recipe": asdict(self.recipe),
            "plan": asdict(self.plan),
            "sizes": asdict(self.sizes),
            "seed": self.seed,
            "step": self.step,
            "stage": self.stage,
            "backend": self.backend,
            "fingerprint": self.fingerprint,
            "seconds": self.seconds,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        save_sealed(path, KIND, tensors, metadata)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Reads a checkpoint.

        Raises:
            ValueError: there is none, it is damaged, or not a checkpoint of this version; in one sentence.
        """
        tensors, metadata = load_sealed(path, KIND)
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "history": {}}
        try:
            torch_rng = tensors.pop("rng/torch")
            for full_name, tensor in tensors.items():
                group, _, name = full_name.partition("/")
                groups[group][name] = tensor
            config, recipe = metadata["config"], metadata["recipe"]
            return cls(
                config=ModelConfig(**{**config, "stem": tuple(config["stem"])}),
                recipe=Recipe(**{**recipe, "betas": tuple(recipe["betas"])}),
                plan=Plan(**metadata["plan"]),
                sizes=Sizes(**metadata["sizes"]),
                seed=metadata["seed"],
                step=metadata["step"],
                stage=metadata["stage"],
                backend=metadata["backend"],
                fingerprint=metadata["fingerprint"],
                seconds=metadata["seconds"],
                torch_rng=torch_rng,
                model=groups["model"],
                optimizer=groups["optimizer"],
                history=groups["history"],
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is a checkpoint of another version of mmkernels ({error})") from None

    def check_data(self, corpus: Corpus, path: Path) -> None:
        """Raises ValueError where the installed data is not what the run was trained on."""
        if self.fingerprint != corpus.fingerprint:
            raise ValueError(
                f"{path} was trained on other data (fingerprint {self.fingerprint}, installed packages give "
                f"{corpus.fingerprint}): install the versions of constraints.txt"
            )

    def build_model(self, backend: str | None) -> MultimodalModel:
        """The model with its weights, on a backend of choice."""
        model = MultimodalModel(self.config, self.sizes, backend)
        self.load_weights(model)
        return model

    def load_weights(self, model: MultimodalModel) -> None:
        """Puts the weights into a model of the same sizes.

        Raises:
            ValueError: the model has other parameters.
        """
        try:
            model.load_state_dict(self.model)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise ValueError(f"the checkpoint's weights are of another model than this one: {reason}") from None


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[Tensor, str]) -> dict[str, Tensor]:
    """Optimizer state by parameter name: "<parameter>/<entry>"."""
    return {
        f"{names[parameter]}/{entry}": value
        for parameter, state in optimizer.state.items()
        for entry, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, names: dict[Tensor, str], tensors: dict[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` took."""
    parameters = {name: parameter for parameter, name in names.items()}
    for full_name, value in tensors.items():
        name, _, entry = full_name.rpartition("/")
        parameter = parameters[name]
        if value.shape == parameter.shape:
            # The parameter's memory format (channels last) is what the fused step expects of its moments.
            value = torch.empty_like(parameter).copy_(value)
        optimizer.state[parameter][entry] = value.detach().clone(memory_format=torch.preserve_format)
