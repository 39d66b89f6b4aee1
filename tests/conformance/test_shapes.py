"""Sizes: head dimensions, lengths around the tiles' edges, one of everything and nothing at all."""

from __future__ import annotations

from itertools import product

import pytest
import torch

import mmkernels as mmk
from bench.attention.inputs import Inputs
from tests.backends import CPU, DEFAULT, EVERY, NATIVE, REFERENCE, Run, dtypes, runs
from tests.tolerance import Expectation, check_call

DIMS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 72, 80, 96, 128, 160, 192, 255, 256, 257, 261, 511, 512)
Q_LENS = (1, 2, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129)
K_LENS = (1, 2, 15, 16, 17, 63, 64, 65, 127, 129, 511, 512, 513, 577, 1025)


def make(
    dtype: torch.dtype, batch: int, heads: int, heads_k: int, q_len: int, k_len: int, dim: int, dim_v: int,
    mask: mmk.Mask | None = None, **options: object,
) -> Inputs:  # fmt: skip
    random = torch.Generator().manual_seed(q_len * 1000 + k_len)
    sizes = ((batch, heads, q_len, dim), (batch, heads_k, k_len, dim), (batch, heads_k, k_len, dim_v))
    query, key, value = (torch.randn(size, generator=random).to(dtype) for size in sizes)
    return Inputs("attention", [query], [key], [value], mask, options=options)


@pytest.mark.parametrize("dim", DIMS)
@dtypes()
@runs(*DEFAULT)
def test_head_dimension(dim: int, run: Run, dtype: torch.dtype) -> None:
    with run.active() as backend:
        check_call(make(dtype, 1, 2, 1, 19, 70, dim, dim, mmk.Mask.causal("bottom_right")), backend)


@pytest.mark.parametrize(("dim", "dim_v"), [(261, 512), (512, 1), (1, 512), (64, 63), (7, 16), (80, 72), (3, 257)])
@dtypes()
@runs(REFERENCE, *NATIVE)
def test_value_dimension(dim: int, dim_v: int, run: Run, dtype: torch.dtype) -> None:
    with run.active() as backend:
        check_call(make(dtype, 2, 2, 1, 18, 67, dim, dim_v, dropout_p=0.1, seed=4), backend)


@pytest.mark.parametrize("q_len", Q_LENS)
@runs(CPU)
def test_lengths(q_len: int, run: Run) -> None:
    """Every pair of lengths at the edges of lanes, slices, blocks and chunks."""
    with run.active() as backend:
        for k_len in K_LENS:
            check_call(make(torch.float32, 1, 2, 1, q_len, k_len, 9, 10), backend)


@pytest.mark.parametrize(("q_len", "k_len"), [*zip(Q_LENS, K_LENS, strict=False), (130, 1025)])
@runs(REFERENCE, *NATIVE[1:])
def test_lengths_elsewhere(q_len: int, k_len: int, run: Run) -> None:
    with run.active() as backend:
        check_call(make(torch.bfloat16, 2, 3, 3, q_len, k_len, 20, 5, mmk.Mask.window(70, 30)), backend)


@pytest.mark.slow
@pytest.mark.parametrize("q_len", Q_LENS)
@dtypes()
@runs(*NATIVE)
def test_lengths_masked(q_len: int, run: Run, dtype: torch.dtype) -> None:
    masks = (mmk.Mask.causal(), mmk.Mask.causal("bottom_right"), mmk.Mask.window(13, 5), mmk.Mask.window(0, 0))
    with run.active() as backend:
        for k_len, mask in product(K_LENS, masks):
            check_call(make(dtype, 1, 4, 2, q_len, k_len, 24, 12, mask), backend)


@pytest.mark.parametrize("group", [1, 2, 3, 5, 8, 71])
@runs(*DEFAULT)
def test_grouped_heads(group: int, run: Run) -> None:
    """Query head h reads key head h // group; rows of one tile come from several heads."""
    with run.active() as backend:
        for q_len in (1, 3, 65):
            check_call(make(torch.float32, 2, 2 * group, 2, q_len, 33, 8, 8, mmk.Mask.causal()), backend)


EMPTY_AXES = {
    "no batch": (0, 2, 2, 5, 6), "no rows": (2, 2, 1, 0, 6), "no keys": (2, 2, 1, 5, 0), "neither": (2, 2, 2, 0, 0),
    "no heads at all": (2, 0, 1, 5, 6),
}  # fmt: skip


