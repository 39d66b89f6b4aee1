"""contrastive_loss on every backend and instruction set: the tolerance rule, NaN and Inf, bits, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mmkernels as mmk
from tests.backends import CPU, EVERY, NATIVE, Run, dtypes, runs
from tests.contrastive.naive import KINDS, OPERANDS, Case, embeddings, naive, results_of, targets_of
from tests.contrastive.rule import Expectation
from tests.tolerance import explain, same_bits

# Rows and columns that end inside a block, a panel, a vector; one that has several groups of blocks; depths of several
# slices, of one feature, of an odd number of them.
SHAPES = [(300, 300, 32), (7, 65, 3), (530, 270, 40), (65, 7, 531), (1, 1, 1), (129, 129, 256)]
TARGETS = [
    (positives, shape)
    for positives in ("pairs", "index", "several")
    for shape in SHAPES
    if (shape[0] == shape[1] if positives == "pairs" else min(shape[:2]) > 3)
]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def loss_of(operands: list[Tensor], call: tuple[Any, ...], backend: str) -> Tensor:
    image, text, scale, bias = operands
    targets, kind, smoothing, reduction = call
    return mmk.contrastive_loss(
        image, text, scale, logit_bias=bias, targets=targets, kind=kind, label_smoothing=smoothing,
        reduction=reduction, backend=backend,
    )  # fmt: skip


def run_call(operands: list[Tensor], call: tuple[Any, ...], grad: Tensor, run: Run) -> dict[str, Tensor]:
    with run.active() as backend:
        return results_of(loss_of(operands, call, backend), operands, grad)


def case(shape: tuple[int, int, int], kind: str, positives: str, dtype: torch.dtype, smoothing: float) -> Any:
    rows, columns, width = shape
    operands = embeddings(rows, columns, width, dtype)
    reduction = "none" if rows == columns or kind == "sigmoid" else "sum"
    call = (targets_of(positives, rows, columns), kind, smoothing, reduction)
    return operands, call, torch.randn((rows,) if reduction == "none" else ())


@pytest.mark.parametrize(("positives", "shape"), TARGETS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@dtypes()
@runs(*EVERY)
def test_tolerance_rule(kind, positives, shape, dtype, run):
    reduction = "none" if shape[0] == shape[1] or kind == "sigmoid" else "sum"
    case = Case(*shape, kind, positives, 0.1 if shape[2] % 2 else 0.0, reduction)
    with run.active() as backend:
        Expectation(case, case.operands(dtype)).check(backend)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", KINDS)
@runs(*EVERY)
def test_reductions_with_smoothed_pairs(kind, reduction, run):
    case = Case(70, 70, 5, kind, "pairs", 0.2, reduction)
    with run.active() as backend:
        Expectation(case, case.operands(torch.float32)).check(backend)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["image", "text"])
@pytest.mark.parametrize("kind", KINDS)
@runs(*EVERY)
def test_non_finite_embeddings(kind, where, bad, run):
    """NaN and Inf stand where torch's own losses have them, and their gradients, and disturb nothing else."""
    operands, call, grad = case((40, 40, 6), kind, "pairs", torch.float32, 0.0)
    with torch.no_grad():
        operands[OPERANDS.index(where)][17, 2] = bad
    wide = [t.detach().double().requires_grad_() for t in operands]
    x, index = wide[2] * (wide[0] @ wide[1].T), torch.arange(40)
    if kind == "softmax":  # not the formulas of naive.py: they multiply logits of -inf by 0
        loss = sum(F.cross_entropy(side, index, reduction="none") for side in (x, x.T)) / 2
    else:
        loss = -F.logsigmoid((x + wide[3]) * (2 * torch.eye(40, dtype=torch.float64) - 1)).sum(1)
    expected = results_of(loss, wide, grad.double())
    found = run_call(operands, call, grad, run)
    for name in expected:
        faults = explain(name, found[name], expected[name], torch.full_like(expected[name], 1e-2))
        assert not faults, "\n".join(faults)


@pytest.mark.parametrize("positives", ["pairs", "index", "matrix"])
@runs(*EVERY)
def test_a_logit_of_minus_infinity(positives, run):
    """It is no candidate, as in F.cross_entropy; a row of nothing else has no softmax."""
    image, text = torch.tensor([[1.0, 0.0], [0.0, -torch.inf], [0.5, 0.0]]), torch.tensor([[1.0, 0], [2, 0], [3, 0]])
    image[1, 1], text[:, 1] = -torch.inf, torch.tensor([1.0, 1.0, 1.0])  # row 1: -inf three times
    targets = {"pairs": None, "index": torch.tensor([0, -1, 2]), "matrix": torch.eye(3, dtype=torch.bool)}[positives]
    with run.active() as backend:
        found = mmk.contrastive_loss(image, text, 1.0, targets=targets, reduction="none", backend=backend)
    x = image @ text.T
    assert (x[1] == -torch.inf).all()
    columns = F.cross_entropy(x.T, torch.arange(3), reduction="none")
    expected = (F.cross_entropy(x, torch.arange(3), reduction="none") + columns) / 2
    assert torch.allclose(found[[0, 2]], expected[[0, 2]], rtol=1e-6)
    assert found[1] == 0 if positives == "index" else found[1].isnan()


