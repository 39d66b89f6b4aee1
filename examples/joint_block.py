"""A block like FLUX's in plain torch, before and after mmkernels: text and image jointly, nothing concatenated.

    python examples/joint_block.py [--text 64] [--image 512]

Two parts of the same block. Joint attention: queries, keys and values of text and image, each from its own projection,
are segments of one attention. The end of the block: a linear layer over attention and MLP side by side, with a gate and
a residual, is one `concat_fusion`. Heads are FLUX's (24 of 128), the sequence is shorter.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.utils.benchmark import Timer

import mmkernels as mmk

HEADS, HEAD_WIDTH = 24, 128
WIDTH = HEADS * HEAD_WIDTH


class Block(nn.Module):
    """Text (B, T, C) and image (B, I, C) over both, and an MLP beside the attention."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.mlp = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(2 * WIDTH, WIDTH)

    def heads(self, text: Tensor, image: Tensor) -> list[tuple[Tensor, ...]]:
        """Query, key and value (B, H, L, D) of text and of image."""
        return [
            tuple(x.unflatten(-1, (HEADS, HEAD_WIDTH)).transpose(1, 2) for x in project(stream).chunk(3, -1))
            for project, stream in zip(self.qkv, (text, image))
        ]


class Before(Block):
    """As it is written everywhere."""

    def forward(self, text: Tensor, image: Tensor, gate: Tensor) -> Tensor:
        """The image's tokens (B, I, C)."""
        q, k, v = (torch.cat(pair, 2) for pair in zip(*self.heads(text, image)))
        attended = F.scaled_dot_product_attention(q, k, v)[:, :, text.shape[1] :].transpose(1, 2).flatten(2)
        widened = F.gelu(self.mlp(image), approximate="tanh")
        return image + gate * self.out(torch.cat([attended, widened], -1))


class After(Block):
    """The same parameters and the same numbers."""

    def forward(self, text: Tensor, image: Tensor, gate: Tensor) -> Tensor:
        """The image's tokens (B, I, C)."""
        queries, keys, values = zip(*self.heads(text, image))
        _, out = mmk.joint_attention(queries, keys, values)
        attended = out.transpose(1, 2).flatten(2)
        widened = F.gelu(self.mlp(image), approximate="tanh")
        return mmk.concat_fusion([attended, widened], self.out.weight, self.out.bias, gate=gate, residual=image)


def main(arguments: list[str] | None = None) -> float:
    """Print times of both; returns the relative difference of the gradients."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=int, default=64, help="tokens")
    parser.add_argument("--image", type=int, default=512, help="tokens")
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing, each")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    before, after = Before(), After()
    after.load_state_dict(before.state_dict())
    text, image = torch.randn(1, options.text, WIDTH), torch.randn(1, options.image, WIDTH)
    gate = torch.randn(1, 1, WIDTH)
    gradients = []
    for name, block in (("torch", before), ("mmkernels", after)):
        block(text, image, gate).square().mean().backward()
        gradients.append(parameters_to_vector(p.grad for p in block.parameters()))
        call = {"block": block, "text": text, "image": image, "gate": gate}
        with torch.no_grad():
            timer = Timer("block(text, image, gate)", globals=call, num_threads=torch.get_num_threads())
            seconds = timer.blocked_autorange(min_run_time=options.seconds).median
        print(f"{name:<10} forward {seconds * 1e3:7.1f} ms")
    difference = ((gradients[1] - gradients[0]).norm() / gradients[0].norm()).item()
    print(f"relative difference of the gradients: {difference:.1e}")
    return difference


if __name__ == "__main__":
    main()
