"""Which part of the picture a word looks at: attention weights, recomputed from lse for a few examples only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmkernels.mask import Mask
from mmkernels.models.model import MultimodalModel
from mmkernels.models.tokenizer import BOS, Tokens
from mmkernels.nn import CrossAttention, SelfAttention
from mmkernels.ops.attention.api import attention

Pieces = Callable[[list[int]], list[str]]
"""Ids to words: `WordTokenizer.pieces`."""


@dataclass(frozen=True)
class WordMaps:
    """One text over one picture: `weights[i]` is word i's attention over the picture's cells, (words, side, side)."""

    words: list[str]
    weights: Tensor


def attention_weights(query: Tensor, key: Tensor, mask: Mask | None = None, scale: float | None = None) -> Tensor:
    """The probabilities that attention never stores: `exp(logits - lse)`.

    Args:
        query, key: (B, H, Lq, D), (B, H, Lk, D).

    Returns:
        (B, H, Lq, Lk) in fp32. Rows sum to 1, or to 0 where a row sees no key.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    _, lse = attention(query, key, key, mask=mask, scale=scale, return_lse=True)
    logits = scale * query.float() @ key.float().transpose(-1, -2)
    if mask is not None:
        visible = mask.to_dense(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        logits = logits.masked_fill(~visible, -torch.inf)
    return torch.where(lse[..., None] == -torch.inf, 0.0, (logits - lse[..., None]).exp())


def cross_weights(layer: CrossAttention, x: Tensor, context: Tensor) -> Tensor:
    """What a cross-attention layer's heads attend to, given the layer's own inputs: (B, heads, L, Lk)."""
    query = layer.q(x).unflatten(-1, (layer.heads, layer.head_dim)).transpose(1, 2)
    key = layer.kv(context).chunk(2, -1)[0].unflatten(-1, (layer.kv_heads, layer.head_dim)).transpose(1, 2)
    return attention_weights(layer.q_norm(query), layer.k_norm(key), scale=layer.scale)


def self_weights(layer: SelfAttention, segments: Sequence[Tensor]) -> Tensor:
    """What a self-attention layer's heads attend to, given its inputs: (B, heads, L, L), the segments in a row."""
    query, key, _ = (torch.cat(part, 2) for part in zip(*(layer.heads_of(x) for x in segments)))
    return attention_weights(query, key, scale=layer.scale)


@torch.no_grad()
def caption_maps(model: MultimodalModel, picture: Tensor, words: Pieces) -> WordMaps:
    """A caption that the model writes, each word over the picture when it was written; picture (3, 32, 32)."""
    images = model.image_tower(picture[None])
    ids = model.captioner.generate(images)[0]
    if not ids:
        return WordMaps([], torch.zeros(0, 1, 1))
    fed = Tokens(torch.tensor([[BOS, *ids[:-1]]]), torch.tensor([len(ids)]))
    weights = _last_look(model.captioner, lambda: model.captioner(images, fed))
    return WordMaps(words(ids), _as_maps(weights))


@torch.no_grad()
def question_maps(model: MultimodalModel, picture: Tensor, questions: Tokens, words: Pieces) -> list[WordMaps]:
    """Each question's words over its grid; picture (3, 64, 64), questions (k, L)."""
    count, length = questions.ids.shape
    weights = _last_look(model.answerer, lambda: model.answerer(picture[None], questions))
    found: list[WordMaps] = []
    for text, real in zip(weights.view(count, length, -1), questions.lengths.tolist()):
        ids = questions.ids[len(found), 1 : real - 1].tolist()
        found.append(WordMaps(words(ids), _as_maps(text[1 : real - 1])))
    return found


def _last_look(part: nn.Module, run: Callable[[], object]) -> Tensor:
    """Weights of the last cross-attention while `run` runs, mean over heads: (queries, keys) of batch entry 0."""
    layer = [module for module in part.modules() if isinstance(module, CrossAttention)][-1]
    seen: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[:2]))
    try:
        run()
    finally:
        hook.remove()
    return cross_weights(layer, *seen[-1])[0].mean(0)


def _as_maps(weights: Tensor) -> Tensor:
    side = round(weights.shape[-1] ** 0.5)
    return weights.reshape(-1, side, side)
