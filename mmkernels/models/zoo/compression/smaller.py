"""A smaller configuration of the same system."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from mmkernels.models.config import CnnConfig, CoAttentionConfig, ContrastiveConfig, SystemConfig, TransformerConfig


def smaller(config: SystemConfig, width: float = 0.5, layers: float = 0.5) -> SystemConfig:
    """The system with these shares of its width and of its layers; heads keep their size and become fewer.

    The space of contrastive vectors stays as wide as it is, and so does an EfficientNet.

    Raises:
        ValueError: a share is not in (0, 1].
    """
    for name, share in (("width", width), ("layers", layers)):
        if not 0 < share <= 1:
            raise ValueError(f"the share of {name} must be in (0, 1], got {share}")
    return _smaller(config, width, layers)


def _smaller(value: Any, width: float, layers: float) -> Any:
    if isinstance(value, ContrastiveConfig) or not is_dataclass(value) or isinstance(value, type):
        return value
    if isinstance(value, TransformerConfig):
        heads, head_dim = _part(value.heads, width), value.head_dim
        new_width = heads * (value.width // value.heads) if head_dim is None else _part(value.width, width)
        return replace(
            value, width=new_width, heads=heads, mlp=_part(value.mlp, width), layers=_part(value.layers, layers)
        )
    changes = {f.name: _smaller(getattr(value, f.name), width, layers) for f in fields(value)}
    if isinstance(value, CnnConfig):
        first, second = value.stem
        changes.update(width=_part(value.width, width), stem=(_part(first, width), _part(second, width)))
    if isinstance(value, CoAttentionConfig):
        changes.update(heads=_part(value.heads, width), layers=_part(value.layers, layers))
    return replace(value, **changes)


def _part(count: int, share: float) -> int:
    """That share of a number, at least 1 where there is any."""
    return min(count, max(1, round(count * share)))
