"""Strides in, strides out: views are read in place, of any alignment; outputs are dense in the query's axis order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import mmkernels as mmk
from bench.attention.inputs import Inputs
from tests import plain
from tests.backends import CPU, DEFAULT, NATIVE, Run, dtypes, runs
from tests.tolerance import same_bits

B, H, L, D = 2, 3, 70, 20


def _contiguous(dtype: torch.dtype) -> Sequence[Tensor]:
    return torch.randn(3, B, H, L, D).to(dtype)


def _transposed(dtype: torch.dtype) -> Sequence[Tensor]:
    """(B, L, H, D), as a projection leaves it."""
    return [torch.randn(B, L, H, D).to(dtype).transpose(1, 2) for _ in range(3)]


def _fused(dtype: torch.dtype) -> Sequence[Tensor]:
    """One fused projection, cut."""
    return torch.randn(B, L, 3, H, D).to(dtype).permute(2, 0, 3, 1, 4)


def _odd_slices(dtype: torch.dtype) -> Sequence[Tensor]:
    """Slices of a fused projection that start at odd elements, in rows of odd length: no vector is aligned."""
    fused = torch.randn(B, L, 3 * H * D + 5).to(dtype)
    return [fused[..., 1 + i * (H * D + 1) :][..., : H * D].unflatten(-1, (H, D)).transpose(1, 2) for i in range(3)]


def _batch_inside(dtype: torch.dtype) -> Sequence[Tensor]:
    """(L, B, H, D), as in torch.nn's sequence-first models."""
    return [torch.randn(L, B, H, D).to(dtype).permute(1, 2, 0, 3) for _ in range(3)]


def _broadcast(dtype: torch.dtype) -> Sequence[Tensor]:
    """One head's keys and one entry's values, expanded; queries expanded over the batch."""
    query, key, value = (torch.randn(*sizes, L, D).to(dtype) for sizes in ((1, H), (B, 1), (1, 1)))
    return [x.expand(B, H, L, D) for x in (query, key, value)]


def _same_row(dtype: torch.dtype) -> Sequence[Tensor]:
    """Rows of stride 0, and rows that overlap."""
    key = torch.randn(B, H, 1, D).to(dtype).expand(B, H, L, D)
    query = torch.randn(B, H, L + D).to(dtype).unfold(-1, D, 1)[:, :, :L]
    return [query, key, torch.randn(B, H, L, D).to(dtype)]


def _strided_last_axis(dtype: torch.dtype) -> Sequence[Tensor]:
    """Not unit: read through a copy, but right."""
    return [torch.randn(B, H, D, L).to(dtype).transpose(2, 3), *torch.randn(2, B, H, L, 2 * D).to(dtype)[..., ::2]]


def _cut_out(dtype: torch.dtype) -> Sequence[Tensor]:
    """The middle of larger tensors."""
    query, key, value = torch.randn(3, B + 1, H + 2, L + 9, D + 7).to(dtype)[:, 1:, 2:, 3:-6, 5:-2]
    return [query, key, value]


LAYOUTS: dict[str, Callable[[torch.dtype], Sequence[Tensor]]] = {
    layout.__name__.strip("_"): layout
    for layout in (
        _contiguous, _transposed, _fused, _odd_slices, _batch_inside, _broadcast, _same_row, _strided_last_axis,
        _cut_out,
    )
}  # fmt: skip
IN_PLACE = [name for name in LAYOUTS if name != "strided_last_axis"]


def inputs_of(layout: str, dtype: torch.dtype) -> Inputs:
    query, key, value = LAYOUTS[layout](dtype)
    return Inputs("attention", [query], [key], [value], mmk.Mask.causal())


def dense_in_order(tensor: Tensor, like: Tensor) -> bool:
    """Dense, and the axes in memory in the order of those of `like` whose order can be told."""
    told = [axis for axis in range(like.dim() - 1) if like.shape[axis] > 1 and like.stride(axis)]
    order = sorted(told, key=lambda axis: -like.stride(axis))
    strides = [tensor.stride(axis) for axis in order]
    dense = sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)
    step = 1
    for stride, size in dense:
        if stride != step:
            return False
        step *= size
    return strides == sorted(strides, reverse=True) and (tensor.shape[-1] == 1 or tensor.stride(-1) == 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@dtypes()
@runs(*DEFAULT)
def test_same_bits_as_contiguous(layout: str, run: Run, dtype: torch.dtype) -> None:
    inputs = inputs_of(layout, dtype)
    copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in inputs.leaves().items()}
    cotangents = plain.cotangents(inputs)
    with run.active() as backend:
        found = plain.run(inputs, backend, cotangents)
        expected = plain.run(inputs.replaced(copies), backend, cotangents)
    for name, tensor in expected.items():
        if run.backend == "reference":  # BLAS may sum in another order for another layout
            torch.testing.assert_close(found[name], tensor, rtol=2e-2 if dtype != torch.float32 else 1e-4, atol=1e-4)
        else:
            same_bits(name, found[name], tensor)
    query = inputs.queries[0]
    assert dense_in_order(found["out"], query)
    assert found["out"].shape == query.shape and found["lse"].is_contiguous()
    for name, tensor in inputs.leaves().items():
        assert dense_in_order(found[f"grad {name}"], tensor), name


