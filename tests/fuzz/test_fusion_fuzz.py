"""Random concat_fusion calls against the fp64 reference, forward and all gradients, within the tolerance rule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.backends import DTYPES, EVERY, NATIVE, REFERENCE, Run
from tests.fusion.naive import Case
from tests.fusion.rule import Expectation
from tests.fuzz.fusion_cases import fusion_cases

MORE = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
seeds, dtypes = st.integers(0, 2**20), st.sampled_from(DTYPES)


def check(case: Case, dtype: torch.dtype, seed: int, run: Run) -> None:
    event(f"ran on {run.name}")
    with run.active() as backend:
        Expectation(case, case.operands(dtype, seed), rounded=run.rounds_weights(dtype)).check(backend)


@settings(MORE, max_examples=250)
@given(case=fusion_cases(), dtype=dtypes, seed=seeds, run=st.sampled_from(NATIVE))
def test_kernels(case: Case, dtype: torch.dtype, seed: int, run: Run) -> None:
    check(case, dtype, seed, run)


@settings(MORE, max_examples=100)
@given(case=fusion_cases(), dtype=dtypes, seed=seeds)
def test_reference(case: Case, dtype: torch.dtype, seed: int) -> None:
    check(case, dtype, seed, REFERENCE)


@pytest.mark.slow
@settings(MORE, max_examples=2500)
@given(case=fusion_cases(), dtype=dtypes, seed=seeds, run=st.sampled_from(EVERY))
def test_longer(case: Case, dtype: torch.dtype, seed: int, run: Run) -> None:
    check(case, dtype, seed, run)


@pytest.mark.nightly
@pytest.mark.timeout(2 * 3600)
@settings(MORE, max_examples=20_000, derandomize=False)
@given(case=fusion_cases(), dtype=dtypes, seed=seeds, run=st.sampled_from(EVERY))
def test_nightly(case: Case, dtype: torch.dtype, seed: int, run: Run) -> None:
    """Not derandomised: other calls every night; a failure prints how to repeat it."""
    check(case, dtype, seed, run)
