"""Numbers that are hard: confident pairs, rows of very different size, NaN and Inf, long sums."""

from __future__ import annotations

import pytest
import torch

from tests.backends import EVERY, Run, default_runs, dtypes, runs
from tests.contrastive.naive import KINDS, Case, fused, gradients, naive
from tests.contrastive.rule import Expectation
from tests.tolerance import same_bits

every_run = runs(*EVERY)


@default_runs()
def test_confident_pairs_keep_their_small_loss(run: Run) -> None:
    """Logits of 100 and a loss of 1e-5: rounded to the size of the logit it would be noise, 8e-6."""
    image, text = torch.eye(4), torch.eye(4)
    text[0, 1] = 0.9  # negatives at 90, positives at 100
    operands = [image.requires_grad_(), text.requires_grad_(), torch.tensor(100.0, requires_grad=True), None]
    wide = [None if t is None else t.detach().double().requires_grad_() for t in operands]
    expected = naive(*wide)
    assert 1e-6 < expected < 2e-5
    with run.active() as backend:
        found = fused(operands, backend=backend)
        torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=0)
        ours = torch.autograd.grad(found, operands[2])[0]
    torch.testing.assert_close(ours.double(), torch.autograd.grad(expected, wide[2])[0], rtol=1e-2, atol=0)


@every_run
@pytest.mark.parametrize("rows", [129, 256])
def test_sums_of_slopes_of_one_size(rows: int, run: Run) -> None:
    """A scale of 0 makes all slopes +-1/2 and all losses log 2: a long chain of them would drift with every term."""
    case = Case(rows, rows, 1, kind="sigmoid", scale=0.0, bias=0.0)
    expectation = Expectation(case, case.operands(torch.float32))
    with run.active() as backend:
        found = expectation.check(backend)
    assert found.keys() >= {"loss", "scale", "bias"}


@every_run
@dtypes()
def test_confident_pairs_of_any_dtype(dtype: torch.dtype, run: Run) -> None:
    """Every pair at 100 and one negative of each at 87.5: lse - x would round their loss of 4e-6 to 0."""
    image = torch.eye(300)
    text = image + 0.875 * image.roll(1, 0)
    operands = [image.to(dtype).requires_grad_(), text.to(dtype).requires_grad_(), torch.tensor(100.0), None]
    expected = naive(*(None if t is None else t.detach().double() for t in operands), reduction="none")
    with run.active() as backend:
        found = fused(operands, reduction="none", backend=backend)
    assert (expected > 3e-6).all() and (expected < 4e-6).all()
    torch.testing.assert_close(found.double(), expected, rtol=5e-2, atol=0)


@default_runs()
def test_rows_of_very_different_size(run: Run) -> None:
    """Logits near +300 in one row and -300 in the next, columns alike: each has a maximum of its own."""
    image, text = torch.randn(6, 4), torch.randn(6, 4)
    image[:, 0] = torch.tensor([300.0, -300.0, 0.0, 150.0, -150.0, 10.0])
    text[:, 0] = torch.tensor([1.0, 1.1, -1.0, 1.0, 0.9, 0.0])
    operands = [image.requires_grad_(), text.requires_grad_(), torch.tensor(1.0, requires_grad=True), None]
    wide = [None if t is None else t.detach().double().requires_grad_() for t in operands]
    expected = naive(*wide, reduction="none")
    grad = torch.randn(6)
    with run.active() as backend:
        found = fused(operands, reduction="none", backend=backend)
        ours = gradients(found, operands, grad)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    for a, b in zip(ours[:3], gradients(expected, wide, grad.double())[:3], strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3)


@default_runs()
@dtypes()
@pytest.mark.parametrize("kind", KINDS)
def test_a_hopeless_pair_is_finite(kind: str, dtype: torch.dtype, run: Run) -> None:
    """Positives at -1000 and negatives at +1000: a loss of 2000, slopes of 1, nothing overflows."""
    count = 40
    image = torch.ones(count, 3)
    text = torch.ones(count, 3)
    text[::2] = -1
    image[1::2] = -1
    operands = [t.to(dtype).requires_grad_() for t in (image, text)]
    operands += [torch.tensor(1000 / 3, requires_grad=True), None]
    case = Case(count, count, 3, kind, bias=None)
    with run.active() as backend:
        found = Expectation(case, operands).check(backend)
    assert found["loss"] > 1000


