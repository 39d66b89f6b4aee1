"""One row of the table of models: a tiny random model, inputs with padding, and how its attention is served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Row:
    """A model and what one forward of it must do.

    Attributes:
        build: the model, on the library's eager attention, in evaluation mode.
        inputs: keyword arguments of its forward.
        outputs: the tensors to compare, real tokens only: what padded rows hold is nobody's business.
        calls: how many attention calls of mmkernels one forward makes.
        compiled_calls: how many are left when compiled, where some have results that nobody reads.
        patched: served by `mmk.patch`; otherwise by `set_attn_implementation` alone.
        compiles: whether the model itself allows torch.compile(fullgraph=True).
        drops: whether its attention has dropout, and its forward in training has no other chance.
        slow: not in the sample that every run takes.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[nn.Module], dict[str, Any]]
    outputs: Callable[[Any, dict[str, Any]], list[Tensor]]
    calls: int
    patched: bool = True
    compiles: bool = True
    drops: bool = True
    slow: bool = True
    compiled_calls: int | None = None


def randomize(model: nn.Module) -> nn.Module:
    """Every parameter random: products keep their size, norms stay near 1, gates and tables leave 0."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 1.3 * parameter[0].numel() ** -0.5)
            elif bool((parameter == 1).all()):
                parameter.normal_(1, 0.2)
            else:
                parameter.normal_(0, 0.3)
    return model.eval()


def only(out: Tensor, inputs: dict[str, Any]) -> list[Tensor]:
    """The outputs of a model that returns one tensor without padding."""
    return [out]


def real(states: Tensor, attention_mask: Tensor) -> Tensor:
    """The rows of real tokens of (B, L, width)."""
    return states[attention_mask.bool()]


def padding(batch: int = 2, length: int = 9, short: int = 5, left: bool = False) -> Tensor:
    """An attention mask whose last entry has `short` real tokens."""
    mask = torch.ones(batch, length, dtype=torch.long)
    if left:
        mask[-1, : length - short] = 0
    else:
        mask[-1, short:] = 0
    return mask


def ids(shape: tuple[int, ...], low: int = 3, high: int = 90) -> Tensor:
    """Token ids that are none of the special ones."""
    return torch.randint(low, high, shape)
