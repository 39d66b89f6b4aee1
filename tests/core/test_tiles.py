"""Tile classes: csrc/core/mask.h against a dense mask, element by element."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

INTERVALS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=12)
INDEX = st.integers(-(2**62), 2**62)


def dense(intervals: list[tuple[int, int]], begin: int, end: int) -> np.ndarray:
    """(rows, end - begin): whether each row sees each key of the tile."""
    return np.array([[start <= key < stop for key in range(begin, end)] for start, stop in intervals])


@given(INTERVALS, st.integers(0, 40), st.integers(1, 16))
@example([(0, 8), (8, 16)], 0, 8)
@example([(5, 5), (7, 3)], 0, 8)  # empty and reversed intervals see nothing
@example([(0, 16), (3, 3)], 0, 8)  # a row that sees nothing keeps the tile from being full
@example([(7, 8)], 0, 8)
@example([(8, 9)], 0, 8)
def test_class_says_what_the_dense_mask_says(core, intervals, begin, width):
    start, stop = (np.array(column, np.int32) for column in zip(*intervals, strict=True))
    visible = dense(intervals, begin, begin + width)
    expected = "full" if visible.all() else "partial" if visible.any() else "skip"
    assert core.classify_tile(start, stop, begin, begin + width) == expected


@pytest.mark.parametrize("align", ["top_left", "bottom_right"])
@pytest.mark.parametrize(("q_len", "k_len"), [(1, 1), (7, 19), (19, 7), (32, 32)])
def test_causal_tiles_from_the_public_mask(core, align, q_len, k_len):
    from mmkernels.mask import Mask

    mask = Mask.causal(align)
    visible = mask.to_dense(1, 1, q_len, k_len)[0, 0].numpy()
    stop = visible.sum(1).astype(np.int32)  # a causal row sees a prefix of the keys
    counts = {"skip": 0, "partial": 0, "full": 0}
    for row in range(0, q_len, 4):
        for key in range(0, k_len, 4):
            tile = visible[row : row + 4, key : key + 4]
            found = core.classify_tile(
                np.zeros_like(stop[row : row + 4]), stop[row : row + 4], key, key + tile.shape[1]
            )
            assert found == ("full" if tile.all() else "partial" if tile.any() else "skip")
            counts[found] += 1
    assert q_len == 1 or counts["partial"]


@given(INDEX, st.integers(0, 2**31 - 1))
@example(-1, 0)
@example(2**31, 2**31 - 1)
def test_an_index_never_leaves_the_tensor(core, index, length):
    assert core.clamp_index(index, length) == min(max(index, 0), length)
