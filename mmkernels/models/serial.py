"""Configurations and recipes as JSON, both ways: the header of a checkpoint."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from mmkernels.models import config
from mmkernels.models.efficient_net import EfficientNetConfig, StageConfig
from mmkernels.models.recipe import DataConfig, TrainConfig
from mmkernels.models.regimes import DistillationConfig, PseudoLabelConfig

TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        config.TransformerConfig, config.CnnConfig, StageConfig, EfficientNetConfig, config.VitConfig,
        config.VideoConfig, config.AudioConfig, config.TextConfig, config.SingleStreamConfig, config.CoAttentionConfig,
        config.DecoderConfig, config.ContrastiveConfig, config.SystemConfig, TrainConfig, DataConfig,
        DistillationConfig, PseudoLabelConfig,
    )
}  # fmt: skip


def to_json(value: Any) -> Any:
    """A configuration as plain values; every part names its type."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **{f.name: to_json(getattr(value, f.name)) for f in fields(value)}}
    return [to_json(item) for item in value] if isinstance(value, (tuple, list)) else value


def from_json(value: Any) -> Any:
    """What `to_json` was given.

    Raises:
        ValueError: a type or a field that this version does not know.
    """
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    if not isinstance(value, dict):
        return value
    kind = TYPES.get(value.get("type", ""))
    if kind is None:
        raise ValueError(f"type must be one of {', '.join(TYPES)}, got {value.get('type')!r}")
    known = {f.name for f in fields(kind)}
    strange = sorted(value.keys() - known - {"type"})
    if strange:
        raise ValueError(f"{kind.__name__} has no field {', '.join(strange)}")
    return kind(**{name: from_json(item) for name, item in value.items() if name != "type"})
