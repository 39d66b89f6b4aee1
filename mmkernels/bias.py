"""Biases that are added to attention logits without building a (query x key) matrix, and their lowering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

BIAS_NONE, BIAS_DENSE, BIAS_RELATIVE, BIAS_DECOMPOSED = range(4)


@dataclass(frozen=True, eq=False)
class RelativeBias:
    """A bias that depends on the distance of key and query only (T5, ALiBi).

    Pair (h, i, j) gets `table[h, j - i + Lq - 1]`.

    Args:
        table: (Hq or 1, Lq + Lk - 1), floating. With packed sequences the indices are local to each sequence and
            the table is (Hq or 1, max_seqlen_q + max_seqlen_k - 1), entry `j - i + max_seqlen_q - 1`.

    Source: Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer", 2020.
    """

    table: Tensor

    def to_dense(self, q_len: int, k_len: int) -> Tensor:
        """The same bias as a tensor (1, Hq or 1, q_len, k_len)."""
        return relative_to_dense(self.table, q_len, k_len, q_len - 1)


@dataclass(frozen=True, eq=False)
class DecomposedBias:
    """A bias over keys on a grid, the sum of a row part and a column part (SAM, MViTv2).

    Pair (b, h, i, j) gets `rel_h[b, h, i, j // kw] + rel_w[b, h, i, j % kw]`, where the keys are a kh x kw grid.

    Args:
        rel_h: (B or 1, Hq or 1, Lq or 1, kh), floating.
        rel_w: (B or 1, Hq or 1, Lq or 1, kw), floating; kh * kw = Lk.

    Source: Li et al., "MViTv2: improved multiscale vision transformers", 2022.
    """

    rel_h: Tensor
    rel_w: Tensor

    def to_dense(self) -> Tensor:
        """The same bias as a tensor (B or 1, Hq or 1, Lq or 1, kh * kw)."""
        return decomposed_to_dense(self.rel_h, self.rel_w)


def relative_to_dense(table: Tensor, q_len: int, k_len: int, zero: int) -> Tensor:
    """`table[:, key - query + zero]` as (1, H, q_len, k_len)."""
    query = torch.arange(q_len, device=table.device)
    key = torch.arange(k_len, device=table.device)
    return table[:, key[None, :] - query[:, None] + zero][None]


def decomposed_to_dense(rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """`rel_h[..., key // kw] + rel_w[..., key % kw]`, axes of size 1 kept."""
    return (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)


def _check_float(name: str, value: Any, device: torch.device | None) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be a floating point tensor, got dtype {value.dtype}")
    if value.layout != torch.strided:
        raise TypeError(f"{name} has layout {value.layout}, expected a strided tensor")
    if device is not None and value.device != device:
        raise ValueError(f"{name} is on {value.device}, but query is on {device}")


def _check_broadcast(name: str, shape: torch.Size, expected: tuple[int, ...], axes: str) -> None:
    if len(shape) != len(expected) or any(s != e and s != 1 for s, e in zip(shape, expected, strict=True)):
        raise ValueError(f"{name} has shape {tuple(shape)}, expected {axes} = {tuple(expected)}, any axis may be 1")


def lower_bias(
    bias: Tensor | RelativeBias | DecomposedBias | None,
    *,
    batch: int,
    heads: int,
    q_len: int,
    k_len: int,
    device: torch.device | None = None,
) -> tuple[list[Tensor], int, int]:
    """Check a bias against the call and turn it into plain tensors.

    With packed sequences `batch` is the number of sequences and `q_len`, `k_len` are the longest lengths.

    Returns:
        (tensors, bias_kind, relative_zero) as in docs/architecture.md; a dense bias comes back with four axes.

    Raises:
        TypeError: not a bias, or not floating point.
        ValueError: a shape that does not broadcast, or another device than the query's.
    """
    if bias is None:
        return [], BIAS_NONE, 0
    if isinstance(bias, RelativeBias):
        table = bias.table
        _check_float("bias.table", table, device)
        # No table entry is read when there are no pairs, and Lq + Lk - 1 is -1 at the least.
        expected = max(q_len + k_len - 1, 0)
        # Spelt out: torch.compile does not look into a tuple of symbolic sizes.
        wrong_heads = table.dim() == 2 and table.shape[0] != 1 and table.shape[0] != heads
        if table.dim() != 2 or wrong_heads or table.shape[1] != expected:
            raise ValueError(
                f"bias.table has shape {tuple(table.shape)}, expected (Hq or 1, Lq + Lk - 1) = ({heads}, {expected})"
            )
        return [table], BIAS_RELATIVE, q_len - 1
    if isinstance(bias, DecomposedBias):
        rel_h, rel_w = bias.rel_h, bias.rel_w
        for name, factor in (("bias.rel_h", rel_h), ("bias.rel_w", rel_w)):
            _check_float(name, factor, device)
            axes = "(B, Hq, Lq, " + name[-1].replace("h", "kh").replace("w", "kw") + ")"
            size = factor.shape[-1] if factor.dim() else 0
            _check_broadcast(name, factor.shape, (batch, heads, q_len, size), axes)
        kh, kw = rel_h.shape[-1], rel_w.shape[-1]
        if kh * kw != k_len:
            raise ValueError(
                f"bias.rel_h and bias.rel_w describe {kh} x {kw} = {kh * kw} keys, but there are {k_len} keys"
            )
        return [rel_h, rel_w], BIAS_DECOMPOSED, 0
    if not isinstance(bias, Tensor):
        raise TypeError(f"bias must be a float tensor, RelativeBias, DecomposedBias or None, got {type(bias).__name__}")
    if bias.dtype == torch.bool:
        raise TypeError("bias must be a floating point tensor, got dtype torch.bool; give a bool tensor as mask=")
    _check_float("bias", bias, device)
    if bias.dim() > 4:
        raise ValueError(f"bias has shape {tuple(bias.shape)}, expected at most the 4 axes (B, Hq, Lq, Lk)")
    dense = bias[(None,) * (4 - bias.dim())]
    _check_broadcast("bias", dense.shape, (batch, heads, q_len, k_len), "(B, Hq, Lq, Lk)")
    return [dense], BIAS_DENSE, 0


def _register(cls: type, names: tuple[str, ...]) -> None:
    pytree.register_pytree_node(
        cls,
        lambda value: ([getattr(value, name) for name in names], None),
        lambda leaves, _: cls(*leaves),
        serialized_type_name=f"mmkernels.{cls.__name__}",
        flatten_with_keys_fn=lambda value: ([(pytree.GetAttrKey(name), getattr(value, name)) for name in names], None),
    )


_register(RelativeBias, ("table",))
_register(DecomposedBias, ("rel_h", "rel_w"))
torch.serialization.add_safe_globals([RelativeBias, DecomposedBias])
