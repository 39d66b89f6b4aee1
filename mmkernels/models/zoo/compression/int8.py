"""Int8 weights: every linear layer of a system, one scale for each of its rows, by torchao.

Products are computed in the activations' dtype: the weights are turned back as they are read. Convolutions, embeddings,
norms and the weights of concat-fusion stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

INNER = ":"  # between the name of a weight and that of a tensor that it is made of


def quantize(model: nn.Module) -> None:
    """Replaces the weights of linear layers by int8 ones, in place.

    Raises:
        ValueError: torchao is not installed.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise ValueError("int8 weights need torchao: pip install mmkernels[compression]") from None
    quantize_(model, Int8WeightOnlyConfig(set_inductor_config=False))


def plain_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model as plain tensors: those that an int8 weight is made of stand behind its name."""
    found: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        found.update({f"{name}{INNER}{part}": getattr(value, part) for part in _parts(value)} or {name: value})
    return found


@torch.no_grad()
def load_plain_tensors(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Puts back what `plain_tensors` took of a model of the same sizes and precision.

    Raises:
        ValueError: the tensors are of another model.
    """
    own = plain_tensors(model)
    strange = sorted(own.keys() ^ tensors.keys())
    if strange:
        raise ValueError(f"the weights are of another model than this one: {strange[0]} is not in both")
    for name, value in own.items():
        given = tensors[name]
        if (given.shape, given.dtype) != (value.shape, value.dtype):
            raise ValueError(
                f"the weights are of another model than this one: {name} is {given.dtype} {tuple(given.shape)}, "
                f"expected {value.dtype} {tuple(value.shape)}"
            )
        value.copy_(given)


def _parts(value: Any) -> list[str]:
    """Names of the tensors that a tensor subclass is made of; none for a plain tensor."""
    return list(value.__tensor_flatten__()[0]) if hasattr(value, "__tensor_flatten__") else []
