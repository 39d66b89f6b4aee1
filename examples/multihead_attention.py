"""`torch.nn.MultiheadAttention` on mmkernels: three ways, one state_dict.

    python examples/multihead_attention.py [--tokens 512]

1. `mmk.nn.MultiheadAttention` in its place, where you write the model;
2. `mmk.patch(model)`, where somebody else wrote it, and `report.revert()`;
3. `with mmk.override_sdpa():`, where only calls of F.scaled_dot_product_attention are to be taken over.

Half of the second sequence is padding, which is skipped.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

import mmkernels as mmk

WIDTH, HEADS = 768, 12


class Layer(nn.Module):
    """Self-attention with a residual; `attention` is the class to build it of."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """(B, L, C); `hidden` (B, L) is True where a token is padding."""
        return x + self.attention(x, x, x, key_padding_mask=hidden, need_weights=False)[0]


def main(arguments: list[str] | None = None) -> float:
    """Print times of every way; returns the largest difference of an output."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing, each")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    theirs, ours = Layer(nn.MultiheadAttention), Layer(mmk.nn.MultiheadAttention)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, options.tokens, WIDTH)
    hidden = torch.zeros(2, options.tokens, dtype=torch.bool)
    hidden[1, options.tokens // 2 :] = True

    def step(layer: Layer) -> Tensor:
        out = layer(x, hidden)
        out[~hidden].square().mean().backward()
        return out

    def measure(name: str, layer: Layer) -> Tensor:
        out = step(layer).detach()[~hidden]
        timer = Timer("step(layer)", globals={"step": step, "layer": layer}, num_threads=torch.get_num_threads())
        seconds = timer.blocked_autorange(min_run_time=options.seconds).median
        print(f"{name:<30} forward and backward {seconds * 1e3:7.2f} ms")
        return out

    expected = measure("torch", theirs)
    found = [measure("mmk.nn.MultiheadAttention", ours)]
    report = mmk.patch(theirs)
    found.append(measure("mmk.patch", theirs))
    report.revert()
    with mmk.override_sdpa():
        found.append(measure("mmk.override_sdpa", theirs))
    difference = max((out - expected).abs().max().item() for out in found)
    print(f"largest difference of an output: {difference:.1e}")
    return difference


if __name__ == "__main__":
    main()
