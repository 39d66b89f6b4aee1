"""The checks of attention's front: shapes, dtypes, devices and plain numbers. No value of a tensor is read."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkernels.mask_call import as_int32

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MAX_HEAD_DIM = 512
ZERO_OFFSETS = (0, 0, 0, 0)
HUGE = float("inf")


class Names(NamedTuple):
    """What messages call the operands; ``listed``: keys and values are lists, and the segment is named too."""

    query: str = "query"
    keys: str = "key"
    values: str = "value"
    listed: bool = False


SINGLE, LISTED = Names(), Names(listed=True)


def segments_of(name: str, value: Any) -> list[Tensor]:
    """A tensor, or a list or tuple of at least one tensor, as a list."""
    if isinstance(value, Tensor):
        check_tensor(name, value)
        return [value]
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name} must be a tensor or a list of tensors (segments), got {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} is an empty list, expected at least one segment")
    for index, segment in enumerate(value):
        check_tensor(f"{name}[{index}]", segment)
    return list(value)


def check_tensor(name: str, value: Any) -> None:
    """Raise unless the value is a tensor that has one shape."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.is_nested:
        raise TypeError(f"{name} is a nested tensor: pack it for attention_varlen, or pad it")


def _each(name: str, segments: Sequence[Tensor], listed: bool) -> list[str]:
    return [f"{name}[{index}]" for index in range(len(segments))] if listed else [name]


def check_operands(query: Tensor, keys: list[Tensor], values: list[Tensor], names: Names = SINGLE) -> int:
    """Check query (B, Hq, Lq, D) against keys (B, Hk, Lk, D) and values (B, Hk, Lk, Dv); return the batch."""
    if len(keys) != len(values):
        raise ValueError(
            f"{names.values} has {len(values)} segments, expected {len(keys)}, one for each segment of {names.keys}"
        )
    key_names, value_names = _each(names.keys, keys, names.listed), _each(names.values, values, names.listed)
    everything = [(names.query, query), *zip(key_names, keys, strict=True), *zip(value_names, values, strict=True)]
    for name, tensor in everything:
        if tensor.dim() != 4:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected 4 axes (batch, heads, length, head dimension)"
            )
    _check_common(everything)
    _check_heads(query, keys, values, names)
    batch = query.shape[0]
    for name, tensor in everything:
        size = tensor.shape[0]
        if size == batch:  # asked first: a compiler knows it of equal symbols, whatever their values
            continue
        if batch != 1 and size != 1:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected a batch of {batch} or 1 as the others have"
            )
        batch = size if batch == 1 else batch
    for name, key, value_name, value in zip(key_names, keys, value_names, values, strict=True):
        if key.shape[2] != value.shape[2]:
            raise ValueError(
                f"{value_name} has shape {tuple(value.shape)}, expected the {key.shape[2]} tokens of {name} "
                f"{tuple(key.shape)}"
            )
    return batch


def check_operands_varlen(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> None:
    """Check packed query (T, Hq, D), key (Tk, Hk, D) and value (Tk, Hk, Dv)."""
    key, value = keys[0], values[0]
    everything = [("query", query), ("key", key), ("value", value)]
    for name, tensor in everything:
        if tensor.dim() != 3:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected 3 axes (tokens, heads, head dimension)")
    _check_common(everything)
    _check_heads(query, keys, values, SINGLE)
    if key.shape[0] != value.shape[0]:
        raise ValueError(
            f"value has shape {tuple(value.shape)}, expected the {key.shape[0]} tokens of key {tuple(key.shape)}"
        )


def _check_common(everything: list[tuple[str, Tensor]]) -> None:
    first, query = everything[0]
    for name, tensor in everything:
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name} has dtype {tensor.dtype}, expected one of {', '.join(map(str, DTYPES))}")
        if tensor.dtype != query.dtype:
            raise TypeError(f"{name} has dtype {tensor.dtype}, expected {first}'s {query.dtype}")
        if tensor.device != query.device:
            raise ValueError(f"{name} is on {tensor.device}, expected {first}'s device {query.device}")
        if tensor.layout != torch.strided:
            raise TypeError(f"{name} has layout {tensor.layout}, expected a strided tensor")


