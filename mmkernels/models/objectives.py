"""What the model learns: retrieval, captions and labels in the first stage, questions in the second."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmkernels.models.batches import PretrainBatch, VqaBatch
from mmkernels.models.model import MultimodalModel
from mmkernels.models.presets import Recipe
from mmkernels.models.tokenizer import PAD, Tokens
from mmkernels.ops.contrastive.api import contrastive_loss

PRETRAIN_LOSSES = ("total", "contrastive", "caption", "subgroup", "tags")
VQA_LOSSES = ("total",)


def pretrain_losses(model: MultimodalModel, batch: PretrainBatch, recipe: Recipe) -> dict[str, Tensor]:
    """The losses of the first stage by name, "total" being their weighted sum."""
    images = model.image_tower(batch.pictures)
    pooled = model.pool_image(images)
    contrastive = contrastive_loss(
        model.contrastive.embed_image(pooled),
        model.embed_texts(batch.texts),
        model.contrastive.scale,
        label_smoothing=recipe.contrastive_smoothing,
        backend=model.backends.contrastive,
    )
    count = len(batch.captions.ids)
    caption = caption_loss(
        model.captioner(images[:count], _without_last(batch.captions)), batch.captions, recipe.caption_smoothing
    )
    subgroup_logits, tag_logits = model.labels(pooled)
    subgroup = F.cross_entropy(subgroup_logits, batch.subgroups)
    # Several tags are right at once: cross entropy against their uniform distribution.
    share = batch.tags / batch.tags.sum(1, keepdim=True).clamp(min=1)
    tags = F.cross_entropy(tag_logits, share)
    total = contrastive + recipe.caption_weight * caption
    total = total + recipe.subgroup_weight * subgroup + recipe.tag_weight * tags
    return {"total": total, "contrastive": contrastive, "caption": caption, "subgroup": subgroup, "tags": tags}


def caption_loss(logits: Tensor, captions: Tokens, smoothing: float) -> Tensor:
    """Cross entropy of each next word, padding left out."""
    target = captions.ids[:, 1:]
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD, label_smoothing=smoothing)


def vqa_losses(model: MultimodalModel, batch: VqaBatch) -> dict[str, Tensor]:
    """The loss of the second stage."""
    return {"total": F.cross_entropy(model.answerer(batch.pictures, batch.questions), batch.answers)}


def _without_last(captions: Tokens) -> Tokens:
    return Tokens(captions.ids[:, :-1], captions.lengths - 1)
