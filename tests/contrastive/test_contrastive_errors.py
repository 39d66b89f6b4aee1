"""Every wrong argument of contrastive_loss raises, naming the argument, before anything runs."""

from __future__ import annotations

import pytest
import torch

import mmkernels as mmk
from mmkernels.backend import BackendNotAvailable
from mmkernels.ops.contrastive import op, reference
from tests.backends import EVERY, default_runs, runs
from tests.contrastive.naive import KINDS, embeddings, fused

IMAGE, TEXT = torch.randn(4, 3), torch.randn(4, 3)

WRONG = {
    "image is no tensor": ({"image": [[1.0]]}, TypeError, "image must be a tensor, got list"),
    "text is no tensor": ({"text": None}, TypeError, "text must be a tensor, got NoneType"),
    "integer image": ({"image": IMAGE.long()}, TypeError, r"image has dtype torch\.int64"),
    "sparse text": ({"text": TEXT.to_sparse()}, TypeError, r"text has layout torch\.sparse_coo"),
    "image's axes": ({"image": torch.randn(4, 2, 3)}, ValueError, r"image has shape \(4, 2, 3\), expected two axes"),
    "text's axes": ({"text": torch.randn(3)}, ValueError, r"text has shape \(3,\), expected two axes"),
    "mixed dtypes": ({"text": TEXT.bfloat16()}, TypeError, r"text has dtype torch\.bfloat16, but image has"),
    "another device": ({"text": TEXT.to("meta")}, ValueError, "text is on meta, but image is on cpu"),
    "another width": ({"text": torch.randn(4, 5)}, ValueError, r"text has shape \(4, 5\), expected \(M, 3\)"),
    "no pairs": ({"text": torch.randn(5, 3)}, ValueError, "text has 5 rows and image 4: without targets"),
    "scale is no number": ({"logit_scale": "1"}, TypeError, "logit_scale must be a number or a tensor.*got str"),
    "scale is a bool": ({"logit_scale": True}, TypeError, "logit_scale must be a number or a tensor.*got bool"),
    "scale's shape": ({"logit_scale": torch.ones(2)}, ValueError, r"logit_scale has shape \(2,\), expected one"),
    "scale's dtype": ({"logit_scale": torch.ones((), dtype=torch.int64)}, TypeError, "logit_scale has dtype"),
    "scale's device": ({"logit_scale": torch.ones((), device="meta")}, ValueError, "logit_scale is on meta"),
    "bias's shape": ({"logit_bias": torch.ones(4)}, ValueError, r"logit_bias has shape \(4,\), expected one element"),
    "bias is no number": ({"logit_bias": [1.0]}, TypeError, "logit_bias must be a number or a tensor.*got list"),
    "unknown kind": ({"kind": "clip"}, ValueError, r"kind must be one of \('softmax', 'sigmoid'\), got 'clip'"),
    "unknown reduction": ({"reduction": "avg"}, ValueError, "reduction must be one of .*, got 'avg'"),
    "smoothing below": ({"label_smoothing": -0.1}, ValueError, r"label_smoothing must be in \[0, 1\], got -0.1"),
    "smoothing above": ({"label_smoothing": 1.5}, ValueError, r"label_smoothing must be in \[0, 1\], got 1.5"),
    "smoothing is NaN": ({"label_smoothing": float("nan")}, ValueError, r"label_smoothing must be in \[0, 1\]"),
    "smoothing is no number": ({"label_smoothing": "0"}, TypeError, "label_smoothing must be a number, got str"),
    "float targets": ({"targets": torch.eye(4)}, TypeError, r"targets must be a bool or int64.*torch\.float32"),
    "int32 targets": ({"targets": torch.arange(4).int()}, TypeError, "targets must be a bool or int64"),
    "list targets": ({"targets": [0, 1, 2, 3]}, TypeError, "targets must be a bool or int64"),
    "index targets' shape": ({"targets": torch.arange(3)}, ValueError, r"targets has shape \(3,\), expected \(4,\)"),
    "bool targets' shape": ({"targets": torch.ones(4) > 0}, ValueError, r"targets has shape \(4,\), expected \(4, 4\)"),
    "targets' device": ({"targets": torch.arange(4, device="meta")}, ValueError, "targets is on meta"),
    "unknown backend": ({"backend": "gpu"}, ValueError, "backend must be None or one of .*got 'gpu'"),
    "backend without kernel": ({"backend": "cuda"}, ValueError, "backend='cuda' cannot run contrastive_loss_forward"),
}


