"""Philox4x32-10: csrc/core, its vector form and the torch twin, on the vectors that Random123 publishes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmkernels import philox

# Random123, tests/kat_vectors: counter, key, words of philox4x32 with 10 rounds
RANDOM123 = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
WORD = st.integers(0, 2**32 - 1)
COUNTERS = st.lists(st.tuples(WORD, WORD, WORD, WORD), min_size=1, max_size=8)


@pytest.mark.parametrize(("counter", "key", "words"), RANDOM123)
def test_published_vectors(core, counter, key, words):
    assert tuple(core.philox4x32(counter, *key)) == words


@pytest.mark.parametrize(("counter", "key", "words"), RANDOM123)
def test_published_vectors_in_torch(counter, key, words):
    found = philox.philox4x32([torch.tensor(word) for word in counter], [torch.tensor(word) for word in key])
    assert tuple(int(word) for word in found) == words


@pytest.mark.parametrize(("counter", "key", "words"), RANDOM123)
def test_published_vectors_in_lanes(lanes, counter, key, words):
    found = lanes.philox(np.repeat(np.array(counter, np.uint32)[:, None], 16, axis=1), *key)
    assert (found == np.array(words, np.uint32)[:, None]).all()


@given(COUNTERS, WORD, WORD)
def test_scalar_and_torch_agree(core, counters, key0, key1):
    words = [tuple(core.philox4x32(counter, key0, key1)) for counter in counters]
    columns = [torch.tensor(column) for column in zip(*counters, strict=True)]
    twin = philox.philox4x32(columns, (torch.tensor(key0), torch.tensor(key1)))
    assert words == [tuple(row) for row in torch.stack(twin, 1).tolist()]


def test_every_lane_draws_its_own_words(core, lanes):
    rng = np.random.default_rng(0)
    counter = rng.integers(0, 2**32, (4, 48), dtype=np.uint32)
    found = lanes.philox(counter, 0xDEADBEEF, 0x12345678)
    expected = [core.philox4x32(column, 0xDEADBEEF, 0x12345678) for column in counter.T.tolist()]
    assert (found == np.array(expected, np.uint32).T).all()
