"""Safetensors files that are written whole or not at all, and refuse to load when a single bit has changed."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmkernels.files import write_atomically

FORMAT = "mmkernels 1"
PLACEHOLDER = "0" * 64  # stands where the checksum goes while the file is hashed
CHECKSUM_KEY = b'"sha256":"'


def save_sealed(path: Path, kind: str, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Writes tensors and JSON metadata to one safetensors file, atomically.

    The file is written beside its destination, flushed to the disk and then renamed, so that at every moment either
    the old file or the new one is there. Its header carries a sha256 over the whole file (with the digest's own place
    filled by zeros).

    Args:
        path: destination; its folder is made if need be.
        kind: what the file is, for the reader to insist on.
        metadata: anything JSON can say.
    """
    from safetensors.torch import save

    header = {"format": FORMAT, "kind": kind, "metadata": json.dumps(metadata), "sha256": PLACEHOLDER}
    # Without contiguous(), safetensors refuses channels-last tensors.
    content = bytearray(save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata=header))
    at = _digest_position(content)
    content[at : at + 64] = hashlib.sha256(content).hexdigest().encode()
    write_atomically(path, bytes(content))


def load_sealed(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file that `save_sealed` wrote.

    Raises:
        ValueError: no such file, not one of ours, of another kind, or damaged; in one sentence.
    """
    from safetensors.torch import load

    try:
        content = bytearray(path.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
    header = _read_header(path, content)
    if not str(header.get("format", "")).startswith("mmkernels") or "sha256" not in header:
        raise ValueError(f"{path} is a safetensors file, but not a {kind} of mmkernels")
    at = _digest_position(content)
    stored = bytes(content[at : at + 64])
    content[at : at + 64] = PLACEHOLDER.encode()
    if hashlib.sha256(content).hexdigest().encode() != stored:
        raise ValueError(f"{path} is damaged: its checksum does not fit its content")
    if header["format"] != FORMAT:
        raise ValueError(f'{path} has format "{header["format"]}", this version of mmkernels reads "{FORMAT}"')
    if header["kind"] != kind:
        raise ValueError(f"{path} is a {header['kind']}, expected a {kind}")
    return load(bytes(content)), json.loads(header["metadata"])


def kind_of(path: Path) -> str | None:
    """What a file says it is, its content unchecked; None where it is not one of ours, or not there."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
            content = bytearray(start + file.read(min(struct.unpack("<Q", start)[0], path.stat().st_size)))
        return _read_header(path, content).get("kind")
    except (OSError, ValueError, struct.error):
        return None


def prepare_folder(folder: Path) -> None:
    """Makes the folder of a file to come, so that hours of work are not lost to a path that cannot be written.

    Raises:
        ValueError: that is not possible; in one sentence.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write to the folder {folder}: {error.strerror or error}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"cannot write to the folder {folder}: it is read-only for this user")


def fingerprint(*parts: Any) -> str:
    """A short hash of JSON values and tensors, to tell whether two runs are about the same data."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(part.contiguous().view(torch.uint8).numpy().tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _read_header(path: Path, content: bytearray) -> dict[str, str]:
    """The `__metadata__` of a safetensors file: 8 bytes of length, then that much JSON, then the tensors."""
    try:
        (length,) = struct.unpack("<Q", content[:8])
        if 8 + length > len(content):
            raise ValueError("the header is longer than the file")
        header = json.loads(content[8 : 8 + length])["__metadata__"]
        if not isinstance(header, dict):
            raise TypeError("__metadata__ is not an object")
        return header
    except (struct.error, ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not a file of mmkernels, or damaged: its header cannot be read") from None


def _digest_position(content: bytearray) -> int:
    # The metadata JSON inside the header is escaped (\"), so that this byte string occurs once.
    return content.index(CHECKSUM_KEY) + len(CHECKSUM_KEY)
