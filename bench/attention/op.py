"""Attention, as the instrument sees it."""

from __future__ import annotations

from bench.attention.accuracy import reference
from bench.attention.call import Call, make_call
from bench.attention.cases import cases
from bench.attention.problems import Problem
from bench.attention.providers import PROVIDERS
from bench.attention.work import PairWork, facts, work_of
from bench.op import Op


def work(call: Call) -> PairWork:
    """What a call has to do."""
    return work_of(call.inputs, call.backward)


ATTENTION = Op("attention", Problem, cases, PROVIDERS, make_call, work, reference, facts)
