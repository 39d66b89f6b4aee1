"""The Triton attention kernels, run by Triton's interpreter, against the fp64 reference: forward and backward."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import mmkernels as mmk
from bench.attention.inputs import Inputs
from bench.attention.problems import PROBLEMS, named
from mmkernels.ops.attention.lowered import Lowered
from tests import plain
from tests.device.test_attention_forward import operands
from tests.device.triton_interpreter import interpreted
from tests.tolerance import Expectation, same_bits

DTYPES = [torch.float32, torch.float16]
SLOW_DTYPES = [
    pytest.param(torch.float32, marks=pytest.mark.slow),
    pytest.param(torch.float16, marks=pytest.mark.nightly),
]
QUICK = ("CLIP text 77", "key bias")
NIGHTLY = (
    "joint 512+4096 D128",
    "mllama vision padding",
    "everything",
    "packed causal dropout bias",
    "window 2048",
    "T5 512 relative bias",
    "ALiBi 577 causal",
    "packed captions on patches",
    "packed images D80",
    "prefix 320",
)
"""Half a minute and more: the interpreter spends a tenth of a millisecond on every operation."""
SOFT = {"softcap": 2.0, "dropout_p": 0.2, "seed": 7}


def results(host, inputs, cotangents=None, backward=True, **options):
    """Outputs and gradients of the call on the interpreter."""
    with interpreted(host, **options) as device:
        ends = (cotangents or plain.cotangents(inputs)) if backward else None
        found = plain.run(inputs, "triton", ends)
    assert device.launches >= 1 + backward, "another backend ran"
    return found


def check(host, inputs, **options):
    found = results(host, inputs, **options)
    Expectation(inputs, rounded=inputs.dtype != torch.float32).check_results(found)
    return found


def plain_inputs(rows, k_lens, dtype=torch.float16, **shape):
    return Inputs("attention", *operands(rows, k_lens, dtype, **shape))


def dtype_of(problem):
    return DTYPES[PROBLEMS.index(problem) % 2]


@pytest.mark.parametrize("name", QUICK)
def test_problem(triton_host, name):
    problem = named(name)
    check(triton_host, problem.make(dtype_of(problem), scale_down=True))


SERVED = [problem for problem in PROBLEMS if max(problem.dim, problem.dim_v or 0) <= 256]


@pytest.mark.slow
@pytest.mark.parametrize("problem", [p for p in SERVED if p.name not in (*QUICK, *NIGHTLY)], ids=lambda p: p.name)
def test_every_problem(triton_host, problem):
    """The dtypes in turn."""
    check(triton_host, problem.make(dtype_of(problem), scale_down=True))


@pytest.mark.nightly
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("problem", SERVED, ids=lambda problem: problem.name)
def test_every_problem_in_every_dtype(triton_host, problem, dtype):
    check(triton_host, problem.make(dtype, scale_down=True))


@pytest.mark.parametrize(("rows", "keys"), [(1, 1), (64, 64), (65, 127), (3, 0), (0, 5)])
def test_ragged_sizes(triton_host, rows, keys):
    check(triton_host, plain_inputs(rows, [keys], heads=1))


@pytest.mark.parametrize("dims", [(1, 1), (7, 33), (72, 40), pytest.param((256, 129), marks=pytest.mark.slow)])
def test_head_dims(triton_host, dims):
    dim, dim_v = dims
    check(triton_host, plain_inputs(20, [90], torch.float32, heads=1, dim=dim, dim_v=dim_v))


@pytest.mark.parametrize("dtype", SLOW_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 4, 70, 90), (1, 1, 70, 90), (2, 1, 1, 90), (1, 4, 70, 1), (1, 1, 1, 1)], ids=str)
def test_dense_bias(triton_host, dtype, shape):
    inputs = plain_inputs(70, [90], dtype, batch=2, heads=4, heads_k=2, dim=32)
    check(triton_host, replace(inputs, bias=torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, SOFT], ids=["alone", "softcap and dropout"])
@pytest.mark.parametrize("width", [9, 90])
def test_factored_bias(triton_host, options, width):
    """A table, and a grid's rows and columns, over two key segments."""
    inputs = replace(plain_inputs(70, [13, 77], heads=2, dim=32), options=options)
    check(triton_host, replace(inputs, bias=mmk.RelativeBias(torch.randn(2, 159))))
    grid = mmk.DecomposedBias(torch.randn(1, 2, 70, 90 // width), torch.randn(1, 2, 70, width))
    check(triton_host, replace(inputs, bias=grid))


@pytest.mark.slow
@pytest.mark.parametrize("broadcast", ["queries", "keys", "values", "keys values"])
def test_broadcast_batches(triton_host, broadcast):
    """Their gradients are summed over the batch, keys and values each for itself."""
    inputs = plain_inputs(40, [70], torch.float32, batch=3, heads_k=1)
    check(triton_host, replace(inputs, **{name: [getattr(inputs, name)[0][:1]] for name in broadcast.split()}))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_split_keys_have_the_bits_of_unsplit_ones(triton_host, dtype):
    inputs = Inputs("attention", *operands(5, [700, 300], dtype, heads=2, heads_k=1))
    split = results(triton_host, inputs, backward=False, processors=64)
    whole = results(triton_host, inputs, backward=False, processors=0)
    for key, tensor in whole.items():
        same_bits(key, split[key], tensor)
    Expectation(inputs, rounded=dtype != torch.float32).check_results(split)


def test_packed_sequences_are_split_too(triton_host):
    """By the chunks that the longest may have: an empty one, one of a chunk and one of three have the same bits."""
    query, key, value = (tensors[0][0].transpose(0, 1).contiguous() for tensors in operands(9, [900], torch.float16))
    cuts = (torch.tensor(ends, dtype=torch.int32) for ends in ([0, 2, 5, 5, 9], [0, 200, 850, 850, 900]))
    inputs = Inputs("varlen", [query], [key], [value], **dict(zip(("cu_seqlens_q", "cu_seqlens_k"), cuts)))
    split = results(triton_host, inputs, backward=False, processors=64)
    whole = results(triton_host, inputs, backward=False, processors=0)
    for name, tensor in whole.items():
        same_bits(name, split[name], tensor)
    Expectation(inputs, rounded=True).check_results(split)
    for tokens, processors, splits in ((900, 64, 4), (900, 0, 1), (100_000, 10_000, 1)):
        longer = [tensor.new_empty(1).expand(tokens, *tensor.shape[1:]) for tensor in (key, value)]
        call = Lowered(
            query, longer[:1], longer[1:], cu_seqlens_q=inputs.cu_seqlens_q, cu_seqlens_k=inputs.cu_seqlens_k
        )
        device = triton_host.Device("interpreter", processors)
        assert triton_host.plan_rows(call, triton_host.calls.described(call), device, "forward").splits == splits


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["batch", "row"])
def test_offsets_of_more_than_31_bits(triton_host, axis):
    """Operands whose second batch entry, or last row, begins 2^31 numbers behind the first; nothing is in between."""
    far, inputs = 2**31 + 4096, plain_inputs(3, [20], batch=2, heads=1, dim=16)

    def spread(tensor):
        length, dim = tensor.shape[2:]
        steps = (far, dim) if axis == "batch" else (dim * length, far // (length - 1) // 8 * 8)
        room = torch.empty(far + 2 * tensor.numel() + 64 * length, dtype=tensor.dtype)
        return room.as_strided(tensor.shape, (steps[0], dim * length, steps[1], 1)).copy_(tensor)

    wide = inputs.replaced({name: spread(tensor) for name, tensor in inputs.leaves().items()})
    cotangents = plain.cotangents(inputs)
    found, near = (results(triton_host, each, cotangents) for each in (wide, inputs))
    for name, tensor in near.items():
        same_bits(name, found[name], tensor)


def test_a_row_has_its_bits_in_any_tile(triton_host):
    """Few queries share tiles of 16 rows with other heads, many have 64: the same bits, forward and backward."""
    inputs = plain_inputs(100, [333], torch.float32, heads=2, heads_k=1)
    cotangents = plain.cotangents(inputs)
    whole = results(triton_host, inputs, cotangents)
    rows = slice(40, 44)
    part = results(
        triton_host,
        replace(inputs, queries=[inputs.queries[0][:, :, rows]]),
        {name: tensor[:, :, rows] for name, tensor in cotangents.items()},
    )
    for name in ("out", "lse", "grad query 0"):
        same_bits(name, part[name], whole[name][:, :, rows])


def test_bits_do_not_depend_on_the_batch_or_the_packing(triton_host):
    inputs = plain_inputs(70, [90], torch.float32, batch=2, heads_k=1)
    cotangents = plain.cotangents(inputs)
    whole = results(triton_host, inputs, cotangents)

    def packed(tensor):  # (B, H, L, ...) to (B L, H, ...)
        return tensor.transpose(1, 2).flatten(0, 1)

    cuts = {f"cu_seqlens_{axis}": torch.tensor([0, n, 2 * n], dtype=torch.int32) for axis, n in (("q", 70), ("k", 90))}
    varlen = replace(
        inputs.replaced({name: packed(x) for name, x in inputs.leaves().items()}), function="varlen", **cuts
    )
    found = results(triton_host, varlen, {"out": packed(cotangents["out"]), "lse": packed(cotangents["lse"]).T})
    for name in ("out", *(f"grad {leaf}" for leaf in inputs.leaves())):
        same_bits(name, found[name], packed(whole[name]))


@pytest.mark.parametrize("dtype", SLOW_DTYPES, ids=str)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "general"])
def test_isolation(triton_host, dtype, poison, bias):
    """Poison in keys, values, queries and cotangents changes no bit of what does not see it."""
    inputs = replace(plain_inputs(100, [130], dtype, dim=32, heads_k=1), mask=mmk.Mask.window(0, 40))
    if bias:
        inputs = replace(inputs, bias=torch.randn(1, 2, 100, 130, generator=torch.Generator().manual_seed(3)))
    cotangents = plain.cotangents(inputs)
    clean = results(triton_host, inputs, cotangents)
    leaves = {name: tensor.clone() for name, tensor in inputs.leaves().items()}
    leaves["query 0"][:, :, 3], leaves["key 0"][:, :, 110], leaves["value 0"][:, :, 120, ::2] = poison, poison, poison
    cotangents["out"][:, :, 5] = poison
    dirty = results(triton_host, inputs.replaced(leaves), cotangents)
    rows, keys = slice(6, 70), slice(46, 70)  # rows before 70 do not see key 110; rows up to 5 do not see key 46
    for name, places in (("out", rows), ("grad query 0", rows), ("grad key 0", keys), ("grad value 0", keys)):
        same_bits(name, dirty[name][:, :, places], clean[name][:, :, places])
        assert not clean[name].isnan().any()
    assert dirty["grad query 0"][:, :, 80:].isnan().any() and dirty["grad key 0"][:, :, 5:45].isnan().any()


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_value_that_is_not_finite_reaches_those_who_see_it(triton_host, poison):
    query, key, value = (tensors[0] for tensors in operands(40, [70], torch.float32, heads=1))
    value[:, :, 35, 3] = poison
    inputs = Inputs("attention", [query], [key], [value], mmk.Mask.causal())
    found = results(triton_host, inputs, backward=False)["out"]
    assert found[:, :, :35].isfinite().all()
    expected = torch.full((5,), poison)
    same_bits("out", found[0, 0, 35:, 3], expected)


