"""The concatenation is neither built nor kept: what autograd saves, the largest tensor of any operator, the peak."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import mmkernels as mmk
from mmkernels.ops.fusion import reference
from tests.backends import DEFAULT, EVERY, runs


def saved_by(function):
    """Storages that autograd keeps for a call, by size in bytes, its inputs included."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = function()
    return out, kept


@runs(*EVERY)
def test_the_concatenation_is_neither_built_nor_kept(run):
    """Beyond the operands a call keeps the product (rows, out) and two numbers per row; plain torch keeps the cat."""
    rows, width, out = 256, 128, 8
    inputs = [torch.randn(rows, width, requires_grad=True) for _ in range(4)]
    weight = torch.randn(out, 4 * width, requires_grad=True)
    norm = torch.nn.LayerNorm(4 * width)
    operands = {t.untyped_storage().data_ptr() for t in (*inputs, weight, norm.weight, norm.bias)}

    def extra(function):
        _, kept = saved_by(function)
        return sum(size for pointer, size in kept.items() if pointer not in operands)

    with run.active() as backend:
        ours = extra(lambda: mmk.concat_fusion(inputs, weight, norm=norm, activation="gelu", backend=backend))
        # and without norm, activation and gate nothing at all
        assert extra(lambda: mmk.concat_fusion(inputs, weight, backend=backend)) == 0
    plain = extra(lambda: F.gelu(F.linear(norm(torch.cat(inputs, -1)), weight)))
    assert ours <= 4 * (rows * out + 2 * rows)
    assert plain >= 4 * rows * 4 * width  # the instrument sees a cat where there is one


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


PEAK = """
import sys
import torch
import mmkernels as mmk
backend, images, tokens, wide = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(2)

def status(field):
    line = next(line for line in open("/proc/self/status") if line.startswith(field))
    return int(line.split()[1]) * 1024

def step(images):
    text = torch.randn(images, tokens, 16, requires_grad=True)
    image = torch.randn(images, 1, wide, requires_grad=True)
    weight = torch.randn(8, 16 + wide, requires_grad=True)
    norm = torch.nn.LayerNorm(16 + wide)
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # the peak starts anew from what is in use now
    before = status("VmRSS")
    if backend == "plain":
        x = norm(torch.cat([text, image.expand(images, tokens, wide)], -1))
        torch.nn.functional.gelu(torch.nn.functional.linear(x, weight)).sum().backward()
    else:
        mmk.concat_fusion([text, image], weight, norm=norm, activation="gelu", backend=backend).sum().backward()
    return status("VmHWM") - before

step(1)
print(step(images))
"""
ROOT = Path(__file__).resolve().parents[2]
CONCATENATION = 32 * 256 * (2048 + 16) * 4


def peak_of(backend):
    command = [sys.executable, "-c", PEAK, backend, "32", "256", "2048"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@runs(*DEFAULT)
def test_peak_of_a_wide_vector_beside_many_tokens(run):
    """Forward and backward of 32 images of 2048 features beside 256 tokens each: the cat of 64 MiB is never there."""
    with run.active() as backend:
        assert peak_of(backend) < CONCATENATION / 4


def test_the_peak_shows_a_concatenation():
    assert peak_of("plain") > CONCATENATION