@pytest.mark.parametrize("layout", ["odd_slices", "fused", "broadcast"])
@runs(*NATIVE[1:])
def test_other_instruction_sets(layout: str, run: Run) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        test_same_bits_as_contiguous(layout, run, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("end", ["transposed", "expanded", "strided"])
@runs(*DEFAULT)
def test_output_gradients_of_any_layout(layout: str, end: str, run: Run) -> None:
    """autograd hands over whatever it has: expanded by sum(), transposed by what followed."""
    inputs = inputs_of(layout, torch.float32)
    d_out = {
        "transposed": torch.randn(B, L, H, D).transpose(1, 2),
        "expanded": torch.randn(1, 1, 1, 1).expand(B, H, L, D),
        "strided": torch.randn(B, H, D, L, 2)[..., 1].transpose(2, 3),
    }[end]
    d_lse = {"transposed": torch.randn(L, H, B).permute(2, 1, 0), "expanded": torch.randn(1, 1, 1).expand(B, H, L)}.get(
        end, torch.randn(B, H, L, 3)[..., 1]
    )
    with run.active() as backend:
        found = plain.run(inputs, backend, {"out": d_out, "lse": d_lse})
        expected = plain.run(inputs, backend, {"out": d_out.contiguous(), "lse": d_lse.contiguous()})
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-4)
        if run.backend == "cpu":
            same_bits(name, found[name], tensor)


@pytest.mark.parametrize("function", ["varlen", "joint"])
@runs(*DEFAULT)
def test_other_functions(function: str, run: Run) -> None:
    """Packed heads-last and heads-first tensors; joint segments that are slices of one buffer."""
    if function == "varlen":
        cuts = torch.tensor([0, 20, 70], dtype=torch.int32)
        packed = [torch.randn(H, L, D).transpose(0, 1), *torch.randn(L, 2, H, D).unbind(1)]
        inputs = Inputs("varlen", *([x] for x in packed), cu_seqlens_q=cuts, cu_seqlens_k=cuts)
    else:
        text, image = torch.randn(B, L, 3, H, D)[:, :30], torch.randn(B, L, 3, H, D + 1)[..., 1:]
        pieces = [[part[:, :, i].transpose(1, 2) for part in (text, image)] for i in range(3)]
        inputs = Inputs("joint", *pieces)
    copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in inputs.leaves().items()}
    cotangents = plain.cotangents(inputs)
    with run.active() as backend:
        found = plain.run(inputs, backend, cotangents)
        expected = plain.run(inputs.replaced(copies), backend, cotangents)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
        if run.backend == "cpu":
            same_bits(name, found[name], tensor)
    for name, query in zip([n for n in found if n.startswith("out")], inputs.queries, strict=True):
        assert dense_in_order(found[name], query)


BIASES: dict[str, Callable[[], Tensor]] = {
    "transposed": lambda: torch.randn(B, H, L, L).transpose(2, 3),
    "heads last": lambda: torch.randn(B, L, L, H).permute(0, 3, 1, 2),
    "expanded": lambda: torch.randn(1, H, 1, L).expand(B, H, L, L),
    "three axes": lambda: torch.randn(H, L, L),
    "one number": lambda: torch.randn(1),
    "odd slice": lambda: torch.randn(1, 1, L, L + 3)[..., 1:-2],
    "16 bits": lambda: torch.randn(1, H, L, L).bfloat16(),
}


@pytest.mark.parametrize("bias", BIASES)
@runs(*DEFAULT)
def test_bias_layouts(bias: str, run: Run) -> None:
    inputs = inputs_of("contiguous", torch.float32)
    strided = replace(inputs, bias=BIASES[bias]())
    copy = strided.replaced({"bias 0": strided.leaves()["bias 0"].clone(memory_format=torch.contiguous_format)})
    cotangents = plain.cotangents(inputs)
    with run.active() as backend:
        found, expected = plain.run(strided, backend, cotangents), plain.run(copy, backend, cotangents)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
        if run.backend == "cpu":
            same_bits(name, found[name], tensor)


@runs(*DEFAULT)
def test_mask_layouts(run: Run) -> None:
    """A dense mask of any strides: transposed, expanded, a slice."""
    base = torch.rand(L + 1, L + 1) < 0.5
    masks = [base[1:, 1:], base[1:, 1:].t(), base[:1, 1:].expand(L, L), base[1:, 1:].expand(B, 1, L, L)]
    inputs = inputs_of("contiguous", torch.float32)
    cotangents = plain.cotangents(inputs)
    for mask in masks:
        with run.active() as backend:
            found, expected = (
                plain.run(replace(inputs, mask=mmk.Mask.dense(m)), backend, cotangents) for m in (mask, mask.clone())
            )
        for name, tensor in expected.items():
            same_bits(name, found[name], tensor)


COPIES = ("aten::copy_", "aten::clone", "aten::contiguous", "aten::cat", "aten::_to_copy", "aten::repeat_interleave")


@pytest.mark.parametrize("layout", IN_PLACE)
@dtypes()
@runs(CPU)
def test_nothing_is_copied(layout: str, run: Run, dtype: torch.dtype) -> None:
    """Views with a unit last stride are read in place, forward and backward."""
    inputs = inputs_of(layout, dtype)
    leaves = [tensor.requires_grad_() for tensor in (inputs.queries[0], inputs.keys[0], inputs.values[0])]
    d_out = torch.randn(B, L, H, D).to(dtype).transpose(1, 2)
    with run.active() as backend, profile(activities=[ProfilerActivity.CPU]) as trace:
        out, lse = mmk.attention(*leaves, backend=backend, return_lse=True)
        torch.autograd.grad((out, lse), leaves, (d_out, torch.randn(B, L, H).transpose(1, 2)))
    names = {event.name for event in trace.events()}
    assert "mmkernels_cpu::attention_backward" in names, "the profile has not seen the kernels"
    assert not names & set(COPIES)
