"""Packed sequences give what each sequence gives alone, forward and backward, dropout bits included."""

from __future__ import annotations

import pytest
import torch

from mmkernels.mask import Mask, resolve, resolve_varlen
from mmkernels.ops.attention import reference
from mmkernels.ops.attention.lowered import Lowered
from tests.reference import plain

CLOSE = {"rtol": 1e-12, "atol": 1e-12}
CPU = torch.device("cpu")
Q_LENS, K_LENS = [3, 0, 4, 1, 2], [2, 3, 6, 0, 5]
COUNT, MAX_Q, MAX_K, HEADS, K_HEADS, DIM, VALUE_DIM = 5, 4, 6, 4, 2, 3, 5
CU_Q, CU_K = (torch.tensor([0, *lens]).cumsum(0).to(torch.int32) for lens in (Q_LENS, K_LENS))

MASKS = {
    "none": None,
    "causal": Mask.causal("bottom_right"),
    "lengths": Mask.key_lengths(torch.tensor([2, 2, 0, 5, 3]), empty_rows="unmask"),
    "dense": Mask.dense(torch.rand(COUNT, 1, MAX_Q, MAX_K, generator=torch.Generator().manual_seed(4)) > 0.4),
}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def biases(name: str) -> tuple[list[torch.Tensor], int]:
    return {
        "none": lambda: ([], 0),
        "dense": lambda: ([normal(COUNT, HEADS, MAX_Q, MAX_K)], 1),
        "per key": lambda: ([normal(1, HEADS, 1, MAX_K)], 1),
        "relative": lambda: ([normal(HEADS, MAX_Q + MAX_K - 1)], 2),
        "decomposed": lambda: ([normal(COUNT, 1, MAX_Q, 2), normal(1, HEADS, MAX_Q, 3)], 3),
    }[name]()


def packed_call(mask: str, bias: str, dropout_p: float) -> Lowered:
    torch.manual_seed(0)
    found = resolve_varlen(
        MASKS[mask], cu_seqlens_q=CU_Q, cu_seqlens_k=CU_K, total_q=sum(Q_LENS), heads=HEADS, max_q=MAX_Q, max_k=MAX_K,
        device=CPU,
    )  # fmt: skip
    tensors, kind = biases(bias)
    return Lowered(
        normal(sum(Q_LENS), HEADS, DIM), [normal(sum(K_LENS), K_HEADS, DIM)], [normal(sum(K_LENS), K_HEADS, VALUE_DIM)],
        found.start, found.stop, found.visible, found.interval_exact, tensors, kind, MAX_Q - 1,
        torch.tensor(11) if dropout_p else None, CU_Q, CU_K, 0.7, 1.3, dropout_p, found.unmask_empty_rows, [2, 1, 5, 3],
    )  # fmt: skip


def sequence(call: Lowered, mask: str, n: int) -> Lowered:
    """Sequence n of a packed call as a padded call of its own."""
    rows, keys = slice(CU_Q[n], CU_Q[n + 1]), slice(CU_K[n], CU_K[n + 1])
    q_len, k_len = Q_LENS[n], K_LENS[n]
    visible = None
    if MASKS[mask] is not None:
        own = MASKS[mask]
        if mask == "lengths":
            own = Mask.key_lengths(own.parts[0].lengths[0][n])
        elif mask == "dense":
            own = Mask.dense(own.parts[0].tensor[n : n + 1, :, :q_len, :k_len])
        visible = own.to_dense(1, 1, q_len, k_len)

    def local(tensor: torch.Tensor, columns: int | None) -> torch.Tensor:
        tensor = tensor if tensor.shape[0] == 1 else tensor[n : n + 1]
        tensor = tensor if tensor.shape[2] == 1 else tensor[:, :, :q_len]
        return tensor if columns is None else tensor[..., :columns]

    bias, kind = call.bias, call.bias_kind
    if kind == 1:
        bias = [local(bias[0], k_len)]
    elif kind == 3:
        # Fewer keys than the grid has: a dense bias says the same.
        bias, kind = (
            [(local(bias[0], None)[..., :, None] + local(bias[1], None)[..., None, :]).flatten(-2)[..., :k_len]],
            1,
        )
    batch, head, query, key = call.offsets
    return call._replace(
        query=call.query[rows].transpose(0, 1)[None],
        keys=[call.keys[0][keys].transpose(0, 1)[None]],
        values=[call.values[0][keys].transpose(0, 1)[None]],
        start=None, stop=None, visible=visible, interval_exact=None, bias=bias, bias_kind=kind, cu_seqlens_q=None,
        cu_seqlens_k=None, offsets=[batch + n, head, query, key],
    )  # fmt: skip


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("bias", ["none", "dense", "per key", "relative", "decomposed"])
@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_packed_is_each_sequence_alone(mask, bias, dropout_p):
    call = packed_call(mask, bias, dropout_p)
    for out, lse in (reference.forward(call), reference.differentiable_forward(*call)):
        assert out.shape == (sum(Q_LENS), HEADS, VALUE_DIM) and lse.shape == (HEADS, sum(Q_LENS))
        for n in range(COUNT):
            own_out, own_lse = reference.forward(sequence(call, mask, n))
            rows = slice(CU_Q[n], CU_Q[n + 1])
            torch.testing.assert_close(out[rows], own_out[0].transpose(0, 1), **CLOSE)
            torch.testing.assert_close(lse[:, rows], own_lse[0], **CLOSE)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("bias", ["none", "dense", "per key", "relative", "decomposed"])
