"""The CUDA attention forward kernels, run by the emulator, against the fp64 reference."""

from __future__ import annotations

import pytest
import torch

import mmkernels as mmk
from bench.attention.inputs import Inputs
from bench.attention.problems import PROBLEMS, Problem, named
from mmkernels.ops.attention.lowered import Lowered
from tests import plain
from tests.backends import DTYPES
from tests.device.attention import emulated
from tests.tolerance import Expectation, same_bits

LARGEST = 256
SERVED = [problem for problem in PROBLEMS if max(problem.dim, problem.dim_v or 0) <= LARGEST]
QUICK = (
    "text-to-image 77x1024",
    "Q-Former 32x257",
    "mllama 32x1601",
    "decode 1x4096",
    "Flamingo 256x320 media",
    "CLIP text 77",
)


def operands(rows, k_lens, dtype, *, batch=1, heads=2, heads_k=None, dim=64, dim_v=None):
    random = torch.Generator().manual_seed(rows + sum(k_lens) + dim)

    def operand(head_count, length, width):
        return torch.randn(batch, head_count, length, width, generator=random).to(dtype)

    heads_k, dim_v = heads_k or heads, dim_v or dim
    return (
        [operand(heads, rows, dim)],
        [operand(heads_k, length, dim) for length in k_lens],
        [operand(heads_k, length, dim_v) for length in k_lens],
    )


def outputs(emulator, inputs, **options):
    """Of the call on the emulator, and what its launches were."""
    with emulated(emulator, **options) as device:
        found = plain.run(inputs, "cuda", None)
    assert device.told, "no kernel ran"
    return found, device.told


def check(emulator, inputs, **options):
    found, told = outputs(emulator, inputs, **options)
    Expectation(inputs, rounded=inputs.dtype != torch.float32).check_results(found)
    return told


def dtype_of(problem: Problem) -> torch.dtype:
    return DTYPES[PROBLEMS.index(problem) % len(DTYPES)]


@pytest.mark.parametrize("name", QUICK)
def test_problem(emulator, name):
    problem = named(name)
    check(emulator, problem.make(dtype_of(problem), scale_down=True))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("problem", SERVED, ids=lambda problem: problem.name)
