"""What a mask tensor that a model hands to its attention layers says, found out once and not in every layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from mmkernels.bias import DecomposedBias, RelativeBias
from mmkernels.mask import Mask, values_may_be_read

Given = tuple[Mask | None, Tensor | None]
Bias = Tensor | RelativeBias | DecomposedBias
Found = TypeVar("Found")

# By the tensor's identity: (its version, what it says). No entry refers to its own key, so it goes with the tensor.
_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_hidden: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def remember(tensor: Tensor, mask: Mask) -> Tensor:
    """Let `mask_and_bias` answer for this bool tensor with a mask that says the same in less memory."""
    if not torch.compiler.is_compiling():
        _known[tensor] = (_version(tensor), (mask, None))
    return tensor


def mask_and_bias(given: Tensor | None) -> Given:
    """(mask, bias) of attention for a model's mask: True of a bool tensor is visible, a float tensor is added.

    A float tensor of nothing but 0 and its dtype's lowest number (or -inf) becomes a mask, if its values may be read
    and no row is without a 0: in such a row the lowest number everywhere is uniform attention over every key, as the
    models compute it, and stays a bias.
    """
    if given is None:
        return None, None
    if torch.compiler.is_compiling() or type(given) is not Tensor or given.requires_grad:
        return _read(given)
    return _once(_known, given, _read)


def hidden(given: Tensor | None) -> Tensor | None:
    """A mask of torch.nn with bool instead of 0 and -inf, where it is that and its values may be read."""
    if given is None or not given.is_floating_point() or given.requires_grad or not values_may_be_read(given):
        return given
    found = _once(_hidden, given, _as_bool)
    return given if found is None else found


def add_biases(position: Bias | None, mask: Tensor | None, q_len: int, k_len: int) -> Bias | None:
    """A model's position bias and its additive mask as one bias; built as a matrix only if there are both."""
    if position is None or mask is None:
        return mask if position is None else position
    if isinstance(position, RelativeBias):
        return position.to_dense(q_len, k_len) + mask
    return (position.to_dense() if isinstance(position, DecomposedBias) else position) + mask


def _once(known: WeakTensorKeyDictionary, given: Tensor, find: Callable[[Tensor], Found]) -> Found:
    """What `find` says of a tensor, asked again only when the tensor has changed."""
    entry = known.get(given)
    if entry is None or entry[0] != _version(given):
        # A detached alias shares data and version, but holds no reference to the key.
        entry = known[given] = (_version(given), find(given.detach()))
    return entry[1]


def _as_bool(given: Tensor) -> Tensor | None:
    found = given == -torch.inf
    return found if bool((found | (given == 0)).all()) else None


def _read(given: Tensor) -> Given:
    if given.dtype == torch.bool:
        return Mask.dense(given), None
    if given.requires_grad or given.numel() == 0 or not values_may_be_read(given):
        return None, given
    return _as_mask(given)


def _as_mask(bias: Tensor) -> Given:
    # In float16 the lowest number is in reach of logits.
    if bias.dtype not in (torch.float32, torch.bfloat16, torch.float64):
        return None, bias
    visible = bias == 0
    lowest = bias <= torch.finfo(bias.dtype).min
    if bool((visible | lowest).all()) and bool(visible.any(-1).all()):
        rows_agree = visible.dim() == 4 and visible.shape[2] > 1 and bool((visible == visible[:, :, :1]).all())
        return Mask.dense(visible[:, :, :1] if rows_agree else visible), None
    return None, bias


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version
