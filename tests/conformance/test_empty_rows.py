"""Rows that see nothing, biases of -inf, and rows of finfo.min, which see everything alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import mmkernels as mmk
from bench.attention.inputs import Inputs
from tests.backends import DEFAULT, NATIVE, REFERENCE, Run, dtypes, runs
from tests.tolerance import check_call

B, H, ROWS, KEYS, D = 2, 2, 37, 90, 16
EMPTY = torch.arange(ROWS) % 4 == 1


def make(dtype: torch.dtype, mask: mmk.Mask | None, bias: object = None, **options: object) -> Inputs:
    random = torch.Generator().manual_seed(2)
    query, key, value = (torch.randn(B, H, n, D, generator=random).to(dtype) for n in (ROWS, KEYS, KEYS))
    return Inputs("attention", [query], [key], [value], mask, bias, options=options)


def _by_intervals(**options: str) -> mmk.Mask:
    return mmk.Mask.intervals(0, torch.where(EMPTY, 0, 77), **options)


def _by_inverted_intervals(**options: str) -> mmk.Mask:
    return mmk.Mask.intervals(torch.where(EMPTY, 50, 3), torch.where(EMPTY, 20, 80), **options)


def _by_dense(**options: str) -> mmk.Mask:
    visible = (torch.rand(B, 1, ROWS, KEYS) < 0.4) & ~EMPTY[:, None]
    return mmk.Mask.dense(visible, **options)


def _by_both(**options: str) -> mmk.Mask:
    """Neither the intervals nor the dense part alone is empty."""
    visible = (torch.arange(KEYS) >= 45) | ~EMPTY[:, None]
    return mmk.Mask.intervals(0, torch.where(EMPTY, 45, 90)) & mmk.Mask.dense(visible, **options)


MASKS: dict[str, Callable[..., mmk.Mask]] = {
    "intervals": _by_intervals, "inverted": _by_inverted_intervals, "dense": _by_dense, "both": _by_both,
}  # fmt: skip


@pytest.mark.parametrize("mask", MASKS)
@dtypes()
@runs(*DEFAULT)
def test_zero(mask: str, run: Run, dtype: torch.dtype) -> None:
    with run.active() as backend:
        found = check_call(make(dtype, MASKS[mask](), dropout_p=0.1, seed=9), backend)
    assert not found["out"][:, :, EMPTY].any()
    assert (found["lse"][:, :, EMPTY] == -torch.inf).all()
    assert not found["grad query 0"][:, :, EMPTY].any()
    assert found["out"][:, :, ~EMPTY].any(-1).all()


@pytest.mark.parametrize("mask", MASKS)
@dtypes()
@runs(*DEFAULT)
def test_unmask(mask: str, run: Run, dtype: torch.dtype) -> None:
    with run.active() as backend:
        found = check_call(make(dtype, MASKS[mask](empty_rows="unmask")), backend)
        everything = make(dtype, None).run(backend)
    torch.testing.assert_close(found["lse"][:, :, EMPTY], everything["lse"][:, :, EMPTY], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mask", MASKS)
@runs(*NATIVE[1:])
def test_other_instruction_sets(mask: str, run: Run) -> None:
    test_zero(mask, run, torch.float32)
    test_unmask(mask, run, torch.float16)


@runs(*DEFAULT)
def test_bias_of_minus_infinity_empties_a_row_even_when_unmasked(run: Run) -> None:
    """`unmask` is about the mask: a row whose bias is -inf everywhere sees nothing all the same."""
    bias = torch.randn(1, 1, ROWS, KEYS)
    bias[:, :, EMPTY] = -torch.inf
    with run.active() as backend:
        found = check_call(make(torch.float32, _by_intervals(empty_rows="unmask"), bias), backend)
    assert not found["out"][:, :, EMPTY].any() and (found["lse"][:, :, EMPTY] == -torch.inf).all()


@dtypes()
@runs(*DEFAULT)
def test_bias_of_minus_infinity(run: Run, dtype: torch.dtype) -> None:
    """It masks its pair like a mask does, in every kind of bias."""
    hidden = torch.rand(B, 1, ROWS, KEYS) < 0.5
    bias = torch.randn(B, 1, ROWS, KEYS).masked_fill(hidden, -torch.inf).to(dtype)
    as_mask = make(dtype, mmk.Mask.dense(~hidden), torch.where(hidden, 0.0, bias).to(dtype))
    with run.active() as backend:
        found, masked = check_call(make(dtype, None, bias), backend), check_call(as_mask, backend)
    for name in found:
        torch.testing.assert_close(found[name], masked[name], rtol=0, atol=0)
    assert not found["grad bias 0"][hidden].any()


@runs(*DEFAULT)
def test_minus_infinity_in_structured_biases(run: Run) -> None:
    table = torch.randn(H, ROWS + KEYS - 1)
    table[0, 60:] = -torch.inf
    rel_h, rel_w = torch.randn(B, H, ROWS, 9), torch.randn(B, H, ROWS, 10)
    rel_h[:, :, :, 4] = -torch.inf
    rel_w[:, :, EMPTY] = -torch.inf
    with run.active() as backend:
        check_call(make(torch.float32, None, mmk.RelativeBias(table)), backend)
        check_call(make(torch.float32, None, mmk.DecomposedBias(rel_h, rel_w)), backend)


def _additive(dtype: torch.dtype, rows: Tensor) -> Tensor:
    """0 or finfo.min at random, and finfo.min all over in these rows."""
    hidden = (torch.rand(B, 1, ROWS, KEYS) < 0.5) | rows[:, None]
    return torch.where(hidden, torch.finfo(dtype).min, 0.0).to(dtype)


@dtypes()
@runs(*DEFAULT)
def test_finfo_min_is_a_number(run: Run, dtype: torch.dtype) -> None:
    """A row of nothing else is uniform attention: the mean of the values; its gradients are those of a mean."""
    inputs = make(dtype, None, _additive(dtype, EMPTY))
    with run.active() as backend:
        found = check_call(inputs, backend)
    mean = inputs.values[0].float().mean(2, keepdim=True).expand(B, H, ROWS, D)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found["out"][:, :, EMPTY].float(), mean[:, :, EMPTY], rtol=eps, atol=4 * eps)


@dtypes()
@runs(REFERENCE, *NATIVE)
def test_finfo_min_of_fp32_in_any_call(run: Run, dtype: torch.dtype) -> None:
    """The bias may be fp32 where the operands are not; a mask hides its pairs all the same."""
    bias = _additive(torch.float32, EMPTY)
    with run.active() as backend:
        check_call(make(dtype, None, bias), backend)
        check_call(make(dtype, mmk.Mask.key_lengths(torch.tensor([50, 90])), bias), backend)
        check_call(make(dtype, mmk.Mask.causal(), bias, softcap=3.0, dropout_p=0.3, seed=1), backend)


@runs(*DEFAULT)
def test_large_logits_on_both_sides(run: Run) -> None:
    """Rows whose lse is far from 0, beyond what exp(logit - lse) can resolve in fp32."""
    shift = torch.linspace(-3000, 3000, ROWS)[None, None, :, None]
    with run.active() as backend:
        check_call(make(torch.float32, None, shift), backend)
        check_call(make(torch.float32, mmk.Mask.causal("bottom_right"), shift, scale=3.0), backend)
