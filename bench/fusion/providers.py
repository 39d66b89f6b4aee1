"""What concat-fusion runs on: ours, and the ways of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import mmkernels as mmk
from bench.case import Case
from bench.fusion.plain import plain
from bench.fusion.problems import EPS, Call
from bench.provider import InInductor, InTorch, OurPackage, Prepared, Provider, compiled, differentiated


class Ours(OurPackage):
    """The public function."""

    def prepare(self, call: Call) -> list[Prepared]:
        """One way."""
        norm = mmk.LayerNorm(call.norm_weight, call.norm_bias, EPS) if call.full else None
        activation = "gelu" if call.full else None

        def forward() -> Tensor:
            return mmk.concat_fusion(
                call.inputs, call.weight, call.bias, norm=norm, activation=activation, gate=call.gate,
                residual=call.residual,
            )  # fmt: skip

        return [_prepared(call, forward)]


class Naive(InTorch):
    """cat + linear, with layer_norm, gelu, gate and residual around it."""

    name = "naive"

    def prepare(self, call: Call) -> list[Prepared]:
        """One way."""
        return [_prepared(call, lambda: plain(*call.operands()))]


class Compiled(InInductor):
    """The same, compiled by inductor."""

    name = "compiled"

    def prepare(self, call: Call) -> list[Prepared]:
        """One way. Compiles here, which takes seconds."""
        function = compiled(plain)
        way = _prepared(call, lambda: function(*call.operands()))
        way.run()
        return [way]


class SumOfLinears(InTorch):
    """A linear layer a source, at the source's own rows, and their sum."""

    name = "sum of linears"

    def why_not(self, case: Case) -> str | None:
        """A norm joins the sources."""
        return "the norm is over all sources" if case.problem.full else super().why_not(case)

    def prepare(self, call: Call) -> list[Prepared]:
        """Ways: separate sums; or each product added to the last, where all sources have all rows."""
        widths = [x.shape[-1] for x in call.inputs]

        def parts() -> Sequence[Tensor]:
            return call.weight.split(widths, 1)

        def linears() -> Tensor:
            (first, *others), (head, *tail) = call.inputs, parts()
            out = F.linear(first, head, call.bias)
            for x, w in zip(others, tail):
                out = out + F.linear(x, w)
            return out

        def added() -> Tensor:
            out = call.bias
            for x, w in zip(call.inputs, parts()):
                out = torch.addmm(out, x, w.t())
            return out

        ways = [_prepared(call, linears, "linears")]
        if all(x.dim() == 2 and x.shape[0] == call.inputs[0].shape[0] for x in call.inputs):
            ways.append(_prepared(call, added, "addmm"))
        return ways


def _prepared(call: Call, forward: Callable[[], Tensor], way: str = "") -> Prepared:
    return differentiated("out", forward, call.leaves(), call.grad, way)


PROVIDERS: tuple[Provider, ...] = (Ours(), Naive(), Compiled(), SumOfLinears())
