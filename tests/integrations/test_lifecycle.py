"""What happens to a patched model afterwards: pickled, copied, moved, taken back."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="transformers is not installed")

import mmkernels as mmk
from tests.integrations.cases import rows
from tests.integrations.checks import (
    Count,
    check_pickled,
    error,
    forward,
    make,
)
from tests.integrations.table import BY_NAME, ROWS, SAMPLE
from tests.integrations.test_patch import Functional


@pytest.fixture
def unregistered(monkeypatch):
    """A process in which nobody has called `register`, as far as transformers can tell."""
    from transformers import AttentionInterface, AttentionMaskInterface

    def forget():
        for interface in (AttentionInterface, AttentionMaskInterface):
            monkeypatch.delitem(interface._global_mapping, "mmkernels", raising=False)

    return forget


# Grounding DINO has hooks of the library's that cannot be pickled, patched or not.
@rows(*[row for row in ROWS if row.patched and "DINO" not in row.name])
def test_pickled_whole(row, unregistered):
    check_pickled(row, between=unregistered)


@rows(*SAMPLE)
def test_pickled_by_the_oldest_protocol(row, unregistered):
    check_pickled(row, 0, unregistered)


def test_a_reverted_model_is_pickled_as_it_was():
    model, _ = make(BY_NAME["CLIP, patched"])
    before = pickle.dumps(model)
    mmk.patch(model).revert()
    assert pickle.dumps(model) == before and b"mmkernels" not in before


def test_a_pickle_gives_back_the_very_class():
    for module in (nn.MultiheadAttention(8, 2), Functional()):
        mmk.patch(module)
        other = pickle.loads(pickle.dumps(module))
        assert type(other) is type(module)


LOAD = """
import sys
import torch

sys.path.insert(0, {root!r})
model, inputs, expected = torch.load({path!r}, weights_only=False)
assert "tests.integrations.rows" not in sys.modules
with torch.autograd.profiler.profile() as profile:
    found = model(**inputs)
assert torch.equal(found.last_hidden_state, expected)
print(sum("mmkernels_cpu::attention_forward" in event.name for event in profile.function_events))
"""


@rows(BY_NAME["BERT"], BY_NAME["VisualBERT"], sample=False)
def test_saved_whole_and_loaded_by_a_process_that_imports_nothing_else(row, tmp_path):
    model, inputs = make(row)
    mmk.patch(model)
    path = tmp_path / "model.pt"
    torch.save((model, inputs, model(**inputs).last_hidden_state.detach()), path)
    code = LOAD.format(root=str(Path(__file__).parents[2]), path=str(path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(row.calls)]


@rows(*SAMPLE)
def test_copied_deeply_and_the_first_taken_back(row):
    model, inputs = make(row)
    report = mmk.patch(model)
    expected = forward(row, model, inputs)
    other = copy.deepcopy(model)
    report.revert()
    count = Count()
    with count.here():
        found = forward(row, other, inputs)
    assert count.calls == row.calls
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@rows(*SAMPLE)
def test_moved_to_another_dtype(row):
    model, inputs = make(row)
    doubled = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    exact = forward(row, copy.deepcopy(model).double(), doubled)
    mmk.patch(model)
    for a, b in zip(forward(row, model.double(), doubled), exact, strict=True):
        assert a.dtype == torch.float64 and error(a, b) < 1e-6
    halved = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
    count = Count()
    with count.here():
        found = forward(row, model.bfloat16(), halved)
    assert count.calls == row.calls
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == torch.bfloat16 and error(a.double(), b) < 0.1


def test_a_state_dict_goes_from_patched_to_plain_and_back():
    row = BY_NAME["VisualBERT"]
    model, inputs = make(row)
    plain = copy.deepcopy(model)
    mmk.patch(model)
    expected = forward(row, model, inputs)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    plain.load_state_dict(torch.load(buffer))
    mmk.patch(plain)
    assert all(torch.equal(a, b) for a, b in zip(forward(row, plain, inputs), expected, strict=True))
