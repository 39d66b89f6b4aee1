"""CLIP of Hugging Face transformers on mmkernels: attention by its name, and the loss without a matrix of logits.

    python examples/clip.py [--batch 8] [--layers 2]

The shapes are those of CLIP ViT-B/16, the layers fewer and the weights random, so that nothing is downloaded. A model
of the hub takes two lines: `register()`, then `CLIPModel.from_pretrained(..., attn_implementation="mmkernels")`.
Needs `pip install "mmkernels[integrations]"`.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from torch.utils.benchmark import Timer
from transformers import CLIPConfig, CLIPModel

import mmkernels as mmk

END = 49407  # of every text; CLIP pools there


def build(layers: int) -> CLIPModel:
    """Random weights, on the library's eager attention."""
    torch.manual_seed(0)
    text, vision = {"num_hidden_layers": layers}, {"num_hidden_layers": layers, "patch_size": 16}
    return CLIPModel._from_config(CLIPConfig(text_config=text, vision_config=vision), attn_implementation="eager")


def pairs(batch: int) -> dict[str, Tensor]:
    """Noise, and texts of random words of 10 to 76 tokens, padded to 77."""
    tokens = torch.randint(1000, 40000, (batch, 77))
    lengths = torch.randint(10, 77, (batch, 1))
    place = torch.arange(77)
    tokens[place >= lengths] = END
    return {
        "pixel_values": torch.randn(batch, 3, 224, 224),
        "input_ids": tokens,
        "attention_mask": (place <= lengths).long(),
    }


def before(model: CLIPModel, batch: dict[str, Tensor]) -> Tensor:
    """The loss as the paper's pseudocode has it: every image times every text."""
    logits = model(**batch).logits_per_image
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def after(model: CLIPModel, batch: dict[str, Tensor]) -> Tensor:
    """The same number; the matrix is never stored."""
    image = model.get_image_features(batch["pixel_values"]).pooler_output
    text = model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
    return mmk.contrastive_loss(F.normalize(image, dim=-1), F.normalize(text, dim=-1), model.logit_scale.exp())


def main(arguments: list[str] | None = None) -> float:
    """Print losses and times of both; returns the relative difference of the gradients."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing, each")
    options = parser.parse_args(arguments)

    model, batch = build(options.layers), pairs(options.batch)
    mmk.integrations.transformers.register()
    gradients = []
    for name, loss in (("eager", before), ("mmkernels", after)):
        model.set_attn_implementation(name)
        model.zero_grad()
        value = loss(model, batch)
        value.backward()
        gradients.append(parameters_to_vector(p.grad for p in model.parameters()))
        timer = Timer("loss(model, batch).backward()", globals={"loss": loss, "model": model, "batch": batch},
                      num_threads=torch.get_num_threads())  # fmt: skip
        seconds = timer.blocked_autorange(min_run_time=options.seconds).median
        print(f"{name:<10} loss {value.item():.6f}   forward and backward {seconds * 1e3:7.1f} ms")
    difference = ((gradients[1] - gradients[0]).norm() / gradients[0].norm()).item()
    print(f"relative difference of the gradients: {difference:.1e}")
    return difference


if __name__ == "__main__":
    main()