@pytest.mark.parametrize("axes", EMPTY_AXES)
@dtypes()
@runs(*DEFAULT)
def test_nothing(axes: str, run: Run, dtype: torch.dtype) -> None:
    """Empty axes give empty or zero results of the right shapes, gradients too."""
    batch, heads, heads_k, q_len, k_len = EMPTY_AXES[axes]
    with run.active() as backend:
        for mask in (None, mmk.Mask.causal(), mmk.Mask.key_lengths(torch.zeros(batch, dtype=torch.int64))):
            found = check_call(make(dtype, batch, heads, heads_k, q_len, k_len, 8, 4, mask), backend)
            assert found["out"].shape == (batch, heads, q_len, 4)
            if mask is not None and mask.kind == "key_lengths":
                assert not found["out"].any() and (found["lse"] == -torch.inf).all()


@pytest.mark.parametrize("batches", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 0, 0), (0, 1, 0)])
@dtypes()
@runs(*DEFAULT)
def test_no_batch_beside_a_broadcast_one(batches: tuple[int, int, int], run: Run, dtype: torch.dtype) -> None:
    """Nothing reads what is broadcast: its gradient is zero."""
    sizes = ((batches[0], 2, 5, 8), (batches[1], 2, 70, 8), (batches[2], 2, 70, 4))
    tensors = [torch.randn(size).to(dtype).requires_grad_() for size in sizes]
    with run.active() as backend:
        out, lse = mmk.attention(*tensors, return_lse=True, backend=backend)
        assert out.shape == (0, 2, 5, 4) and lse.shape == (0, 2, 5)
        for tensor, grad in zip(tensors, torch.autograd.grad(out.sum() + lse.sum(), tensors), strict=True):
            assert grad.shape == tensor.shape and not grad.any()


@runs(*DEFAULT)
def test_no_keys_and_a_bias(run: Run) -> None:
    inputs = make(torch.float32, 1, 2, 2, 3, 0, 8, 8)
    for bias in (torch.randn(1, 2, 3, 0), mmk.RelativeBias(torch.randn(2, 2)), torch.randn(1, 2, 3, 1)[..., :0]):
        with run.active() as backend:
            from_bias = Inputs("attention", inputs.queries, inputs.keys, inputs.values, None, bias)
            check_call(from_bias, backend)


@runs(*DEFAULT)
@pytest.mark.parametrize("scale", [0.0, 1.0, -0.5, 1e-3, 4.0])
def test_scale(scale: float, run: Run) -> None:
    """0 and 1 are real values: 0 is uniform attention, not the default."""
    with run.active() as backend:
        found = check_call(make(torch.float32, 1, 2, 2, 9, 70, 16, 16, scale=scale), backend)
    if scale == 0.0:
        lse = torch.tensor(70.0).log()
        torch.testing.assert_close(found["lse"], lse.expand(1, 2, 9))
        assert not found["grad query 0"].any()
    if scale == 1.0:
        with run.active() as backend:
            default = make(torch.float32, 1, 2, 2, 9, 70, 16, 16).run(backend)
        assert not torch.allclose(default["lse"], found["lse"])


@runs(*DEFAULT)
@pytest.mark.parametrize("softcap", [0.01, 1.0, 30.0, 1e6])
def test_softcap(softcap: float, run: Run) -> None:
    with run.active() as backend:
        check_call(make(torch.float32, 1, 2, 2, 19, 70, 16, 16, mmk.Mask.causal(), softcap=softcap, scale=2.0), backend)
        check_call(make(torch.bfloat16, 1, 2, 2, 19, 70, 16, 16, softcap=softcap, dropout_p=0.5, seed=1), backend)


LONG_BIASES = {
    "none": None,
    "one number": (1, 1, 1, 1),
    "per row": (1, 1, 6000, 1),
    "per head": (1, 2, 1, 1),
    "per key": (1, 1, 1, 70),
}


@pytest.mark.parametrize("bias", LONG_BIASES)
@runs(CPU)
def test_long_sums(bias: str, run: Run) -> None:
    """Sums over thousands of rows that all have one sign: a single fp32 chain would drift, chunks do not.

    Not asked of the reference: torch's matrix products are such chains on some processors.
    """
    query, key, value = torch.zeros(1, 2, 6000, 8), torch.randn(1, 1, 70, 8), torch.rand(1, 1, 70, 8)
    shape = LONG_BIASES[bias]
    inputs = Inputs("attention", [query + 0.1], [key], [value], None, None if shape is None else torch.zeros(shape))
    ones = {"out": torch.ones(1, 2, 6000, 8), "lse": torch.ones(1, 2, 6000)}
    with run.active() as backend:
        Expectation(inputs, cotangents=ones).check(backend)


@runs(*EVERY)
def test_weights_below_the_smallest_normal_number(run: Run) -> None:
    """e^-96 is the only weight that meets a value: it may be 0."""
    key = torch.tensor([0.0, -96.0]).view(1, 1, 2, 1)
    value = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1)
    inputs = Inputs("attention", [torch.ones(1, 1, 1, 1)], [key], [value], options={"scale": 1.0})
    with run.active() as backend:
        found = check_call(inputs, backend)
    assert 0 <= found["out"].item() < 1e-41
