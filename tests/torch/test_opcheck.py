"""``torch.library.opcheck`` of the raw ops: schema, fake, autograd registration, AOT dispatch with dynamic shapes."""

from __future__ import annotations

import pytest
import torch

from mmkernels.ops.attention import front
from tests.torch import samples

FORWARD = torch.ops.mmkernels.attention_forward.default
BACKWARD = torch.ops.mmkernels.attention_backward.default


@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("name", samples.NAMES)
def test_forward_op(name, backend):
    report = torch.library.opcheck(FORWARD, (*samples.lowered(name), backend))
    assert set(report.values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("name", samples.NAMES)
def test_backward_op(name, backend):
    call = samples.lowered(name, grad=False)
    out, lse = FORWARD(*call, backend)
    grad_out, grad_lse = torch.randn_like(out), torch.randn_like(lse)
    needs = [True, name != "plain", True, bool(call.bias)]
    report = torch.library.opcheck(BACKWARD, (grad_out, grad_lse, *call, out, lse, needs, backend))
    assert set(report.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", samples.NAMES)
def test_registered_gradients_are_those_of_the_eager_function(name):
    call = samples.lowered(name)
    operands = [t for t in (call.query, *call.keys, *call.values, *call.bias) if t.requires_grad]
    found = []
    for out, lse in (FORWARD(*call, None), front.run(call, None, True)):
        finite = torch.where(lse.isfinite(), lse, 0.0)
        found.append(torch.autograd.grad((out * 2).sum() + finite.sin().sum(), operands))
    assert len(found[0]) == len(operands) > 2
    for registered, eager in zip(*found, strict=True):
        assert torch.equal(registered, eager)
