"""A row's bits depend on its own query, visible keys and values, bias and dropout indices, and on nothing around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import mmkernels as mmk
from bench.attention.inputs import Inputs
from bench.attention.problems import named
from tests import plain
from tests.backends import NATIVE, Run, dtypes, runs
from tests.tolerance import same_bits

B, H, HK, ROWS, KEYS, D, DV = 3, 4, 2, 150, 700, 40, 24
Results = dict[str, Tensor]


def make(dtype: torch.dtype, mask: mmk.Mask | None = None, bias: object = None, **options: object) -> Inputs:
    random = torch.Generator().manual_seed(21)
    sizes = ((B, H, ROWS, D), (B, HK, KEYS, D), (B, HK, KEYS, DV))
    query, key, value = (torch.randn(size, generator=random).to(dtype) for size in sizes)
    return Inputs("attention", [query], [key], [value], mask, bias, options=options)


def results(inputs: Inputs, run: Run, ends: Mapping[str, Tensor] | None = None) -> Results:
    with run.active() as backend:
        return plain.run(inputs, backend, ends or plain.cotangents(inputs))


def rows(tensor: Tensor, places: object) -> Tensor:
    return tensor[:, :, places]


every_run = runs(*NATIVE)


@dtypes()
@every_run
def test_run_to_run(run: Run, dtype: torch.dtype) -> None:
    inputs = make(dtype, mmk.Mask.causal("bottom_right"), torch.randn(1, H, ROWS, KEYS), dropout_p=0.2, seed=1)
    first = results(inputs, run)
    for _ in range(2):
        again = results(inputs, run)
        for name, tensor in first.items():
            same_bits(name, again[name], tensor)


@pytest.mark.parametrize("masked", [False, True])
@dtypes()
@every_run
def test_a_row_alone(masked: bool, run: Run, dtype: torch.dtype) -> None:
    """In a tile of many rows, and in a call of its own."""
    bias = torch.randn(B, 1, ROWS, KEYS)
    start = torch.randint(0, 300, (B, 1, ROWS))
    stop = start + torch.randint(1, 400, (B, 1, ROWS))
    inputs = make(dtype, mmk.Mask.intervals(start, stop) if masked else None, bias if masked else None)
    ends = plain.cotangents(inputs)
    whole = results(inputs, run, ends)
    for row in (0, 1, 15, 16, 63, 64, 100, 149):
        for b in (0, 2):
            mask = mmk.Mask.intervals(start[b : b + 1, :, row : row + 1], stop[b : b + 1, :, row : row + 1])
            one = replace(
                inputs,
                queries=[inputs.queries[0][b : b + 1, :, row : row + 1]],
                keys=[inputs.keys[0][b : b + 1]],
                values=[inputs.values[0][b : b + 1]],
                mask=mask if masked else None,
                bias=bias[b : b + 1, :, row : row + 1] if masked else None,
            )
            own = {name: d[b : b + 1, :, row : row + 1] for name, d in ends.items()}
            alone = results(one, run, own)
            for name in ("out", "lse", "grad query 0"):
                same_bits(name, alone[name], whole[name][b : b + 1, :, row : row + 1])


@dtypes()
@every_run
def test_any_run_of_rows(run: Run, dtype: torch.dtype) -> None:
    """Rows that start anywhere and end anywhere, with one head or all: other tiles, other lanes."""
    inputs = make(dtype)
    ends = plain.cotangents(inputs)
    whole = results(inputs, run, ends)
    for first, last in ((0, 8), (3, 20), (7, 71), (1, 150), (60, 130)):
        some = replace(inputs, queries=[rows(inputs.queries[0], slice(first, last))])
        found = results(some, run, {name: rows(d, slice(first, last)) for name, d in ends.items()})
        for name in ("out", "lse", "grad query 0"):
            same_bits(name, found[name], rows(whole[name], slice(first, last)))
    head = replace(
        inputs, queries=[inputs.queries[0][:, 2:3]], keys=[inputs.keys[0][:, 1:2]], values=[inputs.values[0][:, 1:2]]
    )
    found = results(head, run, {name: d[:, 2:3] for name, d in ends.items()})
    for name in ("out", "lse", "grad query 0"):
        same_bits(name, found[name], whole[name][:, 2:3])


@pytest.mark.parametrize("heads", [1, HK])
@dtypes()
@every_run
def test_few_rows_of_everything(heads: int, run: Run, dtype: torch.dtype) -> None:
    """Tiles of few rows have a kernel of their own; every feature, and NaN that half of the rows must not see."""
    visible = torch.rand(B, 1, ROWS, KEYS) < 0.7
    visible[:, :, ::2, 33] = visible[:, :, :20, 64:128] = visible[:, :, 3] = False
    bias = torch.randn(1, H, ROWS, KEYS).masked_fill(torch.rand(1, H, ROWS, KEYS) < 0.05, -torch.inf)
    options = {"softcap": 4.0, "dropout_p": 0.2, "seed": 5}
    inputs = make(dtype, mmk.Mask.dense(visible), bias, **options)
    inputs.keys[0][:, :, 33] = inputs.values[0][:, :, 33] = torch.nan
    ends = plain.cotangents(inputs)
    whole = results(inputs, run, ends)
    for first, last in ((0, 1), (4, 6), (20, 23), (31, 35), (60, 67), (100, 109)):
        places = slice(first, last)
        some = replace(
            inputs,
            queries=[rows(inputs.queries[0], places)[:, : heads * H // HK]],
            keys=[inputs.keys[0][:, :heads]],
            values=[inputs.values[0][:, :heads]],
            mask=mmk.Mask.dense(rows(visible, places)),
            bias=rows(bias, places)[:, : heads * H // HK],
            options={**options, "dropout_offsets": (0, 0, first, 0)},
        )
        found = results(some, run, {name: rows(d, places)[:, : heads * H // HK] for name, d in ends.items()})
        for name in ("out", "lse", "grad query 0"):
            same_bits(name, found[name], rows(whole[name], places)[:, : heads * H // HK])


@dtypes()
@every_run
def test_a_batch_entry_alone(run: Run, dtype: torch.dtype) -> None:
    """Everything of it, also the gradients of keys, values and of a bias that no other entry reads."""
    bias = torch.randn(B, H, ROWS, KEYS)
    inputs = make(dtype, mmk.Mask.key_lengths(torch.tensor([700, 513, 20])), bias)
    ends = plain.cotangents(inputs)
    whole = results(inputs, run, ends)
    for b, length in enumerate((700, 513, 20)):
        leaves = {name: tensor[b : b + 1] for name, tensor in inputs.leaves().items()}
        one = replace(inputs.replaced(leaves), mask=mmk.Mask.key_lengths(torch.tensor([length])))
        found = results(one, run, {name: d[b : b + 1] for name, d in ends.items()})
        for name, tensor in found.items():
            same_bits(name, tensor, whole[name][b : b + 1])


@pytest.mark.parametrize("extra", [1, 37, 64, 500, 1000])
@dtypes()
@every_run
def test_invisible_keys_at_the_end(extra: int, run: Run, dtype: torch.dtype) -> None:
    """Padding of any length, hidden by lengths, by a dense mask or by a bias of -inf."""
    inputs = make(dtype, dropout_p=0.1, seed=3)
    ends = plain.cotangents(inputs)
    expected = results(inputs, run, ends)
    padded = {
        name: torch.cat([inputs.leaves()[name], torch.randn(B, HK, extra, d).to(dtype)], 2)
        for name, d in (("key 0", D), ("value 0", DV))
    }
    visible = (torch.arange(KEYS + extra) < KEYS).expand(1, 1, ROWS, -1).clone()
    ways: dict[str, Inputs] = {
        "lengths": replace(inputs, mask=mmk.Mask.key_lengths(torch.tensor([KEYS] * B))),
        "dense": replace(inputs, mask=mmk.Mask.dense(visible)),
        "bias": replace(inputs, bias=torch.where(visible, 0.0, -torch.inf)),
    }
    for way, call in ways.items():
        found = results(call.replaced(padded), run, ends)
        for name, tensor in expected.items():
            got = found[name]
            if name in ("grad key 0", "grad value 0"):
                assert not got[:, :, KEYS:].any(), f"{way}: {name}"
                got = got[:, :, :KEYS]
            same_bits(f"{way}: {name}", got, tensor)


MASKS: dict[str, Callable[[], mmk.Mask | None]] = {
    "none": lambda: None,
    "causal": lambda: mmk.Mask.causal(),
    "window": lambda: mmk.Mask.window(40, 9),
}


@pytest.mark.parametrize("mask", MASKS)
@dtypes()
@every_run
def test_packed_padded_alone(mask: str, run: Run, dtype: torch.dtype) -> None:
    """One sequence in a packed call, in a padded batch and in a call of its own, dropout included."""
    q_lens, k_lens = (70, 1, 129, 0, 33), (70, 600, 129, 5, 64)
    random = torch.Generator().manual_seed(4)
    packed = [torch.randn(sum(lens), heads, d, generator=random).to(dtype)
              for lens, heads, d in ((q_lens, H, D), (k_lens, HK, D), (k_lens, HK, DV))]  # fmt: skip
    cuts = [torch.tensor([0, *lens]).cumsum(0).to(torch.int32) for lens in (q_lens, k_lens)]
    options = {"dropout_p": 0.15, "seed": 12}
    inputs = Inputs("varlen", *([x] for x in packed), MASKS[mask](), None, *cuts, options=options)
    ends = plain.cotangents(inputs)
    whole = results(inputs, run, ends)

    most_q, most_k = max(q_lens), max(k_lens)
    pad = [torch.zeros(5, H, most_q, D), torch.full((5, HK, most_k, D), 3.0), torch.full((5, HK, most_k, DV), 3.0)]
    pad_out, pad_lse = torch.zeros(5, H, most_q, DV).to(dtype), torch.zeros(5, H, most_q)
    pieces = [x.split(lens) for x, lens in zip(packed, (q_lens, k_lens, k_lens), strict=True)]
    d_outs, d_lses = ends["out"].split(q_lens), ends["lse"].split(q_lens, 1)
    for n in range(5):
        for tensor, parts in zip((*pad, pad_out), (*pieces, d_outs), strict=True):
            tensor[n, :, : len(parts[n])] = parts[n].transpose(0, 1).float()
        pad_lse[n, :, : q_lens[n]] = d_lses[n]
    lengths = mmk.Mask.key_lengths(torch.tensor(k_lens))
    padded_mask = lengths if inputs.mask is None else inputs.mask & lengths
    padded = Inputs("attention", *([x.to(dtype)] for x in pad), padded_mask, options=options)
    batch = results(padded, run, {"out": pad_out, "lse": pad_lse})

    def of_sequence(found: Results, name: str, n: int) -> Tensor:
        lens = k_lens if name in ("grad key 0", "grad value 0") else q_lens
        if name == "lse":
            return found[name].split(lens, 1)[n]
        return found[name].split(lens)[n].transpose(0, 1)

    for n in range(5):
        alone = Inputs(
            "attention", *([x[n].transpose(0, 1)[None]] for x in pieces), inputs.mask,
            options={**options, "dropout_offsets": (n, 0, 0, 0)},
        )  # fmt: skip
        own = results(alone, run, {"out": d_outs[n].transpose(0, 1)[None], "lse": d_lses[n][None]})
        for name in whole:
            expected = of_sequence(whole, name, n)
            same_bits(f"alone: {name} of sequence {n}", own[name][0], expected)
            got = batch[name][n, :, : expected.shape[1]]
            same_bits(f"padded: {name} of sequence {n}", got, expected)


@pytest.mark.parametrize("wanted", ["query 0", "key 0", "value 0", "bias 0", "key 0 value 0", "query 0 bias 0"])
@every_run
def test_whichever_gradients_are_wanted(wanted: str, run: Run) -> None:
    """Passes that are left out change no bit of the others."""
    for bias in (torch.randn(B, H, ROWS, KEYS), torch.randn(1, H, 1, KEYS), mmk.RelativeBias(torch.randn(H, 849))):
        inputs = make(torch.float32, mmk.Mask.causal("bottom_right"), bias, softcap=3.0)
        ends = plain.cotangents(inputs)
        everything = results(inputs, run, ends)
        leaves = inputs.leaves()
        names = [name for name in leaves if name in wanted]
        live = {name: leaves[name].detach().requires_grad_() for name in names}
        with run.active() as backend:
            outputs = inputs.replaced(live).run(backend)
            grads = torch.autograd.grad(
                [outputs["out"], outputs["lse"]], list(live.values()), [ends["out"], ends["lse"]]
            )
        for name, grad in zip(names, grads, strict=True):
            same_bits(name, grad, everything[f"grad {name}"])


@every_run
def test_full_tiles_and_masked_ones(run: Run) -> None:
    """A mask that hides nothing, and one that makes every tile partial by hiding keys that nobody else has."""
    inputs = make(torch.float32)
    ends = plain.cotangents(inputs)
    expected = results(inputs, run, ends)
    everything = torch.ones(1, 1, ROWS, KEYS, dtype=torch.bool)
    for mask in (mmk.Mask.dense(everything), mmk.Mask.intervals(torch.zeros(ROWS, dtype=torch.int32), KEYS)):
        found = results(replace(inputs, mask=mask), run, ends)
        for name, tensor in expected.items():
            same_bits(name, found[name], tensor)
    dense = (torch.rand(1, 1, ROWS, KEYS) < 0.9).index_fill(2, torch.arange(20, 40), True)
    found = results(replace(inputs, mask=mmk.Mask.dense(dense)), run, ends)
    for name in ("out", "lse", "grad query 0"):
        same_bits(name, rows(found[name], slice(20, 40)), rows(expected[name], slice(20, 40)))


@every_run
def test_the_split_of_a_named_problem(run: Run) -> None:
    """One query against many keys: chunks are work items of their own on several threads."""
    inputs = replace(named("decode 1x4096").make(torch.float32), mask=mmk.Mask.window(None, 4000))
    ends = plain.cotangents(inputs)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        unsplit = results(inputs, run, ends)
        torch.set_num_threads(16)
        split = results(inputs, run, ends)
    finally:
        torch.set_num_threads(before)
    for name, tensor in unsplit.items():
        same_bits(name, split[name], tensor)


@dtypes()
@every_run
def test_intervals_and_the_same_mask_written_out(run: Run, dtype: torch.dtype) -> None:
    """Of a block that intervals cut, only the keys in between are multiplied; a dense mask has every key of it tested.

    A dense mask of intervals would be taken as such: the last row is none, and gives nothing to any gradient.
    """
    start = torch.arange(ROWS) * 3
    masks = {
        "window": mmk.Mask.window(37, 20),
        "odd ends": mmk.Mask.intervals(start.int(), (start + 1 + start % 89).clamp(max=KEYS).int()),
        "lengths": mmk.Mask.key_lengths(torch.tensor([1, 353, 699])),
    }
    for name, mask in masks.items():
        inputs = make(dtype, mask, softcap=5.0, dropout_p=0.3, seed=3)
        ends = plain.cotangents(inputs)
        for end in ends.values():
            end[:, :, -1] = 0
        visible = mask.to_dense(B, H, ROWS, KEYS).expand(B, H, ROWS, KEYS).clone()
        visible[:, :, -1] = torch.arange(KEYS) % 3 == 0
        expected = results(replace(inputs, mask=mmk.Mask.dense(visible)), run, ends)
        for result, tensor in results(inputs, run, ends).items():
            places = slice(0, -1 if result in ("out", "lse") else None)
            same_bits(f"{name}: {result}", rows(tensor, places), rows(expected[result], places))
