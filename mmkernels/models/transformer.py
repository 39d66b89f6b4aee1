"""Transformer layers in every style that the systems need: norm first or last, gated or not, over segments or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mmkernels.mask import Mask
from mmkernels.models.config import TransformerConfig
from mmkernels.nn import CrossAttention, SelfAttention

Stream = TypeVar("Stream", Tensor, list[Tensor])
"""(B, L, width), or a list of segments of one sequence, each (B, L_s, width)."""


class QuickGelu(nn.Module):
    """`x * sigmoid(1.702 x)`, which CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


ACTIVATION_MODULES: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "quick_gelu": QuickGelu,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


class GatedMlp(nn.Module):
    """`down(activation(gate(x)) * up(x))`. Source: Shazeer, "GLU variants improve Transformer", 2020."""

    def __init__(self, width: int, hidden: int, activation: str, bias: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias)
        self.up = nn.Linear(width, hidden, bias)
        self.activation = ACTIVATION_MODULES[activation]()
        self.down = nn.Linear(hidden, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate(x)) * self.up(x))


def make_norm(config: TransformerConfig) -> nn.Module:
    """The norm of a stack's layers."""
    kind = nn.LayerNorm if config.norm == "layer" else nn.RMSNorm
    return kind(config.width, eps=config.norm_eps)


def make_mlp(config: TransformerConfig) -> nn.Module:
    """The two (gated: three) products of a layer that see one token at a time."""
    if config.gated:
        return GatedMlp(config.width, config.mlp, config.activation, config.bias)
    return nn.Sequential(
        nn.Linear(config.width, config.mlp, config.bias),
        ACTIVATION_MODULES[config.activation](),
        nn.Linear(config.mlp, config.width, config.bias),
    )


def each(function: Callable[..., Tensor], *tokens: Any) -> Any:
    """function(x, y, ...), of every segment where tokens come in segments."""
    if isinstance(tokens[0], Tensor):
        return function(*tokens)
    return [function(*segment) for segment in zip(*tokens, strict=True)]


def local(window: int | None, causal: bool) -> Mask | None:
    """Who sees whom by position: everyone, what came before, or what is near."""
    if window is not None:
        return Mask.window(window, 0 if causal else window)
    return Mask.causal() if causal else None


def both(a: Mask | None, b: Mask | None) -> Mask | None:
    """The intersection, None being everyone."""
    return b if a is None else a if b is None else a & b


class ResidualBlock(nn.Module):
    """A layer's residual branches, each with its norm: before it (pre-norm), or after the sum (post-norm)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first

    def add_mlp(self, config: TransformerConfig) -> None:
        """Makes the MLP half; called last, so that the weights of a layer are drawn in its order."""
        self.mlp_norm = make_norm(config)
        self.mlp = make_mlp(config)
        self.dropout = nn.Dropout(config.dropout)

    def residual(self, x: Stream, norm: nn.Module, branch: Callable[[Any], Any]) -> Stream:
        """x + branch(norm(x)), or norm(x + branch(x))."""
        if self.norm_first:
            return each(lambda a, b: a + self.dropout(b), x, branch(each(norm, x)))
        return each(lambda a, b: norm(a + self.dropout(b)), x, branch(x))

    def think(self, x: Stream) -> Stream:
        """The MLP half."""
        return self.residual(x, self.mlp_norm, lambda y: each(self.mlp, y))


class TransformerBlock(ResidualBlock):
    """Self-attention and MLP."""

    def __init__(self, config: TransformerConfig, backend: str | None) -> None:
        super().__init__(config)
        self.attention_norm = make_norm(config)
        self.attention = SelfAttention(
            config.width, config.heads, head_dim=config.head_dim, bias=config.bias, scale=config.scale,
            dropout=config.dropout, backend=backend,
        )  # fmt: skip
        self.add_mlp(config)

    def forward(self, x: Stream, mask: Mask | None = None, bias: Any = None) -> Stream:
        """Tokens to tokens; mask and bias as in `mmkernels.attention`, over all segments."""
        return self.think(self.attend(x, mask, bias))

    def attend(self, x: Stream, mask: Mask | None = None, bias: Any = None) -> Stream:
        """The self-attention half."""
        return self.residual(x, self.attention_norm, lambda y: self.attention(y, mask=mask, bias=bias))


class CrossBlock(ResidualBlock):
    """Attention to a context and, unless left out, an MLP: ViLBERT's co-attention, a resampler's layer.

    Args:
        context: width of the context.
        heads, head_dim: of the attention, where they are not the stack's.
        mlp: False for the attention half alone (in T5's decoder the MLP is the layer's own).
    """

    def __init__(
        self, config: TransformerConfig, context: int, backend: str | None, *, heads: int | None = None,
        head_dim: int | None = None, mlp: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(config)
        self.cross_norm = make_norm(config)
        self.cross = CrossAttention(
            config.width, context, heads or config.heads, head_dim=head_dim or config.head_dim, bias=config.bias,
            scale=config.scale, dropout=config.dropout, backend=backend,
        )  # fmt: skip
        self.thinks = mlp
        if mlp:
            self.add_mlp(config)
        else:
            self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, context: Tensor | Sequence[Tensor], mask: Mask | None = None) -> Tensor:
        """x (B, L, width) looks at the context, one tensor or a list of segments."""
        x = self.residual(x, self.cross_norm, lambda y: self.cross(y, context, mask=mask))
        return self.think(x) if self.thinks else x
