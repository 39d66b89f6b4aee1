"""Sealed files: what was written comes back, and nothing else is accepted."""

from __future__ import annotations

import os
import random

import pytest
import torch
from safetensors.torch import save_file

from mmkernels.models.sealed import fingerprint, load_sealed, save_sealed

KIND = "test file"


TENSORS = {
    "a": torch.arange(60.0).view(3, 4, 5),
    "channels last": torch.arange(96.0).view(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "scalar": torch.tensor(2, dtype=torch.int64),
    "empty": torch.zeros(0, 3),
    "half": torch.linspace(-2, 2, 7).bfloat16(),
}
METADATA = {"text": 'with "sha256":"quotes"', "list": [1, None]}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "folder" / "sealed.safetensors"
    save_sealed(path, KIND, TENSORS, METADATA)
    return path


def test_round_trip(path):
    tensors, metadata = load_sealed(path, KIND)
    assert metadata == METADATA
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)


def test_every_flipped_bit_is_refused(path):
    content = path.read_bytes()
    rng = random.Random(0)
    places = {0, 7, 8, 20, len(content) - 1, *(rng.randrange(len(content)) for _ in range(300))}
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"sealed\.safetensors"):
            load_sealed(path, KIND)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_file_is_refused(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"header cannot be read|checksum"):
        load_sealed(path, KIND)


def test_appended_bytes_are_refused(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="checksum"):
        load_sealed(path, KIND)


def test_foreign_files_are_refused(path, tmp_path):
    plain = tmp_path / "plain.safetensors"
    save_file({"a": torch.zeros(2)}, plain)
    with pytest.raises(ValueError, match="header cannot be read"):
        load_sealed(plain, KIND)
    save_file({"a": torch.zeros(2)}, plain, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not a test file of mmkernels"):
        load_sealed(plain, KIND)
    plain.write_text("not even that")
    with pytest.raises(ValueError, match="header cannot be read"):
        load_sealed(plain, KIND)
    with pytest.raises(ValueError, match="is a test file, expected a checkpoint"):
        load_sealed(path, "checkpoint")
    with pytest.raises(ValueError, match="No such file"):
        load_sealed(tmp_path / "absent", KIND)


def test_failed_write_leaves_the_old_file(path, monkeypatch):
    def fail(*arguments):
        raise OSError("the disk is full")

    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk is full"):
        save_sealed(path, KIND, {"a": torch.zeros(9)}, {})
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_fingerprint_depends_on_every_part():
    x = torch.arange(6, dtype=torch.uint8)
    assert fingerprint([1], x) == fingerprint([1], x.clone())
    assert len({fingerprint([1], x), fingerprint([2], x), fingerprint([1], x + 1)}) == 3
