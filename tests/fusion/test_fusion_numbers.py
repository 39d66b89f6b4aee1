"""Numbers that are hard: means far above deviations, huge and tiny ones, NaN and Inf, long sums, roundings."""

from __future__ import annotations

import pytest
import torch

from tests.backends import EVERY, Run, default_runs, dtypes, runs
from tests.fusion.naive import ACTIVATIONS, Case, fused, gradients, naive
from tests.fusion.rule import Expectation
from tests.tolerance import same_bits


def check(case: Case, dtype: torch.dtype, run: Run) -> dict[str, torch.Tensor]:
    with run.active() as backend:
        return Expectation(case, case.operands(dtype), rounded=run.rounds_weights(dtype)).check(backend)


@runs(*EVERY)
@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize(
    "shapes", [((8, 48), (8, 16)), ((8, 48), (1, 16)), ((2, 40, 48), (2, 1, 17)), ((9, 513),), ((2, 1, 40), (1, 9, 24))]
)
def test_mean_far_above_deviation(shapes: tuple[tuple[int, ...], ...], norm: str, run: Run) -> None:
    """Features 1000 +- 1: one-pass statistics, or centring after the product, would lose three more digits."""
    case = Case(shapes, 32, norm=norm, offset=1000.0)
    operands = case.operands(torch.float32)
    wide = operands.to(torch.float64)
    reference, baseline = naive(case, wide), naive(case, operands)
    with run.active() as backend:
        found = fused(case, operands, backend=backend)
    error, naive_error = (found - reference).abs().max(), (baseline - reference).abs().max()
    # The mean itself is off by a rounding or two, which every output sees times the sum of its weights.
    seen = wide.rest["weight"] if norm == "rms" else wide.rest["weight"] * wide.rest["norm_weight"]
    rounding = torch.finfo(torch.float32).eps * 1000 * seen.sum(1).abs().max()
    assert error <= 2 * naive_error + rounding, (error, naive_error, rounding)
    grad = torch.randn_like(reference)
    expected = gradients(reference, wide, grad.float().double())
    plain, ours = gradients(baseline, operands, grad), gradients(found, operands, grad)
    for key in expected:
        bound = 2 * (plain[key] - expected[key]).abs().max() + 1e-5 * expected[key].abs().max()
        assert (ours[key] - expected[key]).abs().max() <= bound, key


@default_runs()
@dtypes(torch.bfloat16, torch.float16)
def test_mean_far_above_deviation_in_16_bits(dtype: torch.dtype, run: Run) -> None:
    """Features of 1000 and one step of the dtype above or below: a centred feature is exact, so the result is."""
    step = 1000 * torch.finfo(dtype).eps
    for shapes in (((8, 48), (8, 16)), ((2, 9, 48), (2, 1, 16))):
        case = Case(shapes, 32, norm="layer")
        operands = case.operands(dtype)
        operands.inputs = [(x.detach().sign().float() * step + 1000).to(dtype) for x in operands.inputs]
        assert all(x.float().std() > step / 4 for x in operands.inputs)
        expected = naive(case, operands.to(torch.float64))
        with run.active() as backend:
            found = fused(case, operands, backend=backend)
        # two roundings to the dtype, of terms of the size of the output
        assert (found - expected).abs().max() <= 2 * torch.finfo(dtype).eps * expected.abs().max()


@default_runs()
def test_sources_of_very_different_mean(run: Run) -> None:
    """One modality around +1000, another around -1000: the joint deviation is large, the shared one is multiplied at
    its own mean."""
    case = Case(((2, 5, 16), (2, 1, 16)), out=8, norm="layer", activation="gelu")
    operands = case.operands(torch.float32)
    with torch.no_grad():
        operands.inputs[0].add_(1000)
        operands.inputs[1].sub_(1000)
    reference, baseline = naive(case, operands.to(torch.float64)), naive(case, operands)
    with run.active() as backend:
        found = fused(case, operands, backend=backend)
    bound = 2 * (baseline - reference).abs().max() + 1e-5
    assert (found - reference).abs().max() <= bound


@default_runs()
@dtypes()
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("size", [1e-3, 4.0, 30.0])
def test_saturated_and_linear_activations(size: float, activation: str | None, dtype: torch.dtype, run: Run) -> None:
    """z from 1e-6 to 3,000: exponentials overflow and underflow, and nothing may become NaN."""
    check(Case(((19, 17), (19, 1)), 17, activation=activation, gate=(17,), size=size), dtype, run)


@default_runs()
@pytest.mark.parametrize(("dtype", "size"), [
    (torch.float32, 1e8), (torch.bfloat16, 1e8), (torch.float32, 1e-8), (torch.bfloat16, 1e-8), (torch.float16, 1e-3),
])  # fmt: skip
def test_huge_and_tiny_features(dtype: torch.dtype, size: float, run: Run) -> None:
    """Products of 1e16 and 1e-16; the norm's squares too. fp16 meets its subnormal numbers."""
    for norm in (None, "layer", "rms"):
        check(Case(((9, 17), (1, 16)), 17, norm=norm, size=size), dtype, run)
        check(Case(((9, 17), (1, 16)), 17, norm=norm, size=size, activation="tanh", wide=True), dtype, run)


