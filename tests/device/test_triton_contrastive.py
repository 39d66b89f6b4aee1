"""The Triton contrastive_loss kernels, run by Triton's interpreter, against fp64 by the rule of the suite."""

from __future__ import annotations

import functools

import pytest
import torch

from mmkernels.ops.contrastive import blocks, triton
from tests.contrastive.naive import KINDS, POSITIVES, Case, fused
from tests.contrastive.rule import Expectation
from tests.device.triton_contrastive import interpreted
from tests.layouts import LAYOUTS
from tests.tolerance import explain, same_bits

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, where a GPU has Inf and NaN in silence

ONE_BAND_EACH = 1
"""Pairs of a band: so few that every row of tiles is a band."""

each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
fp16_is_slow = pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=["fp32", "fp16"]
)
each_kind = pytest.mark.parametrize("kind", KINDS)


@functools.lru_cache(maxsize=16)
def expectation(case, dtype):
    return Expectation(case, case.operands(dtype))


def check(host, case, dtype, **options):
    """Loss and gradients of everything by the rule."""
    with interpreted(host, **options) as asked:
        found = expectation(case, dtype).check("triton")
    assert asked == (["statistics", "gradients"] if case.kind == "softmax" else ["sigmoid"] * len(asked)) != []
    return found


@fp16_is_slow
@pytest.mark.parametrize(
    "positives",
    [name if "body" not in name else pytest.param(name, marks=pytest.mark.slow) for name in POSITIVES],
)
@each_kind
def test_form(triton_contrastive_host, kind, positives, dtype):
    for smoothing, reduction in ((0.0, "mean"), (0.1, "sum"), (0.1, "none")):
        check(triton_contrastive_host, Case(33, 33, 17, kind, positives, smoothing, reduction), dtype)
    if positives != "pairs":
        check(triton_contrastive_host, Case(19, 43, 17, kind, positives, 0.1, bias=None), dtype)


@fp16_is_slow
@pytest.mark.parametrize(
    ("rows", "columns", "dim"),
    [
        (1, 1, 1),
        (1, 130, 8),
        (129, 1, 33),
        (65, 140, 96),
        pytest.param(64, 64, 64, marks=pytest.mark.slow),
        pytest.param(100, 129, 131, marks=pytest.mark.slow),
    ],
)
@each_kind
def test_size(triton_contrastive_host, kind, rows, columns, dim, dtype):
    """Tiles that end inside, at and behind the last row, column and feature."""
    check(triton_contrastive_host, Case(rows, columns, dim, kind, "index", 0.1), dtype)
    check(triton_contrastive_host, Case(rows, columns, dim, kind, "several", reduction="sum"), dtype)


@fp16_is_slow
@pytest.mark.parametrize("positives", ["pairs", "index", "several"])
@each_kind
def test_bands(triton_contrastive_host, kind, positives, dtype):
    """Columns' statistics and the text's gradient are carried from band to band."""
    case = Case(140, 140 if positives == "pairs" else 70, 40, kind, positives, 0.1)
    whole = check(triton_contrastive_host, case, dtype)
    cut = check(triton_contrastive_host, case, dtype, band_pairs=ONE_BAND_EACH)
    same_bits("image", cut["image"], whole["image"])  # a row is in one band


@pytest.mark.slow
@each_dtype
@pytest.mark.parametrize("scale", [0.0, 100.0, -14.3])
@each_kind
def test_scale(triton_contrastive_host, kind, scale, dtype):
    for bias in (None, -10.0, 3.5):
        check(triton_contrastive_host, Case(40, 40, 33, kind, scale=scale, bias=bias), dtype)


@fp16_is_slow
@pytest.mark.parametrize("length", [1e-3, 10.0])
@each_kind
def test_length_of_embeddings(triton_contrastive_host, length, kind, dtype):
    """Logits of up to 1,430: probabilities of 0 and 1, losses of hundreds."""
    check(triton_contrastive_host, Case(40, 40, 33, kind, smoothing=0.1, length=length), dtype)
    check(triton_contrastive_host, Case(40, 23, 33, kind, "index", reduction="sum", length=length), dtype)


