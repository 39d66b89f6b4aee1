"""The rule itself: it accepts plain torch, and rejects every kind of wrong result that a kernel might give."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.backends import dtypes
from tests.contrastive.naive import KINDS, OPERANDS, POSITIVES, Case, fused, results_of
from tests.contrastive.rule import Expectation


@dtypes()
@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_accepts_plain_torch(kind: str, positives: str, dtype: torch.dtype) -> None:
    for smoothing, reduction in ((0.0, "mean"), (0.1, "none")):
        expected = Expectation(case := Case(33, 33, 17, kind, positives, smoothing, reduction), case.operands(dtype))
        found = expected.run("reference")
        for answer in (expected.naive, expected.reference):
            assert not expected.faults({name: answer[name].to(found[name].dtype) for name in found})


@dtypes()
@pytest.mark.parametrize("what", ["NaN", "a percent", "zero"])
@pytest.mark.parametrize(
    ("kind", "name"),
    # the softmax does not depend on the bias: its gradient is 0
    [pair for pair in itertools.product(KINDS, ("loss", *OPERANDS)) if pair != ("softmax", "bias")],
)
def test_rejects_one_wrong_element(kind: str, name: str, what: str, dtype: torch.dtype) -> None:
    """The largest of each, off by 1 %; by more in 16 bits, where a gradient may carry the roundings of its sum."""
    case = Case(33, 33, 17, kind, "several", 0.1, "none")
    expected = Expectation(case, case.operands(dtype))
    found = expected.run("reference")
    assert not expected.faults(found)
    flat = found[name] = found[name].clone()
    place = flat.view(-1)[flat.view(-1).float().abs().argmax() :][:1]
    exact = flat.dtype == torch.float32
    percent = 1.01 if exact else {torch.float16: 1.02, torch.bfloat16: 1.1}[dtype]
    place.copy_({"NaN": torch.nan, "a percent": place * percent, "zero": 0 * place}[what])
    faults = expected.faults(found)
    assert len(faults) == 1 and faults[0].startswith(name)


BUGS = {
    "another kind": {"kind": "other"},
    "no smoothing": {"smoothing": 0.0},
    "more smoothing": {"smoothing": 0.11},
    "another reduction": {"reduction": "sum"},
    "another's positives": {"targets": "rolled"},
    "one positive forgotten": {"targets": "fewer"},
    "rows only": {"targets": "transposed"},
}


@pytest.mark.parametrize("bug", BUGS)
@pytest.mark.parametrize("kind", KINDS)
def test_rejects_another_function(kind: str, bug: str) -> None:
    case = Case(33, 33, 17, kind, "several", 0.1)
    expected = Expectation(case, case.operands(torch.float32))
    targets, _, smoothing, reduction = case.call()
    changes = dict(BUGS[bug])
    if changes.get("kind"):
        changes["kind"] = next(other for other in KINDS if other != kind)
    if changes.get("targets"):
        fewer = targets.clone()
        fewer[tuple(targets.nonzero()[-1])] = False
        changes["targets"] = {"rolled": targets.roll(1, 0), "fewer": fewer, "transposed": targets.T}[changes["targets"]]
    call = {"targets": targets, "kind": kind, "smoothing": smoothing, "reduction": reduction, **changes}
    loss = fused(expected.operands, **call)
    assert expected.faults(results_of(loss, expected.operands, expected.grad))


@dtypes()
@pytest.mark.parametrize("kind", KINDS)
def test_rejects_a_pair_too_many(kind: str, dtype: torch.dtype) -> None:
    """The slope of one pair of 300 x 300 counted twice."""
    case = Case(300, 300, 17, kind)
    expected = Expectation(case, case.operands(dtype))
    found = expected.run("reference")
    _, text, scale, _ = (t.detach().float() for t in expected.operands)
    slope = -0.5 / 300 * expected.grad.item()
    found["image"] = found["image"].clone()
    found["image"][7] += (slope * scale * text[7]).to(dtype)
    assert expected.faults(found)
