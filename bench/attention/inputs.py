"""The arguments of one attention call, of whichever public function, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import mmkernels as mmk

Bias = Tensor | mmk.RelativeBias | mmk.DecomposedBias


@dataclass(frozen=True, eq=False)
class Inputs:
    """One call: its operands, and how it is made."""

    function: str
    """"attention", "varlen" or "joint"."""
    queries: list[Tensor]
    """One tensor; "joint": one per segment."""
    keys: list[Tensor]
    values: list[Tensor]
    mask: mmk.Mask | None = None
    bias: Bias | None = None
    cu_seqlens_q: Tensor | None = None
    cu_seqlens_k: Tensor | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """scale, softcap, dropout_p, seed: what of them is given."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the operands."""
        return self.queries[0].dtype

    def leaves(self) -> dict[str, Tensor]:
        """Every tensor that may have a gradient, by name."""
        named: dict[str, Tensor] = {}
        for name, tensors in (("query", self.queries), ("key", self.keys), ("value", self.values)):
            named |= {f"{name} {index}": tensor for index, tensor in enumerate(tensors)}
        return named | {f"bias {index}": tensor for index, tensor in enumerate(bias_tensors(self.bias))}

    def replaced(self, leaves: Mapping[str, Tensor]) -> Inputs:
        """The same call with some of its leaves replaced."""
        new = self.leaves() | dict(leaves)

        def of(name: str) -> list[Tensor]:
            return [tensor for key, tensor in new.items() if key.split()[0] == name]

        return replace(
            self, queries=of("query"), keys=of("key"), values=of("value"), bias=_rebuilt(self.bias, of("bias"))
        )

    def to(self, device: str) -> Inputs:
        """The same call on another device, with what the host must not read there given as numbers."""
        if device == "cpu":
            return self
        options = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in self.options.items()}
        cuts = {"q": self.cu_seqlens_q, "k": self.cu_seqlens_k}
        for name, cu in cuts.items():
            if cu is not None:
                options[f"max_seqlen_{name}"] = int(cu.diff().max()) if len(cu) > 1 else 0
                cuts[name] = cu.to(device)
        moved = self.replaced({name: leaf.to(device) for name, leaf in self.leaves().items()})
        mask = None if self.mask is None else self.mask.to(device)
        return replace(moved, mask=mask, cu_seqlens_q=cuts["q"], cu_seqlens_k=cuts["k"], options=options)

    def run(self, backend: str | None = None, return_lse: bool = True) -> dict[str, Tensor]:
        """The outputs by name: "out" and "lse", "joint": one of each per query segment."""
        common: dict[str, Any] = {"mask": self.mask, "bias": self.bias, "return_lse": return_lse, "backend": backend}
        common |= self.options
        if self.function == "joint":
            found = mmk.joint_attention(self.queries, self.keys, self.values, **common)
            outs, lses = found if return_lse else (found, [])
            named = {f"out {index}": out for index, out in enumerate(outs)}
            return named | {f"lse {index}": lse for index, lse in enumerate(lses)}
        if self.function == "varlen":
            assert self.cu_seqlens_q is not None and self.cu_seqlens_k is not None
            operands = (self.queries[0], self.keys[0], self.values[0])
            found = mmk.attention_varlen(*operands, self.cu_seqlens_q, self.cu_seqlens_k, **common)
        else:
            keys, values = (x[0] if len(x) == 1 else x for x in (self.keys, self.values))
            found = mmk.attention(self.queries[0], keys, values, **common)
        return {"out": found[0], "lse": found[1]} if return_lse else {"out": found}


def bias_tensors(bias: Bias | None) -> list[Tensor]:
    """The tensors of any kind of bias."""
    if bias is None:
        return []
    if isinstance(bias, mmk.RelativeBias):
        return [bias.table]
    return [bias.rel_h, bias.rel_w] if isinstance(bias, mmk.DecomposedBias) else [bias]


def _rebuilt(bias: Bias | None, tensors: list[Tensor]) -> Bias | None:
    if bias is None:
        return None
    return tensors[0] if isinstance(bias, Tensor) else type(bias)(*tensors)
