"""The rule itself: it accepts plain torch, and rejects every kind of wrong result that a kernel might give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.backends import dtypes
from tests.fusion.naive import CASES, Case, fused, gradients
from tests.fusion.rule import Expectation

LARGE = Case(((3, 21, 18), (3, 1, 14)), 19, norm="layer", activation="gelu", gate=(19,), residual=(3, 21, 19))
Results = dict[str, Tensor]


@dtypes()
@pytest.mark.parametrize("name", CASES)
def test_accepts_plain_torch(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    expected = Expectation(case, case.operands(dtype))
    named = expected.operands.named() | {"out": torch.empty(0, dtype=expected.out_dtype)}
    for answer in (expected.naive, expected.reference):
        assert not expected.faults({key: answer[key].to(named[key].dtype) for key in named})


@dtypes()
@pytest.mark.parametrize("name", ["out", *LARGE.operands().named()])
@pytest.mark.parametrize("what", ["NaN", "+Inf", "a percent", "zero"])
def test_rejects_one_wrong_element(what: str, name: str, dtype: torch.dtype) -> None:
    """The largest of each, off by 1 %; by more in 16 bits, where a gradient may carry the roundings of its sum."""
    expected = Expectation(LARGE, LARGE.operands(dtype))
    found = expected.run("reference")
    assert not expected.faults(found)
    flat = found[name] = found[name].clone()
    place = flat.view(-1)[flat.view(-1).float().abs().argmax() :][:1]
    percent = {torch.float32: 1.01, torch.float16: 1.05, torch.bfloat16: 2.0}[dtype]
    place.copy_({"NaN": torch.nan, "+Inf": torch.inf, "a percent": place * percent, "zero": 0 * place}[what])
    faults = expected.faults(found)
    assert len(faults) == 1 and faults[0].startswith(name)


def _wrong(change: Callable[[dict], dict], case: Case) -> Callable[[Expectation], Results]:
    """The results of another call on the same tensors."""

    def run(expected: Expectation) -> Results:
        operands = replace(expected.operands, rest=change(dict(expected.operands.rest)))
        out = fused(case, operands)
        return {"out": out.detach(), **gradients(out, expected.operands, expected.grad)}

    return run


def _exchange(expected: Expectation) -> Results:
    """The weight's columns of one source multiplied with the other's."""
    operands = expected.operands
    columns = torch.arange(LARGE.width).roll(14)
    rest = {**operands.rest, "weight": operands.rest["weight"][:, columns]}
    out = fused(LARGE, replace(operands, rest=rest))
    return {"out": out.detach(), **gradients(out, operands, expected.grad)}


BUGS = {
    "another activation": _wrong(lambda rest: rest, replace(LARGE, activation="gelu_tanh")),
    "no activation": _wrong(lambda rest: rest, replace(LARGE, activation=None)),
    "no mean": _wrong(lambda rest: rest, replace(LARGE, norm="rms")),
    "no norm": _wrong(lambda rest: rest, replace(LARGE, norm=None)),
    "no norm bias": _wrong(lambda rest: {**rest, "norm_bias": None}, LARGE),
    "no norm weight": _wrong(lambda rest: {**rest, "norm_weight": None}, LARGE),
    "no bias": _wrong(lambda rest: {**rest, "bias": None}, LARGE),
    "no gate": _wrong(lambda rest: {**rest, "gate": None}, LARGE),
    "no residual": _wrong(lambda rest: {**rest, "residual": None}, LARGE),
    "columns exchanged": _exchange,
}


@dtypes(torch.float32)
@pytest.mark.parametrize("bug", BUGS)
def test_rejects_another_function(bug: str, dtype: torch.dtype) -> None:
    expected = Expectation(LARGE, LARGE.operands(dtype))
    assert expected.faults(BUGS[bug](expected))


@dtypes()
def test_rejects_a_gradient_without_the_norms_means(dtype: torch.dtype) -> None:
    """dx = rstd (dy - c1 - c2 xhat) with one of its two means forgotten, in single elements of no great size."""
    expected = Expectation(LARGE, LARGE.operands(dtype))
    found = expected.run("reference")
    detached = replace(LARGE, norm=None)
    operands = expected.operands
    out = fused(detached, operands)
    rough = gradients(out, operands, expected.grad)
    for name in ("inputs[0]", "inputs[1]"):
        assert expected.faults({**found, name: rough[name]})


@dtypes()
def test_rejects_a_row_of_its_neighbour(dtype: torch.dtype) -> None:
    expected = Expectation(LARGE, LARGE.operands(dtype))
    found = expected.run("reference")
    for name in ("out", "inputs[0]"):
        shifted = found[name].clone()
        shifted[1, 5] = found[name][1, 6]
        assert expected.faults({**found, name: shifted})
