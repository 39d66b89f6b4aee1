"""The torch twin of Philox against Random123's published vectors and a twin on Python ints."""

from __future__ import annotations

import random

import pytest
import torch

from mmkernels.philox import dropout_keep, dropout_keep_varlen, philox4x32
from tests.reference import plain

FULL = 0xFFFFFFFF
PUBLISHED = [  # kat_vectors of Random123, lines "philox4x32 10"
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([FULL] * 4, [FULL] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize("counter, key, expected", PUBLISHED)
def test_published_vectors(counter, key, expected):
    words = philox4x32([torch.tensor(c) for c in counter], [torch.tensor(k) for k in key])
    assert [int(word) for word in words] == expected
    assert plain.philox_words(counter, key) == expected


def test_random_vectors_at_once():
    rng = random.Random(0)
    rows = [[rng.getrandbits(32) for _ in range(6)] for _ in range(200)]
    columns = torch.tensor(rows).T
    words = philox4x32(list(columns[:4]), list(columns[4:]))
    for index, row in enumerate(rows):
        assert [int(word[index]) for word in words] == plain.philox_words(row[:4], row[4:])


@pytest.mark.parametrize("seed", [0, 1, -1, 2**40 + 7, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("offsets", [[0, 0, 0, 0], [5, 6, 7, 9], [1, 0, 2**31, 2**32 - 7]])
def test_bits_of_each_pair(seed, offsets):
    keep = dropout_keep(torch.tensor(seed), 0.4, 2, 3, 2, 7, offsets)
    assert keep.shape == (2, 3, 2, 7)
    b0, h0, q0, k0 = offsets
    for b, h, i, j in torch.cartesian_prod(*map(torch.arange, keep.shape)).tolist():
        word = plain.philox_words([(k0 + j) // 4, i + q0, h + h0, b + b0], [seed & FULL, (seed >> 32) & FULL])
        assert bool(keep[b, h, i, j]) == (word[(k0 + j) % 4] >= round(0.4 * 2**32))


def test_a_shard_draws_its_part():
    whole = dropout_keep(torch.tensor(3), 0.5, 2, 4, 6, 11)
    part = dropout_keep(torch.tensor(3), 0.5, 1, 2, 3, 5, [1, 2, 2, 3])
    assert torch.equal(part, whole[1:, 2:, 2:5, 3:8])


def test_packed_and_padded_agree():
    q_lens, k_lens = [3, 0, 2], [5, 4, 6]
    padded = dropout_keep(torch.tensor(9), 0.5, 3, 2, 3, 6)
    sequence, local_q = (torch.tensor(x) for x in ([0, 0, 0, 2, 2], [0, 1, 2, 0, 1]))
    local_k = torch.tensor([j for length in k_lens for j in range(length)])
    packed = dropout_keep_varlen(torch.tensor(9), 0.5, 2, sequence, local_q, local_k)
    assert packed.shape == (1, 2, sum(q_lens), sum(k_lens))
    for n, row, column in [(0, 0, 0), (2, 3, 9)]:
        own = packed[0, :, row : row + q_lens[n], column : column + k_lens[n]]
        assert torch.equal(own, padded[n, :, : q_lens[n], : k_lens[n]])


def test_extremes_and_rate():
    assert dropout_keep(torch.tensor(1), 0.0, 1, 1, 8, 8).all()
    assert not dropout_keep(torch.tensor(1), 1.0, 1, 1, 8, 8).any()
    # 2**18 fair draws: five standard deviations are 5 * sqrt(.09 * .91 / 2**18) < 0.0028.
    assert abs(dropout_keep(torch.tensor(1), 0.09, 4, 4, 128, 128).double().mean().item() - 0.91) < 0.0028


def test_compiles_in_one_graph():
    compiled = torch.compile(dropout_keep, backend="aot_eager", fullgraph=True)
    args = (torch.tensor(77), 0.5, 1, 2, 3, 5, [0, 1, 2, 3])
    assert torch.equal(compiled(*args), dropout_keep(*args))