@fp16_is_slow
@each_kind
def test_logits_far_below_zero(triton_contrastive_host, kind, dtype):
    """Where a tile goes on behind the last column, dot products are 0: their exponential is Inf beside such rows."""
    case = Case(40, 35, 24, kind, "index", 0.1, length=10.0)
    operands = case.operands(dtype)
    with torch.no_grad():
        for operand, sign in zip(operands[:2], (1, -1), strict=True):
            operand.copy_(sign * (1.0 + 0.1 * operand.abs()))
    with interpreted(triton_contrastive_host):
        Expectation(case, operands).check("triton")


@pytest.mark.slow
@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@each_kind
def test_layout_of_embeddings(triton_contrastive_host, kind, layout, dtype):
    check(triton_contrastive_host, Case(35, 40, 24, kind, "index", layouts=(layout, "contiguous")), dtype)
    check(triton_contrastive_host, Case(35, 40, 18, kind, "several", layouts=(layout, layout)), dtype)


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
@pytest.mark.parametrize("positives", ["index", "several"])
@each_kind
def test_layout_of_targets(triton_contrastive_host, kind, positives, layout):
    check(triton_contrastive_host, Case(35, 40, 18, kind, positives, targets_layout=layout), torch.float16)


@each_kind
def test_slopes_below_the_numbers_of_fp16(triton_contrastive_host, kind):
    """A mean over many: a slope of 1e-8 is 0 in fp16, its product with a scale of 1,000 is not."""
    case = Case(40, 40, 33, kind, scale=1000.0, bias=-3.0, length=0.1)
    expected = Expectation(case, case.operands(torch.float16), torch.tensor(1e-6))
    with interpreted(triton_contrastive_host):
        found = expected.run("triton")
    assert not expected.faults(found)
    # their size is above what the rule must allow for fp16's least number
    assert found["image"].abs().max() > 20 * torch.finfo(torch.float16).tiny * torch.finfo(torch.float16).eps


@pytest.mark.parametrize("grad", [0.0, torch.inf, torch.nan])
@each_kind
def test_a_gradient_without_a_power_of_two(triton_contrastive_host, kind, grad):
    case = Case(20, 20, 8, kind, reduction="sum")
    operands = case.operands(torch.float16)
    with interpreted(triton_contrastive_host):
        loss = fused(operands, *case.call(), backend="triton")
        found = torch.autograd.grad(loss, operands[0], torch.tensor(grad))[0]
    assert (found == 0).all() if grad == 0 else not found.isfinite().any()


@fp16_is_slow
@each_kind
def test_only_some_gradients(triton_contrastive_host, kind, dtype):
    """What is wanted beside a gradient changes none of its bits."""
    case = Case(70, 50, 24, kind, "several", 0.1)
    names = ("image", "text", "scale", "bias") if kind == "sigmoid" else ("image", "text", "scale")
    with interpreted(triton_contrastive_host):
        whole = expectation(case, dtype).run("triton")
        for wanted, name in enumerate(names):
            operands = [t.detach().requires_grad_(i == wanted) for i, t in enumerate(case.operands(dtype))]
            loss = fused(operands, *case.call(), backend="triton")
            (found,) = torch.autograd.grad(loss, operands[wanted], expectation(case, dtype).grad)
            same_bits(name, found, whole[name])


@each_dtype
def test_a_nan_stays_in_its_row(triton_contrastive_host, dtype):
    """Of the statistics: its row's and every column's are NaN, the other rows' keep their bits."""
    image, text, scale, _ = (t.detach() for t in Case(80, 75, 40).operands(dtype))
    pairs = torch.arange(80) % 75
    with interpreted(triton_contrastive_host):
        clean, _ = triton.statistics(image, text, scale, pairs, True)
        image[7, 3] = torch.nan
        row, column = triton.statistics(image, text, scale, pairs, True)
    assert column.stats[1].isnan().all()
    assert row.stats[1, 7].isnan() and row.hit[7].isnan() and row.total[7].isnan()
    others = torch.arange(80) != 7
    for found, expected in zip((*row.stats, row.hit, row.total), (*clean.stats, clean.hit, clean.total), strict=True):
        same_bits("other rows", found[others], expected[others])


