"""The named problems: one list that tests and benchmarks share.

Shapes and features are those of the models named (text and image towers, Q-Former, mllama, Flamingo, Perceiver, SAM,
T5, FLUX, Qwen-VL, Swin), and the corners in which attention kernels have failed: empty rows, rows of finfo.min, one
row, no rows, no keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

import mmkernels as mmk
from bench.attention.inputs import Bias, Inputs

BLOCK, CHUNK = 64, 512
"""Keys per block and per chunk of the CPU kernels: a reduced problem keeps its length's rest, and crosses a chunk."""


@dataclass(frozen=True)
class Problem:
    """One attention problem. Lengths are tuples: of key segments, of joint query segments, of packed sequences."""

    name: str
    q_lens: tuple[int, ...]
    k_lens: tuple[int, ...]
    batch: int = 1
    heads: int = 8
    heads_k: int | None = None
    """None: as many as query heads."""
    dim: int = 64
    dim_v: int | None = None
    """None: as dim."""
    function: str = "attention"
    query_batch: int | None = None
    """None: batch. 1: the queries are broadcast."""
    grid: tuple[int, int] | None = None
    """The keys as an image's rows and columns."""
    mask: Callable[[Problem, torch.Generator], mmk.Mask] | None = None
    bias: Callable[[Problem, torch.Generator, torch.dtype], Bias] | None = None
    scale: float | None = None
    softcap: float | None = None
    dropout_p: float = 0.0

    @property
    def q_len(self) -> int:
        """Of the whole query axis; of the longest packed sequence."""
        return max(self.q_lens) if self.function == "varlen" else sum(self.q_lens)

    @property
    def k_len(self) -> int:
        """As q_len, of the keys."""
        return max(self.k_lens) if self.function == "varlen" else sum(self.k_lens)

    def scaled_down(self) -> Problem:
        """A problem of the same features and the same ragged ends that a test can afford."""
        key_heads = self.heads if self.heads_k is None else self.heads_k
        group = min(self.heads // key_heads, 4)
        few = min(key_heads, 2)
        grid = None
        k_lens = tuple(_shorter(length, CHUNK + BLOCK) for length in self.k_lens)
        q_lens = tuple(_shorter(length, 2 * BLOCK) for length in self.q_lens)
        if self.q_lens == self.k_lens:  # self-attention stays square
            q_lens = k_lens
        if self.grid is not None:
            grid = (min(self.grid[0], 19), min(self.grid[1], 29))
            k_lens = (grid[0] * grid[1],)
        return replace(
            self, heads=few * group, heads_k=few, batch=min(self.batch, 2), q_lens=q_lens, k_lens=k_lens, grid=grid
        )

    def make(self, dtype: torch.dtype, seed: int = 0, scale_down: bool = False) -> Inputs:
        """Its arguments: normal operands rounded to `dtype`, a bias of standard deviation 1 (or what it asks for)."""
        p = self.scaled_down() if scale_down else self
        random = torch.Generator().manual_seed(seed)
        heads_k = p.heads if p.heads_k is None else p.heads_k
        dim_v = p.dim if p.dim_v is None else p.dim_v

        def operand(batch: int, heads: int, length: int, dim: int) -> Tensor:
            return torch.randn(batch, heads, length, dim, generator=random).to(dtype)

        options: dict[str, Any] = {"scale": p.scale, "softcap": p.softcap}
        options = {name: value for name, value in options.items() if value is not None}
        if p.dropout_p:
            options |= {"dropout_p": p.dropout_p, "seed": 1234 + seed}
        common: dict[str, Any] = {
            "mask": p.mask(p, random) if p.mask else None,
            "bias": p.bias(p, random, dtype) if p.bias else None,
            "options": options,
        }
        if p.function == "varlen":
            q_total, k_total = sum(p.q_lens), sum(p.k_lens)
            sizes = ((p.heads, q_total, p.dim), (heads_k, k_total, p.dim), (heads_k, k_total, dim_v))
            query, key, value = (operand(1, *size)[0].transpose(0, 1).contiguous() for size in sizes)
            cu_q, cu_k = (torch.tensor([0, *accumulate(lens)], dtype=torch.int32) for lens in (p.q_lens, p.k_lens))
            return Inputs("varlen", [query], [key], [value], cu_seqlens_q=cu_q, cu_seqlens_k=cu_k, **common)
        query_batch = p.batch if p.query_batch is None else p.query_batch
        queries = [operand(query_batch, p.heads, length, p.dim) for length in p.q_lens]
        keys = [operand(p.batch, heads_k, length, p.dim) for length in p.k_lens]
        values = [operand(p.batch, heads_k, length, dim_v) for length in p.k_lens]
        return Inputs(p.function, queries, keys, values, **common)


def _shorter(length: int, most: int) -> int:
    return min(length, most + length % BLOCK)


# ---- masks ----


def _lengths(count: int, longest: int, random: torch.Generator) -> Tensor:
    """Ragged lengths from 1 to `longest`, the first of them `longest`."""
    lengths = (torch.rand(count, generator=random) * longest).ceil().long()
    lengths[:1] = longest
    return lengths


def _causal(p: Problem, random: torch.Generator) -> mmk.Mask:
    return mmk.Mask.causal()


def _causal_at_the_end(p: Problem, random: torch.Generator) -> mmk.Mask:
    return mmk.Mask.causal("bottom_right")


def _padding(p: Problem, random: torch.Generator) -> mmk.Mask:
    return mmk.Mask.key_lengths(_lengths(p.batch, p.k_len, random))


def _half_padding(p: Problem, random: torch.Generator) -> mmk.Mask:
    """Half of all keys are padding: one row in four is full, one is half empty, two have a quarter."""
    shares = torch.tensor([1.0, 0.5, 0.25, 0.25]).repeat((p.batch + 3) // 4)[: p.batch]
    return mmk.Mask.key_lengths((shares * p.k_len).ceil().long())


def _causal_padding(p: Problem, random: torch.Generator) -> mmk.Mask:
    return mmk.Mask.causal() & _padding(p, random)


def _padded_segments(p: Problem, random: torch.Generator) -> mmk.Mask:
    return mmk.Mask.key_lengths([_lengths(p.batch, length, random) for length in p.k_lens])


def _window(p: Problem, random: torch.Generator) -> mmk.Mask:
    return mmk.Mask.window(100, 37)


def _prefix(p: Problem, random: torch.Generator) -> mmk.Mask:
    return mmk.Mask.prefix(torch.randint(1, p.k_len, (p.batch,), generator=random))


def _media(p: Problem, random: torch.Generator) -> mmk.Mask:
    """Text in which an image stands now and then; what comes before the first one sees none."""
    count = p.k_len // BLOCK
    starts = torch.rand(p.batch, p.q_len, generator=random) < count / p.q_len
    return mmk.Mask.media((starts.cumsum(1) - 1).clamp(max=count - 1), BLOCK)


def _tiles(p: Problem, random: torch.Generator) -> mmk.Mask:
    """mllama: a token sees a run of its image's tiles, and one that sees none attends to all."""
    count = max(p.k_len // 160, 1)
    first = torch.randint(-1, count, (p.batch, p.q_len), generator=random)
    last = torch.minimum(first + torch.randint(0, 2, first.shape, generator=random), torch.tensor(count - 1))
    spans = torch.stack([first, torch.where(first < 0, -1, last)], -1)
    return mmk.Mask.media(spans, p.k_len // count, empty_rows="unmask")


def _scattered(p: Problem, random: torch.Generator) -> mmk.Mask:
    """A dense mask that no interval says, with rows that see nothing."""
    visible = torch.rand(p.batch, 1, p.q_len, p.k_len, generator=random) < 0.3
    visible[:, :, ::5] = False
    return mmk.Mask.dense(visible)


def _rank_one(p: Problem, random: torch.Generator) -> mmk.Mask:
    """mllama's vision tower: padding and padding do not see each other, everything else does."""
    padding = torch.rand(p.batch, 1, p.k_len, generator=random) < 0.2
    return mmk.Mask.dense(~(padding[..., :, None] & padding[..., None, :]))


# ---- biases ----


def _learned(p: Problem, random: torch.Generator, dtype: torch.dtype) -> Bias:
    """One bias for every batch entry, in fp32 as modules keep it."""
    return torch.randn(1, p.heads, p.q_len, p.k_len, generator=random)


def _relative(p: Problem, random: torch.Generator, dtype: torch.dtype) -> Bias:
    return mmk.RelativeBias(torch.randn(p.heads, p.q_len + p.k_len - 1, generator=random))


def _alibi(p: Problem, random: torch.Generator, dtype: torch.dtype) -> Bias:
    slopes = 2.0 ** -torch.arange(1, p.heads + 1)
    distance = torch.arange(-p.q_len + 1, p.k_len).abs()
    return mmk.RelativeBias(-slopes[:, None] * distance)


def _decomposed(p: Problem, random: torch.Generator, dtype: torch.dtype) -> Bias:
    assert p.grid is not None
    parts = [torch.randn(p.batch, p.heads, p.q_len, size, generator=random).to(dtype) for size in p.grid]
    return mmk.DecomposedBias(*parts)


def _additive_mask(p: Problem, random: torch.Generator, dtype: torch.dtype) -> Bias:
    """A mask as older models write it: 0 or finfo.min, some rows of nothing else."""
    hidden = torch.rand(p.batch, 1, p.q_len, p.k_len, generator=random) < 0.5
    hidden[:, :, ::3] = True
    return torch.where(hidden, torch.finfo(dtype).min, 0.0).to(dtype)


def _minus_infinity(p: Problem, random: torch.Generator, dtype: torch.dtype) -> Bias:
    """A mask as -inf, some rows of nothing else, over a bias."""
    bias = torch.randn(p.batch, 1, p.q_len, p.k_len, generator=random)
    bias[torch.rand(bias.shape, generator=random) < 0.5] = -torch.inf
    bias[:, :, 1::4] = -torch.inf
    return bias.to(dtype)


def _key_bias(p: Problem, random: torch.Generator, dtype: torch.dtype) -> Bias:
    return torch.randn(p.batch, 1, 1, p.k_len, generator=random).to(dtype)


# ---- the list ----

PROBLEMS: tuple[Problem, ...] = (
    Problem("text-to-image 77x1024", (77,), (1024,), batch=2),
    Problem("square 1024", (1024,), (1024,)),
    Problem("image-to-text 4096x77", (4096,), (77,)),
    Problem("square 2048 D128", (2048,), (2048,), dim=128),
    Problem("Q-Former 32x257", (32,), (257,), batch=4, heads=12, query_batch=1),
    Problem("text-to-patches 128x577", (128,), (577,), batch=4, heads=12),
    Problem("mllama 32x1601", (32,), (1601,), heads=32, heads_k=8, dim=128),
    Problem("mllama tiles", (77,), (1600,), batch=2, heads=16, heads_k=4, dim=128, mask=_tiles),
    Problem("mllama vision padding", (410,), (410,), batch=2, heads=16, dim=80, mask=_rank_one),
    Problem("decode 1x4096", (1,), (4096,), heads=32, heads_k=8, dim=128),
    Problem("joint 512+4096 D128", (512, 4096), (512, 4096), heads=24, dim=128, function="joint"),
    Problem(
        "joint padded text", (77, 256), (77, 256), batch=2, heads=24, dim=128, function="joint", mask=_padded_segments
    ),
    Problem("text and image segments", (77,), (77, 0, 1024), batch=2, heads=12, mask=_padded_segments),
    Problem("ViT 197", (197,), (197,), batch=8, heads=12),
    Problem("ViT 197 dropout", (197,), (197,), batch=8, heads=12, dropout_p=0.1),
    Problem("Swin 49 learned bias", (49,), (49,), batch=64, heads=4, dim=32, bias=_learned),
    Problem("Perceiver 512x4096 D261", (512,), (4096,), heads=1, dim=261, dim_v=512),
    Problem("SAM 7x4096 D16", (7,), (4096,), heads=8, dim=16, grid=(64, 64), bias=_decomposed),
    Problem("T5 512 relative bias", (512,), (512,), heads=12, scale=1.0, bias=_relative),
    Problem("ALiBi 577 causal", (577,), (577,), bias=_alibi, mask=_causal),
    Problem("Flamingo 256x320 media", (256,), (320,), batch=2, mask=_media),
    Problem("packed varlen", (77, 0, 130, 1, 45), (33, 20, 600, 1, 0), function="varlen"),
    Problem("packed windows D80", (64, 64, 48, 16), (64, 64, 48, 16), heads=16, dim=80, function="varlen"),
    Problem(
        "packed causal dropout bias", (60, 33, 129), (60, 33, 129), heads_k=2, function="varlen",
        mask=_causal, bias=_relative, dropout_p=0.1,
    ),
    Problem("causal 1024", (1024,), (1024,), mask=_causal),
    Problem("causal 16 after 513", (16,), (529,), heads_k=2, mask=_causal_at_the_end),
    Problem("CLIP text 77", (77,), (77,), batch=16, mask=_causal_padding),
    Problem("padding 128", (128,), (128,), batch=16, heads=12, mask=_padding),
    Problem("window 2048", (2048,), (2048,), mask=_window),
    Problem("prefix 320", (320,), (320,), batch=2, heads_k=1, dim=256, mask=_prefix),
    Problem("scattered mask", (100,), (333,), batch=2, mask=_scattered),
    Problem("learned bias 196", (196,), (196,), batch=4, heads=12, bias=_learned),
    Problem("key bias", (77,), (130,), batch=2, bias=_key_bias),
    Problem("softcap 256", (256,), (256,), heads=8, heads_k=4, dim=128, scale=2.0, softcap=20.0, mask=_causal),
    Problem("bias of -inf", (61,), (131,), batch=2, bias=_minus_infinity),
    Problem("rows of finfo.min", (61,), (131,), batch=2, bias=_additive_mask),
    Problem(
        "everything", (77,), (65, 513), batch=2, heads=8, heads_k=2, dim=72, dim_v=40, query_batch=1, scale=0.3,
        softcap=5.0, dropout_p=0.25, mask=_padded_segments, bias=_learned,
    ),
    Problem("SAM tokens 7x4096 D16", (7,), (4096,), heads=8, dim=16),
    Problem("half padding 128x1024", (128,), (1024,), batch=4, mask=_half_padding),
    Problem("bool mask 512x1024", (512,), (1024,), mask=_scattered),
    Problem(
        "packed captions on patches", (77, 12, 64, 33, 25, 70, 18, 45), (1024, 256, 576, 400, 196, 729, 324, 576),
        function="varlen",
    ),
    Problem("packed images D80", (1024, 576, 256, 196), (1024, 576, 256, 196), heads=16, dim=80, function="varlen"),
    Problem("one row, one key", (1,), (1,), heads=1, dim=1),
    Problem("no rows", (0,), (17,)),
    Problem("no keys", (17,), (0,)),
    Problem("no batch", (3,), (5,), batch=0),
)  # fmt: skip


def named(name: str) -> Problem:
    """The problem of this name."""
    found = [problem for problem in PROBLEMS if problem.name == name]
    if not found:
        raise KeyError(f"no problem is named {name!r}; the names are {[problem.name for problem in PROBLEMS]}")
    return found[0]
