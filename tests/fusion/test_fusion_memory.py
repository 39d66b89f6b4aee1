"""The concatenation is neither built nor kept: what autograd saves, and the largest tensor that any operator makes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import mmkernels as mmk
from mmkernels.ops.fusion import reference


def saved_by(function):
    """Storages that autograd keeps for a call, by size in bytes, its inputs included."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = function()
    return out, kept


def test_the_concatenation_is_neither_built_nor_kept():
    """Beyond the operands a call keeps the product (rows, out) and two numbers per row; plain torch keeps the cat."""
    rows, width, out = 256, 128, 8
    inputs = [torch.randn(rows, width, requires_grad=True) for _ in range(4)]
    weight = torch.randn(out, 4 * width, requires_grad=True)
    norm = torch.nn.LayerNorm(4 * width)
    operands = {t.untyped_storage().data_ptr() for t in (*inputs, weight, norm.weight, norm.bias)}

    def extra(function):
        _, kept = saved_by(function)
        return sum(size for pointer, size in kept.items() if pointer not in operands)

    ours = extra(lambda: mmk.concat_fusion(inputs, weight, norm=norm, activation="gelu"))
    plain = extra(lambda: F.gelu(F.linear(norm(torch.cat(inputs, -1)), weight)))
    assert ours <= 4 * (rows * out + 2 * rows)
    assert plain >= 4 * rows * 4 * width  # the instrument sees a cat where there is one
    # and without norm, activation and gate nothing at all
    assert extra(lambda: mmk.concat_fusion(inputs, weight)) == 0


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Elements of the largest tensor that any operator inside returns."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() >= tensor.numel():
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def test_no_tensor_is_as_large_as_the_concatenation():
    """Forward and backward, with a vector per image beside many tokens: the vector is never spread over the tokens."""
    tokens, wide = torch.randn(2, 64, 16), torch.randn(2, 1, 512)
    weight = torch.randn(8, 528)
    with LargestTensor() as seen:
        out, product, mean, rstd = reference.forward(
            [tokens, wide], weight, None, None, None, None, None, reference.NORM_LAYER, 1e-5, "gelu"
        )
        reference.backward(
            torch.ones_like(out), [tokens, wide], weight, None, None, None, None, reference.NORM_LAYER, 1e-5, "gelu",
            product, mean, rstd, [True, True, True, False, False, False, False],
        )  # fmt: skip
    assert seen.largest == weight.numel()  # the weight's own gradient; the cat would be 2 * 64 * 528
    with LargestTensor() as seen:
        torch.cat([tokens, wide.expand(2, 64, 512)], -1)
    assert seen.largest == 2 * 64 * 528