@default_runs()
@dtypes()
def test_features_without_deviation(dtype: torch.dtype, run: Run) -> None:
    """A row of equal features is normalised to 0, and one of zeros too: eps stands alone under the root."""
    for norm in ("layer", "rms"):
        case = Case(((5, 16), (1, 8)), 17, norm=norm)
        operands = case.operands(dtype)
        for x in operands.inputs:
            x.data[:] = 0.0
        operands.inputs[0].data[1:3] = 2.0
        operands.inputs[1].data[:] = 2.0
        with run.active() as backend:
            Expectation(case, operands, rounded=run.rounds_weights(dtype)).check(backend)


# ---- NaN and Inf ----

FORMS = {
    "plain": Case(((37, 17), (37, 6)), 19),
    "layer": Case(((37, 17), (37, 6)), 19, norm="layer", activation="gelu", gate=(19,), residual=(37, 19)),
    "rms": Case(((37, 17), (37, 6)), 19, norm="rms", activation="silu"),
    "shared": Case(((37, 17), (6,)), 19, norm="layer", activation="relu"),
}


@runs(*EVERY)
@dtypes()
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", FORMS)
def test_a_row_is_reached_by_its_own_features_only(name: str, value: float, dtype: torch.dtype, run: Run) -> None:
    """Every other row keeps its output, and its feature gradients, bit for bit."""
    case = FORMS[name]
    for place in ((0, 0), (7, 16), (36, 3)):
        found = []
        for poisoned in (False, True):
            operands = case.operands(dtype)
            if poisoned:
                operands.inputs[0].data[place] = value
            grad = torch.randn(37, 19, generator=torch.Generator().manual_seed(2)).to(dtype)
            with run.active() as backend:
                out = fused(case, operands, backend=backend)
            found.append({"out": out.detach(), **gradients(out, operands, grad)})
        clean, hit = found
        others = [row for row in range(37) if row != place[0]]
        same_bits("out", hit["out"][others], clean["out"][others])
        same_bits("inputs[0]", hit["inputs[0]"][others], clean["inputs[0]"][others])
        assert not hit["out"][place[0]].isfinite().all()
        if value != value:
            assert hit["out"][place[0]].isnan().all() and hit["weight"][:, place[1]].isnan().all()


@default_runs()
@dtypes()
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_shared_source_reaches_all_its_rows(value: float, dtype: torch.dtype, run: Run) -> None:
    case = Case(((3, 11, 17), (3, 1, 6)), 19, norm="layer", activation="gelu")
    operands = case.operands(dtype)
    with run.active() as backend:
        clean = fused(case, operands, backend=backend)
        operands.inputs[1].data[1, 0, 2] = value
        hit = fused(case, operands, backend=backend)
    assert hit[1].isnan().all()
    same_bits("out", hit[[0, 2]], clean[[0, 2]])


@default_runs()
@dtypes()
@pytest.mark.parametrize("where", ["weight", "bias", "gate", "residual", "grad"])
def test_where_a_nan_belongs(where: str, dtype: torch.dtype, run: Run) -> None:
    """NaN stands exactly where plain torch in fp64 has it, forward and backward."""
    case = Case(((9, 17), (1, 6)), 19, activation="tanh", gate=(9, 19), residual=(9, 19))
    operands = case.operands(dtype)
    grad = torch.randn(9, 19).to(dtype)
    hit = grad if where == "grad" else operands.rest[where].data
    hit[(4,) * hit.dim()] = torch.nan
    with run.active() as backend:
        expected = Expectation(case, operands, grad)
        found = expected.run(backend)
    for name, tensor in found.items():
        assert torch.equal(tensor.isnan(), expected.reference[name].isnan()), name


# ---- long sums and roundings ----


@runs(*EVERY)
@dtypes()
def test_many_rows(dtype: torch.dtype, run: Run) -> None:
    """Gradients of weight, bias and norm sum 5000 rows of one sign: a chain of that length would drift."""
    case = Case(((5000, 9), (5000, 2)), 5, norm="rms", activation="sigmoid", offset=2.0)
    operands = case.operands(dtype)
    grad = torch.rand(5000, 5).to(dtype)
    with run.active() as backend:
        Expectation(case, operands, grad, run.rounds_weights(dtype)).check(backend)


@default_runs()
@dtypes()
@pytest.mark.parametrize("norm", [None, "layer"])
def test_many_features(norm: str | None, dtype: torch.dtype, run: Run) -> None:
    check(Case(((5, 4096),), 17, norm=norm, activation="gelu"), dtype, run)
    check(Case(((2, 5, 4096), (2, 1, 1000)), 17, norm=norm, offset=1.0), dtype, run)


@default_runs()
def test_many_outputs(run: Run) -> None:
    """dx sums 4096 of them."""
    check(Case(((5, 17), (1, 3)), 4096, norm="layer", activation="silu"), torch.float32, run)


@runs(*EVERY)
@dtypes(torch.bfloat16, torch.float16)
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_16_bit_results_are_rounded_to_nearest(activation: str | None, dtype: torch.dtype, run: Run) -> None:
    """The tolerance has room for a cut, this has not: nearly all outputs are the fp64 result, rounded once."""
    case = Case(((65, 64), (1, 32)), 64, activation=activation, gate=(64,), residual=(65, 64))
    operands = case.operands(dtype)
    expected = naive(case, operands.to(torch.float64)).to(dtype)
    with run.active() as backend:
        found = fused(case, operands, backend=backend)
    assert (found == expected).double().mean() > 0.99
