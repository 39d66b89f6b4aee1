"""What the cuda backend says of itself: why it is not there, what it refuses, and what has not been verified."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch

import mmkernels as mmk
from mmkernels import _native, _native_cuda, backend, cli
from mmkernels.backend import Problem
from mmkernels.ops.attention import cuda

GPU = torch.device("cuda", 0)


@pytest.fixture
def fresh(monkeypatch):
    """Asked again, and forgotten afterwards."""
    _native_cuda.why_not_loaded.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    _native_cuda.why_not_loaded.cache_clear()


@pytest.mark.parametrize(
    ("version", "file", "sentence"),
    [
        (None, None, "is not a CUDA build"),
        ("13.0", None, "_cuda.abi3.so was not built"),
        ("13.0", "not a library", "_cuda.abi3.so could not be loaded: "),
    ],
)
def test_why_the_library_is_not_there(fresh, tmp_path, version, file, sentence):
    library = tmp_path / "_cuda.abi3.so"
    if file is not None:
        library.write_text(file)
    fresh.setattr(torch.version, "cuda", version)
    fresh.setattr(_native_cuda, "LIBRARY", library)
    assert sentence in _native_cuda.why_not_loaded()
    assert sentence in _native_cuda.description()
    assert any(sentence in reason for reason in cuda.why_not(problem()))


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        ("2.9.1+cu128", "it needs torch 2.10 or newer, and this is 2.9.1+cu128"),
        ("2.10.0a0+git", "file too short"),  # what the system says of an empty library
        ("3.0.0", "file too short"),
    ],
)
def test_why_a_library_does_not_load(monkeypatch, tmp_path, version, sentence):
    """The reason itself, not torch's word that the file could not be loaded."""
    library = tmp_path / "_C.abi3.so"
    library.touch()
    monkeypatch.setattr(torch, "__version__", version)
    assert sentence in str(_native.why_not_opened(library))


def test_switched_off(fresh):
    fresh.setenv("MMKERNELS_DISABLE_NATIVE", "1")
    assert "MMKERNELS_DISABLE_NATIVE is set" in _native_cuda.why_not_loaded()


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is a CUDA build")
def test_info_on_a_cpu_torch(capsys):
    assert cli.run(["info"]) == 0
    told = capsys.readouterr().out
    assert f"CUDA library     torch {torch.__version__} is not a CUDA build" in told
    assert f"not available: torch {torch.__version__} is not a CUDA build" in told
    assert "is not a CUDA build" in str(mmk.explain(*torch.randn(3, 1, 2, 4, 8)))


def test_importing_it_loads_nothing():
    """The library is loaded when something is first asked of it; its module costs under 5 ms."""
    code = (
        "import time, torch, mmkernels._native\n"
        "start = time.perf_counter(); import mmkernels._native_cuda as native; spent = time.perf_counter() - start\n"
        "assert native.why_not_loaded.cache_info().misses == 0 and spent < 0.005, spent\n"
        "import mmkernels as mmk; x = torch.randn(1, 1, 4, 8); mmk.attention(x, x, x)\n"
        "assert native.why_not_loaded.cache_info().misses == 0"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# ---- with a library and a device ----


@pytest.fixture
def hopper(monkeypatch):
    """As if the library were loaded, on a device of compute capability 9.0."""
    monkeypatch.setattr(_native_cuda, "why_not_loaded", lambda: None)
    monkeypatch.setattr(_native_cuda, "architectures", lambda: ("8.0", "9.0"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    backend.select.cache_clear()
    yield monkeypatch
    backend.select.cache_clear()


def problem(dim=64, segments=1, dtype=torch.float16, device=GPU, bias=()) -> Problem:
    shape = (2, 4, 16, dim)
    return Problem("attention_forward", device, dtype, (shape,) * (1 + 2 * segments), frozenset(), frozenset(bias))


def test_what_it_takes(hopper):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert not cuda.why_not(problem(dtype=dtype, dim=256, segments=16, bias=[torch.float32]))
    assert backend.order_of("cuda")[0] == "cuda"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dim": 257}, "head dimension 257 is above 256"),
        ({"segments": 17}, "17 segments are more than 16"),
        ({"dtype": torch.float64}, "it has no torch.float64 kernels"),
        ({"bias": [torch.float64]}, "it reads no bias in torch.float64"),
        ({"device": torch.device("cpu")}, "the tensors are on cpu, not on a GPU"),
    ],
)
def test_what_it_refuses(hopper, changes, sentence):
    assert cuda.why_not(problem(**changes)) == [sentence]


def test_a_device_that_the_library_was_not_built_for(hopper):
    hopper.setattr(torch.cuda, "get_device_capability", lambda device: (12, 0))
    (reason,) = cuda.why_not(problem())
    assert reason == "cuda:0 has compute capability 12.0, the library was built for 8.0, 9.0"


@pytest.mark.parametrize(
    ("architectures", "capability", "expected"),
    [
        ("8.0", (8, 0), True),
        ("8.0", (8, 9), True),
        ("8.6", (8, 0), False),
        ("8.0", (9, 0), False),
        ("8.0+PTX", (9, 0), True),
        ("9.0a", (9, 0), True),
        ("9.0a", (9, 1), False),
        ("8.9 10.0", (10, 3), True),
        ("12.0+PTX", (11, 0), False),
        ("8.0+PTX", (7, 5), False),
    ],
)
def test_which_devices_run_which_code(architectures, capability, expected):
    assert _native_cuda.covers(tuple(architectures.split()), capability) == expected


def test_the_first_use_warns_once(hopper):
    hopper.setattr(backend, "_warned", set())
    sentence = "no architecture has been verified on hardware yet, and this device has compute capability 9.0"
    with pytest.warns(RuntimeWarning, match=f"unverified cuda backend: {sentence}"):
        assert backend.select(problem()) is cuda
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend.select(problem(dim=32))
    assert backend.choose(problem()).unverified == [sentence]
    hopper.setattr(_native_cuda, "VERIFIED", ((9, 0),))
    hopper.setattr(backend, "_warned", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend.select(problem(dim=16))
    hopper.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert "only compute capability 9.0 has been verified" in backend.choose(problem()).unverified[0]
