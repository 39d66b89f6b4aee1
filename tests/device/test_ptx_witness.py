"""Our kernels and textbook ones of Triton, both as their compilers leave them, on the same problems in the interpreter.

Each is held to fp64 by the rule of our own op, and the two to each other: what they share is the interpreter alone.
"""

from __future__ import annotations

import pytest
import torch

from tests import plain
from tests.contrastive.naive import Case as ContrastiveCase
from tests.device import attention, contrastive, fusion
from tests.device.compile import nvcc
from tests.device.interpreted import Interpreted
from tests.device.planted.attention_forward_problems import call
from tests.fusion.naive import Case as FusionCase
from tests.fusion.rule import Expectation as FusionExpectation
from tests.tolerance import Expectation, explain, same_bits, tolerance

pytest.importorskip("triton", reason="triton is not installed")
from tests.device import witness

pytestmark = pytest.mark.skipif(nvcc() is None, reason="no nvcc on the PATH to compile CUDA with")
SEEDS = (0, 1)


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, in units of the largest number."""
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    return float((ours.double() - theirs.double()).abs().max() / ours.double().abs().max())


@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str)
def test_attention(emulator, dtype):
    inputs = call(37, (90,), heads=2)
    inputs = inputs.replaced({name: leaf.to(dtype) for name, leaf in inputs.leaves().items()})
    expected, operands = Expectation(inputs, rounded=True), (inputs.queries[0], inputs.keys[0], inputs.values[0])
    with attention.emulated(Interpreted(emulator)):
        ours = plain.run(inputs, "cuda", None)
    theirs = [witness.attention(*operands, scale=0.125, seed=seed) for seed in SEEDS]
    for found in (ours, *theirs):
        expected.check_results(found)
    for name in ours:
        same_bits(name, theirs[0][name], theirs[1][name])
    eps = torch.finfo(dtype).eps
    assert apart(ours["out"], theirs[0]["out"]) <= eps
    # our rows are normalised by the sum of the weights as the tensor core reads them, rounded; theirs before rounding
    assert (ours["lse"] - theirs[0]["lse"]).abs().max() <= eps / 2


@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str)
def test_product(emulator, dtype):
    case = FusionCase(((70, 48),), 45)
    operands = case.operands(dtype)
    expected = FusionExpectation(case, operands)
    with fusion.emulated(Interpreted(emulator)):
        ours = expected.check("cuda")
    rest = operands.rest
    theirs = [witness.product(operands.inputs[0], rest["weight"], rest["bias"], seed) for seed in SEEDS]
    assert not expected.faults(ours | {"out": theirs[0]})
    same_bits("out", *theirs)
    assert apart(ours["out"], theirs[0]) <= torch.finfo(dtype).eps


@pytest.mark.slow
def test_row_statistics(emulator):
    """lse of every row of logits, which our kernel keeps as a maximum and a logarithm."""
    image, text, scale, _ = (operand.detach() for operand in ContrastiveCase(70, 150, 64).operands(torch.float16))
    with contrastive.emulated(Interpreted(emulator)) as device:
        row, _ = device.statistics(image, text, scale, None, False)
    ours, theirs = row.stats.sum(0), [witness.logsumexp(image, text, float(scale), seed) for seed in SEEDS]
    logits = scale * image.double() @ text.double().T
    terms = scale * (image.double().abs() @ text.double().abs().T).amax(1) + 1
    naive = (scale * image.float() @ text.float().T).logsumexp(1)
    bound = tolerance(torch.float32, logits.logsumexp(1), naive, terms)
    for found in (ours, *theirs):
        assert not explain("lse", found, logits.logsumexp(1), bound)
    same_bits("lse", *theirs)
    assert apart(ours, theirs[0]) <= 32 * torch.finfo(torch.float32).eps
