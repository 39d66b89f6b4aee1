"""Strided views are read as they are: transposed, odd slices, wide strides, strides of 0, misaligned storage."""

from __future__ import annotations

import pytest
import torch

import mmkernels as mmk
from tests.backends import EVERY, Run, default_runs, dtypes, runs
from tests.fusion.naive import Case, fused, gradients, naive
from tests.fusion.rule import Expectation
from tests.layouts import LAYOUTS, laid_out

SHAPES = ((3, 9, 18), (3, 1, 5), (9, 7))


def check(case: Case, dtype: torch.dtype, run: Run, grad_layout: str | None = None) -> None:
    grad = None
    if grad_layout is not None:
        rows = torch.broadcast_shapes(*(shape[:-1] for shape in case.inputs))
        grad = laid_out(torch.randn(*rows, case.out).to(dtype), grad_layout)
    with run.active() as backend:
        Expectation(case, case.operands(dtype), grad, run.rounds_weights(dtype)).check(backend)


@default_runs()
@dtypes()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sources(layout: str, dtype: torch.dtype, run: Run) -> None:
    check(Case(SHAPES, 17, norm="layer", activation="gelu", layouts=(layout,)), dtype, run)
    check(Case(SHAPES, 17, layouts=(layout, "contiguous")), dtype, run)


@runs(*EVERY)
@dtypes()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_everything_else(layout: str, dtype: torch.dtype, run: Run) -> None:
    """Weight, bias, norm, gate and residual."""
    case = Case(SHAPES, 17, norm="layer", activation="silu", gate=(9, 17), residual=(3, 9, 17), other_layout=layout)
    check(case, dtype, run)


@default_runs()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_output_gradient(layout: str, run: Run) -> None:
    """Also the stride of 0 that `out.sum().backward()` brings."""
    for dtype in (torch.float32, torch.bfloat16):
        check(Case(SHAPES, 17, norm="rms", activation="tanh", gate=(17,)), dtype, run, layout)
        check(Case(SHAPES, 17), dtype, run, layout)


@default_runs()
def test_slices_of_one_projection(run: Run) -> None:
    """Two sources and the residual are views of one tensor, whose gradient collects theirs."""
    wide = torch.randn(2, 7, 3, 8, requires_grad=True)
    weight = torch.randn(24, 6).t()[:, ::2]  # (6, 12), both strides odd
    case = Case(((2, 7, 8), (2, 1, 4)), norm="layer", activation="gelu", affine=False, bias=False)
    found = []
    for dtype in (torch.float32, torch.float64):
        operands = case.operands(dtype)
        leaf = wide.detach().to(dtype).requires_grad_()
        operands.inputs = [leaf[:, :, 1], leaf[:, 3:4, 2, ::2]]
        operands.rest |= {"weight": weight.to(dtype), "residual": leaf[:, :, 0, 1:7]}
        with run.active() as backend:
            out = fused(case, operands, backend=backend) if dtype == torch.float32 else naive(case, operands)
        found.append((out, *torch.autograd.grad(out.square().sum(), leaf)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)


@default_runs()
def test_results_are_dense_and_share_no_memory(run: Run) -> None:
    case = Case(SHAPES, 17, norm="layer", activation="gelu", layouts=("transposed", "odd slice"), residual=(3, 9, 17))
    operands = case.operands(torch.float32)
    before = {name: tensor.detach().clone() for name, tensor in operands.named().items()}
    with run.active() as backend:
        out = fused(case, operands, backend=backend)
    assert out.is_contiguous()
    found = gradients(out, operands, torch.ones_like(out))
    pointers = [t.untyped_storage().data_ptr() for t in (out, *found.values(), *operands.named().values())]
    del found["residual"]  # that one is the output's gradient itself
    assert len(set(pointers)) >= len(pointers) - 1
    for name, tensor in operands.named().items():
        assert torch.equal(tensor, before[name]), f"{name} was written to"


@default_runs()
def test_gaps_between_rows_are_not_written(run: Run) -> None:
    """A source that lies in a larger tensor of NaN, and one whose rows overlap."""
    room = torch.full((9, 40), torch.nan)
    room[:, 3:20] = torch.randn(9, 17)
    sliding = torch.randn(9 + 16).as_strided((9, 16), (1, 1))
    weight = torch.randn(5, 33)
    with run.active() as backend:
        out = mmk.concat_fusion([room[:, 3:20], sliding], weight, norm=mmk.LayerNorm(), backend=backend)
    x = torch.cat([room[:, 3:20], sliding], 1).double()
    expected = torch.nn.functional.layer_norm(x, (33,)) @ weight.double().T
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
