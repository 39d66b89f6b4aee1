"""The end-to-end benchmark of other libraries' models: its sides share parameters, and a wrong one is told."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="transformers is not installed")

from bench.integrations import __main__ as program
from bench.integrations.__main__ import EAGER, OURS, SDPA, main, measure, sides
from bench.integrations.published import MODELS, Model, floats
from tests.integrations import named_rows


def tiny(attention):
    """CLIP with the widths of the tests."""
    import transformers as tf

    config = tf.CLIPConfig(text_config=named_rows.TEXT, vision_config=named_rows.VISION, projection_dim=16)
    return tf.CLIPModel._from_config(config, attn_implementation=attention)


TINY = Model("tiny CLIP", tiny, lambda: named_rows.text_and_pixels(None), ("images", 2), "4 heads of 8")


def test_there_are_ten():
    assert len(MODELS) == 10 and all(model.name == name for name, model in MODELS.items())


def test_sides_share_parameters_and_differ_in_attention():
    found = sides(TINY)
    assert list(found) == [EAGER, SDPA, OURS]
    assert {side.config._attn_implementation for side in found.values()} == {"eager", "sdpa", "mmkernels"}
    first = list(found[EAGER].parameters())
    for side in found.values():
        assert all(a is b for a, b in zip(side.parameters(), first, strict=True))


def test_a_measurement(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "MODELS", {"tiny CLIP": TINY})
    out = tmp_path / "integrations.json"
    arguments = ["--rounds", "2", "--seconds", "0.01", "--dtypes", "float32", "--out", str(out)]
    assert main(arguments) == 0
    calls = json.loads(out.read_text())["calls"]
    assert [call["work"] for call in calls] == ["forward", "training step"]
    for call in calls:
        assert call["runs"].keys() == call["per second"].keys() == {EAGER, SDPA, OURS}
        assert call["per second"][OURS] == pytest.approx(2 / call["runs"][OURS]["median"])
        assert call["ratios"].keys() == {EAGER, SDPA} and 0 < call["difference"] < 1e-5
    before = out.read_text()
    assert main([*arguments, "--resume"]) == 0
    assert json.loads(out.read_text())["calls"] == json.loads(before)["calls"]
    assert main(["--models", "no such model"]) == 2


def test_outputs_that_differ_are_told(monkeypatch):
    patch = program.mmk.patch

    def wrong(model):
        model.visual_projection = nn.Linear(32, 16, bias=False)
        return patch(model)

    monkeypatch.setattr(program.mmk, "patch", wrong)
    calls = measure(TINY, "float32", most=1, seconds=0.01)
    assert not any(call["agree"] for call in calls)


def test_a_model_that_is_not_served_is_refused():
    plain = nn.Linear(2, 2)
    plain._supports_sdpa = False
    with pytest.raises(RuntimeError, match="linear: nothing was served"):
        sides(Model("linear", lambda attention: plain, dict, ("rows", 1), ""))


def test_floats_are_found_in_any_output():
    a, b = torch.ones(2), torch.ones(3)
    assert [x.numel() for x in floats((a, [b, {"not": a}], torch.ones(4, dtype=torch.long)))] == [2, 3]
