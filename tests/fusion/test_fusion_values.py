"""concat_fusion against plain torch: values, gradients of every operand, precision, layouts, edges."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import mmkernels as mmk
from tests.fusion.naive import ACTIVATIONS, CASES, EPS, Case, fused, gradients, naive

# c of the tolerance rule, in units of eps(dtype) times the sum of absolute terms: the partial sums of up to four
# sources, the norm's two statistics and its correction terms each round once more than the naive path does.
C = {torch.float32: 8.0, torch.bfloat16: 1.0, torch.float16: 1.0, torch.float64: 16.0}


def check(name, found, reference, naive_result, scale, dtype):
    assert found.shape == reference.shape, f"{name}: shape {tuple(found.shape)}, expected {tuple(reference.shape)}"
    assert torch.equal(found.isfinite(), reference.isfinite()), f"{name}: not finite at other places"
    error = (found.double() - reference).abs()
    bound = 2 * (naive_result.double() - reference).abs().max() if reference.numel() else 0
    bound = bound + C[dtype] * torch.finfo(dtype).eps * scale
    assert (error <= bound).all(), f"{name}: off by {error.max():.3g}, tolerated {bound.min():.3g}"


def terms(case, operands):
    """Sums of absolute terms behind the output and every gradient, by their largest element, in fp64.

    They are the call on absolute values, the norm's statistics held fixed: (|x| + mean |x|) / deviation.
    """
    wide = operands.to(torch.float64)
    rows = torch.broadcast_shapes(*(x.shape[:-1] for x in wide.inputs))
    x = torch.cat([x.expand(*rows, -1) for x in wide.inputs], -1)
    rest = {name: None if tensor is None else tensor.abs() for name, tensor in wide.rest.items()}
    terms = x.abs()
    if case.norm:
        centred = x - x.mean(-1, keepdim=True) if case.norm == "layer" else x
        rstd = (centred.square().mean(-1, keepdim=True) + EPS).rsqrt().detach()
        terms = (terms + terms.mean(-1, keepdim=True)) * rstd
        terms = terms * (1 if rest["norm_weight"] is None else rest["norm_weight"])
        terms = terms + (0 if rest["norm_bias"] is None else rest["norm_bias"])
    y = F.linear(terms, rest["weight"], rest["bias"]) * (1 if rest["gate"] is None else rest["gate"])
    y = y if rest["residual"] is None else y + rest["residual"]
    grads = gradients(y, wide, torch.ones_like(y))
    return y.max().item() if y.numel() else 0.0, {
        name: g.abs().max().item() if g.numel() else 0.0 for name, g in grads.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_fp64_equals_plain_torch(name):
    case = CASES[name]
    operands = case.operands()
    found, expected = fused(case, operands), naive(case, operands)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    ours, theirs = gradients(found, operands, grad), gradients(expected, operands, grad)
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-11, atol=1e-11, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", [None, "layer", "rms"])
def test_every_activation_and_norm(activation, norm):
    case = Case(((2, 3, 5), (2, 1, 4)), norm=norm, activation=activation, gate=(6,), residual=(2, 3, 6))
    operands = case.operands()
    found, expected = fused(case, operands), naive(case, operands)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    ours, theirs = gradients(found, operands, grad), gradients(expected, operands, grad)
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-11, atol=1e-11, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_tolerance_rule(name, dtype):
    case = CASES[name]
    operands = case.operands(dtype)
    wide = operands.to(torch.float64)
    reference = naive(case, wide)
    grad = torch.randn_like(reference)
    baseline, found = naive(case, operands), fused(case, operands)
    assert found.dtype == dtype
    out_terms, grad_terms = terms(case, operands)
    check("out", found, reference, baseline, out_terms, dtype)
    expected = gradients(reference, wide, grad.to(dtype).double())
    plain, ours = gradients(baseline, operands, grad), gradients(found, operands, grad)
    for key in expected:
        assert ours[key].dtype == dtype
        check(key, ours[key], expected[key], plain[key], grad_terms[key], dtype)


@pytest.mark.parametrize("shapes", [((8, 48), (8, 16)), ((8, 48), (1, 16)), ((2, 4, 48), (2, 1, 16))])
def test_mean_far_above_deviation(shapes):
    """Features 1000 +- 1: one-pass statistics, or centring after the product, would lose three more digits."""
    case = Case(shapes, out=32, norm="layer")
    operands = case.operands(torch.float32, offset=1000.0)
    wide = operands.to(torch.float64)
    reference, baseline, found = naive(case, wide), naive(case, operands), fused(case, operands)
    error, naive_error = (found - reference).abs().max(), (baseline - reference).abs().max()
    assert error <= 2 * naive_error + 1e-5, (error, naive_error)
    grad = torch.randn_like(reference)
    expected = gradients(reference, wide, grad.float().double())
    plain, ours = gradients(baseline, operands, grad), gradients(found, operands, grad)
    for key in expected:
        bound = 2 * (plain[key] - expected[key]).abs().max() + 1e-5 * expected[key].abs().max()
        assert (ours[key] - expected[key]).abs().max() <= bound, key


def test_sources_of_very_different_mean():
    """One modality around +1000, another around -1000: the joint deviation is large, the shared one is multiplied at
    its own mean."""
    case = Case(((2, 5, 16), (2, 1, 16)), out=8, norm="layer", activation="gelu")
    operands = case.operands(torch.float32)
    with torch.no_grad():
        operands.inputs[0].add_(1000)
        operands.inputs[1].sub_(1000)
    reference, baseline, found = naive(case, operands.to(torch.float64)), naive(case, operands), fused(case, operands)
    bound = 2 * (baseline - reference).abs().max() + 1e-5
    assert (found - reference).abs().max() <= bound


def test_torch_norm_modules():
    x, y, weight = torch.randn(4, 5), torch.randn(4, 3), torch.randn(6, 8)
    layer = torch.nn.LayerNorm(8)
    rms = torch.nn.RMSNorm(8)  # eps None
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(rms.weight)
    for norm in (layer, rms, torch.nn.LayerNorm(8, elementwise_affine=False), torch.nn.LayerNorm(8, bias=False)):
        found = mmk.concat_fusion([x, y], weight, norm=norm)
        torch.testing.assert_close(found, F.linear(norm(torch.cat([x, y], -1)), weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_rms_eps_none_is_torchs(dtype):
    x = torch.full((2, 4), 1e-4, dtype=dtype)
    weight = torch.eye(4, dtype=dtype)
    found = mmk.concat_fusion([x[:, :3], x[:, 3:]], weight, norm=mmk.RMSNorm())
    torch.testing.assert_close(found, F.rms_norm(x, (4,)))


def test_number_as_gate():
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    torch.testing.assert_close(mmk.concat_fusion([x], weight, gate=0.5), 0.5 * F.linear(x, weight))
    torch.testing.assert_close(mmk.concat_fusion([x], weight, gate=0), torch.zeros(3, 5))


def test_strided_views_are_read_as_they_are():
    fused_projection = torch.randn(2, 7, 3, 8)
    text = fused_projection[:, ::2, 1]  # (2, 4, 8), rows apart
    image = torch.randn(9, 2).t()[:, None, ::3]  # (2, 1, 3), last stride is not 1
    weight = torch.randn(22, 6).t()[:, ::2]  # (6, 11), both strides odd
    case = Case((tuple(text.shape), tuple(image.shape)), norm="layer", activation="gelu")
    operands = case.operands(torch.float32)
    operands.inputs = [text, image]
    operands.rest["weight"] = weight
    torch.testing.assert_close(fused(case, operands), naive(case, operands))


@pytest.mark.parametrize("norm", [None, "layer", "rms"])
def test_no_rows(norm):
    case = Case(((0, 3, 5), (0, 1, 4)), norm=norm, activation="gelu", gate=(), residual=(0, 3, 6))
    operands = case.operands(torch.float32)
    out = fused(case, operands)
    assert out.shape == (0, 3, 6)
    found = gradients(out, operands, torch.zeros_like(out))
    assert all(g.shape == t.shape for g, t in zip(found.values(), operands.named().values(), strict=True))
    assert found["weight"].abs().sum() == 0


def test_no_features_leave_the_bias():
    bias = torch.randn(6, requires_grad=True)
    weight = torch.empty(6, 0, requires_grad=True)
    out = mmk.concat_fusion([torch.empty(2, 3, 0), torch.empty(3, 0)], weight, bias, activation="relu")
    torch.testing.assert_close(out, bias.relu().expand(2, 3, 6))
    out.sum().backward()
    torch.testing.assert_close(bias.grad, 6.0 * (bias > 0))
    assert weight.grad.shape == (6, 0)


def test_no_outputs():
    out = mmk.concat_fusion([torch.randn(2, 3)], torch.empty(0, 3), norm=mmk.LayerNorm(), activation="gelu")
    assert out.shape == (2, 0)


def test_parameters_keep_their_dtype():
    """bf16 features, fp32 bias, norm, gate and residual: the residual stream is not narrowed."""
    case = Case(((2, 3, 5), (2, 1, 4)), norm="layer", activation="gelu", gate=(6,), residual=(2, 3, 6))
    operands = case.operands(torch.float32)
    operands.inputs = [x.detach().bfloat16().requires_grad_() for x in operands.inputs]
    operands.rest["weight"] = operands.rest["weight"].detach().bfloat16().requires_grad_()
    out = fused(case, operands)
    assert out.dtype == torch.float32
    expected = naive(case, operands.to(torch.float32))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)  # bf16 is exact in fp32, and all else is fp32
    for name, g in gradients(out, operands, torch.ones_like(out)).items():
        assert g.dtype == operands.named()[name].dtype, name


def test_one_tensor_in_two_places():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    out = mmk.concat_fusion([x, x], weight, activation="tanh", residual=x)
    expected = x + torch.tanh(F.linear(torch.cat([x, x], -1), weight))
    for create_graph in (False, True):
        ours, theirs = (torch.autograd.grad(y.sum(), x, create_graph=True)[0] for y in (out, expected))
        torch.testing.assert_close(ours, theirs)
        if create_graph:
            ours, theirs = (torch.autograd.grad(g.square().sum(), x)[0] for g in (ours, theirs))
            torch.testing.assert_close(ours, theirs)


def test_runs_repeat_bit_for_bit():
    case = CASES["layer broadcast"]
    operands = case.operands(torch.float32)
    runs = []
    for _ in range(2):
        out = fused(case, operands)
        runs.append([out, *gradients(out, operands, torch.ones_like(out)).values()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_same_as_functional_layer_norm_eps():
    """The eps is inside the root, and it is the one given."""
    x = torch.full((1, 4), 2.0)
    x[0, 0] = 2.0 + 1e-3
    found = mmk.concat_fusion([x], torch.eye(4), norm=mmk.LayerNorm(eps=1e-2))
    torch.testing.assert_close(found, F.layer_norm(x, (4,), eps=1e-2), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found, F.layer_norm(x, (4,), eps=EPS), rtol=0.1)
