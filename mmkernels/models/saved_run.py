"""A run on the disk: everything it needs to go on as if it had never stopped, in one sealed safetensors file.

Batches are a function of (seed, step), so that the order of the data and Python's randomness need no state of their
own; torch's generator, which dropout draws from, is saved.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from mmkernels.models.sealed import load_sealed, save_sealed

FILE_NAME = "checkpoint.safetensors"
Run = TypeVar("Run", bound="SavedRun")


@dataclass(kw_only=True)
class SavedRun:
    """A run at one step. `history` holds the losses of every step so far, by stage, one column per name.

    A subclass adds fields: tensors by name in the groups that GROUPS names, and what it packs into JSON itself.
    """

    KIND: ClassVar[str]
    GROUPS: ClassVar[tuple[str, ...]] = ("model", "optimizer", "history")

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

    def pack(self) -> dict[str, Any]:
        """The subclass's own fields, but for groups of tensors, as JSON values."""
        return {}

    @classmethod
    def unpack(cls, header: dict[str, Any]) -> dict[str, Any]:
        """What `pack` was given: keyword arguments.

        Raises:
            KeyError, TypeError, ValueError: the header is of another version.
        """
        return {}

    def save(self, path: Path) -> None:
        """Writes the file; the previous checkpoint stays until this one is complete on the disk."""
        tensors = {f"{group}/{name}": t for group in self.GROUPS for name, t in getattr(self, group).items()}
        tensors["rng/torch"] = self.torch_rng
        metadata = {
            **self.pack(),
            **{name: getattr(self, name) for name in PLAIN},
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        save_sealed(path, self.KIND, tensors, metadata)

    @classmethod
    def load(cls: type[Run], path: Path) -> Run:
        """Reads a checkpoint.

        Raises:
            ValueError: there is none, it is damaged, or not a checkpoint of this version; in one sentence.
        """
        tensors, metadata = load_sealed(path, cls.KIND)
        groups: dict[str, dict[str, Tensor]] = {group: {} for group in cls.GROUPS}
        try:
            torch_rng = tensors.pop("rng/torch")
            for full_name, tensor in tensors.items():
                group, _, name = full_name.partition("/")
                groups[group][name] = tensor
            plain: dict[str, Any] = {name: metadata[name] for name in PLAIN}
            return cls(**{**cls.unpack(metadata), **plain, **groups, "torch_rng": torch_rng})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is a checkpoint of another version of mmkernels ({error})") from None

    def check_fingerprint(self, fingerprint: str, path: Path) -> None:
        """Raises ValueError where the data at hand is not what the run was trained on."""
        if self.fingerprint != fingerprint:
            raise ValueError(
                f"{path} was trained on other data (fingerprint {self.fingerprint}, installed packages give "
                f"{fingerprint}): install the versions of constraints.txt"
            )

    def load_weights(self, model: nn.Module) -> None:
        """Puts the weights into a model of the same sizes.

        Raises:
            ValueError: the model has other parameters.
        """
        try:
            model.load_state_dict(self.model)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise ValueError(f"the checkpoint's weights are of another model than this one: {reason}") from None


PLAIN = tuple(f.name for f in fields(SavedRun) if f.name not in (*SavedRun.GROUPS, "torch_rng"))
"""Fields that JSON takes as they are."""


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
