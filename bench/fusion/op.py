"""Concat-fusion, as the instrument sees it."""

from __future__ import annotations

from bench.fusion.accuracy import reference
from bench.fusion.cases import cases
from bench.fusion.problems import Problem, facts, make_call, work
from bench.fusion.providers import PROVIDERS
from bench.op import Op

CONCAT_FUSION = Op("concat_fusion", Problem, cases, PROVIDERS, make_call, work, reference, facts)
