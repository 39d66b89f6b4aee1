"""The CUDA contrastive_loss kernels in the emulator, its race detector on, against fp64 by the rule of the suite."""

from __future__ import annotations

import functools

import pytest
import torch

from tests.contrastive.naive import KINDS, POSITIVES, Case, fused
from tests.contrastive.rule import Expectation
from tests.device.contrastive import emulated
from tests.layouts import LAYOUTS
from tests.tolerance import explain, same_bits

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
ONE_BAND_EACH = 1
"""Pairs of a band: so few that every row of tiles is a band."""

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["fp16", "bf16", "fp32"])
each_kind = pytest.mark.parametrize("kind", KINDS)


@functools.lru_cache(maxsize=16)
def expectation(case, dtype):
    return Expectation(case, case.operands(dtype))


def check(emulator, case, dtype, **options):
    """Loss and gradients of everything by the rule; they and what the emulator was told."""
    with emulated(emulator, **options) as device:
        found = expectation(case, dtype).check("cuda")
    return found, device


@each_dtype
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("positives", POSITIVES)
@each_kind
def test_form(emulator, kind, positives, smoothing, dtype):
    for reduction in ("mean", "sum", "none"):
        check(emulator, Case(33, 33, 17, kind, positives, smoothing, reduction), dtype)
    if positives != "pairs":
        check(emulator, Case(19, 43, 17, kind, positives, smoothing, bias=None), dtype)


@each_dtype
@pytest.mark.parametrize(
    ("rows", "columns", "dim"), [(1, 1, 1), (1, 130, 8), (129, 1, 33), (128, 128, 64), (65, 260, 96), (200, 129, 131)]
)
@each_kind
def test_size(emulator, kind, rows, columns, dim, dtype):
    """Tiles that end inside, at and behind the last row, column and feature."""
    check(emulator, Case(rows, columns, dim, kind, "index", 0.1), dtype)
    check(emulator, Case(rows, columns, dim, kind, "several", reduction="sum"), dtype)


@each_dtype
@pytest.mark.parametrize("positives", ["pairs", "index", "several"])
@each_kind
def test_bands(emulator, kind, positives, dtype):
    """Columns' statistics and the text's gradient are carried from band to band."""
    case = Case(290, 290 if positives == "pairs" else 140, 40, kind, positives, 0.1)
    _, whole = check(emulator, case, dtype)
    _, cut = check(emulator, case, dtype, band_pairs=ONE_BAND_EACH)
    assert sum(cut.launches) > sum(whole.launches)


@each_dtype
@pytest.mark.parametrize("scale", [0.0, 100.0, -14.3])
@each_kind
def test_scale(emulator, kind, scale, dtype):
    for bias in (None, -10.0, 3.5):
        check(emulator, Case(40, 40, 33, kind, scale=scale, bias=bias), dtype)


@each_dtype
@pytest.mark.parametrize("length", [1e-3, 10.0])
@each_kind
def test_length_of_embeddings(emulator, length, kind, dtype):
    """Logits of up to 1,430: probabilities of 0 and 1, losses of hundreds."""
    check(emulator, Case(40, 40, 33, kind, smoothing=0.1, length=length), dtype)
    check(emulator, Case(40, 23, 33, kind, "index", reduction="sum", length=length), dtype)


@each_dtype
@each_kind
def test_logits_far_below_zero(emulator, kind, dtype):
    """Where a tile goes on behind the last column, dot products are 0: their exponential is Inf beside such rows."""
    case = Case(40, 35, 24, kind, "index", 0.1, length=10.0)
    operands = case.operands(dtype)
    with torch.no_grad():
        for operand, sign in zip(operands[:2], (1, -1), strict=True):
            operand.copy_(sign * (1.0 + 0.1 * operand.abs()))
    with emulated(emulator):
        Expectation(case, operands).check("cuda")


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@each_kind
def test_layout_of_embeddings(emulator, kind, layout, dtype):
    check(emulator, Case(35, 40, 24, kind, "index", layouts=(layout, "contiguous")), dtype)
    check(emulator, Case(35, 40, 18, kind, "several", layouts=(layout, layout)), dtype)


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
@pytest.mark.parametrize("positives", ["index", "several"])
@each_kind
def test_layout_of_targets(emulator, kind, positives, layout):
    check(emulator, Case(35, 40, 18, kind, positives, targets_layout=layout), torch.bfloat16)


