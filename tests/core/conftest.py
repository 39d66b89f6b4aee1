"""Builds and imports the pybind11 module over csrc/core and csrc/cpu/simd.h."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from tools import native

INSTRUCTION_SETS = ("baseline", "avx2", "vec16", "avx512", "avx512bf16")


@pytest.fixture(scope="session")
def core() -> ModuleType:
    """The module; MMKERNELS_TEST_MODULE names a folder with one that is already built (under sanitizers)."""
    built = os.environ.get("MMKERNELS_TEST_MODULE")
    path = next(Path(built).glob("mmk_core_tests*.so")) if built else native.tests().run()
    spec = importlib.util.spec_from_file_location("mmk_core_tests", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=INSTRUCTION_SETS)
def lanes(request: pytest.FixtureRequest, core: ModuleType):
    """The vector functions of one instruction set."""
    tables = core.lanes()
    if request.param not in tables:
        pytest.skip(f"this processor cannot run {request.param}, only {', '.join(tables)}")
    return tables[request.param]
