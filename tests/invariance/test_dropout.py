"""Dropout: the bits are Philox's on every backend and in every layout of the same call, and a seed brings them back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import mmkernels as mmk
from bench.attention.inputs import Inputs
from mmkernels.philox import dropout_keep
from tests import plain
from tests.backends import CPU, EVERY, NATIVE, Run, dtypes, runs
from tests.tolerance import same_bits

B, H, ROWS, KEYS = 2, 3, 33, 77


def pattern(run: Run, p: float, seed: object, keys: int = KEYS, **options: object) -> Tensor:
    """Which pairs are kept, (B, H, ROWS, keys): uniform attention over identity values shows each pair's weight."""
    query, key = torch.zeros(B, H, ROWS, 4), torch.zeros(1, H, keys, 4)
    value = torch.eye(keys).expand(1, H, -1, -1)
    with run.active() as backend:
        out = mmk.attention(query, key, value, dropout_p=p, seed=seed, backend=backend, **options)
    weights = out * keys
    kept = weights > 0.5
    expected = kept * (1.0 / (1.0 - p) if p < 1 else 0.0)
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-6)
    return kept


SEEDS = [0, 1, 42, -1, 2**31, 2**63 - 1, -(2**63), 0x123456789ABCDEF]


@pytest.mark.parametrize("seed", SEEDS)
@runs(*EVERY)
def test_bits_are_those_of_philox(seed: int, run: Run) -> None:
    for p in (0.1, 0.5, 0.93):
        wanted = dropout_keep(torch.tensor(seed), p, B, H, ROWS, KEYS)
        assert torch.equal(pattern(run, p, seed), wanted)
        assert torch.equal(pattern(run, p, torch.tensor(seed)), wanted)


@pytest.mark.parametrize(
    "offsets", [(0, 0, 0, 1), (0, 0, 0, 6), (5, 0, 0, 0), (0, 7, 0, 0), (0, 0, 100, 0), (1, 2, 3, 515)]
)
@runs(*EVERY)
def test_offsets_continue_the_counters(offsets: tuple[int, int, int, int], run: Run) -> None:
    """A shard at these offsets draws its own part of the whole's bits."""
    found = pattern(run, 0.4, 9, dropout_offsets=offsets)
    b, h, q, k = offsets
    whole = dropout_keep(torch.tensor(9), 0.4, B + b, H + h, ROWS + q, KEYS + k)
    assert torch.equal(found, whole[b:, h:, q:, k:])


@runs(*EVERY)
def test_probabilities_at_the_ends(run: Run) -> None:
    assert pattern(run, 0.0, 3).all()
    assert not pattern(run, 1.0, 3).any()
    assert pattern(run, 2.0**-33, 3).all()
    assert not pattern(run, 1.0 - 2.0**-20, 3)[0, 0, 0, :2].any()


@runs(*EVERY)
def test_p_of_one_has_gradients_of_zero(run: Run) -> None:
    tensors = [torch.randn(1, 2, n, 8) for n in (5, 9, 9)]
    inputs = Inputs("attention", *([x] for x in tensors), options={"dropout_p": 1.0, "seed": 1})
    with run.active() as backend:
        found = plain.run(inputs, backend, {"out": torch.randn(1, 2, 5, 8)})
    assert found["lse"].isfinite().all()
    for name, tensor in found.items():
        assert name == "lse" or not tensor.any(), name


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@runs(CPU)
def test_fraction_kept(p: float, run: Run) -> None:
    """Within 5 standard deviations, over all pairs, and along each axis."""
    kept = torch.cat([pattern(run, p, seed, keys=400) for seed in range(8)]).double()
    for axes in ((0, 1, 2, 3), (0, 1, 2), (0, 2, 3), (0, 1, 3)):
        mean = kept.mean(axes)
        deviation = (p * (1 - p) / (kept.numel() / mean.numel())) ** 0.5
        assert ((mean - (1 - p)).abs() < 5 * deviation).all(), axes


@runs(*EVERY)
def test_another_seed_is_another_pattern(run: Run) -> None:
    a, b = pattern(run, 0.5, 1), pattern(run, 0.5, 2)
    agree = (a == b).double().mean()
    assert 0.45 < float(agree) < 0.55
    assert torch.equal(a, pattern(run, 0.5, 1))


