"""A reduced sigmoid loss makes its gradients in the forward's sweep: what a backend is asked for, bits, factors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import mmkernels as mmk
from mmkernels.ops.contrastive import blocks, cpu, reference
from tests.backends import DEFAULT, NATIVE, Run, default_runs, dtypes, runs
from tests.contrastive.naive import OPERANDS, Case, fused, gradients, results_of
from tests.contrastive.rule import Expectation
from tests.tolerance import same_bits

LOSS = [True, False, False, False, False]


def again(case: Case, operands: list[Tensor], grad: Tensor, backend: str) -> dict[str, Tensor]:
    """The op, whose backward computes the logits once more."""
    loss = torch.ops.mmkernels.contrastive_loss_forward(*operands, *case.call(), backend)[0]
    return results_of(loss, operands, grad)


@runs(*NATIVE)
@dtypes()
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(300, 300, 17, "pairs"), (70, 530, 65, "index"), (600, 33, 40, "several")], ids=str)
def test_bits_of_the_way_of_two_sweeps(shape, reduction: str, dtype: torch.dtype, run: Run) -> None:
    """Where the loss has a gradient of 1, or a power of two; and the loss is that of a forward alone."""
    case = Case(*shape[:3], "sigmoid", shape[3], 0.1, reduction)
    operands = case.operands(dtype)
    for factor in (1.0, 0.25, 1024.0):
        grad = torch.tensor(factor)
        with run.active() as backend:
            with torch.no_grad():
                alone = fused(operands, *case.call(), backend=backend)
            loss = fused(operands, *case.call(), backend=backend)
            found = results_of(loss, operands, grad)
            expected = again(case, operands, grad, backend)
        same_bits("loss alone", alone, expected["loss"])
        for name, tensor in expected.items():
            same_bits(f"{name}, {factor}", found[name], tensor)


@default_runs()
@dtypes()
def test_any_gradient_of_the_loss(dtype: torch.dtype, run: Run) -> None:
    """Twice from one graph: gradients in fp32 are multiplied once, then rounded."""
    case = Case(70, 70, 33, "sigmoid")
    operands = case.operands(dtype)
    wide = [t.detach() for t in operands]
    with run.active() as backend:
        row_grad = torch.ones(()).div(70).expand(70)
        made = blocks.block_sigmoid_gradients(*wide, row_grad, backend=backend)
        loss = fused(operands, *case.call(), backend=backend)
        for factor in (3.7, -0.003):
            grad = torch.tensor(factor)
            Expectation(case, operands, grad).check(backend)
            found = torch.autograd.grad(loss, operands, grad, retain_graph=True)
            for name, tensor, ready, operand in zip(OPERANDS, found, made, operands, strict=True):
                same_bits(name, tensor, (ready * grad).to(operand.dtype))


@runs(*NATIVE)
def test_a_scaled_loss_in_fp16(run: Run) -> None:
    """Gradients that fp16 could not hold before a gradient scaler's factor."""
    case = Case(300, 300, 17, "sigmoid", bias=-9.0, length=1e-3)
    operands = case.operands(torch.float16)
    grad = torch.tensor(65536.0)
    with run.active() as backend:
        found = gradients(fused(operands, *case.call(), backend=backend), operands, grad)
        expected = again(case, operands, grad, backend)
    assert ((found[1] != 0) & (found[1] / grad == 0)).any()
    for name, tensor in zip(OPERANDS, found, strict=True):
        same_bits(name, tensor, expected[name])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[bool]]:
    """What every sweep over the logits is asked for: (loss, image, text, scale, bias)."""
    sweeps: list[list[bool]] = []
    for module in (cpu, reference):
        monkeypatch.setattr(module, "sigmoid", _recording(module.sigmoid, sweeps))
    return sweeps


def _recording(sweep, sweeps):
    def recorded(*args):
        *_, row_grad, needs, _ = args
        assert (row_grad is not None) == any(needs[1:])
        sweeps.append(list(needs))
        return sweep(*args)

    return recorded


@runs(*DEFAULT)
@pytest.mark.parametrize("wanted", [[0], [1], [2, 3], [0, 1, 2, 3]], ids=str)
def test_one_sweep_makes_what_is_wanted(wanted: list[int], asked: list[list[bool]], run: Run) -> None:
    case = Case(33, 33, 5, "sigmoid")
    operands = [t.requires_grad_(i in wanted) for i, t in enumerate(t.detach() for t in case.operands(torch.float32))]
    with run.active() as backend:
        loss = fused(operands, *case.call(), backend=backend)
        for _ in range(2):
            torch.autograd.grad(loss, [operands[i] for i in wanted], retain_graph=True)
    assert asked == [[True, *(i in wanted for i in range(4))]]


@runs(*DEFAULT)
def test_a_loss_alone_makes_no_gradients(asked: list[list[bool]], run: Run) -> None:
    case = Case(33, 33, 5, "sigmoid")
    operands = case.operands(torch.float32)
    with run.active() as backend:
        with torch.no_grad():
            fused(operands, *case.call(), backend=backend)
        fused([t.detach() for t in operands], *case.call(), backend=backend)
    assert asked == [LOSS, LOSS]


@runs(*DEFAULT)
def test_a_loss_per_row_makes_its_gradients_in_the_backward(asked: list[list[bool]], run: Run) -> None:
    case = Case(33, 33, 5, "sigmoid", reduction="none")
    operands = case.operands(torch.float32)
    with run.active() as backend:
        loss = fused(operands, *case.call(), backend=backend)
        loss.backward(torch.randn(33))
    assert asked == [LOSS, [False, True, True, True, True]]


@default_runs()
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant: bool, run: Run) -> None:
    case = Case(33, 33, 5, "sigmoid", "index", 0.1)
    operands = case.operands(torch.float32)
    with run.active() as backend:
        function = lambda *tensors: fused(tensors, *case.call(), backend=backend)  # noqa: E731
        kept, again = [], []
        for found, loss in (
            (kept, function(*operands)),
            (again, checkpoint(function, *operands, use_reentrant=reentrant)),
        ):
            loss.backward()
            found += [t.grad for t in operands]
            for t in operands:
                t.grad = None
    for name, a, b in zip(OPERANDS, kept, again, strict=True):
        same_bits(name, b, a)


@runs(*DEFAULT)
@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_batch_of_nothing(reduction: str, rows: int, columns: int, run: Run) -> None:
    image, text = torch.randn(rows, 4, requires_grad=True), torch.randn(columns, 4, requires_grad=True)
    scale = torch.tensor(10.0, requires_grad=True)
    targets = torch.zeros(rows, columns, dtype=torch.bool)
    with run.active() as backend:
        loss = mmk.contrastive_loss(
            image, text, scale, kind="sigmoid", targets=targets, reduction=reduction, backend=backend
        )
    loss.backward()
    assert loss == 0 and scale.grad == 0 and not image.grad.any() and not text.grad.any()