@every_run
@dtypes()
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_where_a_nan_arrives(kind: str, side: int, dtype: torch.dtype, run: Run) -> None:
    """Exactly where plain torch in fp64 has it: a maximum must not swallow a NaN, nor a block lose it."""
    for place in (0, 8, 33, 69):
        for positives in ("pairs", "index"):
            case = Case(70, 70, 9, kind, positives, bias=None, reduction="none")
            operands = case.operands(dtype)
            operands[side].data[place, 4] = torch.nan
            expected = Expectation(case, operands)
            with run.active() as backend:
                found = expected.run(backend)
            assert found["loss"].isnan().any() and found["scale"].isnan()
            for name, tensor in found.items():
                assert torch.equal(tensor.isnan(), expected.reference[name].isnan()), name


@default_runs()
@dtypes()
@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_an_infinity_is_never_a_plausible_loss(kind: str, value: float, dtype: torch.dtype, run: Run) -> None:
    """A row's loss is finite exactly where the definition's is, in fp64."""
    for side in (0, 1):
        case = Case(70, 70, 9, kind, bias=None, reduction="none")
        operands = case.operands(dtype)
        operands[side].data[33, 4] = value
        wide = [None if t is None else t.detach().double() for t in operands]
        expected = fused(wide, *case.call(), backend="reference").isfinite()
        with run.active() as backend:
            found = fused(operands, *case.call(), backend=backend).isfinite()
        assert not expected.all() and torch.equal(found, expected)


@default_runs()
@dtypes()
def test_a_nan_keeps_to_its_row_of_the_sigmoid_loss(dtype: torch.dtype, run: Run) -> None:
    """The others' losses and image gradients do not depend on it, bit for bit."""
    case = Case(70, 70, 9, "sigmoid", reduction="none")
    found = []
    for poisoned in (False, True):
        operands = case.operands(dtype)
        if poisoned:
            operands[0].data[33, 4] = torch.nan
        with run.active() as backend:
            found.append(Expectation(case, operands).run(backend))
    clean, hit = found
    others = [row for row in range(70) if row != 33]
    for name in ("loss", "image"):
        same_bits(name, hit[name][others], clean[name][others])
        assert hit[name][33].isnan().all()
    assert hit["text"].isnan().all() and hit["scale"].isnan()


@default_runs()
@pytest.mark.parametrize("which", ["scale", "bias", "grad"])
def test_a_nan_among_the_numbers(which: str, run: Run) -> None:
    case = Case(70, 70, 9, "sigmoid")
    operands = case.operands(torch.float32)
    grad = torch.tensor(torch.nan if which == "grad" else 1.0)
    if which != "grad":
        operands[2 if which == "scale" else 3].data.fill_(torch.nan)
    with run.active() as backend:
        found = Expectation(case, operands, grad).run(backend)
    for name, tensor in found.items():
        assert tensor.isnan().all() == (name != "loss" or which != "grad"), name


@default_runs()
@dtypes()
def test_long_sums_of_one_sign(dtype: torch.dtype, run: Run) -> None:
    """Negatives only, 1 to 3000: every row's loss, and the gradients of scale and bias, sum terms of one sign."""
    case = Case(1, 3000, 9, "sigmoid", "nobody", bias=-1.0)
    operands = case.operands(dtype)
    operands[1] = operands[1].detach().abs().requires_grad_()
    operands[0] = operands[0].detach().abs().requires_grad_()
    with run.active() as backend:
        Expectation(case, operands).check(backend)
        other = Case(3000, 1, 9, "sigmoid", "nobody", bias=-1.0, reduction="sum")
        Expectation(other, [operands[1], operands[0], *operands[2:]]).check(backend)


@default_runs()
def test_many_features(run: Run) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for kind in KINDS:
            case = Case(33, 33, 4096, kind)
            with run.active() as backend:
                Expectation(case, case.operands(dtype)).check(backend)
