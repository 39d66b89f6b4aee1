"""The rule that gradients are held to, where two fp32 results differ by more than rounding and fp64 is asked."""

from __future__ import annotations

import pytest
import torch

from tests.integrations.checks import check_gradients

LARGE = torch.tensor([1.0, -3.0], dtype=torch.float64)
ZERO = torch.tensor([1e-16, 0.0], dtype=torch.float64)


def results(large: float, zero: float) -> dict[str, torch.Tensor]:
    """Gradients of two parameters that are off by this much; the second is 0 but for rounding."""
    return {"large": (LARGE + large).float(), "zero": (ZERO + zero).float()}


def check(found, expected, exact=True) -> None:
    check_gradients(found, expected, (lambda: {"large": LARGE, "zero": ZERO}) if exact else None)


@pytest.mark.parametrize("off", [(1e-3, 1e-7), (1e-6, 1e-5)], ids=["of its own", "of any, where it is 0"])
def test_twice_the_naive_error_is_allowed(off):
    check(results(*(-each for each in off)), results(*off))


@pytest.mark.parametrize(
    "found, expected, name",
    [
        (results(1e-2, 0.0), results(1e-3, 0.0), "large"),
        (results(0.0, 1e-4), results(1e-7, 1e-6), "zero"),
        (results(0.0, 1e-2), results(1e-3, 0.0), "zero"),
    ],
)
def test_more_is_refused(found, expected, name):
    with pytest.raises(AssertionError, match=f"{name}: .* allowed"):
        check(found, expected)


def test_without_fp64_the_expected_decides():
    check(results(1e-4, 1e-9), results(0.0, 0.0), exact=False)
    with pytest.raises(AssertionError, match="zero: 1.00e-05"):
        check(results(0.0, 1e-5), results(0.0, 0.0), exact=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(AssertionError, match="zero"):
        check(results(0.0, value), results(0.0, value))
