"""torch.export, strict and not: values, dynamic shapes, masks as inputs, and a round trip through a file."""

from __future__ import annotations

import io

import pytest
import torch
from torch.export import Dim

import mmkernels as mmk
from tests.torch.samples import tensors


class Block(torch.nn.Module):
    """Attention with masks built inside, and one that may come from outside."""

    def __init__(self):
        super().__init__()
        self.projection = torch.nn.Linear(16, 48, bias=False)

    def forward(self, tokens, lengths, mask=None):
        query, key, value = self.projection(tokens).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        own = mmk.Mask.causal() & mmk.Mask.key_lengths(lengths)
        return mmk.attention(query, key, value, mask=own if mask is None else own & mask)


def round_trip(program):
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


@pytest.mark.parametrize("strict", [True, False])
def test_dynamic_batch_and_length(strict):
    block = Block()
    batch, length = Dim("batch", min=2, max=64), Dim("length", min=2, max=64)
    shapes = {"tokens": {0: batch, 1: length}, "lengths": {0: batch}}
    arguments = (*tensors((2, 5, 16)), torch.tensor([5, 3]))
    loaded = round_trip(torch.export.export(block, arguments, strict=strict, dynamic_shapes=shapes))
    for size, tokens in ((2, 5), (4, 9)):
        call = (*tensors((size, tokens, 16), seed=3), torch.arange(size) + 2)
        assert torch.equal(loaded(*call), block(*call))


@pytest.mark.parametrize("strict", [True, False])
def test_mask_as_an_input(strict):
    block = Block()
    arguments = (*tensors((2, 5, 16)), torch.tensor([5, 3]), mmk.Mask.prefix(torch.tensor([1, 2])))
    program = torch.export.export(block, arguments, strict=strict)
    assert torch.equal(round_trip(program)(*arguments), block(*arguments))
    assert any("mmkernels.attention_forward" in str(node.target) for node in program.graph.nodes)
