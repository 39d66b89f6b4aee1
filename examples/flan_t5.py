"""FLAN-T5 of Hugging Face transformers on mmkernels: its relative position bias stays a table, with its gradient.

    python examples/flan_t5.py [--tokens 512] [--layers 2]

`mmk.patch(model)` serves every attention of the model and reports how; `report.revert()` takes it back. The library
adds a matrix of Lq x Lk numbers for every head; here a distance has one number, and its gradient arrives where the
matrix's would: in `relative_attention_bias`. The shapes are FLAN-T5 base's, the layers fewer, the weights random.
Needs `pip install "mmkernels[integrations]"`.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch.utils.benchmark import Timer
from transformers import T5Config, T5ForConditionalGeneration

import mmkernels as mmk

TABLE = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def build(layers: int) -> T5ForConditionalGeneration:
    """Random weights, on the library's eager attention, without dropout."""
    torch.manual_seed(0)
    config = T5Config(
        d_model=768, d_kv=64, d_ff=2048, num_heads=12, num_layers=layers, num_decoder_layers=layers, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", vocab_size=8192, tie_word_embeddings=False, decoder_start_token_id=0,
    )  # fmt: skip
    return T5ForConditionalGeneration._from_config(config, attn_implementation="eager")


def texts(tokens: int) -> dict[str, Tensor]:
    """Two texts, of which the second is half as long, and what is to be answered."""
    mask = torch.ones(2, tokens, dtype=torch.long)
    mask[1, tokens // 2 :] = 0
    words = torch.randint(2, 8000, (2, tokens))
    return {"input_ids": words, "attention_mask": mask, "labels": words[:, : tokens // 4].contiguous()}


def main(arguments: list[str] | None = None) -> float:
    """Print the report, losses and times; returns the relative difference of the table's gradient."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing, each")
    options = parser.parse_args(arguments)

    model, batch = build(options.layers), texts(options.tokens)
    gradients = []
    for name in ("eager", "mmkernels"):
        if name == "mmkernels":
            report = mmk.patch(model)
            print(f"\n{report}\n")
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        gradients.append(model.get_parameter(TABLE).grad.clone())
        timer = Timer("model(**batch).loss.backward()", globals={"model": model, "batch": batch},
                      num_threads=torch.get_num_threads())  # fmt: skip
        seconds = timer.blocked_autorange(min_run_time=options.seconds).median
        print(f"{name:<10} loss {loss.item():.6f}   forward and backward {seconds * 1e3:7.1f} ms")
    report.revert()
    difference = ((gradients[1] - gradients[0]).norm() / gradients[0].norm()).item()
    print(f"relative difference of the gradient of the table of positions: {difference:.1e}")
    return difference


if __name__ == "__main__":
    main()
