"""The PTX for sm_90 of the Triton kernels, with wgmma, in the PTX interpreter against fp64: bf16 included."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

import mmkernels as mmk
from bench.attention.inputs import Inputs
from tests import plain, tolerance
from tests.contrastive import naive as pairs
from tests.contrastive.rule import Expectation as OfLoss
from tests.device import triton_contrastive, triton_fusion, triton_interpreter
from tests.device.ptx import PtxError
from tests.device.test_attention_forward import operands
from tests.fusion import naive as sources
from tests.fusion.rule import Expectation as OfFusion

pytest.importorskip("triton", reason="triton is not installed")
from mmkernels.ops.attention.triton_kernels import host, tables
from mmkernels.ops.contrastive.triton_kernels import host as contrastive_host
from mmkernels.ops.contrastive.triton_kernels import tables as contrastive_tables
from mmkernels.ops.fusion.triton_kernels import host as fusion_host
from mmkernels.ops.fusion.triton_kernels import host_backward, host_forward, launch
from mmkernels.ops.fusion.triton_kernels import tables as fusion_tables
from tests.device import triton_compile
from tests.device.triton_compile import in_ptx

TILE = tables.Tile(height=64, keys=64, chunk=128, warps=4, stages=2)
"""The lowest that wgmma serves."""


@contextmanager
def texts(monkeypatch: pytest.MonkeyPatch, *edits: tuple[str, str]) -> Iterator[list[str]]:
    """The PTX that runs meanwhile, with every match of an edit's pattern replaced."""
    found: list[str] = []

    def module(text: str) -> triton_compile.Module:
        for pattern, replacement in edits:
            text, count = re.subn(pattern, replacement, text)
            assert count
        found.append(text)
        return before(text)

    before = triton_compile.Module
    monkeypatch.setattr(triton_compile, "Module", module)
    yield found


def check(inputs: Inputs, backward: bool = True, tile: tables.Tile = TILE) -> None:
    with in_ptx(host, tables=tables, arch="sm_90", tile=tile), triton_interpreter.interpreted(host):
        found = plain.run(inputs, "triton", plain.cotangents(inputs) if backward else None)
    tolerance.Expectation(inputs, rounded=inputs.dtype != torch.float32).check_results(found)


def causal(dtype: torch.dtype, dim: int, rows: int = 70, keys: int = 150) -> Inputs:
    mask = mmk.Mask.causal(align="bottom_right")
    return Inputs("attention", *operands(rows, [keys], dtype, heads=1, dim=dim), mask, options={})


def test_bfloat16_forward(monkeypatch):
    with texts(monkeypatch) as found:
        check(causal(torch.bfloat16, 32), backward=False)
    assert all("wgmma.mma_async" in text for text in found)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "dim"), [(torch.bfloat16, 64), (torch.float16, 32)], ids=str)
def test_plain(dtype, dim):
    check(causal(dtype, dim))


@pytest.mark.nightly
@pytest.mark.parametrize("dim", [16, 128])
def test_other_head_dims(dim):
    """Other swizzles, and operands of several patterns."""
    check(causal(torch.bfloat16, dim), tile=TILE._replace(keys=32 if dim == 128 else 64))


@pytest.mark.slow
def test_widest_heads(monkeypatch):
    """256 features: the widest product of a warp group; keys are read again for each tile of rows."""
    with texts(monkeypatch) as found:
        check(causal(torch.bfloat16, 256, rows=20, keys=50))
    assert any("m64n256k16" in text for text in found)


@pytest.mark.nightly
def test_two_warp_groups():
    check(causal(torch.bfloat16, 64, rows=130), tile=TILE._replace(height=128, warps=8))


@pytest.mark.slow
def test_general():
    """Segments whose dropout counters are not aligned, a bias with a gradient, grouped heads, a narrow value."""
    inputs = Inputs("attention", *operands(70, [33, 60], torch.bfloat16, heads=2, heads_k=1, dim=24, dim_v=16))
    inputs = replace(inputs, mask=mmk.Mask.window(50, 30), options={"softcap": 2.0, "dropout_p": 0.2, "seed": 7})
    check(replace(inputs, bias=torch.randn(1, 2, 70, 93, generator=torch.Generator().manual_seed(1))))


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        pytest.param(r"fence\.proxy\.async[^;]*;", "", id="no proxy fence"),
        pytest.param(r"wgmma\.wait_group\.sync\.aligned 0;", "wgmma.wait_group.sync.aligned 7;", id="no wait"),
        pytest.param(r"wgmma\.fence\.sync\.aligned;", "", id="no wgmma fence"),
    ],
)
def test_planted(monkeypatch, pattern, replacement):
    """What the compiler must have put in, taken out."""
    with texts(monkeypatch, (pattern, replacement)), pytest.raises((AssertionError, PtxError)):
        check(causal(torch.bfloat16, 32, rows=20, keys=70), backward=False)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["none", "layer"])
def test_fusion(monkeypatch, norm):
    tile = fusion_tables.Tile(height=64, width=64, depth=32, warps=4, stages=2)
    extra = {"gate": (18,), "residual": (2, 40, 18), "activation": "gelu"} if norm == "layer" else {}
    case = sources.Case(((2, 40, 40), (2, 1, 7)), 18, norm=norm, **extra)
    expected = OfFusion(case, case.operands(torch.bfloat16), rounded=True)
    kernels = in_ptx(host_forward, host_backward, launch, tables=fusion_tables, arch="sm_90", tile=tile)
    with texts(monkeypatch) as found, kernels, triton_fusion.interpreted(fusion_host):
        expected.check("triton")
    assert any("wgmma.mma_async" in text for text in found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_contrastive(monkeypatch, kind):
    """In two bands."""
    tile = contrastive_tables.Tile(rows=64, columns=64, depth=32, warps=4, stages=2)
    case = pairs.Case(70, 75, 40, kind, "several", 0.1)
    kernels = in_ptx(contrastive_host, tables=contrastive_tables, arch="sm_90", tile=tile)
    with texts(monkeypatch) as found, kernels, triton_contrastive.interpreted(contrastive_host, band_pairs=1):
        OfLoss(case, case.operands(torch.bfloat16)).check("triton")
    assert any("wgmma.mma_async" in text for text in found)
