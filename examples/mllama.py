"""mllama (Llama 3.2 Vision) of Hugging Face transformers on mmkernels: which text sees which tiles, as intervals.

    python examples/mllama.py [--tokens 8]

A picture is cut into tiles, and most pictures fill fewer than there are places for. The library hands its
cross-attention a dense mask of text x tiles x patches; mmkernels finds intervals of keys in it, once for all layers,
and skips the rest. Text is generated greedily, with a cache. The heads are Llama 3.2 Vision's, fewer, in fewer layers;
the weights are random: it says nothing sensible, but both say the same.
Needs `pip install "mmkernels[integrations]"`.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor
from transformers import MllamaConfig, MllamaForConditionalGeneration

import mmkernels as mmk

TILES, SIDE = 4, 280  # 401 tokens a tile; Llama's have a side of 560
PROMPT = 32


def build() -> MllamaForConditionalGeneration:
    """Random weights, on the library's eager attention; gates are opened, or no picture would be looked at."""
    torch.manual_seed(0)
    text = {
        "vocab_size": 8192, "hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8,
        "num_key_value_heads": 2, "intermediate_size": 2048, "cross_attention_layers": [1, 3],
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    }  # fmt: skip
    vision = {
        "hidden_size": 640, "attention_heads": 8, "num_hidden_layers": 2, "num_global_layers": 1, "image_size": SIDE,
        "patch_size": 14, "intermediate_size": 1280, "max_num_tiles": TILES, "vision_output_dim": 1280,
        "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1], [1, 2], [2, 2]],
    }  # fmt: skip
    config = MllamaConfig(text_config=text, vision_config=vision)
    model = MllamaForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate" in name and parameter.numel() == 1:
                parameter.fill_(1.0)
    return model


def question() -> dict[str, Tensor]:
    """A picture of two tiles and a text that sees it from its third token on."""
    seen = torch.zeros(1, PROMPT, 1, TILES, dtype=torch.long)
    seen[:, 2:, :, :2] = 1
    return {
        "input_ids": torch.randint(3, 8000, (1, PROMPT)), "attention_mask": torch.ones(1, PROMPT, dtype=torch.long),
        "pixel_values": torch.randn(1, 1, TILES, 3, SIDE, SIDE), "aspect_ratio_ids": torch.tensor([[2]]),
        "aspect_ratio_mask": torch.tensor([[[1, 1, 0, 0]]]), "cross_attention_mask": seen,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> float:
    """Print tokens and times of both; returns the largest difference of a logit, as a share of the largest logit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=8, help="to generate")
    options = parser.parse_args(arguments)

    model, inputs = build(), question()
    mmk.integrations.transformers.register()
    logits = []
    for name in ("eager", "mmkernels"):
        model.set_attn_implementation(name)
        begin = time.perf_counter()
        out = model.generate(
            **inputs, max_new_tokens=options.tokens, min_new_tokens=options.tokens, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        seconds = time.perf_counter() - begin
        logits.append(torch.stack(out.logits))
        print(f"{name:<10} {seconds:6.2f} s   tokens {out.sequences[0, PROMPT:].tolist()}")
    difference = ((logits[1] - logits[0]).abs().max() / logits[0].abs().max()).item()
    print(f"largest relative difference of a logit: {difference:.1e}")
    return difference


if __name__ == "__main__":
    main()
