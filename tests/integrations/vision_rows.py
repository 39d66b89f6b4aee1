"""Vision transformers of timm, and CLIP and CoCa of open_clip; each imported only when its model is built."""

from __future__ import annotations

from typing import Any

import torch

from tests.integrations.rows import Row, ids, only

VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 8, "mlp_ratio": 1.5}
TEXT = {"context_length": 9, "vocab_size": 99, "width": 32, "heads": 4, "layers": 2}


def vit(**options: Any) -> Any:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(32, 8, embed_dim=32, depth=2, num_heads=4, mlp_ratio=1.5, num_classes=5, **options)


def eva() -> Any:
    from timm.models.eva import Eva

    return Eva(32, 8, embed_dim=32, depth=2, num_heads=4, mlp_ratio=1.5, num_classes=5, use_rot_pos_emb=True)


def image(model: Any) -> dict[str, Any]:
    return {"x": torch.randn(2, 3, 32, 32)}


def clip() -> Any:
    from open_clip.model import CLIP

    return CLIP(16, VISION, TEXT, output_dict=True)


def coca() -> Any:
    from open_clip.coca_model import CoCa

    vision = VISION | {
        "attentional_pool": True,
        "attn_pooler_heads": 4,
        "attn_pooler_queries": 6,
        "output_tokens": True,
    }
    return CoCa(32, TEXT | {"layers": 2, "mlp_ratio": 1.5}, TEXT | {"embed_cls": True, "output_tokens": True}, vision)


def image_and_text(model: Any) -> dict[str, Any]:
    return {"image": torch.randn(2, 3, 32, 32), "text": ids((2, 9))}


def embeddings(out: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    names = ("image_features", "text_features", "logits")
    return [out[name] for name in names if name in out]


TIMM = [
    Row("ViT", vit, image, only, 2, drops=False),
    Row("ViT, norms and attention pool", lambda: vit(qk_norm=True, global_pool="map", class_token=False), image, only,
        3, drops=False),
    Row("EVA", eva, image, only, 2, drops=False),
]  # fmt: skip

OPEN_CLIP = [
    Row("CLIP", clip, image_and_text, embeddings, 4, drops=False),
    Row("CoCa", coca, image_and_text, embeddings, 9, drops=False),
]
