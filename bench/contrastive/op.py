"""The contrastive losses, as the instrument sees them."""

from __future__ import annotations

from bench.contrastive.accuracy import reference
from bench.contrastive.cases import cases
from bench.contrastive.problems import Problem, facts, make_call, work
from bench.contrastive.providers import PROVIDERS
from bench.op import Op

CONTRASTIVE_LOSS = Op("contrastive_loss", Problem, cases, PROVIDERS, make_call, work, reference, facts)
