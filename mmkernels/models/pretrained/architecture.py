"""What a page about an architecture of transformers holds, and what the pages share."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mmkernels.models.config import SystemConfig, TransformerConfig
from mmkernels.models.pretrained.table import Row

ACTIVATION_NAMES = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
POSITION_NUMBERS = (r"(.+\.)?position_ids", "the numbers 0, 1, 2, ... of the positions")


@dataclass(frozen=True)
class Architecture:
    """An architecture of transformers, and where its tensors are in a system of the zoo.

    Args:
        name: its `model_type`.
        heads: objectives whose heads come with the weights, each with a tensor there that tells so.
        rows: the table of names, those of the class with all heads.
        configure: a configuration of transformers, and the tensors if there are any, to a system's configuration.
        renames: regular expressions that bring names of other classes and of older versions to those of the table.
        same: tensors there that are another one under a second name.
        left_out: patterns of names, and why these tensors have no place here.
    """

    name: str
    heads: Mapping[str, str]
    rows: tuple[Row, ...]
    configure: Callable[[Any, Mapping[str, Tensor] | None], SystemConfig]
    renames: tuple[tuple[str, str], ...] = ()
    same: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[tuple[str, str], ...] = ()

    def canonical(self, name: str) -> str:
        """The name that the table has for a tensor there."""
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name

    def why_left_out(self, name: str) -> str | None:
        """Why a tensor there has no place here; None: it has one, or is not known."""
        return next((reason for pattern, reason in self.left_out if re.fullmatch(pattern, name)), None)

    def objectives(self, names: Collection[str] | None) -> list[str]:
        """Objectives whose heads are among these canonical names; None: all."""
        return [objective for objective, name in self.heads.items() if names is None or name in names]


def activation(name: Any) -> str:
    """Our name of an activation of theirs.

    Raises:
        ValueError: none of ours is it.
    """
    if name not in ACTIVATION_NAMES:
        raise ValueError(f"hidden_act must be one of {', '.join(ACTIVATION_NAMES)}, got {name!r}")
    return ACTIVATION_NAMES[name]


def transformer(config: Any, norm_first: bool = True) -> TransformerConfig:
    """The layers of an encoder, of the fields that most configurations there have."""
    return TransformerConfig(
        config.hidden_size,
        config.num_attention_heads,
        config.num_hidden_layers,
        config.intermediate_size,
        activation=activation(config.hidden_act),
        norm_eps=config.layer_norm_eps,
        norm_first=norm_first,
    )


def must_be(config: Any, **expected: Any) -> None:
    """Raises ValueError where a configuration asks for what the parts here cannot do."""
    for name, value in expected.items():
        found = getattr(config, name, value)
        if found != value:
            raise ValueError(f"{name} must be {value!r} for the towers here, got {found!r}")


def one_number(name: str, value: Any) -> int:
    """A size that is the same in both directions.

    Raises:
        ValueError: it is not.
    """
    sizes = {value} if isinstance(value, int) else set(value)
    if len(sizes) != 1:
        raise ValueError(f"{name} must be one number for both directions, got {value!r}")
    return sizes.pop()
