"""A NaN or infinity of a masked pair reaches nothing; of a visible pair it is not swallowed; empty rows are zero."""

from __future__ import annotations

import pytest
import torch

from mmkernels.ops.attention import pairs, reference
from mmkernels.ops.attention.lowered import Lowered
from tests.reference import plain

ALL = [True] * 4
BAD = [torch.nan, torch.inf, -torch.inf]
# Row r of every head sees the keys where ROWS[r] is 1. Row 4 sees nothing; key 5 is seen by nobody.
ROWS = torch.tensor(
    [[1, 1, 0, 0, 1, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]]
).bool()


def masked_call(how: str, softcap: float = 0.0) -> Lowered:
    call = plain.random_call(
        7, batch=2, k_heads=2, group=2, q_len=5, k_lens=[6], dim=4, value_dim=3, mask="none", bias_kind=1,
        dropout_p=0.0, softcap=softcap, unmask_empty_rows=False,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    bias = torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)
    if how == "bias":
        return call._replace(bias=[torch.where(ROWS, bias, -torch.inf)])
    return call._replace(bias=[bias], visible=ROWS[None, None])


def results(call: Lowered, grad_out: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs and gradients, of the written-out backward and, under "auto ...", of autograd."""
    out, lse = reference.forward(call)
    grads = reference.backward(grad_out, torch.ones_like(lse), call, out, lse, ALL)
    names = ["query", "key", "value", "bias"]
    found = {"out": out, "lse": lse} | dict(zip(names, [grads[0], grads[1][0], grads[2][0], grads[3][0]]))
    leaves = [tensor.clone().requires_grad_() for tensor in plain.operands(call)]
    auto_out, auto_lse = reference.differentiable_forward(*plain.with_operands(call, leaves))
    found |= {"auto out": auto_out.detach(), "auto lse": auto_lse.detach()}
    if bool(grad_out.isfinite().all()):
        # A NaN in the output's gradient is not confined by autograd: see differentiable_forward.
        auto = torch.autograd.grad([auto_out, auto_lse], leaves, [grad_out, torch.ones_like(auto_lse)])
        found |= dict(zip([f"auto {name}" for name in names], auto))
    return found


def poisoned(tensor: torch.Tensor, axis: int, index: int, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.select(axis, index)[...] = value
    return tensor


@pytest.fixture(params=[True, False], ids=["host may look", "host may not look"])
def looking(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(pairs, "values_may_be_read", lambda tensor: False)


@pytest.mark.usefixtures("looking")
@pytest.mark.parametrize("how", ["mask", "bias"])
@pytest.mark.parametrize("bad", BAD)
class TestIsolation:
    def check(self, call: Lowered, dirty: Lowered, touched_rows: list[int], touched_keys: list[int], grad_out=None):
        """What the bad number may not reach is as without it, to the last bits; what it must reach is not finite."""
        ones = torch.ones_like(reference.forward(call)[0])
        clean = results(call, ones)
        found = results(dirty, ones if grad_out is None else grad_out)
        rows = [r for r in range(5) if r not in touched_rows]
        keys = [j for j in range(6) if j not in touched_keys]
        for name, tensor in found.items():
            kind = name.removeprefix("auto ")
            if kind == "bias":
                part = (..., torch.tensor(rows)[:, None], torch.arange(6)) if rows else None
            elif kind == "lse":
                part = (..., rows)
            else:
                part = (..., keys if kind in ("key", "value") else rows, slice(None))
            torch.testing.assert_close(
                tensor[part], clean[name][part], rtol=1e-13, atol=1e-13, msg=f"{name} was reached"
            )
        return found

    def test_value(self, how, bad):
        call = masked_call(how)
        for key in range(6):
            seeing = ROWS[:, key].nonzero().flatten().tolist()
            neighbours = ROWS[seeing].any(0).nonzero().flatten().tolist() if seeing else []
            dirty = call._replace(values=[poisoned(call.values[0], 2, key, bad)])
            found = self.check(call, dirty, seeing, neighbours)
            for name in ("out", "auto out", "query", "auto query"):
                assert not bool(found[name][:, :, seeing].isfinite().any()), name

    def test_key(self, how, bad):
        call = masked_call(how)
        for key in range(6):
            seeing = ROWS[:, key].nonzero().flatten().tolist()
            neighbours = ROWS[seeing].any(0).nonzero().flatten().tolist() if seeing else []
            dirty = call._replace(keys=[poisoned(call.keys[0], 2, key, bad)])
            found = self.check(call, dirty, seeing, neighbours)
            if bad != bad:
                for name in ("out", "auto out", "lse", "query", "auto query"):
                    assert bool(found[name][:, :, seeing].isnan().all()), name

    def test_query(self, how, bad):
        call = masked_call(how)
        for row in range(5):
            seen = ROWS[row].nonzero().flatten().tolist()
            dirty = call._replace(query=poisoned(call.query, 2, row, bad))
            found = self.check(call, dirty, [row] if seen else [], seen)
            if bad != bad and seen:
                for name in ("key", "auto key", "value", "auto value"):
                    assert bool(found[name][:, :, seen].isnan().all()), name

    def test_gradient_of_the_output(self, how, bad):
        call = masked_call(how)
        for row in range(5):
            seen = ROWS[row].nonzero().flatten().tolist()
            grad_out = torch.ones_like(reference.forward(call)[0])
            found = self.check(call, call, [row] if seen else [], seen, poisoned(grad_out, 2, row, bad))
            if seen:
                assert not bool(found["value"][:, :, seen].isfinite().any())

    def test_bias_of_a_masked_pair(self, how, bad):
        if how == "bias":
            pytest.skip("here the bias is what masks")
        call = masked_call(how)
        dirty = call._replace(bias=[torch.where(ROWS, call.bias[0], bad)])
        self.check(call, dirty, [], [])

    def test_softcap(self, how, bad):
        call = masked_call(how, softcap=2.0)
        dirty = call._replace(keys=[poisoned(call.keys[0], 2, 5, bad)], values=[poisoned(call.values[0], 2, 5, bad)])
        self.check(call, dirty, [], [])


@pytest.mark.usefixtures("looking")
def test_infinity_keeps_its_sign():
    call = masked_call("mask")
    value = poisoned(poisoned(call.values[0], 2, 3, torch.inf), 2, 2, -torch.inf)
    out = reference.forward(call._replace(values=[value]))[0]
    assert bool((out[:, :, 1] == -torch.inf).all())
    assert bool((out[:, :, 2:4] == torch.inf).all())
    assert bool(out[:, :, [0, 4]].isfinite().all())


@pytest.mark.parametrize("how", ["mask", "bias"])
def test_empty_rows_are_zero(how):
    call = masked_call(how)
    found = results(call, torch.ones_like(reference.forward(call)[0]))
    for prefix in ("", "auto "):
        assert bool((found[prefix + "lse"][:, :, 4] == -torch.inf).all())
        for name in ("out", "query", "bias"):
            assert bool((found[prefix + name][:, :, 4] == 0).all())
        for name in ("key", "value"):
            assert bool((found[prefix + name][:, :, 5] == 0).all())


def test_unmasked_rows_see_everything_but_where_the_bias_masks():
    call = masked_call("mask")._replace(unmask_empty_rows=True)
    alone = call._replace(visible=None)
    torch.testing.assert_close(reference.forward(call)[0][:, :, 4], reference.forward(alone)[0][:, :, 4])
    blocked = call.bias[0].clone()
    blocked[..., 4, :3] = -torch.inf
    found = reference.forward(call._replace(bias=[blocked]))[0][:, :, 4]
    torch.testing.assert_close(found, reference.forward(alone._replace(bias=[blocked]))[0][:, :, 4])
    blocked[..., 4, :] = -torch.inf
    assert bool((reference.forward(call._replace(bias=[blocked]))[1][:, :, 4] == -torch.inf).all())


def test_a_bias_of_minus_infinity_does_not_make_a_row_empty_for_unmask():
    """The mask alone decides which rows are unmasked."""
    call = masked_call("bias")._replace(visible=torch.ones(1, 1, 1, 6, dtype=torch.bool), unmask_empty_rows=True)
    assert bool((reference.forward(call)[1][:, :, 4] == -torch.inf).all())
