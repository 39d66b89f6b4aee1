"""The tolerance rule: |x - reference| <= 2 max|naive - reference| + c eps sum|terms|.

The reference is plain torch in fp64 (`tests/plain.py`). The naive path is the same formulas in fp32 on the same inputs,
its results rounded to the dtype of the tensor: the CPU kernels and the reference backend compute in fp32, so they are
held to that, also where bf16 products round their weights (half an eps of a term, which the rule has room for). A
backend on matrix units passes ``rounded=True`` and is held to the formulas computed in the dtype throughout.

The terms are the absolute products behind each element, with the eps of the tensor's dtype; and, because a probability
is the exponential of a sum, the products of its logit and of its row's, times the probability, with the eps of fp32, in
which logits are computed whatever the dtype. Without the second part a call whose naive path happens to round well
(a handful of logits of size 50) rejects a correct kernel.

For concat_fusion and contrastive_loss the naive path may also add in one chain (`tests/one_chain.py`): with operands
whose numbers are all equal it drifts, and torch's order may happen not to.

Where naive is not finite, only the reference decides. NaN and Inf must stand exactly where the reference, rounded to
the dtype, has them: that is checked first, and no tolerance excuses it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.attention.inputs import Inputs
from tests import plain

# c, in units of eps (the distance from 1 to the next number). 16 bits: half an eps is the rounding of the result, and
# half an eps that of the output from which a gradient's delta is taken. fp32: sums run in chains of hundreds, and each
# product, exponential and rescaling rounds; 8,000 fuzzed calls have needed 2.0 at most (a bias shared by all pairs).
# fp64 has no naive path to compare with but the reference itself.
C = {torch.float32: 4.0, torch.bfloat16: 1.0, torch.float16: 1.0, torch.float64: 16.0}


class Expectation:
    """What the rule allows for one call and its cotangents, random ones unless given."""

    def __init__(
        self, inputs: Inputs, seed: int = 0, rounded: bool = False, cotangents: Mapping[str, Tensor] | None = None
    ) -> None:
        self.inputs = inputs
        self.cotangents = plain.cotangents(inputs, seed) if cotangents is None else cotangents
        self.reference, self.terms, self.inner = plain.evaluate(inputs, self.cotangents, torch.float64)
        # fp64 is held to the reference and its terms alone.
        dtype = inputs.dtype if rounded or inputs.dtype == torch.float64 else torch.float32
        self.naive, *_ = plain.evaluate(inputs, self.cotangents, dtype)

    def check(self, backend: str | None, device: str = "cpu") -> dict[str, Tensor]:
        """Run the call forward and backward on a backend, hold every result to the rule; returns the results."""
        cotangents = {name: tensor.to(device) for name, tensor in self.cotangents.items()}
        found = {name: t.cpu() for name, t in plain.run(self.inputs.to(device), backend, cotangents).items()}
        self.check_results(found)
        return found

    def check_results(self, found: Mapping[str, Tensor]) -> None:
        """Hold results, by the names that `plain.run` gives them, to the rule."""
        faults = self.faults(found)
        assert not faults, "\n".join(faults)

    def faults(self, found: Mapping[str, Tensor]) -> list[str]:
        """Sentences that say how results break the rule."""
        faults = []
        for name, tensor in found.items():
            # A gradient inherits the roundings of the operands' dtype, even that of an fp32 bias; lse does not.
            precision = tensor.dtype if name.startswith("lse") else _coarser(tensor.dtype, self.inputs.dtype)
            naive = self.naive[name].to(tensor.dtype)
            bound = tolerance(
                tensor.dtype, self.reference[name], naive, self.terms[name], self.inner[name], precision
            )  # fmt: skip
            faults += explain(name, tensor, self.reference[name], bound)
        return faults


def check_call(inputs: Inputs, backend: str | None, seed: int = 0, rounded: bool = False) -> dict[str, Tensor]:
    """`Expectation.check` of one call on one backend."""
    return Expectation(inputs, seed, rounded).check(backend)


def explain(name: str, found: Tensor, reference: Tensor, bound: Tensor) -> list[str]:
    """Sentences that say how a tensor breaks its bound; none if it keeps it."""
    if found.shape != reference.shape:
        return [f"{name} has shape {tuple(found.shape)}, expected {tuple(reference.shape)}"]
    expected = reference.to(found.dtype)
    faults = []
    for kind, test in (("NaN", torch.isnan), ("+Inf", torch.isposinf), ("-Inf", torch.isneginf)):
        wrong = test(found) != test(expected)
        if wrong.any():
            faults.append(f"{name}: {kind} at the wrong places, {_where(wrong, found, expected)}")
    if faults or not found.numel():
        return faults
    finite = reference.isfinite()
    error = torch.where(finite, (found.double() - reference).abs(), 0.0)
    wrong = ~(error <= bound) & finite
    if wrong.any():
        ratio = torch.where(wrong, error / bound, 0.0).max()
        faults.append(f"{name}: off by up to {ratio:.3g} times the tolerance, {_where(wrong, found, reference)}")
    return faults


def tolerance(
    dtype: torch.dtype,
    reference: Tensor,
    naive: Tensor,
    terms: Tensor,
    inner: Tensor | float = 0.0,
    precision: torch.dtype | None = None,
) -> Tensor:
    """The rule's bound for every element of a tensor of this dtype that is computed to the eps of `precision`."""
    precision = precision or dtype
    naive_error = (naive.double() - reference).abs()
    naive_error = naive_error[naive_error.isfinite()]
    worst = naive_error.max() if naive_error.numel() else 0.0
    logits = torch.float64 if dtype == torch.float64 else torch.float32
    rounding = C[precision] * torch.finfo(precision).eps * terms + C[logits] * torch.finfo(logits).eps * inner
    # Below the smallest normal number rounding is absolute.
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    return 2.0 * worst + rounding + smallest


def same_bits(name: str, a: Tensor, b: Tensor) -> None:
    """Assert that two tensors are equal bit for bit; -0 is 0, and a NaN is a NaN."""
    assert a.dtype == b.dtype and a.shape == b.shape, f"{name}: {a.dtype} {tuple(a.shape)}, {b.dtype} {tuple(b.shape)}"
    wrong = ~((a == b) | (a.isnan() & b.isnan()))
    assert not wrong.any(), f"{name}: bits differ, {_where(wrong, a, b)}"


def _coarser(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    return a if torch.finfo(a).eps >= torch.finfo(b).eps else b


def _where(wrong: Tensor, found: Tensor, expected: Tensor) -> str:
    places = wrong.nonzero()
    first = tuple(places[0].tolist())
    got, want = found[first].item(), expected[first].item()
    return f"{len(places)} of {wrong.numel()} elements, the first at {first}: {got!r}, expected {want!r}"
