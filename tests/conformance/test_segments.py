"""Lists of key segments, joint attention and packed sequences: all the ways in which tokens are laid side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import mmkernels as mmk
from bench.attention.inputs import Inputs
from tests import plain
from tests.backends import DEFAULT, NATIVE, Run, dtypes, runs
from tests.tolerance import check_call

B, H, HK, D, DV = 3, 4, 2, 20, 12


def segments(lengths: tuple[int, ...], batches: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    pairs = zip(lengths, batches, strict=True)
    return [torch.randn(batch, HK, length, D).to(dtype) for length, batch in pairs]


def make(lengths: tuple[int, ...], batches: tuple[int, ...], dtype: torch.dtype, **options: object) -> Inputs:
    keys = segments(lengths, batches, dtype)
    values = [torch.randn(*key.shape[:3], DV).to(dtype) for key in keys]
    return Inputs("attention", [torch.randn(B, H, 40, D).to(dtype)], keys, values, **options)


LENGTHS = [(70, 33), (1, 0, 64), (0, 0), (0, 5, 0), (63, 65, 1, 17), (513, 3), (3, 600, 70)]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@dtypes()
@runs(*DEFAULT)
def test_ragged_segments(lengths: tuple[int, ...], run: Run, dtype: torch.dtype) -> None:
    """Empty segments anywhere; a mask over the concatenated axis, a bias, dropout."""
    total = sum(lengths)
    batches = (B,) * len(lengths)
    options = {"dropout_p": 0.2, "seed": 8}
    bias = torch.randn(1, H, 40, total)
    with run.active() as backend:
        check_call(make(lengths, batches, dtype), backend)
        check_call(make(lengths, batches, dtype, mask=mmk.Mask.causal(), bias=bias, options=options), backend)
        table = mmk.RelativeBias(torch.randn(1, 40 + total - 1))
        check_call(make(lengths, batches, dtype, mask=mmk.Mask.window(30, 20), bias=table), backend)


@runs(*NATIVE[1:])
def test_ragged_segments_on_other_instruction_sets(run: Run) -> None:
    for lengths in LENGTHS:
        test_ragged_segments(lengths, run, torch.float32)


@pytest.mark.parametrize("batches", [(1, B), (B, 1), (1, 1)], ids=str)
@dtypes()
@runs(*DEFAULT)
def test_segments_of_one_batch_entry(batches: tuple[int, int], run: Run, dtype: torch.dtype) -> None:
    """A segment that all entries share, a prompt say: its gradient is the sum over them."""
    mask = mmk.Mask.segments([mmk.Mask.key_lengths(torch.tensor([30, 50, 10])), None])
    with run.active() as backend:
        found = check_call(make((50, 41), batches, dtype, mask=mask), backend)
    for index, batch in enumerate(batches):
        assert found[f"grad key {index}"].shape[0] == batch and found[f"grad value {index}"].shape[0] == batch


@runs(*DEFAULT)
def test_keys_and_values_of_different_batches(run: Run) -> None:
    inputs = make((50, 41), (1, B), torch.float32)
    values = [torch.randn(B, HK, 50, DV), torch.randn(1, HK, 41, DV)]
    with run.active() as backend:
        check_call(replace(inputs, values=values), backend)
        check_call(replace(inputs, values=values, queries=[torch.randn(1, H, 40, D)]), backend)


@runs(*DEFAULT)
def test_each_segment_its_own_mask(run: Run) -> None:
    """Also a dense one, empty rows, and a segment that nobody sees."""
    dense = torch.rand(1, 1, 40, 41) < 0.4
    rows = torch.arange(40)
    own = [
        mmk.Mask.intervals(torch.where(rows % 2 == 0, 10, 0), torch.where(rows % 2 == 0, 10, 30)),
        mmk.Mask.dense(dense & (rows % 4 > 0)[:, None]),
        mmk.Mask.key_lengths(torch.tensor([0])),
    ]
    for empty_rows in ("zero", "unmask"):
        mask = mmk.Mask.segments(own, empty_rows=empty_rows) & mmk.Mask.window(None, 60)
        with run.active() as backend:
            check_call(make((50, 41, 8), (B, B, 1), torch.float32, mask=mask), backend)


JOINT = [((77, 20), (77, 20)), ((5, 0, 64), (9, 33)), ((1,), (600, 1)), ((64, 64), (0, 65))]


@pytest.mark.parametrize(("q_lens", "k_lens"), JOINT, ids=str)
@dtypes()
@runs(*DEFAULT)
def test_joint(q_lens: tuple[int, ...], k_lens: tuple[int, ...], run: Run, dtype: torch.dtype) -> None:
    """Mask, every kind of bias and dropout count rows and keys of the concatenated axes."""
    rows, total = sum(q_lens), sum(k_lens)
    queries = [torch.randn(B, H, length, D).to(dtype) for length in q_lens]
    inputs = replace(make(k_lens, (B,) * len(k_lens), dtype), function="joint", queries=queries)
    biases = [
        None, torch.randn(B, 1, rows, total), torch.randn(1, H, 1, total),
        mmk.RelativeBias(torch.randn(H, rows + total - 1)),
        mmk.DecomposedBias(torch.randn(B, H, rows, total), torch.randn(1, H, rows, 1)),
    ]  # fmt: skip
    masks = [None, mmk.Mask.causal(), mmk.Mask.dense(torch.rand(1, 1, rows, total) < 0.7), mmk.Mask.window(20, 3), None]
    with run.active() as backend:
        for bias, mask in zip(biases, masks, strict=True):
            call = replace(inputs, bias=bias, mask=mask, options={"dropout_p": 0.2, "seed": 5})
            check_call(call, backend)


@runs(*DEFAULT)
def test_joint_queries_of_one_batch_entry(run: Run) -> None:
    queries = [torch.randn(1, H, 10, D), torch.randn(B, H, 30, D)]
    with run.active() as backend:
        call = replace(make((50, 41), (B, 1), torch.float32), function="joint", queries=queries)
        found = check_call(call, backend)
    assert found["grad query 0"].shape[0] == 1 and found["out 0"].shape[0] == B


# ---- packed sequences ----

Q_LENS, K_LENS = (30, 0, 17, 1, 7, 66), (12, 9, 17, 513, 0, 64)


def packed(dtype: torch.dtype, q_lens: tuple[int, ...] = Q_LENS, k_lens: tuple[int, ...] = K_LENS) -> Inputs:
    tensors = [torch.randn(sum(q_lens), H, D), torch.randn(sum(k_lens), HK, D), torch.randn(sum(k_lens), HK, DV)]
    cuts = [torch.tensor([0, *lens]).cumsum(0).to(torch.int32) for lens in (q_lens, k_lens)]
    return Inputs("varlen", *([x.to(dtype)] for x in tensors), cu_seqlens_q=cuts[0], cu_seqlens_k=cuts[1])


N, MAX_Q, MAX_K = len(Q_LENS), max(Q_LENS), max(K_LENS)
PACKED_MASKS = {
    "none": None,
    "causal": mmk.Mask.causal(),
    "causal at the end": mmk.Mask.causal("bottom_right"),
    "window": mmk.Mask.window(9, 4),
    "lengths": mmk.Mask.key_lengths(torch.tensor([12, 3, 64, 0, 0, 64])),
    "prefix": mmk.Mask.prefix(torch.tensor([4, 0, 30, 100, 0, 1])),
    "unmask": mmk.Mask.key_lengths(torch.tensor([0, 9, 0, 500, 0, 7]), empty_rows="unmask"),
    "dense": mmk.Mask.dense(torch.rand(N, H, MAX_Q, MAX_K, generator=torch.Generator().manual_seed(0)) < 0.6),
}


@pytest.mark.parametrize("mask", PACKED_MASKS)
@dtypes()
@runs(*DEFAULT)
def test_packed_masks(mask: str, run: Run, dtype: torch.dtype) -> None:
    with run.active() as backend:
        check_call(replace(packed(dtype), mask=PACKED_MASKS[mask], options={"dropout_p": 0.1, "seed": 2}), backend)


@runs(*NATIVE[1:])
def test_packed_masks_on_other_instruction_sets(run: Run) -> None:
    for mask in PACKED_MASKS:
        test_packed_masks(mask, run, torch.float32)


@pytest.mark.parametrize("kind", ["dense", "one entry", "heads", "keys only", "relative", "decomposed"])
@dtypes()
@runs(*DEFAULT)
def test_packed_biases(kind: str, run: Run, dtype: torch.dtype) -> None:
    bias = {
        "dense": torch.randn(N, H, MAX_Q, MAX_K),
        "one entry": torch.randn(1, 1, MAX_Q, MAX_K),
        "heads": torch.randn(1, H, MAX_Q, 1),
        "keys only": torch.randn(N, 1, 1, MAX_K),
        "relative": mmk.RelativeBias(torch.randn(H, MAX_Q + MAX_K - 1)),
        "decomposed": mmk.DecomposedBias(torch.randn(N, H, MAX_Q, 27), torch.randn(1, H, MAX_Q, 19)),
    }[kind]
    with run.active() as backend:
        check_call(replace(packed(dtype), bias=bias, mask=mmk.Mask.causal("bottom_right")), backend)


@pytest.mark.parametrize("lens", [(), (0,), (0, 0, 0), (5,)], ids=str)
@runs(*DEFAULT)
def test_few_packed_sequences(lens: tuple[int, ...], run: Run) -> None:
    with run.active() as backend:
        inputs = packed(torch.float32, lens, lens)
        if not lens:  # plain torch has nothing to concatenate
            cotangents = {"out": torch.zeros(0, H, DV), "lse": torch.zeros(H, 0)}
            found = plain.run(inputs, backend, cotangents)
            assert found["out"].shape == (0, H, DV) and found["lse"].shape == (H, 0)
            assert found["grad key 0"].shape == (0, HK, D)
        else:
            check_call(inputs, backend)


@dtypes()
@runs(*DEFAULT)
def test_packed_agrees_with_padded(run: Run, dtype: torch.dtype) -> None:
    """The same sequences padded: mask, bias and dropout are local to each in both."""
    inputs = replace(packed(dtype), mask=mmk.Mask.causal(), options={"dropout_p": 0.3, "seed": 6})
    inputs = replace(inputs, bias=mmk.RelativeBias(torch.randn(H, MAX_Q + MAX_K - 1)))
    padded = pad(inputs)
    lengths = torch.tensor(K_LENS)
    padded = replace(padded, mask=mmk.Mask.causal() & mmk.Mask.key_lengths(lengths))
    with run.active() as backend:
        a, b = check_call(inputs, backend), padded.run(backend)
    for n, length in enumerate(Q_LENS):
        first = int(inputs.cu_seqlens_q[n])
        found = a["out"][first : first + length].transpose(0, 1)
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(found, b["out"][n, :, :length], rtol=8 * eps, atol=8 * eps)


def pad(inputs: Inputs) -> Inputs:
    """A packed call's operands as one padded batch; what stands beyond the ends is large, so that reading it shows."""
    found = []
    for tensors, cuts in (
        (inputs.queries, inputs.cu_seqlens_q), (inputs.keys, inputs.cu_seqlens_k), (inputs.values, inputs.cu_seqlens_k)
    ):  # fmt: skip
        lens = cuts.diff().tolist()
        result = torch.full((len(lens), tensors[0].shape[1], max(lens), tensors[0].shape[2]), 99.0, dtype=inputs.dtype)
        for n, piece in enumerate(tensors[0].split(lens)):
            result[n, :, : lens[n]] = piece.transpose(0, 1)
        found.append([result])
    return replace(inputs, function="attention", queries=found[0], keys=found[1], values=found[2],
                   cu_seqlens_q=None, cu_seqlens_k=None)  # fmt: skip
