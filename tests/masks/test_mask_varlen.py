"""Packed sequences: every mask is per sequence, in local indices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkernels import mask_dense
from mmkernels.mask import Mask, ResolvedMask, resolve_varlen
from tests.masks import brute

CPU = torch.device("cpu")


class Packing:
    def __init__(self, q_lens: list[int], k_lens: list[int], heads: int) -> None:
        self.q_lens, self.k_lens, self.heads = q_lens, k_lens, heads
        self.cu_q, self.cu_k = (torch.tensor([0, *lens]).cumsum(0).to(torch.int32) for lens in (q_lens, k_lens))
        self.max_q, self.max_k = max(q_lens, default=0), max(k_lens, default=0)

    def resolve(self, mask: Mask) -> ResolvedMask:
        return resolve_varlen(
            mask,
            cu_seqlens_q=self.cu_q,
            cu_seqlens_k=self.cu_k,
            total_q=sum(self.q_lens),
            heads=self.heads,
            max_q=self.max_q,
            max_k=self.max_k,
            device=CPU,
        )

    def table(self, found: ResolvedMask, n: int) -> torch.Tensor:
        """What sequence n sees, (H, Lq, Lk), read off the resolved tensors."""
        q_len, k_len, first = self.q_lens[n], self.k_lens[n], int(self.cu_q[n])
        seen = torch.ones(self.heads, q_len, k_len, dtype=torch.bool)
        if found.start is not None:
            rows = sum(self.q_lens)
            start, stop = (
                bound.expand(1, 1, self.heads, rows)[0, 0, :, first : first + q_len, None]
                for bound in (found.start, found.stop)
            )
            key = torch.arange(k_len)
            seen &= (key >= start) & (key < stop)
            assert bool((stop <= k_len).all()) and bool((start >= 0).all())
        if found.visible is not None:
            full = found.visible.expand(len(self.q_lens), self.heads, self.max_q, self.max_k)
            seen &= full[n, :, :q_len, :k_len]
        return seen


@st.composite
def packings(draw: st.DrawFn) -> Packing:
    count = draw(st.integers(1, 4))
    lens = [[draw(st.integers(0, 5)) for _ in range(count)] for _ in range(2)]
    return Packing(*lens, heads=draw(st.integers(1, 2)))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), readable=st.booleans())
def test_every_sequence_as_if_alone(data, readable):
    packing = data.draw(packings())
    shape = brute.Shape(len(packing.q_lens), packing.heads, packing.max_q, [packing.max_k])
    mask, predicate = data.draw(brute.masks(shape, [*brute.PER_SEQUENCE, brute.dense]))
    with pytest.MonkeyPatch.context() as patch:
        if not readable:
            patch.setattr(mask_dense, "values_may_be_read", lambda tensor: False)
        found = packing.resolve(mask)
    for bound in (found.start, found.stop):
        if bound is not None:
            assert bound.dtype == torch.int32
            assert bound.shape[:2] == (1, 1)
            assert bound.shape[2] in (1, packing.heads) and bound.shape[3] in (1, sum(packing.q_lens))
    for n, (q_len, k_len) in enumerate(zip(packing.q_lens, packing.k_lens)):
        expected = torch.zeros(packing.heads, q_len, k_len, dtype=torch.bool)
        for h in range(packing.heads):
            for i in range(q_len):
                for j in range(k_len):
                    expected[h, i, j] = predicate(n, h, i, j, q_len, k_len)
        assert torch.equal(packing.table(found, n), expected)


def test_rows_are_packed_in_media_and_intervals():
    packing = Packing([2, 1], [4, 2], heads=1)
    found = packing.resolve(Mask.media(torch.tensor([[1, -1, 0]]), 2))
    assert found.start.flatten().tolist() == [2, 0, 0]
    assert found.stop.flatten().tolist() == [4, 0, 2]
    found = packing.resolve(Mask.intervals(torch.tensor([1, 0, 1]), torch.tensor([3, 4, 2])))
    assert found.start.flatten().tolist() == [1, 0, 1]
    assert found.stop.flatten().tolist() == [3, 4, 2]


def test_one_segment_only():
    packing = Packing([2], [3], heads=1)
    assert torch.equal(
        packing.table(packing.resolve(Mask.segments([Mask.causal()])), 0), torch.ones(1, 2, 3).tril().bool()
    )
    with pytest.raises(ValueError, match="2 masks"):
        packing.resolve(Mask.segments([None, None]))


def test_packed_mask_is_refused():
    cu = torch.tensor([0, 2])
    with pytest.raises(ValueError, match=r"Mask\.packed"):
        Packing([2], [2], heads=1).resolve(Mask.packed(cu, cu))


def test_compiles_in_one_graph():
    def seen(lengths: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor, total: int) -> torch.Tensor:
        mask = Mask.causal("bottom_right") & Mask.key_lengths(lengths)
        found = resolve_varlen(
            mask, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k, total_q=total, heads=1, max_q=9, max_k=9, device=cu_q.device
        )
        return found.stop

    compiled = torch.compile(seen, backend="aot_eager", fullgraph=True, dynamic=True)
    for q_lens, k_lens in [([2, 3], [4, 1]), ([1, 5, 2], [3, 6, 0])]:
        packing = Packing(q_lens, k_lens, heads=1)
        args = (torch.tensor([3] * len(q_lens)), packing.cu_q, packing.cu_k, sum(q_lens))
        assert torch.equal(compiled(*args), seen(*args))
