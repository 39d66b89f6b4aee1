"""Builds and imports the emulator (docs/kernels/emulator.md)."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from tests.device import triton_interpreter
from tools import native


@pytest.fixture(scope="session")
def emulator() -> ModuleType:
    """The module; MMKERNELS_EMULATOR names a folder with one that is already built (under sanitizers)."""
    built = os.environ.get("MMKERNELS_EMULATOR")
    path = next(Path(built).glob("mmk_emulator*.so")) if built else native.emulator().run()
    spec = importlib.util.spec_from_file_location("mmk_emulator", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def triton_host() -> ModuleType:
    """The host side of the Triton attention kernels, which are interpreted."""
    pytest.importorskip("triton", reason="triton is not installed")
    return triton_interpreter.load()


@pytest.fixture(scope="session")
def triton_contrastive_host() -> ModuleType:
    """That of the contrastive_loss kernels."""
    pytest.importorskip("triton", reason="triton is not installed")
    return triton_interpreter.load(op="contrastive")
