"""The host side of the CUDA backend without a GPU: its Python and its ops, above kernels of the CPU (cuda_double.cpp).

Tensors on the CPU are sent the way of a GPU's. What the device does is not tested here, nor are streams and guards.
"""

from __future__ import annotations

import pytest
import torch

from bench.attention.problems import PROBLEMS, Problem
from mmkernels import _native, _native_cuda
from mmkernels.ops.attention import cpu, cuda
from mmkernels.ops.attention.lowered import Lowered
from tests.backends import dtypes
from tests.build import doubles
from tests.build.doubles import ON_GPU
from tests.conformance.test_empty_rows import MASKS, make
from tests.tolerance import Expectation, check_call

pytestmark = [
    pytest.mark.skipif(not _native.loaded, reason=f"no native library: {_native.why_not_loaded}"),
    pytest.mark.skipif(_native_cuda.why_not_loaded() is None, reason="the real CUDA library is loaded"),
]


@pytest.fixture(scope="module")
def double():
    with doubles.loaded("attention", "cuda_double", ("attention_forward", "attention_backward")) as ops:
        yield ops


@pytest.fixture
def backend_name(double, monkeypatch):
    with doubles.chosen(monkeypatch, cuda) as name:
        yield name


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_problems(backend_name: str, problem: Problem) -> None:
    """Every named problem, forward and backward: its features arrive at the kernels as they were meant."""
    if max(problem.dim, problem.dim_v or 0) > cuda.MAX_HEAD_DIM:
        pytest.skip("a head dimension that the CUDA kernels do not take")
    Expectation(problem.make(torch.float32, seed=0, scale_down=True)).check(backend_name)


@pytest.mark.parametrize("mask", MASKS)
@dtypes(torch.float32, torch.bfloat16)
def test_empty_rows(backend_name: str, mask: str, dtype: torch.dtype) -> None:
    for empty_rows in ("zero", "unmask"):
        check_call(make(dtype, MASKS[mask](empty_rows=empty_rows), dropout_p=0.2, seed=5), backend_name)


def test_an_exact_flag_is_read_on_the_device(double) -> None:
    """The dense part is there and wrong; only the flag's value says not to read it."""
    query, key, value = torch.randn(3, 1, 2, 5, 8)
    bounds = [torch.full((1, 1, 1, 1), bound, dtype=torch.int32) for bound in (1, 4)]
    call = Lowered(query, [key], [value], *bounds, visible=torch.zeros(1, 1, 1, 5, dtype=torch.bool))
    seen, _ = cuda.forward(call._replace(interval_exact=torch.tensor(True)), True)
    hidden, _ = cuda.forward(call._replace(interval_exact=torch.tensor(False)), True)
    expected, _ = cuda.forward(call._replace(visible=None), True)
    torch.testing.assert_close(seen, expected, rtol=0, atol=0)
    assert not hidden.any() and expected.any()


def call_of(*sizes: int, dtype: torch.dtype = torch.float32) -> Lowered:
    query, key, value = torch.randn(3, *sizes).to(dtype)
    return Lowered(query, [key], [value])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"start": torch.zeros(1, 1, 1, 1), "stop": torch.zeros(1, 1, 1, 1)}, "start and stop must be int32"),
        ({"visible": torch.ones(1, 1, 3, 6, dtype=torch.bool)}, "mask has size 3 on axis 2, expected 1 or 6"),
        ({"bias": [torch.zeros(1, 1, 6, 5)], "bias_kind": 1}, "bias has size 5 on axis 3, expected 1 or 6"),
        ({"dropout_p": 0.5}, "dropout needs an int64 seed"),
        ({"interval_exact": torch.zeros(2, dtype=torch.bool)}, "interval_exact must be one bool"),
        ({"keys": [torch.zeros(1, 2, 6, 8)] * 17, "values": [torch.zeros(1, 2, 6, 8)] * 17}, "at most 16 segments"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_shapes_are_checked(double, change: dict, sentence: str) -> None:
    """What Python's front has checked, once more: no caller can make a kernel read outside a tensor."""
    with pytest.raises(ValueError, match=sentence):
        cuda.forward(call_of(1, 2, 6, 8)._replace(**change), True)


def test_tensors_elsewhere(double) -> None:
    call = call_of(1, 2, 6, 8)._replace(visible=torch.ones(1, 1, 6, 6, dtype=torch.bool, device="meta"))
    with pytest.raises(RuntimeError, match="every tensor must be on one device"):
        double.attention_forward.default.redispatch(ON_GPU, *call, torch.empty(1, 2, 6, 8), None)


def test_head_dims_above_the_limit(double) -> None:
    with pytest.raises(ValueError, match="head dims to 256, got 257 and 257"):
        cuda.forward(call_of(1, 2, 6, 257), False)


def test_index_values_are_not_read(double) -> None:
    """Nonsense passes: the kernels clamp it. The CPU's library complains of the same call."""
    bounds = {"start": torch.tensor([-5]).int(), "stop": torch.tensor([99]).int()}
    call = call_of(1, 2, 6, 8)._replace(**{name: bound.view(1, 1, 1, 1) for name, bound in bounds.items()})
    out, _ = cuda.forward(call, False)
    torch.testing.assert_close(out, cuda.forward(call._replace(start=None, stop=None), False)[0], rtol=0, atol=0)
    with pytest.raises(ValueError, match="mask interval start is -5"):
        cpu.forward(call, False)


def test_a_launch_that_fails_raises(double) -> None:
    call = call_of(1, 2, 6, 8)
    double.refuse("out of resources")
    try:
        with pytest.raises(RuntimeError, match="CUDA refused to launch the attention kernels: out of resources"):
            cuda.forward(call, True)
    finally:
        double.refuse("")


@pytest.mark.parametrize("sizes", [(0, 2, 6, 8), (1, 2, 0, 8), (2, 0, 6, 8)], ids=str)
def test_nothing_is_launched_for_nothing(double, sizes: tuple[int, ...]) -> None:
    double.refuse("there is nothing to launch")
    try:
        query = torch.zeros(sizes)
        key = torch.zeros(sizes[0], 1, 6, 8)
        call = Lowered(query, [key], [key])
        out, lse = cuda.forward(call, True)
        assert out.shape == sizes
        _, keys, _, _ = cuda.backward(out, None, call, out, lse, [True] * 4)
        assert not keys[0].any()
    finally:
        double.refuse("")
