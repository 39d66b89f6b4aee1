"""Random calls against the fp64 reference, forward and all gradients, within the tolerance rule."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.backends import EVERY, NATIVE, Run
from tests.fuzz.cases import Case, cases
from tests.tolerance import check_call

FUNCTIONS = ("attention", "varlen", "joint")
MORE = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def check(case: Case, run: Run) -> None:
    event(f"ran on {run.name}")
    with run.active() as backend:
        check_call(case.make(), backend, case.seed)


@settings(MORE, max_examples=350)
@given(case=cases("attention"), run=st.sampled_from(NATIVE))
def test_attention(case: Case, run: Run) -> None:
    check(case, run)


@settings(MORE, max_examples=200)
@given(case=cases("varlen"), run=st.sampled_from(NATIVE))
def test_varlen(case: Case, run: Run) -> None:
    check(case, run)


@settings(MORE, max_examples=150)
@given(case=cases("joint"), run=st.sampled_from(NATIVE))
def test_joint(case: Case, run: Run) -> None:
    check(case, run)


@settings(MORE, max_examples=100)
@given(case=st.one_of(*[cases(function) for function in FUNCTIONS]))
def test_reference(case: Case) -> None:
    check(case, EVERY[0])


@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS)
def test_longer(function: str) -> None:
    @settings(MORE, max_examples=2500)
    @given(case=cases(function), run=st.sampled_from(EVERY))
    def longer(case: Case, run: Run) -> None:
        check(case, run)

    longer()


@pytest.mark.nightly
@pytest.mark.timeout(2 * 3600)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_nightly(function: str) -> None:
    """Not derandomised: other calls every night; a failure prints how to repeat it."""

    @settings(MORE, max_examples=20_000, derandomize=False)
    @given(case=cases(function), run=st.sampled_from(EVERY))
    def nightly(case: Case, run: Run) -> None:
        check(case, run)

    nightly()
