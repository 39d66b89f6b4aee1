"""Where a system looks: weights of its last attention over picture tokens, recomputed from lse for one example."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmkernels.models.attention_maps import WordMaps, cross_weights, self_weights
from mmkernels.models.config import PictureConfig
from mmkernels.models.interaction import CoAttention, SingleStream
from mmkernels.models.tokenizer import BOS, Tokens
from mmkernels.models.towers import VitTower
from mmkernels.models.zoo.decoder import Context
from mmkernels.models.zoo.system import System
from mmkernels.models.zoo.task import Task
from mmkernels.nn import CrossAttention, SelfAttention


@torch.no_grad()
def look(system: System, task: Task, picture: Tensor, text: str) -> WordMaps | None:
    """Each word of a text, or the class token, over a picture (3, S, S); None where nothing of that kind attends.

    A decoder whose pictures are resampled has no map: its latents stand nowhere.
    """
    if system.config.image is not None and not isinstance(system.config.image, PictureConfig):
        return None  # frames and spectrograms have no such grid of cells
    system.eval()
    pictures = picture[None]
    if isinstance(system.interaction, (SingleStream, CoAttention)):
        tokens = task.encode([text], 2 + len(text.split()))
        layer = _last(system.interaction, CrossAttention) or _last(system.interaction, SelfAttention)
        seen = _inputs_of(layer, lambda: system.join(tokens, system.see(pictures)))
        return _word_maps(system, task, layer, seen, tokens)
    if system.decoder is not None and system.decoder.resampler is None and system.config.image is not None:
        ids = task.encode([text], 2 + len(text.split())).ids[:, 1:-1]
        fed = Tokens(torch.cat([torch.tensor([[BOS]]), ids[:, :-1]], 1), torch.tensor([ids.shape[1]]))
        layer = _last(system.decoder, CrossAttention)
        image = system.see(pictures)
        context = Context(image, None, system.picture_vector(image))
        seen = _inputs_of(layer, lambda: system.write(fed, context))
        weights = cross_weights(layer, *seen)[0].mean(0)
        return WordMaps(task.tokenizer.pieces(ids[0].tolist()), _grid(weights, system.image_tower.prefix))
    tower = getattr(system, "image_tower", None)
    if isinstance(tower, VitTower) and tower.prefix:
        layer = _last(tower, SelfAttention)
        seen = _inputs_of(layer, lambda: system.see(pictures))
        return WordMaps(["class token"], _grid(self_weights(layer, seen)[0].mean(0)[:1], 1))
    return None


def _word_maps(system: System, task: Task, layer: Any, seen: Any, tokens: Tokens) -> WordMaps:
    count = tokens.ids.shape[1]
    prefix = system.image_tower.prefix
    if isinstance(layer, CrossAttention):
        weights = cross_weights(layer, *seen)[0].mean(0)
    else:
        segments = seen[0]
        every = self_weights(layer, segments)[0].mean(0)
        weights = every[:count, every.shape[1] - segments[-1].shape[1] :]
    words = task.tokenizer.pieces(tokens.ids[0, 1:-1].tolist())
    return WordMaps(words, _grid(weights[1 : count - 1], prefix))


def _last(part: nn.Module, kind: type[nn.Module]) -> Any:
    """The last layer of a kind that attends to pictures; of co-attention, the one whose queries are words."""
    if isinstance(part, CoAttention) and kind is CrossAttention:
        return part.layers[-1].text_look.cross
    return next((module for module in reversed(list(part.modules())) if isinstance(module, kind)), None)


def _inputs_of(layer: nn.Module, run: Any) -> tuple[Any, ...]:
    """What a layer was given, by position, when `run` ran."""
    seen: list[tuple[Any, ...]] = []
    hook = layer.register_forward_pre_hook(lambda module, arguments: seen.append(arguments))
    try:
        run()
    finally:
        hook.remove()
    return seen[-1]


def _grid(weights: Tensor, prefix: int) -> Tensor:
    """(words, [class +] N) -> (words, side, side)."""
    weights = weights[:, prefix:]
    side = round(weights.shape[-1] ** 0.5)
    return weights.reshape(-1, side, side)