@pytest.mark.parametrize("empty_rows", ["zero", "unmask"])
def test_empty_rows(triton_host, empty_rows):
    stop = (torch.arange(33, dtype=torch.int32) % 5 * 9).view(1, 1, 1, 33)
    mask = mmk.Mask.intervals(torch.zeros_like(stop), stop, empty_rows=empty_rows)
    check(triton_host, replace(plain_inputs(33, [50], heads=1), mask=mask))


@pytest.mark.parametrize("scale", [0.0, -0.3])
def test_a_scale_that_is_not_positive(triton_host, scale):
    check(triton_host, replace(plain_inputs(20, [50], heads=1), options={"scale": scale}))


def test_strides(triton_host):
    """Views of one fused projection, rows that start at odd addresses."""
    fused = torch.randn(1, 50, 3, 2, 65, generator=torch.Generator().manual_seed(5))
    query, key, value = (fused[:, :, i, :, 1:].transpose(1, 2) for i in range(3))
    check(triton_host, Inputs("attention", [query], [key], [value]))


def test_dropout_drops_every_pair(triton_host):
    inputs = replace(plain_inputs(20, [50], torch.float32, heads=1), options={"dropout_p": 1.0, "seed": 3})
    assert not check(triton_host, inputs)["out"].any()


def test_ends_of_sequences_that_lie_are_never_followed(triton_host):
    """Values of cu_seqlens that a GPU cannot have checked: nothing outside the tensors changes what comes out."""
    query, key, value = (tensors[0][0].transpose(0, 1).contiguous() for tensors in operands(20, [30], torch.float16))
    cu_q, cu_k = (torch.tensor(ends, dtype=torch.int32) for ends in ([-3, 9, 90, 95], [-7, 400, 12, 30]))
    inputs = Inputs("varlen", [query], [key], [value], cu_seqlens_q=cu_q, cu_seqlens_k=cu_k)
    found = results(triton_host, inputs)
    true_q, true_k = (torch.tensor(ends, dtype=torch.int32) for ends in ([0, 9, 20, 20], [0, 30, 12, 30]))
    honest = results(triton_host, replace(inputs, cu_seqlens_q=true_q, cu_seqlens_k=true_k))
    same_bits("out", found["out"], honest["out"])