@each_kind
def test_an_index_that_is_no_column_is_no_positive(triton_contrastive_host, kind):
    """A GPU's host does not read it: the kernels must not follow it."""
    image, text, scale, _ = (t.detach() for t in Case(20, 30, 8).operands(torch.float32))
    wrong = torch.tensor([30, 2**40, -1, -(2**40), 3] * 4)
    honest = torch.where((wrong >= 0) & (wrong < 30), wrong, -1)

    def run(targets):
        arguments = (image, text, scale)
        if kind == "sigmoid":
            loss = image.new_empty((1, 20))
            triton_contrastive_host.sigmoid("interpreter", *arguments, None, targets, 0.0, None, loss, None, None, None)
            return [loss]
        found = [image.new_empty(shape) for shape in ((2, 20), (1, 20), (2, 30), (1, 30))]
        triton_contrastive_host.statistics("interpreter", *arguments, targets, False, *found)
        return found

    for found, expected in zip(run(wrong), run(honest), strict=True):
        same_bits("result", found, expected)


@fp16_is_slow
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_poison_in_the_sigmoid_kind(triton_contrastive_host, poison, dtype):
    case = Case(40, 45, 24, "sigmoid", "index", 0.1, "none")
    operands = case.operands(dtype)
    with torch.no_grad():
        operands[0][5] = poison
    expected = Expectation(case, operands)
    with interpreted(triton_contrastive_host):
        found = expected.run("triton")
    assert not explain("loss", found["loss"], expected.reference["loss"], torch.full_like(found["loss"], 1e-3))
    assert found["image"][5].isnan().all() and found["image"][:5].isfinite().all()
    assert found["text"].isnan().all()


@pytest.mark.parametrize(("rows", "columns", "dim"), [(0, 5, 8), (5, 0, 8), (0, 0, 8), (5, 5, 0)])
@each_kind
def test_nothing(triton_contrastive_host, kind, rows, columns, dim):
    case = Case(rows, columns, dim, kind, "several", 0.1, "sum")
    operands = case.operands(torch.float16)
    with interpreted(triton_contrastive_host):
        loss = fused(operands, *case.call(), backend="triton")
        found = torch.autograd.grad(loss, operands, allow_unused=True, materialize_grads=True)
    assert dim == 0 or (loss == 0 and all((tensor == 0).all() for tensor in found))
    assert loss.isfinite() and all(tensor.isfinite().all() for tensor in found)


def test_shards(triton_contrastive_host):
    """Texts in two shards, merged: what contrastive_loss over several processes is made of."""
    case = Case(40, 40, 24, smoothing=0.1, reduction="sum", bias=None)
    image, text, scale, _ = case.operands(torch.float32)
    cuts = (slice(0, 17), slice(17, 40))
    expected = expectation(case, torch.float32)
    options = {"label_smoothing": 0.1, "backend": "triton"}
    with interpreted(triton_contrastive_host):
        parts = [
            blocks.block_statistics(
                image.detach(), text.detach()[cut], scale.detach(), column_offset=cut.start, **options
            )
            for cut in cuts
        ]
        rows = blocks.merge(parts[0].rows, parts[1].rows)
        columns = [part.columns for part in parts]
        loss = (rows.losses(0.1, 40).sum() + sum(column.losses(0.1, 40).sum() for column in columns)) / 2
        side = rows.side(expected.grad.expand(40), 0.1, 40)
        grads = [
            blocks.block_gradients(
                image.detach(), text.detach()[cut], scale.detach(), side, column.side(expected.grad, 0.1, 40),
                column_offset=cut.start, **options,
            )
            for cut, column in zip(cuts, columns, strict=True)
        ]  # fmt: skip
    of_image, of_text, of_scale = zip(*grads, strict=True)
    found = {"loss": loss, "image": sum(of_image), "text": torch.cat(of_text), "scale": sum(of_scale).float()}
    assert not expected.faults(found)


@pytest.mark.slow
@each_kind
def test_offsets_beyond_32_bits(triton_contrastive_host, kind):
    """Rows so far apart that 32 bits do not count to the last; of the 4 GiB only what is read is ever touched."""
    case = Case(5, 5, 8, kind, "several", 0.1)
    near = case.operands(torch.float16)
    image, matrix = near[0].detach(), case.targets()
    far_image = torch.empty(2**31 + 8, dtype=torch.float16).as_strided(image.shape, (2**29, 1))
    far_matrix = torch.empty(2**32 + 8, dtype=torch.bool).as_strided(matrix.shape, (2**30, 1))
    far_image.copy_(image)
    far_matrix.copy_(matrix)
    with interpreted(triton_contrastive_host):
        expected = fused(near, matrix, kind, 0.1, backend="triton")
        found = fused([far_image, *near[1:]], far_matrix, kind, 0.1, backend="triton")
    same_bits("loss", found, expected)