def test_every_problem(emulator, problem, dtype):
    check(emulator, problem.make(dtype, scale_down=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["plain", "few", "general", "general_few"])
@pytest.mark.parametrize("dim", [16, 64, 72, 256])
def test_every_kernel_of_the_table(emulator, dtype, kind, dim):
    """On a ragged problem: a partial tile of rows, two blocks of keys and a rest, a mask."""
    mask = mmk.Mask.causal(align="bottom_right")
    inputs = Inputs("attention", *operands(37, [171], dtype, heads=1, dim=dim), mask)
    told = check(emulator, inputs, kind=kind)
    assert told[0]["kind"] == kind


@pytest.mark.parametrize(("rows", "keys"), [(1, 1), (16, 80), (17, 81), (129, 79), (3, 0), (0, 5)])
def test_ragged_sizes(emulator, rows, keys):
    check(emulator, Inputs("attention", *operands(rows, [keys], torch.float16)))


@pytest.mark.parametrize("dims", [(1, 1), (7, 33), (64, 8), (40, 100), (129, 3)])
def test_head_dims(emulator, dims):
    dim, dim_v = dims
    check(emulator, Inputs("attention", *operands(20, [90], torch.bfloat16, dim=dim, dim_v=dim_v)))


@pytest.mark.parametrize("name", ["packed varlen", "everything", "bias of -inf", "rows of finfo.min", "scattered mask"])
@pytest.mark.parametrize("seed", range(3))
def test_thread_orders(emulator, name, seed):
    """Whatever the order of threads, blocks and landings, no race is seen and every bit is the same."""
    inputs = named(name).make(torch.float16, scale_down=True)
    found, _ = outputs(emulator, inputs, seed=1000 * seed + 17)
    first, _ = outputs(emulator, inputs)
    for key, tensor in first.items():
        same_bits(key, found[key], tensor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_split_keys_have_the_bits_of_unsplit_ones(emulator, dtype):
    inputs = Inputs("attention", *operands(5, [2500, 700], dtype, heads=4, heads_k=2))
    split, told = outputs(emulator, inputs, processors=64)
    whole, together = outputs(emulator, inputs, processors=0)
    assert told[0]["splits"] > 1 and together[0]["splits"] == 1
    for key, tensor in whole.items():
        same_bits(key, split[key], tensor)
    Expectation(inputs, rounded=dtype != torch.float32).check_results(split)


def test_a_row_has_its_bits_in_any_tile(emulator):
    """Few queries have tiles of 16 rows and packs of heads, many have 128: the same bits."""
    query, key, value = (tensors[0] for tensors in operands(100, [333], torch.float16, heads=4, heads_k=2))
    whole, _ = outputs(emulator, Inputs("attention", [query], [key], [value]))
    part, told = outputs(emulator, Inputs("attention", [query[:, :, 40:44]], [key], [value]))
    assert told[0]["pack"] == 2
    same_bits("out", part["out"], whole["out"][:, :, 40:44])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides_and_alignment(emulator, dtype):
    """Views of one fused projection, rows that start at odd addresses, a value of another layout."""
    random = torch.Generator().manual_seed(5)
    fused = torch.randn(1, 50, 3, 2, 65, generator=random).to(dtype)
    query, key, value = (fused[:, :, i, :, 1:].transpose(1, 2) for i in range(3))
    told = check(emulator, Inputs("attention", [query], [key], [value]))
    assert told[0]["kind"] in ("few", "general")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_isolation(emulator, dtype, poison):
    """What no row sees, and what some rows see, changes no bit of the rows that do not see it."""
    query, key, value = (tensors[0] for tensors in operands(40, [150], dtype))
    mask = mmk.Mask.causal()
    clean, _ = outputs(emulator, Inputs("attention", [query], [key], [value], mask))
    key, value = key.clone(), value.clone()
    key[:, :, 30], value[:, :, 31], value[:, 1, 35, 3] = poison, poison, poison
    dirty, _ = outputs(emulator, Inputs("attention", [query], [key], [value], mask))
    same_bits("out", dirty["out"][:, :, :30], clean["out"][:, :, :30])
    same_bits("lse", dirty["lse"][:, :, :30], clean["lse"][:, :, :30])
    assert not dirty["out"][:, :, 31:].isfinite().any()


@pytest.mark.parametrize("empty_rows", ["zero", "unmask"])
def test_empty_rows(emulator, empty_rows):
    start = torch.zeros(1, 1, 1, 33, dtype=torch.int32)
    stop = torch.arange(33, dtype=torch.int32).view(1, 1, 1, 33) % 5 * 9
    mask = mmk.Mask.intervals(start, stop, empty_rows=empty_rows)
    check(emulator, Inputs("attention", *operands(33, [50], torch.float16), mask))


def test_a_scale_that_is_not_positive(emulator):
    for scale in (0.0, -0.3):
        told = check(emulator, Inputs("attention", *operands(20, [90], torch.float16), options={"scale": scale}))
        assert told[0]["kind"] == "general_few"


def test_ends_of_sequences_that_lie_are_never_followed(emulator):
    """Values of cu_seqlens that a GPU cannot have checked: no access leaves the tensors."""
    query, key, value = (tensors[0][0].transpose(0, 1).contiguous() for tensors in operands(20, [30], torch.float16))
    cu_q, cu_k = (torch.tensor(ends, dtype=torch.int32) for ends in ([-3, 9, 90, 95], [-7, 400, 12, 30]))
    outputs(emulator, Inputs("varlen", [query], [key], [value], cu_seqlens_q=cu_q, cu_seqlens_k=cu_k))


@pytest.mark.parametrize("what", ["mask", "dense", "relative", "decomposed"])
def test_a_plane_too_short_for_a_sequence_is_never_left(emulator, what):
    """Nobody on a GPU's host knows the longest packed sequence: what is too small for it is not read beyond."""
    query, key, value = (tensors[0][0].transpose(0, 1).contiguous() for tensors in operands(20, [30], torch.float16))
    ends = torch.tensor([0, 20], dtype=torch.int32), torch.tensor([0, 30], dtype=torch.int32)
    inputs = Inputs("varlen", [query], [key], [value], cu_seqlens_q=ends[0], cu_seqlens_k=ends[1])
    plane = torch.zeros(1, 2, 7, 9)
    short = {
        "mask": {"visible": torch.ones(1, 2, 7, 9, dtype=torch.bool)},
        "dense": {"bias": [plane], "bias_kind": 1},
        "relative": {"bias": [torch.zeros(2, 5)], "bias_kind": 2, "relative_zero": 2},
        "decomposed": {"bias": [torch.zeros(1, 2, 7, 2), torch.zeros(1, 2, 7, 3)], "bias_kind": 3},
    }[what]
    call = Lowered(query, [key], [value], cu_seqlens_q=ends[0], cu_seqlens_k=ends[1], scale=0.125)
    with emulated(emulator) as device:
        out, _ = device.forward(call._replace(**short), True)
    whole, _ = outputs(emulator, inputs, kind="general")
    same_bits("out", out, whole["out"])
