"""contrastive_loss against plain torch: values, gradients, positives, reductions, precision, memory."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import mmkernels as mmk
from mmkernels.ops.contrastive import reference
from tests.backends import CPU, REFERENCE
from tests.contrastive.naive import embeddings, naive, target_matrix, targets_of

KINDS = ("softmax", "sigmoid")
ROOT = Path(__file__).resolve().parents[2]
# c of the tolerance rule; a logit is rounded once as a product and once as a difference to the row's maximum.
C = {torch.float32: 8.0, torch.bfloat16: 1.0, torch.float16: 1.0}


def gradients(loss, operands, grad):
    return torch.autograd.grad(loss, operands, grad.to(loss.dtype), allow_unused=True, materialize_grads=True)


def fused(image, text, scale, bias=None, targets=None, kind="softmax", label_smoothing=0.0, reduction="mean"):
    return mmk.contrastive_loss(
        image, text, scale, kind=kind, logit_bias=bias, targets=targets, label_smoothing=label_smoothing,
        reduction=reduction,
    )  # fmt: skip


CASES = [
    (kind, smoothing, reduction, positives, shape)
    for kind, smoothing, reduction, positives, shape in itertools.product(
        KINDS, (0.0, 0.1), ("mean", "sum", "none"), ("pairs", "index", "several"), ((7, 7), (7, 5), (5, 9))
    )
    if shape == (7, 7) or (positives != "pairs" and not (kind == "softmax" and reduction == "none"))
]


@pytest.mark.parametrize(("kind", "smoothing", "reduction", "positives", "shape"), CASES)
def test_fp64_equals_plain_torch(kind, smoothing, reduction, positives, shape, monkeypatch):
    monkeypatch.setattr(reference, "BLOCK", 3)  # several blocks, the last one smaller
    operands = embeddings(*shape, 4)
    call = (targets_of(positives, *shape), kind, smoothing, reduction)
    found, expected = fused(*operands, *call), naive(*operands, *call)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(reference.contrastive_loss(*operands, *call), expected, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(expected)
    for name, ours, theirs in zip(
        ("image", "text", "scale", "bias"),
        gradients(found, operands, grad),
        gradients(expected, operands, grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}")


def test_pairs_are_cross_entropy():
    """The softmax kind is F.cross_entropy in both directions, smoothing included."""
    image, text, scale, _ = embeddings(6, 6, 4)
    logits, index = scale * image @ text.T, torch.arange(6)
    for smoothing in (0.0, 0.2):
        for reduction in ("mean", "sum", "none"):
            options = {"label_smoothing": smoothing, "reduction": reduction}
            expected = (F.cross_entropy(logits, index, **options) + F.cross_entropy(logits.T, index, **options)) / 2
            torch.testing.assert_close(mmk.contrastive_loss(image, text, scale, **options), expected)


def test_siglip_as_published():
    """-sum log sigmoid(z (t x + b)) / n, z = 2 I - 1."""
    image, text, scale, bias = embeddings(6, 6, 4)
    z = 2 * torch.eye(6, dtype=torch.float64) - 1
    expected = -F.logsigmoid(z * (scale * image @ text.T + bias)).sum() / 6
    torch.testing.assert_close(mmk.contrastive_loss(image, text, scale, kind="sigmoid", logit_bias=bias), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positives", ["pairs", "index", "several"])
def test_ways_to_name_positives_agree(kind, positives):
    operands = embeddings(9, 9, 4)
    targets = targets_of(positives, 9, 9)
    losses = [fused(*operands, targets, kind), fused(*operands, target_matrix(targets, 9, 9), kind)]
    torch.testing.assert_close(*losses)
    if positives == "pairs":
        torch.testing.assert_close(fused(*operands, torch.arange(9), kind), losses[0])


def test_rows_and_columns_without_positives():
    operands = embeddings(4, 4, 3)
    targets = torch.zeros(4, 4, dtype=torch.bool)
    assert fused(*operands, targets, "softmax", 0.1) == 0
    targets[2, 1] = True
    rows = fused(*operands, targets, "softmax", 0.0, "none")
    assert (rows[[0, 3]] == 0).all() and (rows[[1, 2]] > 0).all()  # row 2 and column 1
    image_grad, text_grad, *_ = gradients(rows.sum(), operands, torch.tensor(1.0))
    assert image_grad.isfinite().all() and text_grad.isfinite().all()
    negatives = fused(*operands, torch.full((4,), -1), "sigmoid", 0.0, "none")
    torch.testing.assert_close(negatives, naive(*operands, torch.zeros(4, 4, dtype=torch.bool), "sigmoid", 0.0, "none"))
    assert (negatives > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_for_scale_and_bias(kind):
    image, text, scale, bias = embeddings(5, 5, 4)
    found = mmk.contrastive_loss(image, text, 14.3, kind=kind, logit_bias=-7)
    torch.testing.assert_close(found, fused(image, text, scale, bias, None, kind))
    found = mmk.contrastive_loss(image, text, scale.reshape(1), kind=kind, logit_bias=bias.reshape(1, 1))
    torch.testing.assert_close(found, fused(image, text, scale, bias, None, kind))
    found.backward()
    assert scale.grad.shape == () and bias.grad.shape == ()
    assert (bias.grad == 0) == (kind == "softmax")


@pytest.mark.parametrize("dtype", C)
@pytest.mark.parametrize(("kind", "positives", "smoothing"), [
    ("softmax", "pairs", 0.0), ("softmax", "several", 0.1), ("sigmoid", "pairs", 0.0), ("sigmoid", "index", 0.1),
])  # fmt: skip
def test_tolerance_rule(kind, positives, smoothing, dtype):
    rows, width = 300, 32  # two blocks
    operands = embeddings(rows, rows, width, dtype)
    wide = [tensor.detach().double().requires_grad_() for tensor in operands]
    call = (targets_of(positives, rows, rows), kind, smoothing, "none")
    expected, baseline, found = naive(*wide, *call), naive(*operands, *call), fused(*operands, *call)
    assert found.dtype == torch.float32
    grad = torch.randn(rows)
    results = zip(
        ("loss", "image", "text", "scale", "bias"),
        (found, *gradients(found, operands, grad)),
        (expected, *gradients(expected, wide, grad.double())),
        (baseline, *gradients(baseline, operands, grad)),
        strict=True,
    )
    # Terms: every logit is at most scale + |bias|; a loss sums a row of them (sigmoid) or a few (softmax); a gradient
    # sums logit slopes of at most |grad| times scale, times embeddings of length one.
    count = rows if kind == "sigmoid" else 2
    size = 14.3 + 7.0
    slopes = count * grad.abs().max().item()
    terms = {"loss": count * size, "image": slopes * 14.3, "text": slopes * 14.3, "scale": rows * slopes,
             "bias": rows * slopes}  # fmt: skip
    for name, ours, reference_value, plain in results:
        eps = torch.finfo(ours.dtype).eps if name in ("image", "text") else torch.finfo(torch.float32).eps
        bound = 2 * (plain.double() - reference_value).abs().max() + C[dtype] * eps * terms[name]
        error = (ours.double() - reference_value).abs().max()
        assert error <= bound, f"{name}: off by {error:.3g}, tolerated {bound:.3g}"


def test_confident_pairs_keep_their_small_loss():
    """Logits of 100 and a loss of 1e-5: rounded to the size of the logit it would be noise, 8e-6."""
    image = torch.eye(4) * 1.0
    text = torch.eye(4)
    text[0, 1] = 0.9  # negatives at 90, positives at 100
    operands = (image.requires_grad_(), text.requires_grad_(), torch.tensor(100.0, requires_grad=True))
    found = mmk.contrastive_loss(*operands)
    expected = naive(*(t.double() for t in operands))
    assert 1e-6 < expected < 2e-5
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=0)
    wide = [t.detach().double().requires_grad_() for t in operands]
    theirs = torch.autograd.grad(naive(*wide), wide[2])[0]
    torch.testing.assert_close(torch.autograd.grad(found, operands[2])[0].double(), theirs, rtol=1e-2, atol=0)


def test_rows_of_very_different_size():
    """Logits near +300 in one row and -300 in the next, columns alike: each has a maximum of its own."""
    image, text = torch.randn(6, 4), torch.randn(6, 4)
    image[:, 0] = torch.tensor([300.0, -300.0, 0.0, 150.0, -150.0, 10.0])
    text[:, 0] = torch.tensor([1.0, 1.1, -1.0, 1.0, 0.9, 0.0])
    operands = [image.requires_grad_(), text.requires_grad_(), torch.tensor(1.0, requires_grad=True)]
    wide = [t.detach().double().requires_grad_() for t in operands]
    found, expected = mmk.contrastive_loss(*operands, reduction="none"), naive(*wide, reduction="none")
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    grad = torch.randn(6)
    ours, theirs = gradients(found, operands, grad), gradients(expected, wide, grad.double())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 3)])
def test_no_pairs(kind, shape):
    operands = embeddings(*shape, 4, torch.float32)
    loss = fused(*operands, torch.zeros(shape, dtype=torch.bool), kind)
    assert loss == 0 and loss.shape == ()
    for tensor, g in zip(operands, gradients(loss, operands, torch.tensor(1.0)), strict=True):
        assert g.shape == tensor.shape and (g == 0).all()
    assert reference.contrastive_loss(*operands, torch.zeros(shape, dtype=torch.bool), kind, 0.1, "mean") == 0


def test_index_beyond_the_columns():
    image, text, *_ = embeddings(3, 2, 4)
    with pytest.raises(ValueError, match="targets holds the index 2, expected at most 1"):
        mmk.contrastive_loss(image, text, 1.0, targets=torch.tensor([0, 2, -5]))
    assert mmk.contrastive_loss(image, text, 1.0, targets=torch.tensor([0, 1, -5])).isfinite()


@pytest.mark.parametrize("kind", KINDS)
def test_strided_views(kind):
    both = torch.randn(6, 2, 8)
    image, text = both[:, 0, ::2].requires_grad_(), both[:, 1, ::2].requires_grad_()
    torch.testing.assert_close(
        fused(image, text, torch.tensor(2.0), kind=kind), naive(image, text, torch.tensor(2.0), kind=kind)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_runs_repeat_bit_for_bit(kind):
    operands = embeddings(600, 600, 16, torch.float32)
    runs = [fused(*operands, targets_of("index", 600, 600), kind) for _ in range(2)]
    assert torch.equal(*runs)
    grads = [gradients(run, operands, torch.tensor(1.0)) for run in runs]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


PEAK = """
import resource, sys, torch, torch.nn.functional as F
import mmkernels as mmk
torch.set_num_threads(1)
pairs, kind, backend = 8192, *sys.argv[1:]
image, text = (F.normalize(torch.randn(pairs, 64), dim=1).requires_grad_() for _ in range(2))
scale = torch.tensor(20.0, requires_grad=True)
def step(n):
    mmk.contrastive_loss(image[:n], text[:n], scale, kind=kind, backend=backend).backward()
step(300)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(pairs)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(("run", "most"), [(REFERENCE, 128), (CPU, 24)], ids=["reference", "cpu"])
@pytest.mark.parametrize("kind", KINDS)
def test_memory_of_a_large_batch(kind, run, most):
    """Forward and backward of 8192 pairs, gradients of 4 MiB included; one matrix of logits would be 256 MiB."""
    with run.active() as backend:
        command = [sys.executable, "-c", PEAK, kind, backend]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    extra = int(done.stdout) / 1024
    assert extra < most, f"{extra:.0f} MiB"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_for_the_backward(kind):
    """The operands and at most four numbers per pair."""
    rows = 512
    operands = embeddings(rows, rows, 8, torch.float32)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fused(*operands, kind=kind)
    own = {tensor.untyped_storage().data_ptr() for tensor in operands}
    assert sum(size for pointer, size in kept.items() if pointer not in own) <= 4 * 4 * rows
