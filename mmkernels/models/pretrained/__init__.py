"""Weights of transformers in systems of the zoo, and back: CLIP, ALIGN, ViT, BERT, T5 and FLAN-T5, of any size.

- a page for each architecture: its table of names, and how its configuration becomes a system's
- `table`: rows that are read in both directions; `loading`: strict, with an account of every tensor
- `folder`: config.json and safetensors on this machine; nothing is downloaded, nothing unpickled
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from mmkernels.models.config import SystemConfig, VitConfig
from mmkernels.models.efficient_net import EfficientNetConfig
from mmkernels.models.pretrained import align, bert, clip, loading, t5, vit
from mmkernels.models.pretrained.architecture import Architecture
from mmkernels.models.pretrained.folder import Channels, read_folder
from mmkernels.models.pretrained.loading import Report
from mmkernels.models.zoo.checkpoint import ZooCheckpoint
from mmkernels.models.zoo.system import Sizes, System

__all__ = [
    "ARCHITECTURES",
    "Loaded",
    "Report",
    "export",
    "from_folder",
    "from_transformers",
    "load",
    "start_weights",
    "system_config",
]

ARCHITECTURES: dict[str, Architecture] = {
    page.ARCHITECTURE.name: page.ARCHITECTURE for page in (clip, align, vit, bert, t5)
}


class Loaded(NamedTuple):
    """A system with a model's weights, in evaluation mode, and the account of its tensors."""

    system: System
    report: Report


def system_config(config: Any, tensors: Mapping[str, Tensor] | None = None) -> SystemConfig:
    """The system that a configuration of transformers means; dropout is left out.

    Args:
        tensors: the model's state_dict; without it, the class with all heads and without poolers.

    Raises:
        ValueError: the architecture is none of these, or has what the parts here cannot do.
    """
    page = _page(getattr(config, "model_type", None))
    return page.configure(config, None if tensors is None else _by_table(tensors, page))


def from_transformers(model: nn.Module, backend: str | None = None) -> Loaded:
    """A system with the weights of a model of transformers.

    Args:
        model: of any class of the architectures with all its towers: `CLIPModel`, `ViTModel`, `BertForMaskedLM`, ...
        backend: name of a backend of mmkernels, or None.

    Raises:
        TypeError, ValueError: as `system_config` and `load`.
    """
    return _built(model.config, model.state_dict(), None, backend)


def from_folder(path: Path, backend: str | None = None) -> Loaded:
    """A system with the weights of a folder that `save_pretrained` wrote, or that was downloaded before.

    Raises:
        ImportError: transformers is not installed; its configurations' defaults are needed.
        ValueError: as `read_folder`, `system_config` and `load`.
    """
    folder = read_folder(path, ARCHITECTURES)
    return _built(folder.config, folder.tensors, folder.pixels, backend)


def load(system: nn.Module, tensors: Mapping[str, Tensor], architecture: str, strict: bool = True) -> Report:
    """`loading.load` by the `model_type` of the architecture."""
    return loading.load(system, tensors, _page(architecture), strict)


def export(system: nn.Module, architecture: str) -> dict[str, Tensor]:
    """A system's tensors by the names of transformers: of `CLIPModel`, `AlignModel`, `ViTForImageClassification`,
    `BertForPreTraining` or `T5ForConditionalGeneration`; for `model.load_state_dict(..., strict=False)`, which sees to
    second names."""
    return loading.export(system, _page(architecture))


def start_weights(path: Path) -> dict[str, Tensor]:
    """What training may begin with, by our names: of a folder of transformers, or of a checkpoint of the zoo.

    Raises:
        ImportError, ValueError: neither can be read; in one sentence.
    """
    return dict(from_folder(path).system.state_dict()) if path.is_dir() else ZooCheckpoint.load(path).model


def _page(architecture: Any) -> Architecture:
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}")
    return ARCHITECTURES[architecture]


def _by_table(tensors: Mapping[str, Tensor], page: Architecture) -> dict[str, Tensor]:
    return {name: given.tensor for name, given in loading.canonical(tensors, page).items()}


def _built(
    config: Any, tensors: Mapping[str, Tensor], pixels: tuple[Channels, Channels] | None, backend: str | None
) -> Loaded:
    found = system_config(config, tensors)
    if pixels is not None and isinstance(found.image, (VitConfig, EfficientNetConfig)):
        found = replace(found, image=replace(found.image, mean=pixels[0], spread=pixels[1]))
    page = _page(config.model_type)
    sizes = Sizes(found.vocabulary or 0, 0, found.classes or 0)
    system = System(found, sizes, page.objectives(_by_table(tensors, page)), backend)
    return Loaded(system.eval(), loading.load(system, tensors, page))
