"""What local attention saves: time of a tower's layer against its window, measured in interleaved rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmkernels.models.config import SystemConfig, TransformerConfig, VideoConfig
from mmkernels.models.tables import Table
from mmkernels.models.transformer import TransformerBlock, local

TOKENS = 2048  # a picture of 45 x 45 patches, or a long text
WINDOWS: tuple[int | None, ...] = (16, 64, 256, 1024, None)  # tokens on either side; None: all
ROUNDS = 7


@dataclass(frozen=True)
class WindowTime:
    """A layer with one window, forward and backward. Ratios are of full attention's time to this, round by round."""

    window: int | None
    ms: float  # median
    ratio: float  # median
    low: float  # of the ratio, in the worst round
    high: float  # in the best one

    @property
    def name(self) -> str:
        """The window, or "none"."""
        return "none" if self.window is None else str(self.window)


WindowTimes = dict[str, list[WindowTime]]
"""By tower, in the order of the windows."""


def parse_windows(text: str) -> tuple[int | None, ...]:
    """The windows of "4,8,16,none".

    Raises:
        ValueError: something that is neither a positive number nor none.
    """
    found = []
    for entry in (part.strip().lower() for part in text.split(",")):
        if entry != "none" and not (entry.isdecimal() and int(entry)):
            raise ValueError(f"windows must be positive numbers or none, got {entry!r}")
        found.append(None if entry == "none" else int(entry))
    return tuple(dict.fromkeys(found))


def tower_layers(config: SystemConfig) -> dict[str, tuple[TransformerConfig, bool]]:
    """The layers of the towers that are Transformers, and whether they are causal."""
    image = config.image.picture if isinstance(config.image, VideoConfig) else config.image
    found = {}
    for name, tower in (("image", image), ("text", config.text)):
        blocks = getattr(tower, "blocks", None)
        if blocks is not None and blocks.layers:
            found[name] = (blocks, getattr(tower, "causal", False))
    return found


def window_times(
    config: SystemConfig, windows: Sequence[int | None] = WINDOWS, *, tokens: int = TOKENS, rounds: int = ROUNDS,
    backend: str | None = None,
) -> WindowTimes:  # fmt: skip
    """Times a layer of each tower over so many tokens, every window once a round; full attention is always among them.

    Raises:
        ValueError: no tower is a Transformer.
    """
    towers = tower_layers(config)
    if not towers:
        raise ValueError("windows need a Transformer tower, and this system has none")
    every = [*(window for window in windows if window is not None), None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {
            name: _times(blocks, causal, every, tokens, rounds, backend) for name, (blocks, causal) in towers.items()
        }


def _times(
    blocks: TransformerConfig, causal: bool, windows: list[int | None], tokens: int, rounds: int, backend: str | None
) -> list[WindowTime]:
    block = TransformerBlock(replace(blocks, window=None, dropout=0.0), backend)
    x = torch.randn(1, tokens, blocks.width, requires_grad=True)
    seconds: dict[int | None, list[float]] = {window: [] for window in windows}
    for place in range(rounds + 1):  # the first round warms up
        turn = place % len(windows)
        for window in windows[turn:] + windows[:turn]:
            took = _step(block, x, window, causal)
            if place:
                seconds[window].append(took)
    found = []
    for window, own in seconds.items():
        ratios = [full / near for full, near in zip(seconds[None], own, strict=True)]
        median = statistics.median(ratios)
        found.append(WindowTime(window, 1e3 * statistics.median(own), median, min(ratios), max(ratios)))
    return found


def _step(block: TransformerBlock, x: Tensor, window: int | None, causal: bool) -> float:
    block.zero_grad()
    started = time.perf_counter()
    block(x, local(window, causal)).sum().backward()
    return time.perf_counter() - started


def window_tables(times: WindowTimes, tokens: int = TOKENS) -> list[Table]:
    """A table per tower."""
    head = ["tokens seen on either side", "ms", "none / this", "of the rounds"]
    return [
        (
            f"A layer of the {name} tower over {tokens:,} tokens, forward and backward",
            head,
            [[t.name, f"{t.ms:.1f}", f"{t.ratio:.2f} x", f"{t.low:.2f} to {t.high:.2f}"] for t in entries],
        )
        for name, entries in times.items()
    ]


def windows_as_json(times: WindowTimes, tokens: int = TOKENS) -> dict[str, Any]:
    """{"tokens": ..., tower: {window: {"ms", "ratio", "low", "high"}}}"""
    towers = {
        name: {
            t.name: {field: round(getattr(t, field), 3) for field in ("ms", "ratio", "low", "high")} for t in entries
        }
        for name, entries in times.items()
    }
    return {"tokens": tokens, **towers}
