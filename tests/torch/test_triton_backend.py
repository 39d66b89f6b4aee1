"""The "triton" backend where it cannot run: reasons, never an ImportError; and what it does not import."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest
import torch

import mmkernels as mmk
from mmkernels import _triton


@pytest.fixture(autouse=True)
def asked_anew():
    for answer in (_triton.why_not_installed, _triton.why_not_here):
        answer.cache_clear()
    yield
    for answer in (_triton.why_not_installed, _triton.why_not_here):
        answer.cache_clear()


def explained() -> str:
    operand = torch.randn(1, 2, 5, 16)
    return str(mmk.explain(operand, operand, operand))


def test_the_package_imports_no_triton():
    code = (
        "import mmkernels, torch, sys; x = torch.randn(1, 1, 4, 8); mmkernels.attention(x, x, x); print(*sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "mmkernels.ops.attention.triton" in found
    assert not [name for name in found if "triton_kernels" in name or name == "mmkernels.triton_blocks"]


def test_tensors_on_a_cpu():
    reasons = [line for line in explained().splitlines() if line.strip().startswith("not triton:")]
    assert len(reasons) == 2 and all("the tensors are on cpu, not on a GPU" in line for line in reasons)


def test_triton_is_missing(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert "not triton: triton is not installed" in explained()
    assert _triton.why_not_here() == "triton is not installed"
    operand = torch.randn(1, 2, 5, 16)
    with pytest.raises(ValueError, match="triton is not installed"):
        mmk.attention(operand, operand, operand, backend="triton")


@pytest.mark.parametrize("version", ["3.6.1", "2.3.0", "weird"])
def test_triton_is_too_old(monkeypatch, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert f"triton {version} is older than 3.7" in explained()


@pytest.mark.parametrize("version", ["3.7.0", "3.10.0", "4.0.0+git1"])
def test_triton_is_new_enough(monkeypatch, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert _triton.why_not_installed() is None


def test_what_the_kernels_refuse():
    operand = torch.randn(1, 2, 5, 300)
    assert "head dimension 300 is above 256" in str(mmk.explain(operand, operand, operand))
