"""A batch in shards: statistics of blocks merged, and their gradients added up, are those of the whole batch."""

from __future__ import annotations

import itertools

import pytest
import torch

import mmkernels as mmk
from mmkernels.ops.contrastive import blocks
from tests.backends import EVERY, Run, runs
from tests.contrastive.naive import OPERANDS, embeddings, results_of, targets_of

# Shards of rows and columns by their first and last; images and texts are not cut alike.
ROWS, COLUMNS = ((0, 130), (130, 300)), ((0, 200), (200, 300))


def shard(targets, rows, columns):
    """What a process that holds these rows knows of the targets."""
    if targets is None:
        return None
    return targets[slice(*rows), slice(*columns)] if targets.dtype == torch.bool else targets[slice(*rows)]


def cases():
    for run, kind, positives in itertools.product(EVERY, ("softmax", "sigmoid"), ("pairs", "index", "several")):
        for dtype in (torch.float32, torch.float64 if run.backend == "reference" else torch.bfloat16):
            yield pytest.param(run, kind, positives, dtype, id=f"{run.name}-{kind}-{positives}-{dtype}")


@pytest.mark.parametrize(("run", "kind", "positives", "dtype"), list(cases()))
def test_two_by_two_shards(run: Run, kind, positives, dtype):
    operands, targets, smoothing = embeddings(300, 300, 16, dtype), targets_of(positives, 300, 300), 0.1
    image, text, scale, bias = (t.detach() for t in operands)
    with run.active() as backend:
        whole = mmk.contrastive_loss(
            *operands[:3], kind=kind, logit_bias=operands[3], targets=targets, label_smoothing=smoothing,
            backend=backend,
        )  # fmt: skip
        expected = results_of(whole, operands, torch.tensor(1.0))
        options = {"label_smoothing": smoothing, "backend": backend}
        places = [
            (r, c, shard(targets, r, c), {"row_offset": r[0], "column_offset": c[0], **options})
            for r in ROWS
            for c in COLUMNS
        ]
        pieces = {(r, c): (image[slice(*r)], text[slice(*c)]) for r, c, *_ in places}
        if kind == "softmax":
            found = softmax(places, pieces, scale, smoothing)
        else:
            found = sigmoid(places, pieces, scale, bias)
    wide = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2}[dtype]
    for name in ("loss", *OPERANDS)[: len(found)]:
        size = max(expected[name].abs().max().item(), 1e-3)
        torch.testing.assert_close(
            found[name].to(expected[name].dtype), expected[name], rtol=0,
            atol=size * (1e-5 if dtype == torch.bfloat16 and name == "loss" else wide),
        )  # fmt: skip


def softmax(places, pieces, scale, smoothing):
    parts = {(r, c): blocks.block_statistics(*pieces[r, c], scale, targets, **where) for r, c, targets, where in places}
    rows = {r: blocks.merge(*(parts[r, c].rows for c in COLUMNS)) for r in ROWS}
    columns = {c: blocks.merge(*(parts[r, c].columns for r in ROWS)) for c in COLUMNS}
    sides = ((rows, 300), (columns, 300))
    found = {"loss": sum(part.losses(smoothing, n).sum() / n for side, n in sides for part in side.values()) / 2}
    of_rows, of_columns = (
        {place: part.side(torch.full_like(part.positives, 1 / n), smoothing, n) for place, part in side.items()}
        for side, n in sides
    )
    grads = {
        (r, c): blocks.block_gradients(*pieces[r, c], scale, of_rows[r], of_columns[c], targets, **where)
        for r, c, targets, where in places
    }
    return {**found, **added_up(grads)}


def sigmoid(places, pieces, scale, bias):
    losses, grads = [], {}
    for r, c, targets, where in places:
        losses.append(blocks.block_sigmoid_losses(*pieces[r, c], scale, bias, targets, **where))
        row_grad = torch.full_like(losses[-1], 1 / 300)
        grads[r, c] = blocks.block_sigmoid_gradients(*pieces[r, c], scale, bias, row_grad, targets, **where)
    return {"loss": sum(part.sum() for part in losses) / 300, **added_up(grads)}


def added_up(grads):
    """Gradients by name from those of every block."""
    scalars = [sum(parts) for parts in list(zip(*grads.values(), strict=True))[2:]]
    return {
        "image": torch.cat([sum(grads[r, c][0] for c in COLUMNS) for r in ROWS]),
        "text": torch.cat([sum(grads[r, c][1] for r in ROWS) for c in COLUMNS]),
        **dict(zip(("scale", "bias"), scalars, strict=False)),
    }


@runs(*EVERY)
def test_a_shard_of_nothing_changes_nothing(run):
    """No texts, or logits of -inf only: neutral in a merge."""
    image, text, scale, _ = (t.detach() for t in embeddings(5, 7, 4, torch.float32))
    with run.active() as backend:
        part = blocks.block_statistics(image, text, scale, backend=backend).rows
        nothing = blocks.block_statistics(image, text[:0], scale, column_offset=7, backend=backend).rows
        far = torch.full((3, 1), -torch.inf)
        hidden = blocks.block_statistics(
            torch.ones(5, 1), far, scale, torch.full((5,), -1), column_offset=7, backend=backend
        ).rows
    for other in (nothing, hidden):
        for merged in (blocks.merge(part, other), blocks.merge(other, part)):
            for a, b in zip(merged.statistics[:2], part.statistics[:2], strict=True):
                assert torch.equal(a, b)
            assert torch.equal(merged.positives, part.positives)
