"""Online softmax: merging two states, in scalars and in the lanes of every instruction set."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
INFINITY = float("inf")


@given(FINITE, FINITE)
def test_factors_bring_both_states_to_the_larger_maximum(core, a, b):
    row_max, factor_a, factor_b = core.merge_factors(a, b)
    assert row_max == max(a, b)
    for own, factor in ((a, factor_a), (b, factor_b)):
        exact = math.exp(max(own - row_max, -1000.0))
        assert abs(factor - exact) <= 2e-7 * exact + 1e-38


@given(FINITE)
def test_an_empty_state_changes_no_bit_of_the_other(core, a):
    assert core.merge_factors(a, -INFINITY) == [a, 1.0, 0.0]
    assert core.merge_factors(-INFINITY, a) == [a, 0.0, 1.0]


def test_two_empty_states_are_an_empty_state(core):
    row_max, factor_a, factor_b = core.merge_factors(-INFINITY, -INFINITY)
    assert row_max == -INFINITY
    assert not factor_a * 0.0 and not factor_b * 0.0  # sums of 0 stay 0: the factors are no NaN
    assert core.safe_shift(-INFINITY) == 0.0
    assert core.safe_shift(-5.0) == -5.0


@pytest.mark.parametrize("order", [1, -1])
def test_lanes_merge_as_scalars_do(core, lanes, order):
    values = np.array([-INFINITY, -3e38, -88.0, -1.0, 0.0, 1e-30, 1.0, 87.0, 3e38], np.float32)
    a, b = (grid.ravel() for grid in np.meshgrid(values, values)[::order])
    a, b = np.resize(a, 96), np.resize(b, 96)
    found = lanes.merge(a, b)
    expected = np.array([core.merge_factors(x, y) for x, y in zip(a, b, strict=True)], np.float32).T
    assert (found[0] == expected[0]).all()
    for factor, exact in zip(found[1:], expected[1:], strict=True):
        # below e^-87.3 the lanes give 0, where a scalar still has a denormal number
        np.testing.assert_allclose(factor, exact, rtol=2e-7, atol=1.2e-38)
        assert (factor[exact == 1] == 1).all()


def test_chunks_merged_in_order_are_the_softmax(core):
    """The whole algorithm in numpy around the scalar merge, against one softmax in fp64."""
    rng = np.random.default_rng(1)
    logits = (rng.standard_normal(300) * 20).astype(np.float32)
    logits[40:80] = -INFINITY  # a chunk that sees no key
    values = rng.standard_normal(300)
    row_max, row_sum, acc = -INFINITY, 0.0, 0.0
    for first in range(0, 300, 40):
        chunk = logits[first : first + 40].astype(np.float64)
        chunk_max = float(chunk.max())
        weights = np.exp(chunk - core.safe_shift(chunk_max))
        row_max, a, b = core.merge_factors(row_max, chunk_max)
        row_sum = row_sum * a + weights.sum() * b
        acc = acc * a + (weights * values[first : first + 40]).sum() * b
    exact = np.exp(logits.astype(np.float64) - logits.max())
    assert abs(acc / row_sum - (exact * values).sum() / exact.sum()) < 2e-6
    assert abs(row_max + math.log(row_sum) - (logits.max() + math.log(exact.sum()))) < 2e-6
