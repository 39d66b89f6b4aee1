"""Random attention calls: a `Case` is a small value that prints itself, and makes the same call every time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import mmkernels as mmk
from bench.attention.inputs import Bias, Inputs

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LAYOUTS = ("contiguous", "heads inside", "odd slice", "one head", "strided")

lengths = st.one_of(
    st.integers(0, 20), st.integers(1, 140), st.sampled_from([1, 15, 16, 17, 63, 64, 65, 127, 128, 129])
)
long_lengths = st.one_of(lengths, st.sampled_from([511, 512, 513, 577, 640, 1030]))
dims = st.one_of(st.integers(1, 40), st.sampled_from([48, 64, 65, 72, 80, 100, 128, 192, 257]))
part_names = st.sampled_from(
    ["causal", "causal at the end", "window", "window at the end", "lengths", "prefix", "intervals", "dense", "media",
     "key dense", "segments"]
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One call. `seed` draws the numbers in it; everything else is its form."""

    seed: int
    function: str
    dtype: str
    batch: int
    q_lens: tuple[int, ...]
    k_lens: tuple[int, ...]
    heads_k: int
    group: int
    dim: int
    dim_v: int
    layouts: tuple[str, str, str]
    alone: tuple[bool, ...]  # which operands have a batch of 1: query, then each segment's key and value
    masks: tuple[str, ...]
    empty_rows: str | None
    bias: str | None
    bias_alone: tuple[bool, bool, bool, bool]
    bias_dtype: str
    options: tuple[tuple[str, float], ...]
    size: float

    @property
    def heads(self) -> int:
        return self.heads_k * self.group

    @property
    def packed(self) -> bool:
        return self.function == "varlen"

    @property
    def rows(self) -> tuple[int, int, int]:
        """(batch or sequences, query length, key length) that masks and biases are made for."""
        if self.packed:
            return len(self.q_lens), max(self.q_lens), max(self.k_lens)
        return self.batch, sum(self.q_lens), sum(self.k_lens)

    def make(self) -> Inputs:
        """Its arguments."""
        return _Maker(self).inputs()


