"""contrastive_loss against plain torch: exact in fp64 on the reference, and the edges of its arguments everywhere."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

import mmkernels as mmk
from mmkernels.ops.contrastive import reference
from tests.backends import EVERY, default_runs, runs
from tests.contrastive.naive import KINDS, embeddings, fused, gradients, naive, target_matrix, targets_of

every_run = runs(*EVERY)
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
    found, expected = fused(operands, *call), naive(*operands, *call)
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


@default_runs()
def test_pairs_are_cross_entropy(run):
    """The softmax kind is F.cross_entropy in both directions, smoothing included."""
    image, text, scale, _ = embeddings(6, 6, 4, torch.float32)
    logits, index = scale * image @ text.T, torch.arange(6)
    for smoothing in (0.0, 0.2):
        for reduction in ("mean", "sum", "none"):
            options = {"label_smoothing": smoothing, "reduction": reduction}
            expected = (F.cross_entropy(logits, index, **options) + F.cross_entropy(logits.T, index, **options)) / 2
            with run.active() as backend:
                found = mmk.contrastive_loss(image, text, scale, backend=backend, **options)
            torch.testing.assert_close(found, expected)


@default_runs()
def test_siglip_as_published(run):
    """-sum log sigmoid(z (t x + b)) / n, z = 2 I - 1."""
    image, text, scale, bias = embeddings(6, 6, 4, torch.float32)
    z = 2 * torch.eye(6) - 1
    expected = -F.logsigmoid(z * (scale * image @ text.T + bias)).sum() / 6
    with run.active() as backend:
        found = mmk.contrastive_loss(image, text, scale, kind="sigmoid", logit_bias=bias, backend=backend)
    torch.testing.assert_close(found, expected)


@default_runs()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positives", ["pairs", "index", "several"])
def test_ways_to_name_positives_agree(kind, positives, run):
    operands = embeddings(40, 40, 4, torch.float32)
    targets = targets_of(positives, 40, 40)
    ways = [targets, target_matrix(targets, 40, 40)]
    if positives == "pairs":
        ways.append(torch.arange(40))
    found = []
    for way in ways:
        with run.active() as backend:
            loss = fused(operands, way, kind, 0.1, backend=backend)
            found.append((loss, *gradients(loss, operands, torch.tensor(1.0))))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-6)


@default_runs()
def test_rows_and_columns_without_positives(run):
    operands = embeddings(4, 4, 3, torch.float32)
    targets = torch.zeros(4, 4, dtype=torch.bool)
    with run.active() as backend:
        nobody = fused(operands, targets, "softmax", 0.1, backend=backend)
        assert nobody == 0
        assert not any(g.any() for g in gradients(nobody, operands, torch.tensor(1.0)))
        targets[2, 1] = True
        rows = fused(operands, targets, "softmax", 0.0, "none", backend=backend)
        assert (rows[[0, 3]] == 0).all() and (rows[[1, 2]] > 0).all()  # row 2 and column 1
        image_grad, text_grad, *_ = gradients(rows.sum(), operands, torch.tensor(1.0))
        assert image_grad.isfinite().all() and text_grad.isfinite().all()
        negatives = fused(operands, torch.full((4,), -1), "sigmoid", 0.0, "none", backend=backend)
    torch.testing.assert_close(negatives, naive(*operands, torch.zeros(4, 4, dtype=torch.bool), "sigmoid", 0.0, "none"))
    assert (negatives > 0).all()


@default_runs()
def test_any_negative_index_is_nobody(run):
    operands = embeddings(40, 40, 8, torch.float32)
    targets = torch.arange(40)
    losses = []
    for none in (-1, -2, -40, -(2**31), -(2**63)):
        targets[::3] = none
        with run.active() as backend:
            losses.append(fused(operands, targets, "softmax", 0.1, "none", backend=backend))
    assert all(torch.equal(loss, losses[0]) for loss in losses)
    assert (losses[0] == 0).equal(torch.arange(40) % 3 == 0)


@default_runs()
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_for_scale_and_bias(kind, run):
    image, text, scale, bias = embeddings(5, 5, 4, torch.float32)
    with run.active() as backend:
        expected = fused([image, text, scale, bias], None, kind, backend=backend)
        found = mmk.contrastive_loss(image, text, 14.3, kind=kind, logit_bias=-7, backend=backend)
        torch.testing.assert_close(found, expected)
        found = mmk.contrastive_loss(
            image, text, scale.reshape(1), kind=kind, logit_bias=bias.reshape(1, 1), backend=backend
        )
        torch.testing.assert_close(found, expected)
        found.backward()
    assert scale.grad.shape == () and bias.grad.shape == ()
    assert (bias.grad == 0) == (kind == "softmax")


@every_run
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 3)])
def test_no_pairs(kind, shape, run):
    operands = embeddings(*shape, 4, torch.float32)
    targets = torch.zeros(shape, dtype=torch.bool)
    for way in (targets, torch.full((shape[0],), -1)):
        with run.active() as backend:
            loss = fused(operands, way, kind, 0.1, backend=backend)
            assert loss == 0 and loss.shape == ()
            for tensor, g in zip(operands, gradients(loss, operands, torch.tensor(1.0)), strict=True):
                assert g.shape == tensor.shape and not g.any()
    assert reference.contrastive_loss(*operands, targets, kind, 0.1, "mean") == 0


@default_runs()
@pytest.mark.parametrize("kind", KINDS)
def test_no_features(kind, run):
    """All logits are 0, or the bias."""
    operands = [torch.empty(9, 0), torch.empty(9, 0), torch.tensor(2.0), torch.tensor(-1.0)]
    with run.active() as backend:
        found = fused(operands, None, kind, backend=backend)
    torch.testing.assert_close(found, naive(*operands, None, kind))


@default_runs()
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_some_operands(kind, run):
    """Whatever set of gradients is wanted, each is the one that all together give."""
    operands = embeddings(70, 70, 9, torch.float32)
    with run.active() as backend:
        loss = fused(operands, None, kind, 0.1, backend=backend)
        everything = gradients(loss, operands, torch.tensor(1.0))
        for wanted, expected in zip(operands, everything, strict=True):
            for tensor in operands:
                tensor.requires_grad_(tensor is wanted)
            loss = fused(operands, None, kind, 0.1, backend=backend)
            if kind == "softmax" and wanted is operands[3]:
                continue  # it does not depend on the bias
            torch.testing.assert_close(torch.autograd.grad(loss, wanted)[0], expected, rtol=1e-6, atol=1e-7)


@default_runs()
@pytest.mark.parametrize("kind", KINDS)
def test_one_tensor_on_both_sides(kind, run):
    x, scale = torch.randn(9, 4, requires_grad=True), torch.tensor(0.7)
    with run.active() as backend:
        ours = torch.autograd.grad(fused([x, x, scale, None], None, kind, backend=backend), x)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(naive(x, x, scale, kind=kind), x)[0])
