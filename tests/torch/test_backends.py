"""backends(), explain() and the choice of a backend; the library that is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

import mmkernels as mmk
from mmkernels import _native, _native_cuda, backend
from mmkernels.ops.attention import cpu, reference
from tests.torch.samples import needs_native, tensors

SHAPES = ((1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 8))


def test_table_of_backends():
    table = mmk.backends()
    assert list(table) == ["cpu", "cuda", "triton", "reference"]
    assert table["reference"]["available"] and "attention" in table["reference"]["ops"]
    for name, here in (("cuda", _native_cuda.why_not_here() is None), ("triton", False)):
        assert table[name]["available"] == here and bool(table[name]["reasons"]) != here
    assert table["cpu"]["available"] == _native.loaded
    assert "not available" in str(table) and json.loads(json.dumps(table)) == table


@needs_native
def test_explain_says_which_and_why_not():
    query, key, value = tensors(*SHAPES)
    answer = mmk.explain(query, [key, key], [value, value], mask=mmk.Mask.causal(), dropout_p=0.5)
    for direction in ("forward", "backward"):
        choice = answer[direction]
        assert choice.backend == "cpu" and set(choice.why_not) == {"cuda", "triton", "reference"}
        assert {"mask", "dropout", "segments"} <= choice.problem.features
    text = str(answer)
    assert "forward: cpu runs attention_forward" in text and "the tensors are on cpu, not on a GPU" in text


def test_explain_float64_and_named_backends():
    query, key, value = tensors(*SHAPES, dtype=torch.float64)
    assert mmk.explain(query, key, value)["forward"].backend == "reference"
    refused = mmk.explain(query, key, value, backend="cpu")["backward"]
    assert refused.backend is None and any("float64" in sentence for sentence in refused.why_not["cpu"])
    with pytest.raises(ValueError, match="backend must be"):
        mmk.explain(query, key, value, backend="none")
    with pytest.raises(ValueError, match="key has shape"):
        mmk.explain(query, key[0], value)


@pytest.mark.parametrize("bias", [torch.randn(5, 7), mmk.RelativeBias(torch.randn(2, 11))], ids=["dense", "relative"])
def test_a_bias_that_a_backend_cannot_read_goes_to_one_that_can(bias):
    query, key, value = tensors(*SHAPES)
    wide = torch.utils._pytree.tree_map(torch.Tensor.double, bias)
    assert mmk.explain(query, key, value, bias=wide)["backward"].backend == "reference"
    expected = mmk.attention(query, key, value, bias=bias, backend="reference")
    torch.testing.assert_close(mmk.attention(query, key, value, bias=wide), expected)
    with pytest.raises(backend.BackendNotAvailable, match=r"backend='cpu' cannot run .* in torch\.float64"):
        mmk.attention(query, key, value, bias=wide, backend="cpu")


@needs_native
def test_what_explain_says_is_what_runs(monkeypatch):
    ran = []
    for module, where in ((cpu, "cpu"), (reference, "reference")):
        for name in ("forward", "backward"):
            original = getattr(module, name)

            def watched(*args, _original=original, _name=f"{where} {name}"):
                ran.append(_name)
                return _original(*args)

            monkeypatch.setattr(module, name, watched)
    for dtype, expected in ((torch.float32, "cpu"), (torch.float64, "reference")):
        for named in (None, "reference"):
            leaves = tensors(*SHAPES, dtype=dtype, grad=True)
            ran.clear()
            mmk.attention(*leaves, mask=mmk.Mask.causal(), backend=named).sum().backward()
            assert ran == [f"{named or expected} forward", f"{named or expected} backward"]


def test_named_backend_never_falls_back():
    query, key, value = tensors(*SHAPES)
    for name in ("cuda", "triton"):
        for call in (lambda n: mmk.attention(query, key, value, backend=n),
                     lambda n: mmk.attention(query, key, value, mask=mmk.Mask.causal(), backend=n)):  # fmt: skip
            with pytest.raises(backend.BackendNotAvailable, match=f"backend='{name}' cannot run"):
                call(name)


def test_answers_are_cached_per_problem():
    problem = backend.Problem("attention_forward", torch.device("cpu"), torch.float32, ((1, 1, 1, 8),) * 3)
    backend.select(problem)
    before = backend.select.cache_info().hits
    assert backend.select(problem) is backend.select(problem)
    assert backend.select.cache_info().hits == before + 2


def test_other_devices_have_the_reference_only():
    problem = backend.Problem("attention_forward", torch.device("meta"), torch.float32, ((1, 1, 1, 8),) * 3)
    choice = backend.choose(problem)
    assert choice.backend == "reference" and "not on the CPU" in " ".join(choice.why_not["cpu"])


def test_without_the_library_everything_runs_on_the_reference():
    program = (
        "import torch, mmkernels as mmk\n"
        "x = torch.randn(1, 2, 5, 8, requires_grad=True)\n"
        "mmk.attention(x, x, x).sum().backward()\n"
        "print(mmk.explain(x, x, x)['forward'].backend, mmk.backends()['cpu']['reasons'])\n"
        "try: mmk.attention(x, x, x, backend='cpu')\n"
        "except ValueError as error: print(error)\n"
    )
    environment = os.environ | {"MMKERNELS_DISABLE_NATIVE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    chosen, refusal = result.stdout.strip().splitlines()
    assert chosen.startswith("reference [") and "MMKERNELS_DISABLE_NATIVE" in chosen
    assert "backend='cpu' cannot run" in refusal and "MMKERNELS_DISABLE_NATIVE" in refusal