def test_backward_is_autograds(mask, bias):
    call = packed_call(mask, bias, 0.4)
    leaves = [tensor.clone().requires_grad_() for tensor in plain.operands(call)]
    out, lse = reference.differentiable_forward(*plain.with_operands(call, leaves))
    grad_out, grad_lse = torch.randn_like(out), torch.randn_like(lse)
    total = (out * grad_out).sum() + (torch.where(lse == -torch.inf, 0.0, lse) * grad_lse).sum()
    expected = torch.autograd.grad(total, leaves)
    found = reference.backward(grad_out, grad_lse, call, *reference.forward(call), [True] * 4)
    for mine, theirs in zip([found[0], *found[1], *found[2], *found[3]], expected, strict=True):
        torch.testing.assert_close(mine, theirs, **CLOSE)


def test_padded_batch_agrees_with_packed():
    """The same bits of dropout, and the same values, whether sequences are padded or packed."""
    call = packed_call("none", "relative", 0.4)._replace(offsets=[0, 0, 0, 0])
    query = torch.zeros(COUNT, HEADS, MAX_Q, DIM, dtype=torch.float64)
    key, value = (torch.zeros(COUNT, K_HEADS, MAX_K, width, dtype=torch.float64) for width in (DIM, VALUE_DIM))
    for n in range(COUNT):
        query[n, :, : Q_LENS[n]] = call.query[CU_Q[n] : CU_Q[n + 1]].transpose(0, 1)
        key[n, :, : K_LENS[n]] = call.keys[0][CU_K[n] : CU_K[n + 1]].transpose(0, 1)
        value[n, :, : K_LENS[n]] = call.values[0][CU_K[n] : CU_K[n + 1]].transpose(0, 1)
    lengths = Mask.key_lengths(torch.tensor(K_LENS))
    found = resolve(lengths, batch=COUNT, heads=HEADS, q_len=MAX_Q, k_lens=[MAX_K], device=CPU)
    padded = call._replace(
        query=query,
        keys=[key],
        values=[value],
        start=found.start,
        stop=found.stop,
        cu_seqlens_q=None,
        cu_seqlens_k=None,
    )
    out, lse = reference.forward(call)
    padded_out, padded_lse = reference.forward(padded)
    for n in range(COUNT):
        rows = slice(CU_Q[n], CU_Q[n + 1])
        torch.testing.assert_close(padded_out[n, :, : Q_LENS[n]].transpose(0, 1), out[rows], **CLOSE)
        torch.testing.assert_close(padded_lse[n, :, : Q_LENS[n]], lse[:, rows], **CLOSE)


def test_tokens_outside_of_all_sequences_see_nothing():
    call = packed_call("none", "none", 0.0)
    call = call._replace(cu_seqlens_q=torch.tensor([0, 2], dtype=torch.int32), cu_seqlens_k=CU_K[:2])
    out, lse = reference.forward(call)
    assert bool((lse[:, 2:] == -torch.inf).all()) and bool((out[2:] == 0).all())
    assert bool(lse[:, :2].isfinite().all())


def test_compiles_in_one_graph():
    call = packed_call("lengths", "dense", 0.0)
    compiled = torch.compile(reference.differentiable_forward, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*call), reference.differentiable_forward(*call), **CLOSE)