@runs(*EVERY)
def test_sigmoid_at_both_ends(run):
    """-log sigmoid(u) is e^-u for large u and -u for very negative u, to a few ulp."""
    u = torch.cat([torch.linspace(-110, 86, 393), torch.tensor([0.0, 1e-6, -1e-6, 1e4, -1e4, torch.inf, -torch.inf])])
    with run.active() as backend:
        found = mmk.contrastive_loss(
            u[:, None], torch.ones(1, 1), 1.0, kind="sigmoid", targets=torch.zeros(len(u), dtype=torch.int64),
            reduction="none", backend=backend,
        )  # fmt: skip
    torch.testing.assert_close(found.double(), -F.logsigmoid(u.double()), rtol=6e-7, atol=2e-38)


def check_same(expected: dict[str, Tensor], found: dict[str, Tensor], what: str) -> None:
    for name, tensor in expected.items():
        same_bits(f"{what}: {name}", found[name], tensor)


@pytest.mark.parametrize(("kind", "positives", "shape"), [
    ("softmax", "pairs", (700, 700, 40)), ("softmax", "several", (330, 1100, 17)), ("sigmoid", "index", (1030, 200, 9)),
])  # fmt: skip
@dtypes()
@runs(*NATIVE)
def test_bits_at_any_number_of_threads(kind, positives, shape, dtype, run):
    operands, call, grad = case(shape, kind, positives, dtype, 0.1)
    torch.set_num_threads(1)
    expected = run_call(operands, call, grad, run)
    for threads in (2, 3, 4, 2):
        torch.set_num_threads(threads)
        check_same(expected, run_call(operands, call, grad, run), f"{threads} threads")


@pytest.mark.parametrize("kind", KINDS)
@dtypes()
@runs(*NATIVE)
def test_bits_at_any_stride_and_alignment(kind, dtype, run):
    operands, call, grad = case((70, 70, 21), kind, "several", dtype, 0.0)
    expected = run_call(operands, call, grad, run)
    for name in ("odd slices", "last axis not dense", "transposed targets"):
        views = []
        for tensor in operands[:2]:
            if name == "odd slices":
                view = torch.full((72, 31), torch.nan, dtype=dtype)[1:71, 3:24]
            else:
                view = torch.full((21, 70), torch.nan, dtype=dtype).T
            view.copy_(tensor.detach())
            views.append(view.requires_grad_())
        targets = call[0].T.contiguous().T if name == "transposed targets" else call[0]
        found = run_call([*views, *operands[2:]], (targets, *call[1:]), grad, run)
        check_same(expected, found, name)


@pytest.mark.parametrize("kind", KINDS)
@runs(CPU)
def test_whichever_gradients_are_wanted(kind, run):
    operands, call, grad = case((150, 150, 12), kind, "pairs", torch.float32, 0.1)
    expected = run_call(operands, call, grad, run)
    for wanted in range(4 if kind == "sigmoid" else 3):
        some = [t.detach().requires_grad_(i == wanted) for i, t in enumerate(operands)]
        with run.active() as backend:
            found = torch.autograd.grad(loss_of(some, call, backend), some[wanted], grad)[0]
        same_bits(OPERANDS[wanted], found, expected[OPERANDS[wanted]])


@runs(CPU)
def test_index_of_a_wide_batch(run):
    """Thousands of rows that share one positive column: its sum loses nothing."""
    image, text = torch.rand(9000, 1), torch.ones(2, 1)
    with run.active() as backend:
        found = mmk.contrastive_loss(image, text, 1.0, targets=torch.zeros(9000, dtype=torch.int64), backend=backend)
    expected = naive(image.double(), text.double(), 1.0, None, torch.ones(9000, 1) > torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@runs(*EVERY)
def test_an_index_and_no_columns(kind, run):
    with run.active() as backend, pytest.raises(ValueError, match="index 0, expected at most -1"):
        mmk.contrastive_loss(
            torch.randn(2, 3), torch.randn(0, 3), 1.0, kind=kind, targets=torch.tensor([0, -1]), backend=backend
        )


@runs(CPU)
def test_refusals(run):
    """The library itself never reads outside a tensor, whoever calls it."""
    with run.active():
        library = torch.ops.mmkernels_cpu
        image, text = torch.randn(4, 3), torch.randn(5, 3)
        outputs = [torch.empty(2, 4), torch.empty(1, 4), torch.empty(2, 5), torch.empty(1, 5)]
        library.contrastive_forward(image, text, 1.0, torch.zeros(4, dtype=torch.int64), False, *outputs)
        targets = torch.tensor([0, 5, 0, 0])
        for name, call in {
            "features": (image, torch.randn(5, 2), 1.0, None, False, *outputs),
            "dtype": (image, text.bfloat16(), 1.0, None, False, *outputs),
            "unit last stride": (torch.randn(3, 4).T, text, 1.0, None, False, *outputs),
            "index 5, expected at most 4": (image, text, 1.0, targets, False, *outputs),
            "int64 vector of 4": (image, text, 1.0, targets[:3], False, *outputs),
            r"bool \(4, 5\)": (image, text, 1.0, torch.zeros(5, 4, dtype=torch.bool), False, *outputs),
            r"shape \(2, 4\)": (image, text, 1.0, None, True, *outputs),
        }.items():
            with pytest.raises(RuntimeError, match=f"mmkernels: .*{name}"):
                library.contrastive_forward(*call)
        side = torch.zeros(5, 4), torch.zeros(5, 5)
        with pytest.raises(RuntimeError, match="grad_text must be"):
            library.contrastive_backward(image, text, 1.0, None, False, *side, None, torch.empty(4, 3), None)