def _run(*arguments):
    raise AssertionError("an op ran")


@pytest.mark.parametrize("name", WRONG)
def test_wrong_argument(name, monkeypatch):
    changes, error, message = WRONG[name]
    if name != "backend without kernel":  # that is for the dispatcher to say
        monkeypatch.setattr(op, "forward", _run)
    for name in ("statistics", "sigmoid"):
        monkeypatch.setattr(reference, name, _run)
    arguments = {"image": IMAGE, "text": TEXT, "logit_scale": 10.0, **changes}
    with pytest.raises(error, match=message):
        mmk.contrastive_loss(**arguments)


@default_runs()
def test_the_call_that_the_wrong_ones_change_is_right(run):
    with run.active() as backend:
        assert mmk.contrastive_loss(IMAGE, TEXT, 10.0, backend=backend).shape == ()


def test_a_right_call_runs_the_op_that_wrong_ones_must_not(monkeypatch):
    monkeypatch.setattr(op, "forward", _run)
    with pytest.raises(AssertionError, match="an op ran"):
        mmk.contrastive_loss(IMAGE, TEXT, 10.0)


@runs(*EVERY)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", [4, 5, 2**31, 2**32, 2**63 - 1])
def test_an_index_too_large(index, kind, run):
    """Wherever it stands, with and without gradients, through the function and the op."""
    for place in (0, 3):
        targets = torch.arange(4)
        targets[place] = index
        message = f"targets holds the index {index}, expected at most 3"
        with run.active() as backend:
            for image in (IMAGE, IMAGE.clone().requires_grad_()):
                with pytest.raises(ValueError, match=message):
                    mmk.contrastive_loss(image, TEXT, 1.0, kind=kind, targets=targets, backend=backend)
            with pytest.raises(ValueError, match=message):
                torch.ops.mmkernels.contrastive_loss_forward(
                    IMAGE, TEXT, torch.tensor(1.0), None, targets, kind, 0.0, "mean", backend
                )


@default_runs()
@pytest.mark.parametrize("kind", KINDS)
def test_an_index_that_grew_too_large_before_the_backward(kind, run):
    """No kernel reads outside its tensors for it: it raises, or is no positive."""
    operands = embeddings(40, 40, 8, torch.float32)
    targets = torch.arange(40)
    with run.active() as backend:
        loss = fused(operands, targets, kind, backend=backend)
        targets[5::7] = 2**40
        try:
            loss.backward()
        except ValueError as error:
            assert "targets holds the index" in str(error)
        else:
            assert all(t.grad is None or t.grad.isfinite().all() for t in operands)


@pytest.mark.parametrize("kind", KINDS)
def test_fp64_on_the_cpu_backend(kind):
    operands = embeddings(4, 4, 3)
    with pytest.raises(BackendNotAvailable, match=r"cannot run contrastive_loss_forward.*no torch\.float64 kernels"):
        fused(operands, None, kind, backend="cpu")


def test_rows_that_cannot_be_paired_with_columns():
    text, targets = torch.randn(5, 3), torch.arange(4)
    with pytest.raises(ValueError, match=r'reduction="none" pairs row i with column i.*got 4 and 5'):
        mmk.contrastive_loss(IMAGE, text, 1.0, targets=targets, reduction="none")
    rows = mmk.contrastive_loss(IMAGE, text, 1.0, targets=targets, reduction="none", kind="sigmoid")
    assert rows.shape == (4,)


def test_an_index_too_large_raises_under_transforms_too():
    targets = torch.tensor([0, 1, 2, 4])
    with pytest.raises(ValueError, match="targets holds the index 4"):
        torch.func.grad(lambda image: mmk.contrastive_loss(image, TEXT, 1.0, targets=targets))(IMAGE)
    mapped = torch.vmap(torch.func.grad(lambda x, t: mmk.contrastive_loss(x, TEXT, 1.0, targets=t)), in_dims=(None, 0))
    assert mapped(IMAGE, torch.arange(4).expand(2, 4)).shape == (2, 4, 3)
