"""ConcatFusion.folded: projections and weight as one weight."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from mmkernels import nn
from tests.nn import twins
from tests.nn.twins import randomize

CASES = {
    "one width": {"project": 10, "activation": "gelu"},
    "one input as it is": {"project": [None, 4, 7], "gate": "vector"},
    "no bias": {"project": 3, "bias": False, "gate": "scalar"},
    "no projections": {"norm": "layer"},
}


def inputs_of(dtype=torch.float64):
    shapes = ((2, 5, 8), (2, 1, 6), (4,))
    return [torch.randn(*shape, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype, small", [(torch.float64, 1e-13), (torch.float32, 2e-5)])
def test_folded_equals_unfolded(name, dtype, small):
    module = randomize(nn.ConcatFusion([8, 6, 4], 12, dtype=dtype, **CASES[name]))
    folded, inputs, residual = module.folded(), inputs_of(dtype), torch.randn(2, 5, 12, dtype=dtype)
    assert not any(isinstance(part, torch.nn.Linear) for part in folded.modules())
    assert folded.weight.shape == (12, 18) and folded.weight.dtype == dtype
    assert (folded.bias is None) == (module.bias is None)
    activation = F.gelu if module.activation else lambda y: y
    theirs = twins.fusion(module, inputs, residual, activation)
    torch.testing.assert_close(folded(inputs, residual), theirs, rtol=small, atol=small * 10)
    again = folded.folded()
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), folded.state_dict().values()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_16_bits(dtype):
    """One rounded weight errs no more than two and a rounded row between them."""
    errors = {"folded": 0.0, "unfolded": 0.0}
    for _ in range(20):
        module = randomize(nn.ConcatFusion([64, 32], 48, project=40, dtype=dtype)).requires_grad_(False)
        inputs = [torch.randn(9, width).to(dtype) for width in (64, 32)]
        exact = twins.fusion(copy.deepcopy(module).double(), [x.double() for x in inputs], None, lambda y: y)
        for kind, fusion in (("folded", module.folded()), ("unfolded", module)):
            assert fusion.weight.dtype == fusion.bias.dtype == dtype
            errors[kind] += float((fusion(inputs) - exact).square().mean())
    assert errors["folded"] <= errors["unfolded"] * 1.5


def test_weight_is_rounded_once():
    module = randomize(nn.ConcatFusion([8, 6], 12, project=300, dtype=torch.bfloat16))
    wide = copy.deepcopy(module).double().folded()
    for name, tensor in module.folded().state_dict().items():
        assert torch.equal(tensor, wide.state_dict()[name].bfloat16())


def test_folded_is_a_copy_for_inference():
    """It shares no memory, wants no gradient, keeps mode and backend, and leaves torch's generator alone."""
    module = randomize(nn.ConcatFusion([8, 6, 4], 12, project=[None, 5, None], gate="vector", dtype=torch.float64))
    module.backend, state = "reference", torch.get_rng_state()
    folded = module.eval().folded()
    assert torch.equal(state, torch.get_rng_state())
    assert not folded.training and module.train().folded().training and folded.backend == "reference"
    assert not any(p.requires_grad for p in folded.parameters()) and all(p.requires_grad for p in module.parameters())
    for original in (module, nn.ConcatFusion([8, 6], 12, norm="layer", gate="scalar", dtype=torch.float64)):
        pair = (original, original.folded())
        memory = [{p.untyped_storage().data_ptr() for p in m.parameters()} for m in pair]
        assert not memory[0] & memory[1]
    inputs = inputs_of()
    before = folded(inputs)
    assert not before.requires_grad
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert torch.equal(folded(inputs), before)
    torch.testing.assert_close(module.folded()(inputs), module(inputs))
    plain = torch.nn.Linear(18, 12, dtype=torch.float64)  # what is left is a linear layer beside a gate
    assert plain.load_state_dict(folded.state_dict(), strict=False).unexpected_keys == ["gate"]


def test_folds_under_any_mode():
    module, inputs = randomize(nn.ConcatFusion([8, 6, 4], 12, project=5)), inputs_of(torch.float32)
    expected = module.folded()(inputs)
    with torch.inference_mode():
        assert torch.equal(module.folded()(inputs), expected)
    with torch.autocast("cpu", torch.bfloat16):
        folded = module.folded()
    assert torch.equal(folded(inputs), expected)
    torch.nn.utils.parametrizations.weight_norm(module.projections[0])
    torch.testing.assert_close(module.folded()(inputs), module(inputs), rtol=1e-4, atol=1e-4)


def test_gate_of_a_call_and_gradients_of_inputs():
    module, inputs = randomize(nn.ConcatFusion([8, 6, 4], 12, project=5, dtype=torch.float64)), inputs_of()
    gate, x = torch.randn(2, 1, 12, dtype=torch.float64), inputs[0].requires_grad_()
    outs = [m(inputs, gate=gate) for m in (module, module.folded())]
    grads = [torch.autograd.grad(y.square().sum(), x)[0] for y in outs]
    torch.testing.assert_close(*grads)


class Adapted(torch.nn.Linear):
    """A linear layer that computes more than its weight says."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_what_cannot_be_folded():
    module = nn.ConcatFusion([8, 6, 4], 12, project=[None, 5, None], norm="rms")
    with pytest.raises(ValueError, match="norm must be None for projections to be folded: RMSNorm stands between"):
        module.folded()
    module = nn.ConcatFusion([8, 6], 12, project=5)
    module.projections[1] = Adapted(6, 5)
    with pytest.raises(ValueError, match=r"projections\[1\] must be an nn.Linear to be folded, got Adapted"):
        module.folded()
