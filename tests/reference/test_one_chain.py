"""The other order of a naive path: torch's products to a few eps, and a bound where equal terms drift."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.one_chain import OneChain

EPS = torch.finfo(torch.float32).eps


def test_products_of_different_terms_and_their_gradients():
    x, weight, bias = (torch.randn(shape, requires_grad=True) for shape in ((2, 3, 40), (5, 40), (5,)))
    grad = torch.randn(2, 3, 5)
    expected = F.linear(x, weight, bias)
    with OneChain():
        found = F.linear(x, weight, bias)
        assert torch.equal((x[0] @ weight.T).view(3, 5) + bias, found[0])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(*(torch.autograd.grad(y, (x, weight, bias), grad) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_equal_terms_drift_by_all_that_a_chain_may(sign):
    """n / 2 eps of the sum, half of that on average over the chain; a chain in one lane keeps it."""
    n, number = 4096, 0.1
    a, b = torch.full((1, n), number), torch.full((n, 1), sign * number)
    with OneChain():
        drifted = (a @ b).item()
    exact = sign * n * float(a[0, 0]) ** 2
    plain = 0.0 * b[0]
    for _ in range(n):
        plain = plain + a[0, 0] * b[0]
    assert abs(plain.item() - exact) <= abs(drifted - exact) + n * EPS * number**2
    assert n / 8 * EPS < abs(drifted - exact) / abs(exact) < n / 2 * EPS
