"""What the contrastive losses run on: ours, and the ways of torch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

import mmkernels as mmk
from bench.case import Case
from bench.contrastive.plain import PLAIN, chunked
from bench.contrastive.problems import Call
from bench.provider import InInductor, InTorch, OurPackage, Prepared, Provider, compiled, differentiated

CHUNK = 256


class Ours(OurPackage):
    """The public function."""

    def prepare(self, call: Call) -> list[Prepared]:
        """One way."""
        image, text, scale, bias = call.operands()
        return [_prepared(call, lambda: mmk.contrastive_loss(image, text, scale, kind=call.kind, logit_bias=bias))]


class Naive(InTorch):
    """The whole matrix of logits, and cross_entropy both ways or logsigmoid."""

    name = "naive"

    def prepare(self, call: Call) -> list[Prepared]:
        """Ways: one product and its transpose, or two products; a matrix of signs, or softplus."""
        return [
            _prepared(call, lambda loss=loss: loss(*call.operands()), way)  # type: ignore[misc]
            for way, loss in PLAIN[call.kind].items()
        ]


class Compiled(InInductor):
    """The same, compiled by inductor."""

    name = "compiled"

    def prepare(self, call: Call) -> list[Prepared]:
        """The ways of naive. Compiles here, which takes seconds."""
        ways = []
        for way, loss in PLAIN[call.kind].items():
            function = compiled(loss)
            ways.append(_prepared(call, lambda function=function: function(*call.operands()), way))  # type: ignore[misc]
            ways[-1].run()
        return ways


class Chunked(InTorch):
    """Chunks of rows under torch's checkpoints, for batches whose logits do not fit (bench/large_batch.py)."""

    name = "chunked"

    def why_not(self, case: Case) -> str | None:
        """It was written for one kind."""
        return None if case.problem.kind == "softmax" else "the softmax kind only"

    def prepare(self, call: Call) -> list[Prepared]:
        """One way."""
        loss = chunked(CHUNK)
        return [_prepared(call, lambda: loss(*call.operands()), f"{CHUNK} rows")]


def _prepared(call: Call, forward: Callable[[], Tensor], way: str = "") -> Prepared:
    return differentiated("loss", forward, call.leaves(), call.grad, way)


PROVIDERS: tuple[Provider, ...] = (Ours(), Naive(), Compiled())