@pytest.mark.parametrize("what", ["mask", "dense", "relative", "decomposed"])
def test_a_plane_too_short_for_a_sequence_is_never_left(triton_host, what):
    """Nobody on a GPU's host knows the longest packed sequence: what is too small for it is not read beyond."""
    query, key, value = (tensors[0][0].transpose(0, 1).contiguous() for tensors in operands(20, [30], torch.float16))
    ends = torch.tensor([0, 20], dtype=torch.int32), torch.tensor([0, 30], dtype=torch.int32)
    call = Lowered(query, [key], [value], cu_seqlens_q=ends[0], cu_seqlens_k=ends[1], scale=0.125)

    def zeros(*shape):  # surrounded by NaN
        large = torch.full([size + 40 for size in shape], torch.nan)
        large[tuple(slice(20, 20 + size) for size in shape)] = 0.0
        return large[tuple(slice(20, 20 + size) for size in shape)]

    short = {
        "mask": {"visible": torch.ones(1, 2, 7, 9, dtype=torch.bool)},
        "dense": {"bias": [zeros(1, 2, 7, 9)], "bias_kind": 1},
        "relative": {"bias": [zeros(2, 5)], "bias_kind": 2, "relative_zero": 2},
        "decomposed": {"bias": [zeros(1, 2, 7, 2), zeros(1, 2, 7, 3)], "bias_kind": 3},
    }[what]
    with interpreted(triton_host) as device:
        out, _ = device.forward(call._replace(**short), True)
        whole, _ = device.forward(call._replace(softcap=0.0), True)
    assert out.isfinite().all()
    assert (out - whole).abs().max() < 1e-3