def _check_heads(query: Tensor, keys: list[Tensor], values: list[Tensor], names: Names) -> None:
    """Heads are axis 1, padded or packed."""
    key_names, value_names = _each(names.keys, keys, names.listed), _each(names.values, values, names.listed)
    heads_q, heads_k = query.shape[1], keys[0].shape[1]
    head_dim, value_dim = query.shape[-1], values[0].shape[-1]
    for name, dim, tensor in ((names.query, head_dim, query), (value_names[0], value_dim, values[0])):
        if not 1 <= dim <= MAX_HEAD_DIM:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected a head dimension from 1 to {MAX_HEAD_DIM}"
            )
    if heads_k == 0 or heads_q % heads_k:
        raise ValueError(
            f"{names.query} has {heads_q} heads (shape {tuple(query.shape)}), expected a multiple of the {heads_k} "
            f"heads of {key_names[0]} (shape {tuple(keys[0].shape)})"
        )
    for name, key in zip(key_names, keys, strict=True):
        if key.shape[1] != heads_k:
            raise ValueError(f"{name} has {key.shape[1]} heads (shape {tuple(key.shape)}), expected {heads_k}")
        if key.shape[-1] != head_dim:
            raise ValueError(f"{name} has shape {tuple(key.shape)}, expected {names.query}'s head dimension {head_dim}")
    for name, value in zip(value_names, values, strict=True):
        if value.shape[1] != heads_k:
            raise ValueError(f"{name} has {value.shape[1]} heads (shape {tuple(value.shape)}), expected {heads_k}")
        if value.shape[-1] != value_dim:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, expected a head dimension of {value_dim}")


def check_number(name: str, value: Any) -> float:
    """A finite Python number as a float."""
    symbolic = isinstance(value, (torch.SymFloat, torch.SymInt))
    if isinstance(value, bool) or not (symbolic or isinstance(value, numbers.Real)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    value = float(value)
    if not -HUGE < value < HUGE:  # math.isfinite takes no symbolic number
        raise ValueError(f"{name} must be finite, got {value}")
    return value


def check_softcap(softcap: Any) -> float:
    """None becomes 0.0 (no softcap); anything else must be above 0."""
    if softcap is None:
        return 0.0
    value = check_number("softcap", softcap)
    if value <= 0:
        raise ValueError(f"softcap must be above 0 (None for no softcap), got {value}")
    return value


def check_dropout(dropout_p: Any) -> float:
    """A probability in [0, 1]."""
    value = check_number("dropout_p", dropout_p)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"dropout_p must be in [0, 1], got {value}")
    return value


def resolve_seed(seed: Any, device: torch.device) -> Tensor:
    """The dropout seed as an int64 tensor of shape () on the device; None draws it from torch's generator."""
    if seed is None:
        return torch.randint(0, 2**63 - 1, (), dtype=torch.int64, device=device)
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64:
            raise TypeError(f"seed has dtype {seed.dtype}, expected torch.int64")
        if seed.numel() != 1:
            raise ValueError(f"seed has shape {tuple(seed.shape)}, expected one element")
        if seed.device != device:
            raise ValueError(f"seed is on {seed.device}, expected query's device {device}")
        return seed.reshape(()) if seed.dim() else seed
    return torch.full((), int_seed(seed), dtype=torch.int64, device=device)


def int_seed(seed: Any) -> int:
    """A Python seed as a signed 64-bit number with the same bits."""
    if isinstance(seed, bool) or not isinstance(seed, (numbers.Integral, torch.SymInt)):
        raise TypeError(f"seed must be None, an int or an int64 tensor, got {type(seed).__name__}")
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed must fit in 64 bits, got {seed}")
    return int(seed) - 2**64 if seed >= 2**63 else int(seed)


def check_seed(seed: Any, device: torch.device) -> None:
    """The checks of ``resolve_seed`` where there is no dropout and the seed is not used."""
    if seed is not None:
        resolve_seed(seed, device) if isinstance(seed, Tensor) else int_seed(seed)


def check_offsets(offsets: Any) -> tuple[int, ...]:
    """Dropout offsets (batch, head, query, key), each in [0, 2**32)."""
    if offsets is None:
        return ZERO_OFFSETS
    if not isinstance(offsets, (list, tuple)):
        raise TypeError(f"dropout_offsets must be four ints (batch, head, query, key), got {type(offsets).__name__}")
    if len(offsets) != 4:
        raise ValueError(f"dropout_offsets must be four ints (batch, head, query, key), got {len(offsets)} values")
    for value in offsets:
        if isinstance(value, bool) or not isinstance(value, (numbers.Integral, torch.SymInt)):
            raise TypeError(f"dropout_offsets must be four ints (batch, head, query, key), got {offsets!r}")
        if not 0 <= value < 2**32:
            raise ValueError(f"dropout_offsets must be in [0, 2**32), got {offsets!r}")
    return tuple(offsets)


def check_cu_seqlens(name: str, value: Any, device: torch.device) -> Tensor:
    """Cumulative sequence lengths as a dense int32 tensor of shape (sequences + 1,)."""
    check_tensor(name, value)
    if value.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name} has dtype {value.dtype}, expected torch.int32")
    if value.dim() != 1 or value.shape[0] < 1:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected (sequences + 1,)")
    if value.device != device:
        raise ValueError(f"{name} is on {value.device}, expected query's device {device}")
    return as_int32(value).contiguous()


def check_max_seqlen(name: str, value: Any) -> int | None:
    """A length that no sequence exceeds, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (numbers.Integral, torch.SymInt)):
        raise TypeError(f"{name} must be an int or None, got {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{name} must not be negative, got {value}")
    return value