@runs(*EVERY)
def test_manual_seed_reproduces(run: Run) -> None:
    tensors = [torch.randn(1, 2, n, 8) for n in (5, 9, 9)]

    def draw() -> Tensor:
        with run.active() as backend:
            return mmk.attention(*tensors, dropout_p=0.5, backend=backend)

    torch.manual_seed(7)
    first, second = draw(), draw()
    torch.manual_seed(7)
    again = draw()
    same_bits("out", again, first)
    assert not torch.equal(first, second)


@runs(*EVERY)
def test_backward_drops_what_forward_dropped(run: Run) -> None:
    """With identity values dV shows the kept weights of the backward; a drawn seed is the same in both."""
    query, key = torch.randn(B, H, ROWS, 4), torch.randn(B, H, KEYS, 4)
    value = torch.eye(KEYS).expand(B, H, -1, -1).clone().requires_grad_()
    with run.active() as backend:
        out = mmk.attention(query, key, value, dropout_p=0.3, backend=backend)
    d_out = torch.eye(ROWS, KEYS).expand(B, H, -1, -1).contiguous()  # row i's weights arrive in column i of dV
    (d_value,) = torch.autograd.grad(out, value, d_out)
    torch.testing.assert_close(d_value[..., :ROWS].transpose(2, 3), out.detach(), rtol=1e-5, atol=1e-7)
    assert 0.6 < float((out > 0).double().mean()) < 0.8


@dtypes()
@runs(*NATIVE)
def test_segments_draw_the_bits_of_their_concatenation(run: Run, dtype: torch.dtype) -> None:
    lengths = (33, 0, 1, 43)
    query, key, value = (torch.randn(B, H, n, 16).to(dtype) for n in (ROWS, KEYS, KEYS))
    options = {"dropout_p": 0.5, "seed": 5}
    whole = Inputs("attention", [query], [key], [value], options=options)
    cut = replace(whole, keys=list(key.split(lengths, 2)), values=list(value.split(lengths, 2)))
    with run.active() as backend:
        a, b = whole.run(backend), cut.run(backend)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(a["out"], b["out"], rtol=4 * eps, atol=4 * eps)
    torch.testing.assert_close(a["lse"], b["lse"], rtol=1e-5, atol=1e-5)
    identity = torch.eye(KEYS).expand(B, H, -1, -1).split(lengths, 2)
    with run.active() as backend:
        out = mmk.attention(
            query.float(), list(key.float().split(lengths, 2)), list(identity), backend=backend, **options
        )
    assert torch.equal(out > 0, dropout_keep(torch.tensor(5), 0.5, B, H, ROWS, KEYS))


@runs(*EVERY)
def test_joint_queries_draw_the_bits_of_their_concatenation(run: Run) -> None:
    cuts = (10, 0, 23)
    query, key = torch.randn(B, H, ROWS, 16), torch.randn(B, H, KEYS, 16)
    value = torch.eye(KEYS).expand(B, H, -1, -1)
    options = {"dropout_p": 0.5, "seed": 5}
    with run.active() as backend:
        joint = mmk.joint_attention(
            list(query.split(cuts, 2)), [key[:, :, :30], key[:, :, 30:]], [value[:, :, :30], value[:, :, 30:]],
            backend=backend, **options,
        )  # fmt: skip
    kept = torch.cat(joint, 2) > 0
    assert torch.equal(kept, dropout_keep(torch.tensor(5), 0.5, B, H, ROWS, KEYS))


@runs(*EVERY)
def test_packed_sequences_count_from_their_own_start(run: Run) -> None:
    lens = (20, 0, 13, 44)
    cuts = torch.tensor([0, *lens]).cumsum(0).to(torch.int32)
    total = sum(lens)
    value = torch.cat([torch.eye(n, max(lens)) for n in lens])[:, None].expand(-1, H, -1)
    with run.active() as backend:
        out = mmk.attention_varlen(
            torch.randn(total, H, 8),
            torch.randn(total, H, 8),
            value,
            cuts,
            cuts,
            dropout_p=0.5,
            seed=5,
            backend=backend,
        )
    for n, length in enumerate(lens):
        kept = out[cuts[n] : cuts[n + 1], :, :length].transpose(0, 1) > 0
        assert torch.equal(kept, dropout_keep(torch.tensor(5), 0.5, 4, H, length, length)[n])
