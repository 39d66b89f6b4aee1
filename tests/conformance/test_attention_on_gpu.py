"""The GPU backends of attention on a device; `make gpu-check` counts these tests, if they launched something."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import mmkernels as mmk
from bench.attention.inputs import Inputs
from bench.attention.problems import PROBLEMS, Problem
from mmkernels.ops.attention import cuda
from mmkernels.ops.attention.lowered import Lowered
from tests.backends import dtypes
from tests.conformance.test_empty_rows import MASKS, make
from tests.on_gpu import Counted, counted, on_backends
from tests.tolerance import Expectation, same_bits


@pytest.fixture(autouse=True)
def module(backend: str, record_property) -> Iterator[Counted]:
    """The backend of the test, whose calls are counted."""
    yield from counted("attention", backend, record_property)


def check(inputs: Inputs, backend: str) -> dict[str, torch.Tensor]:
    return Expectation(inputs, rounded=inputs.dtype != torch.float32).check(backend, "cuda")


@on_backends
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
@dtypes()
def test_problems_on_gpu(problem: Problem, dtype: torch.dtype, backend: str) -> None:
    if max(problem.dim, problem.dim_v or 0) > cuda.MAX_HEAD_DIM:
        pytest.skip("a head dimension that the GPU kernels do not take")
    check(problem.make(dtype, seed=0, scale_down=True), backend)


@on_backends
@pytest.mark.parametrize("mask", MASKS)
@dtypes()
def test_empty_rows_on_gpu(mask: str, dtype: torch.dtype, backend: str) -> None:
    for empty_rows in ("zero", "unmask"):
        check(make(dtype, MASKS[mask](empty_rows=empty_rows), dropout_p=0.2, seed=5), backend)


@on_backends
@pytest.mark.parametrize("dim", [1, 7, 8, 16, 31, 64, 65, 72, 80, 96, 128, 160, 192, 255, 256])
@dtypes()
def test_head_dims_on_gpu(dim: int, dtype: torch.dtype, backend: str) -> None:
    query, key, value = (torch.randn(1, heads, n, dim).to(dtype) for heads, n in ((4, 19), (2, 70), (2, 70)))
    check(Inputs("attention", [query], [key], [value], mmk.Mask.causal("bottom_right")), backend)


def operands(dtype: torch.dtype = torch.float16) -> list[torch.Tensor]:
    return [torch.randn(2, 4, 300, 64, device="cuda").to(dtype).requires_grad_() for _ in range(3)]


@on_backends
@dtypes()
def test_bits_repeat_on_gpu(dtype: torch.dtype, backend: str) -> None:
    tensors = operands(dtype)

    def run() -> list[torch.Tensor]:
        out = mmk.attention(*tensors, mask=mmk.Mask.causal(), dropout_p=0.1, seed=3, backend=backend)
        return [out, *torch.autograd.grad(out.float().square().sum(), tensors)]

    for first, again in zip(run(), run(), strict=True):
        same_bits("run to run", first, again)


@on_backends
def test_graph_capture_on_gpu(backend: str) -> None:
    """A replay sees new operands, a new seed and new index tensors: nothing was read or waited for on the host."""
    query, key, value = (tensor.detach() for tensor in operands())
    seed = torch.zeros((), dtype=torch.int64, device="cuda")
    stop = torch.full((2, 1, 300), 200, dtype=torch.int32, device="cuda")

    def run() -> torch.Tensor:
        mask = mmk.Mask.intervals(torch.zeros_like(stop), stop, empty_rows="unmask")
        return mmk.attention(query, key, value, mask=mask, dropout_p=0.2, seed=seed, backend=backend)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    query.copy_(torch.randn_like(query))
    seed.fill_(77)
    stop[:, :, ::3] = 0
    graph.replay()
    same_bits("replay", captured.clone(), run())


@on_backends
def test_current_stream_on_gpu(backend: str) -> None:
    """Work on a stream sees what that stream wrote before."""
    query, key, value = (tensor.detach() for tensor in operands())
    expected = mmk.attention(query, key, value, backend=backend)
    late = torch.zeros_like(query)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()) as _:
        torch.cuda._sleep(50_000_000)
        late.copy_(query)
        found = mmk.attention(late, key, value, backend=backend)
    torch.cuda.synchronize()
    same_bits("late", found, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@on_backends
def test_another_device_on_gpu(backend: str) -> None:
    tensors = [tensor.detach().to("cuda:1") for tensor in operands()]
    assert mmk.attention(*tensors, backend=backend).device == torch.device("cuda:1")
    assert torch.cuda.current_device() == 0


@on_backends
def test_index_values_are_clamped_on_gpu(module: Counted, backend: str) -> None:
    """The host checks none: nonsense must not reach outside a tensor. compute-sanitizer watches this test."""
    query, key, value = (tensor.detach() for tensor in operands())
    bounds = [torch.full((1, 1, 1, 1), bound, dtype=torch.int32, device="cuda") for bound in (-(2**31), 2**31 - 1)]
    call = Lowered(query, [key], [value], scale=0.125)
    found, _ = module.forward(call._replace(start=bounds[0], stop=bounds[1]), False)
    same_bits("clamped", found, module.forward(call, False)[0])
    cu = torch.tensor([0, 10**6, 5, -3], dtype=torch.int32, device="cuda")
    packed = [tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value)]
    module.forward(Lowered(packed[0], [packed[1]], [packed[2]], cu_seqlens_q=cu, cu_seqlens_k=cu), True)
    torch.cuda.synchronize()


@on_backends
def test_large_offsets_on_gpu(backend: str) -> None:
    """More than 2**31 elements in one tensor; only the last heads are compared."""
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GiB of free memory on the device")
    heads, length, dim = 66, 2**18, 128  # 2.2e9 elements
    key = torch.zeros(1, heads, length, dim, dtype=torch.float16, device="cuda")
    key[:, -1].normal_()
    query = torch.randn(1, heads, 16, dim, dtype=torch.float16, device="cuda")
    found = mmk.attention(query, key, key, backend=backend)
    same_bits("last head", found[:, -1:], mmk.attention(query[:, -1:], key[:, -1:], key[:, -1:], backend=backend))


@on_backends
def test_double_check_against_torch_on_gpu(backend: str) -> None:
    """Full length, beside torch's own kernels, in case the fp64 reference's small problems miss something."""
    tensors = [tensor.detach() for tensor in operands(torch.float32)]
    expected = torch.nn.functional.scaled_dot_product_attention(*(tensor.double() for tensor in tensors))
    torch.testing.assert_close(mmk.attention(*tensors, backend=backend).double(), expected, rtol=1e-4, atol=1e-5)
