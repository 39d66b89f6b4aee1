"""The CUDA attention backward kernels, run by the emulator behind the forward's, against the fp64 reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import mmkernels as mmk
from bench.attention.inputs import Inputs
from bench.attention.problems import named
from tests import plain
from tests.backends import DTYPES
from tests.device.attention import emulated
from tests.device.test_attention_forward import SERVED, dtype_of, operands
from tests.tolerance import Expectation, same_bits

QUICK = ("Q-Former 32x257", "CLIP text 77", "packed varlen", "rows of finfo.min", "SAM 7x4096 D16")
SOFT = {"softcap": 2.0, "dropout_p": 0.2, "seed": 7}


def gradients(emulator, inputs, cotangents=None, **options):
    """Outputs and gradients of the call on the emulator."""
    with emulated(emulator, **options) as device:
        found = plain.run(inputs, "cuda", cotangents or plain.cotangents(inputs))
    assert device.told, "no kernel ran"
    return found


def check(emulator, inputs, **options):
    found = gradients(emulator, inputs, **options)
    Expectation(inputs, rounded=inputs.dtype != torch.float32).check_results(found)
    return found


def plain_inputs(rows, k_lens, dtype=torch.float16, **shape):
    return Inputs("attention", *operands(rows, k_lens, dtype, **shape))


@pytest.mark.parametrize("name", QUICK)
def test_problem(emulator, name):
    problem = named(name)
    check(emulator, problem.make(dtype_of(problem), scale_down=True))


@pytest.mark.slow
@pytest.mark.parametrize("problem", SERVED, ids=lambda problem: problem.name)
def test_every_problem(emulator, problem):
    """The dtypes in turn."""
    check(emulator, problem.make(DTYPES[SERVED.index(problem) % len(DTYPES)], scale_down=True))


@pytest.mark.nightly
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("problem", SERVED, ids=lambda problem: problem.name)
def test_every_problem_in_every_dtype(emulator, problem, dtype):
    check(emulator, problem.make(dtype, scale_down=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("general", [False, True], ids=["plain", "general"])
@pytest.mark.parametrize("dim", [16, 64, 72, 256])
def test_every_kernel_of_the_table(emulator, dtype, general, dim):
    """On a ragged problem: partial tiles of rows and keys, two tiles of each, a mask."""
    inputs = replace(plain_inputs(77, [101], dtype, heads=1, dim=dim), mask=mmk.Mask.causal(align="bottom_right"))
    if general:
        bias = torch.randn(1, 1, 77, 101, generator=torch.Generator().manual_seed(1))
        inputs = replace(inputs, bias=bias, options=SOFT)
    check(emulator, inputs)


@pytest.mark.parametrize(("rows", "keys"), [(1, 1), (64, 64), (65, 63), (300, 3), (3, 0), (0, 5)])
def test_ragged_sizes(emulator, rows, keys):
    check(emulator, plain_inputs(rows, [keys]))


@pytest.mark.parametrize("dims", [(1, 1), (7, 33), (64, 8), (40, 100), (129, 3)])
def test_head_dims(emulator, dims):
    dim, dim_v = dims
    check(emulator, plain_inputs(20, [90], torch.bfloat16, dim=dim, dim_v=dim_v))


def test_chunks_of_keys_and_of_rows(emulator):
    """Sums that rest in device memory in between: 1024 keys, 256 rows of each head of a group."""
    check(emulator, plain_inputs(300, [1100], torch.bfloat16, heads=2, heads_k=1, dim=32))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 4, 70, 90), (1, 1, 70, 90), (2, 1, 1, 90), (1, 4, 70, 1), (1, 1, 1, 1)], ids=str)
def test_dense_bias(emulator, dtype, shape):
    inputs = plain_inputs(70, [90], dtype, batch=2, heads=4, heads_k=2, dim=32)
    check(emulator, replace(inputs, bias=torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)))


@pytest.mark.parametrize("options", [{}, SOFT], ids=["alone", "softcap and dropout"])
@pytest.mark.parametrize("width", [9, 90])
def test_factored_bias(emulator, options, width):
    """A table, and a grid's rows and columns, over two key segments."""
    inputs = replace(plain_inputs(70, [13, 77], heads=2, dim=32), options=options)
    check(emulator, replace(inputs, bias=mmk.RelativeBias(torch.randn(2, 159))))
    check(
        emulator,
        replace(inputs, bias=mmk.DecomposedBias(torch.randn(1, 2, 70, 90 // width), torch.randn(1, 2, 70, width))),
    )


def test_windows_of_a_bias(emulator):
    """Of 64 entries: a second one with one entry of a grid, and one whose last tile of rows sees no key."""
    grid = mmk.DecomposedBias(torch.randn(1, 1, 37, 65), torch.randn(1, 1, 37, 2))
    check(emulator, replace(plain_inputs(37, [130], heads=1, dim=32), bias=grid))
    stop = (90 * (torch.arange(70, dtype=torch.int32) < 64)).view(1, 1, 1, 70)
    mask = mmk.Mask.intervals(torch.zeros_like(stop), stop)
    check(emulator, replace(plain_inputs(70, [90], heads=2, dim=32), bias=torch.randn(1, 2, 1, 90), mask=mask))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("broadcast", ["queries", "keys", "values", "keys values"])
def test_broadcast_batches(emulator, dtype, broadcast):
    """Their gradients are summed over the batch, keys and values each for itself."""
    inputs = plain_inputs(40, [70], dtype, batch=3, heads_k=1)
    check(emulator, replace(inputs, **{name: [getattr(inputs, name)[0][:1]] for name in broadcast.split()}))


def test_gradients_not_wanted_are_not_needed_by_others(emulator):
    inputs = replace(plain_inputs(40, [70]), bias=torch.randn(1, 2, 40, 70))
    whole = gradients(emulator, inputs)
    cotangents = plain.cotangents(inputs)
    for name, leaf in inputs.leaves().items():
        wanted = leaf.detach().requires_grad_()
        with emulated(emulator):
            found = inputs.replaced({name: wanted}).run("cuda")
        with emulated(emulator):
            (grad,) = torch.autograd.grad(list(found.values()), [wanted], [cotangents[key] for key in found])
        same_bits(name, grad, whole[f"grad {name}"])


@pytest.mark.parametrize(
    "name", ["packed varlen", "bias of -inf", "scattered mask", pytest.param("everything", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("seed", range(3))
def test_thread_orders(emulator, name, seed):
    """Whatever the order of threads, blocks and landings, no race is seen and every bit is the same."""
    inputs = named(name).make(torch.float16, scale_down=True)
    first, found = gradients(emulator, inputs), gradients(emulator, inputs, seed=1000 * seed + 17)
    for key, tensor in first.items():
        same_bits(key, found[key], tensor)


def test_bits_do_not_depend_on_the_batch_or_the_packing(emulator):
    inputs = plain_inputs(70, [90], batch=2, heads_k=1)
    cotangents = plain.cotangents(inputs)
    whole = gradients(emulator, inputs, cotangents)
    alone = inputs.replaced({name: tensor[1:] for name, tensor in inputs.leaves().items()})
    found = gradients(emulator, alone, {name: tensor[1:] for name, tensor in cotangents.items()})
    for name, tensor in found.items():
        same_bits(name, tensor, whole[name][1:])

    def packed(tensor):  # (B, H, L, ...) to (B L, H, ...)
        return tensor.transpose(1, 2).flatten(0, 1)

    cuts = {f"cu_seqlens_{axis}": torch.tensor([0, n, 2 * n], dtype=torch.int32) for axis, n in (("q", 70), ("k", 90))}
    varlen = replace(
        inputs.replaced({name: packed(x) for name, x in inputs.leaves().items()}), function="varlen", **cuts
    )
    found = gradients(emulator, varlen, {"out": packed(cotangents["out"]), "lse": packed(cotangents["lse"]).T})
    for name in ("out", *(f"grad {leaf}" for leaf in inputs.leaves())):
        same_bits(name, found[name], packed(whole[name]))


def test_a_mask_that_hides_nothing_changes_no_bit(emulator):
    """The general kernels have other tiles, and the same sums."""
    inputs = plain_inputs(70, [90], torch.bfloat16)
    bare = gradients(emulator, inputs)
    masked = gradients(
        emulator, replace(inputs, mask=mmk.Mask.causal(align="bottom_right") & mmk.Mask.window(None, None))
    )
    assert not torch.equal(bare["grad key 0"], masked["grad key 0"]), "a causal mask hides something"
    open_mask = mmk.Mask.intervals(torch.zeros(70, dtype=torch.int32), torch.full((70,), 90, dtype=torch.int32))
    for name, tensor in gradients(emulator, replace(inputs, mask=open_mask)).items():
        same_bits(name, tensor, bare[name])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "general"])
def test_isolation(emulator, dtype, poison, bias):
    """Poison in keys, values, queries and cotangents changes no bit of what does not see it."""
    inputs = replace(plain_inputs(100, [130], dtype, dim=32, heads_k=1), mask=mmk.Mask.window(0, 40))
    if bias:
        inputs = replace(inputs, bias=torch.randn(1, 2, 100, 130, generator=torch.Generator().manual_seed(3)))
    cotangents = plain.cotangents(inputs)
    clean = gradients(emulator, inputs, cotangents)
    leaves = {name: tensor.clone() for name, tensor in inputs.leaves().items()}
    leaves["query 0"][:, :, 3], leaves["key 0"][:, :, 110], leaves["value 0"][:, :, 120, ::2] = poison, poison, poison
    cotangents["out"][:, :, 5] = poison
    dirty = gradients(emulator, inputs.replaced(leaves), cotangents)
    rows, keys = slice(6, 70), slice(46, 70)  # rows before 70 do not see key 110; rows up to 5 do not see key 46
    for name, places in (("grad query 0", rows), ("grad key 0", keys), ("grad value 0", keys)):
        same_bits(name, dirty[name][:, :, places], clean[name][:, :, places])
        assert not clean[name].isnan().any()
    assert dirty["grad query 0"][:, :, 80:].isnan().any() and dirty["grad key 0"][:, :, 5:45].isnan().any()


@pytest.mark.parametrize("empty_rows", ["zero", "unmask"])
def test_empty_rows(emulator, empty_rows):
    stop = (torch.arange(33, dtype=torch.int32) % 5 * 9).view(1, 1, 1, 33)
    mask = mmk.Mask.intervals(torch.zeros_like(stop), stop, empty_rows=empty_rows)
    check(emulator, replace(plain_inputs(33, [50]), mask=mask))


def test_keys_that_no_row_sees_have_zero_gradients(emulator):
    found = check(emulator, replace(plain_inputs(33, [200]), mask=mmk.Mask.key_lengths(torch.tensor([20]))))
    assert not found["grad key 0"][:, :, 20:].any() and not found["grad value 0"][:, :, 20:].any()


def test_a_scale_that_is_not_positive(emulator):
    for scale in (0.0, -0.3):
        check(emulator, replace(plain_inputs(20, [50]), options={"scale": scale}))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides_and_alignment(emulator, dtype):
    """Views of one fused projection, rows that start at odd addresses."""
    fused = torch.randn(1, 50, 3, 2, 65, generator=torch.Generator().manual_seed(5)).to(dtype)
    query, key, value = (fused[:, :, i, :, 1:].transpose(1, 2) for i in range(3))
    check(emulator, Inputs("attention", [query], [key], [value]))