class _Maker:
    def __init__(self, case: Case) -> None:
        self.case = case
        self.random = torch.Generator().manual_seed(case.seed)
        self.batch, self.q_len, self.k_len = case.rows

    def inputs(self) -> Inputs:
        c = self.case
        options = dict(c.options)
        if "dropout_p" in options:
            options["seed"] = c.seed * 2654435761
        common: dict[str, Any] = {"mask": self.mask(), "bias": self.bias(), "options": options}
        if c.packed:
            sizes = (
                (c.heads, sum(c.q_lens), c.dim),
                (c.heads_k, sum(c.k_lens), c.dim),
                (c.heads_k, sum(c.k_lens), c.dim_v),
            )
            tensors = [self.operand(1, *size, layout)[0].transpose(0, 1)
                       for size, layout in zip(sizes, c.layouts, strict=True)]  # fmt: skip
            cuts = [torch.tensor([0, *lens]).cumsum(0).to(torch.int32) for lens in (c.q_lens, c.k_lens)]
            return Inputs("varlen", *([x] for x in tensors), cu_seqlens_q=cuts[0], cu_seqlens_k=cuts[1], **common)

        def batch(index: int) -> int:
            return 1 if c.alone[index % len(c.alone)] else c.batch

        queries = [self.operand(batch(0), c.heads, n, c.dim, c.layouts[0]) for n in c.q_lens]
        keys, values = (
            [self.operand(batch(first + 2 * s), c.heads_k, n, dim, layout) for s, n in enumerate(c.k_lens)]
            for first, dim, layout in ((1, c.dim, c.layouts[1]), (2, c.dim_v, c.layouts[2]))
        )
        # The batch must be somebody's.
        queries[0] = self.operand(c.batch, c.heads, c.q_lens[0], c.dim, c.layouts[0])
        return Inputs(c.function, queries, keys, values, **common)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """From low to high, both included."""
        return torch.randint(low, max(high, low) + 1, shape, generator=self.random)

    def operand(self, batch: int, heads: int, length: int, dim: int, layout: str) -> Tensor:
        dtype = DTYPES[self.case.dtype]
        if layout == "heads inside":
            x = self.normal(batch, length, heads, dim).transpose(1, 2)
            return (x * self.case.size).to(dtype)
        if layout == "one head":
            x = self.normal(batch, 1, length, dim)
            return (x * self.case.size).to(dtype).expand(-1, heads, -1, -1)
        wide = (self.normal(batch, heads, length, 2 * dim + 1) * self.case.size).to(dtype)
        if layout == "contiguous":
            return wide[..., :dim].contiguous()
        return wide[..., 1 : dim + 1] if layout == "odd slice" else wide[..., 1::2]

    # ---- masks ----

    def mask(self) -> mmk.Mask | None:
        if not self.case.masks:
            return None
        mask = self.part(self.case.masks[0], self.case.empty_rows)
        for name in self.case.masks[1:]:
            mask = mask & self.part(name)
        return mask

    def part(self, name: str, empty_rows: str | None = None, k_len: int | None = None) -> mmk.Mask:
        keys, rows, batch = self.k_len if k_len is None else k_len, self.q_len, self.batch
        if name == "segments" and not self.case.packed:
            inner = ("lengths", "window", "dense", "causal", "intervals")
            chosen = [inner[int(i)] for i in self.integers(0, 4, len(self.case.k_lens))]
            parts = [self.part(kind, None, n) for kind, n in zip(chosen, self.case.k_lens, strict=True)]
            keep = self.integers(0, 3, len(parts)).tolist()
            return mmk.Mask.segments(
                [p if k else None for p, k in zip(parts, keep, strict=True)], empty_rows=empty_rows
            )
        if name.startswith("causal"):
            return mmk.Mask.causal("bottom_right" if "end" in name else "top_left", empty_rows=empty_rows)
        if name.startswith("window"):
            left, right = (None if n > 60 else n for n in self.integers(0, 80, 2).tolist())
            return mmk.Mask.window(left, right, "bottom_right" if "end" in name else "top_left", empty_rows=empty_rows)
        if name == "prefix":
            return mmk.Mask.prefix(self.integers(0, keys, batch), empty_rows=empty_rows)
        if self.case.packed or name in ("lengths", "segments"):
            return mmk.Mask.key_lengths(self.integers(0, keys, batch), empty_rows=empty_rows)
        if name == "intervals":
            heads = self.case.heads if self.case.seed % 2 else 1
            start, stop = self.integers(0, keys, 2, batch, heads, rows)
            return mmk.Mask.intervals(start, stop, empty_rows=empty_rows)
        if name == "media":
            items = self.integers(-1, 3, batch, rows)
            return mmk.Mask.media(items, keys // 4, empty_rows=empty_rows)
        if name == "key dense":
            return mmk.Mask.dense(self.normal(batch, 1, 1, keys) < 0.5, empty_rows=empty_rows)
        heads = self.case.heads if self.case.seed % 3 == 0 else 1
        return mmk.Mask.dense(self.normal(batch, heads, rows, keys) < 0.5, empty_rows=empty_rows)

    # ---- biases ----

    def bias(self) -> Bias | None:
        c = self.case
        full = (self.batch, c.heads, self.q_len, self.k_len)
        shape = [1 if alone else n for alone, n in zip(c.bias_alone, full, strict=True)]
        if c.bias is None:
            return None
        if c.bias == "relative":
            table = self.normal(shape[1], max(self.q_len + self.k_len - 1, 0))
            return mmk.RelativeBias(table.to(DTYPES[c.bias_dtype]))
        if c.bias == "decomposed":
            kh = next(n for n in (5, 4, 3, 2, 1) if self.k_len % n == 0)
            parts = [self.normal(*shape[:3], n).to(DTYPES[c.bias_dtype]) for n in (kh, self.k_len // kh)]
            return mmk.DecomposedBias(*parts)
        dense = self.normal(*shape)
        if c.bias == "minus infinity":
            dense = dense.masked_fill(self.normal(*shape) < -0.3, -torch.inf)
        if c.bias == "additive mask":
            dense = torch.where(dense < 0, torch.finfo(DTYPES[c.bias_dtype]).min, 0.0)
        dense = dense.to(DTYPES[c.bias_dtype])
        return dense.transpose(2, 3).contiguous().transpose(2, 3) if c.seed % 2 else dense


@st.composite
def cases(draw: st.DrawFn, function: str) -> Case:
    """Any call of one of the public functions that is not too slow to check."""
    count = {"attention": (1, 3), "joint": (1, 3), "varlen": (1, 5)}[function]
    segments = draw(st.integers(*count))
    q_parts = 1 if function == "attention" else segments if function == "varlen" else draw(st.integers(1, 3))
    q_lens = tuple(draw(st.lists(lengths, min_size=q_parts, max_size=q_parts)))
    k_lens = tuple(draw(st.lists(long_lengths if segments == 1 else lengths, min_size=segments, max_size=segments)))
    options = []
    for name, values in (
        ("scale", st.sampled_from([0.0, 1.0, -0.3, 0.05])), ("softcap", st.sampled_from([0.5, 5.0, 30.0])),
        ("dropout_p", st.sampled_from([0.1, 0.5, 0.97, 1.0])),
    ):  # fmt: skip
        if draw(st.integers(0, 3)) == 0:
            options.append((name, draw(values)))
    kinds = ["dense", "relative", "decomposed", "minus infinity", "additive mask"]
    booleans = st.booleans()
    return Case(
        seed=draw(st.integers(0, 2**20)),
        function=function,
        dtype=draw(st.sampled_from(list(DTYPES))),
        batch=draw(st.integers(1, 3)),
        q_lens=q_lens,
        k_lens=k_lens,
        heads_k=draw(st.integers(1, 2)),
        group=draw(st.sampled_from([1, 1, 2, 3])),
        dim=draw(dims),
        dim_v=draw(dims),
        layouts=tuple(draw(st.tuples(*[st.sampled_from(LAYOUTS)] * 3))),
        alone=tuple(draw(st.lists(st.sampled_from([False, False, True]), min_size=7, max_size=7))),
        masks=tuple(draw(st.lists(part_names, max_size=3))),
        empty_rows=draw(st.sampled_from([None, "zero", "unmask"])),
        bias=draw(st.one_of(st.none(), st.sampled_from(kinds))),
        bias_alone=tuple(draw(st.tuples(booleans, booleans, booleans, booleans))),
        bias_dtype=draw(st.sampled_from(["fp32", "fp32", "bf16"])),
        options=tuple(options),
        size=draw(st.sampled_from([1.0, 1.0, 1.0, 0.01, 4.0])),
    )
