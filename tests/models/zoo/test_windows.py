"""Local attention: what is timed, in which order, and what the commands say of it."""

from __future__ import annotations

import json

import pytest

from mmkernels.cli import run
from mmkernels.models.config import SystemConfig, TextConfig, TransformerConfig, VideoConfig, VitConfig, with_window
from mmkernels.models.presets import PAGES
from mmkernels.models.zoo import window_times as module
from mmkernels.models.zoo.window_times import (
    parse_windows,
    tower_layers,
    window_tables,
    window_times,
    windows_as_json,
)

TINY = TransformerConfig(width=16, heads=2, layers=1, mlp=16)


def test_towers():
    assert list(tower_layers(PAGES["clip"].small)) == ["image", "text"]
    assert tower_layers(PAGES["clip"].small)["text"][1] and not tower_layers(PAGES["bert"].small)["text"][1]
    assert tower_layers(PAGES["uniter"].small) == {}, "a CNN, and words without layers"
    assert list(tower_layers(PAGES["audio"].small)) == ["image", "text"]
    assert list(tower_layers(SystemConfig(image=VideoConfig(VitConfig(TINY))))) == ["image"]


def test_every_window_once_a_round_and_ratios_round_by_round(monkeypatch):
    """A machine that is ten times slower in one round changes no ratio."""
    asked = []

    def step(block, x, window, causal):
        asked.append(window)
        slow = 10.0 if (len(asked) - 1) // 3 == 2 else 1.0
        return slow * {4: 1e-3, 8: 2e-3, None: 4e-3}[window]

    monkeypatch.setattr(module, "_step", step)
    times = window_times(SystemConfig(text=TextConfig(TINY)), (4, None, 8), tokens=32, rounds=3)
    assert [t.window for t in times["text"]] == [4, 8, None], "full attention stands last"
    turns = [tuple(asked[at : at + 3]) for at in range(0, len(asked), 3)]
    assert len(turns) == 1 + 3 and len(set(turns)) == 3 and all(set(turn) == {4, 8, None} for turn in turns)
    assert [(t.ratio, t.low, t.high) for t in times["text"]] == [(4.0,) * 3, (2.0,) * 3, (1.0,) * 3]
    assert [round(t.ms, 6) for t in times["text"]] == [1.0, 2.0, 4.0]


def test_a_window_saves_time_in_both_towers():
    config = SystemConfig(image=VitConfig(TINY), text=TextConfig(TINY, causal=True))
    times = window_times(config, (8,), tokens=1024, rounds=3)
    assert list(times) == ["image", "text"]
    for entries in times.values():
        assert [t.name for t in entries] == ["8", "none"] and entries[0].ratio > 1.2
    (title, head, rows), _ = window_tables(times, 1024)
    assert title == "A layer of the image tower over 1,024 tokens, forward and backward"
    assert len(head) == 4 and rows[1][2] == "1.00 x"
    plain = windows_as_json(times, 1024)
    assert plain["tokens"] == 1024 and set(plain["text"]["8"]) == {"ms", "ratio", "low", "high"}


def test_windows_as_written():
    assert parse_windows("4, 8,none,8") == (4, 8, None)
    for wrong in ("4,,8", "0", "-1", "4.5", "many"):
        with pytest.raises(ValueError, match="windows must be positive numbers or none"):
            parse_windows(wrong)
    with pytest.raises(ValueError, match="windows need a Transformer tower"):
        window_times(PAGES["uniter"].small)


def test_windows_of_clips_and_sounds():
    assert with_window(PAGES["audio"].small, 9).image.blocks.window == 9
    config = with_window(SystemConfig(image=VideoConfig(VitConfig(TINY, pool="class"))), 3)
    assert config.image.picture.blocks.window == 3 and config.image.picture.pool == "mean"
    with pytest.raises(ValueError, match="window needs a Transformer tower"):
        with_window(PAGES["video"].small, 3)


def test_eval_shows_them(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_step", lambda block, x, window, causal: 1e-3 * (window or 12))
    arguments = ["train", "--preset", "audio", "--steps", "1", "--batch", "8", "--window", "6", "--out", str(tmp_path)]
    assert run(arguments) == 0
    capsys.readouterr()
    assert run(["eval", str(tmp_path), "--windows", "6,none", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["windows"]
    assert found["tokens"] == 2048 and found["image"]["6"]["ratio"] == 2.0 and set(found["image"]) == {"6", "none"}
    assert run(["eval", str(tmp_path), "--windows", "6"]) == 0
    assert "A layer of the image tower" in capsys.readouterr().out
    assert run(["eval", str(tmp_path), "--windows", "some"]) == 2
    assert "windows must be positive numbers or none, got 'some'" in capsys.readouterr().err
