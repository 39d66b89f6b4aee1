"""The cases of attention: every provider computes the same as ours, so that the times are of the same thing."""

from __future__ import annotations

import pytest
import torch

from bench.attention.accuracy import reference
from bench.attention.call import Call, make_call
from bench.attention.problems import named
from bench.attention.providers import PROVIDERS
from bench.attention.work import work_of

SMALL = (
    "text-to-image 77x1024", "Q-Former 32x257", "mllama 32x1601", "joint padded text", "ViT 197", "SAM 7x4096 D16",
    "Perceiver 512x4096 D261", "T5 512 relative bias", "ALiBi 577 causal", "learned bias 196", "packed images D80",
    "packed captions on patches", "half padding 128x1024", "causal 1024", "window 2048", "bool mask 512x1024",
)  # fmt: skip
COMPILED = ("FlexAttention",)
BY_NAME = {provider.name: provider for provider in PROVIDERS}


def small_call(name: str, dtype: str, backward: bool) -> tuple[Call, object]:
    problem = named(name).scaled_down()
    return make_call(problem, dtype, backward), problem


def results_of(provider_name: str, call: Call) -> list[dict[str, torch.Tensor]]:
    found = []
    for way in BY_NAME[provider_name].prepare(call):
        found.append({name: x.detach().clone() for name, x in way.results(way.run()).items()})
    return found


def close(found, expected, tolerance: float) -> None:
    assert set(found) >= set(expected)
    for name, tensor in expected.items():
        rows = tensor.abs().sum(-1, keepdim=True) > 0  # rows that see nothing: ours are 0, the naive ones NaN
        a, b = torch.where(rows, found[name].float(), 0.0), torch.where(rows, tensor.float(), 0.0)
        assert a.shape == b.shape, name
        assert (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max())), name


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("provider", ["SDPA", "naive"])
def test_torch_providers(provider: str, name: str) -> None:
    """Forward and every gradient, by every way."""
    call, _ = small_call(name, "float32", backward=name != "bool mask 512x1024" or provider == "SDPA")
    (expected,) = results_of("mmkernels", call)
    for found in results_of(provider, call):
        close(found, expected, 2e-5)


@pytest.mark.parametrize("provider", ["SDPA", "naive"])
def test_torch_providers_in_bf16(provider: str) -> None:
    for name in ("text-to-image 77x1024", "learned bias 196"):
        call, _ = small_call(name, "bfloat16", backward=True)
        (expected,) = results_of("mmkernels", call)
        for found in results_of(provider, call):
            close(found, expected, 0.04)


@pytest.mark.parametrize("provider", ["ONNX Runtime", "OpenVINO"])
def test_graph_runtimes(provider: str) -> None:
    if BY_NAME[provider].version() is None:
        pytest.skip(f"{provider} is not installed (pip install '.[bench]')")
    for name in SMALL:
        call, _ = small_call(name, "float32", backward=False)
        (expected,) = results_of("mmkernels", call)
        for found in results_of(provider, call):
            close(found, expected, 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_flex_attention(name: str) -> None:
    """Compiles for seconds each."""
    call, _ = small_call(name, "float32", backward=False)
    (expected,) = results_of("mmkernels", call)
    for found in results_of("FlexAttention", call):
        close(found, expected, 2e-5)


def test_gpu_peers_say_why_not():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    from bench.case import Case

    case = Case(named("square 1024"), "bfloat16", False, ())
    for name in ("flash-attn", "xformers", "cuDNN SDPA"):
        assert BY_NAME[name].why_not(case) == "no GPU here"


@pytest.mark.parametrize("name", ["text-to-image 77x1024", "Q-Former 32x257", "packed images D80", "learned bias 196"])
@pytest.mark.parametrize("backward", [False, True])
def test_the_error_is_that_of_the_slice_compared(name: str, backward: bool) -> None:
    """Ours is within what the tests allow; a single wrong element is seen."""
    call, _ = small_call(name, "float32", backward)
    expected = reference(call)
    (found,) = results_of("mmkernels", call)
    assert expected.error(found).allowed <= 1
    for result in expected.expected:
        spoiled = {key: x.clone() for key, x in found.items()}
        spoiled[result].view(-1)[0] += 0.01
        assert expected.error(spoiled).allowed > 1, result
        spoiled[result].view(-1)[0] = torch.nan
        assert expected.error(spoiled).absolute == float("inf"), result


def test_work_counts_visible_pairs():
    dense = work_of(named("text-to-image 77x1024").make(torch.float32), False)
    assert dense.pairs == 2 * 8 * 77 * 1024 and dense.flops == dense.pairs * 4 * 64 and dense.tile_share == 1
    assert work_of(named("text-to-image 77x1024").make(torch.float32), True).flops == dense.pairs * 14 * 64
    causal = work_of(named("causal 1024").make(torch.float32), False)
    assert causal.pairs == 8 * 1024 * 1025 // 2
    assert causal.tile_share == (16 * 17 / 2) / 16**2
    packed = work_of(named("packed varlen").make(torch.float32), False)
    assert packed.pairs == 8 * (77 * 33 + 130 * 600 + 1 * 1)
    half = work_of(named("half padding 128x1024").make(torch.bfloat16), False)
    assert half.tile_share == 0.5 and half.pairs == 8 * 128 * 2048
    query, out = 4 * 8 * 128 * 64 * 2, 4 * 8 * 128 * 64 * 2
    assert half.bytes == query + out + 2 * (4 * 8 * 1024 * 64 * 2)
