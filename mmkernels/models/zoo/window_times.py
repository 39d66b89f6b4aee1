"""What local attention saves: time of a tower's layer against its window."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from mmkernels.models.config import SystemConfig, TransformerConfig
from mmkernels.models.transformer import TransformerBlock, local

TOKENS = 2048  # a picture of 45 x 45 patches, or a long text
WINDOWS = (16, 64, 256, 1024, None)  # tokens on either side; None: all
REPEATS = 3


def tower_blocks(config: SystemConfig) -> TransformerConfig | None:
    """The layers of the image tower, else of the text tower; None where neither is a Transformer."""
    towers = (config.image, config.text)
    blocks = [blocks for tower in towers if (blocks := getattr(tower, "blocks", None)) is not None and blocks.layers]
    return blocks[0] if blocks else None


def window_times(blocks: TransformerConfig, tokens: int = TOKENS, backend: str | None = None) -> dict[str, float]:
    """Milliseconds of forward and backward of one layer over so many tokens, by window; the best of a few."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = TransformerBlock(replace(blocks, window=None), backend)
        x = torch.randn(1, tokens, blocks.width, requires_grad=True)
        found = {}
        for window in WINDOWS:
            seconds = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                block(x, local(window, causal=False)).sum().backward()
                seconds.append(time.perf_counter() - started)
            found["all" if window is None else str(window)] = 1e3 * min(seconds)
    return found