@each_kind
def test_slopes_below_the_numbers_of_fp16(emulator, kind):
    """A mean over many: a slope of 1e-8 is 0 in fp16, its product with a scale of 1,000 is not."""
    case = Case(40, 40, 33, kind, scale=1000.0, bias=-3.0, length=0.1)
    expected = Expectation(case, case.operands(torch.float16), torch.tensor(1e-6))
    with emulated(emulator):
        found = expected.run("cuda")
    assert not expected.faults(found)
    # their size is above what the rule must allow for fp16's least number
    assert found["image"].abs().max() > 20 * torch.finfo(torch.float16).tiny * torch.finfo(torch.float16).eps


@each_dtype
@each_kind
def test_only_some_gradients(emulator, kind, dtype):
    """What is wanted beside a gradient changes none of its bits."""
    case = Case(70, 50, 24, kind, "several", 0.1)
    names = ("image", "text", "scale", "bias") if kind == "sigmoid" else ("image", "text", "scale")
    with emulated(emulator):
        whole = expectation(case, dtype).run("cuda")
        for wanted, name in enumerate(names):
            operands = [t.detach().requires_grad_(i == wanted) for i, t in enumerate(case.operands(dtype))]
            loss = fused(operands, *case.call(), backend="cuda")
            (found,) = torch.autograd.grad(loss, operands[wanted], expectation(case, dtype).grad)
            same_bits(name, found, whole[name])


@each_dtype
@each_kind
def test_order_of_threads(emulator, kind, dtype):
    """Bits do not depend on it, and the race detector is silent."""
    case = Case(150, 150, 70, kind, "several", 0.1, "none")
    first, _ = check(emulator, case, dtype, band_pairs=ONE_BAND_EACH)
    for seed in (1, 2, 3):
        again, _ = check(emulator, case, dtype, band_pairs=ONE_BAND_EACH, seed=seed)
        for name, tensor in first.items():
            same_bits(name, again[name], tensor)


@each_dtype
def test_a_nan_stays_in_its_row(emulator, dtype):
    """Of the statistics: its row's and every column's are NaN, the other rows' keep their bits."""
    image, text, scale, _ = (t.detach() for t in Case(140, 133, 40).operands(dtype))
    with emulated(emulator) as device:
        clean, _ = device.statistics(image, text, scale, None, True)
        image[7, 3] = torch.nan
        row, column = device.statistics(image, text, scale, None, True)
    assert column.stats[1].isnan().all()
    assert row.stats[1, 7].isnan() and row.hit[7].isnan() and row.total[7].isnan()
    others = torch.arange(140) != 7
    for found, expected in zip((*row.stats, row.hit, row.total), (*clean.stats, clean.hit, clean.total), strict=True):
        same_bits("other rows", found[others], expected[others])


@each_dtype
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_poison_in_the_sigmoid_kind(emulator, poison, dtype):
    case = Case(40, 45, 24, "sigmoid", "index", 0.1, "none")
    operands = case.operands(dtype)
    with torch.no_grad():
        operands[0][5] = poison
    expected = Expectation(case, operands)
    with emulated(emulator):
        found = expected.run("cuda")
    assert not explain("loss", found["loss"], expected.reference["loss"], torch.full_like(found["loss"], 1e-3))
    assert found["image"][5].isnan().all() and found["image"][:5].isfinite().all()
    assert found["text"].isnan().all()


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (5, 0), (0, 0)])
@each_kind
def test_nothing(emulator, kind, rows, columns):
    case = Case(rows, columns, 8, kind, "several", 0.1, "sum")
    operands = case.operands(torch.float16)
    with emulated(emulator) as device:
        loss = fused(operands, *case.call(), backend="cuda")
        found = torch.autograd.grad(loss, operands, allow_unused=True, materialize_grads=True)
    assert loss == 0 and all((tensor == 0).all() for tensor in found)
    assert not device.launches
