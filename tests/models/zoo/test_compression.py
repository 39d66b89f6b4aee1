"""Int8 weights, deployed checkpoints, smaller configurations, and the comparison of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from mmkernels.models.loop import StopRequest
from mmkernels.models.presets import PAGES
from mmkernels.models.saved_run import FILE_NAME
from mmkernels.models.serial import from_json, to_json
from mmkernels.models.zoo.compression import commands
from mmkernels.models.zoo.compression.deployed import Deployed, deploy, load_any
from mmkernels.models.zoo.compression.int8 import load_plain_tensors, plain_tensors, quantize
from mmkernels.models.zoo.compression.smaller import smaller
from mmkernels.models.zoo.compression.study import TEACHER, TEACHER_INT8, Plan, as_table, compare
from mmkernels.models.zoo.evaluate import evaluate
from mmkernels.models.zoo.objectives import choose
from mmkernels.models.zoo.system import System
from mmkernels.models.zoo.task import openmoji_task
from mmkernels.models.zoo.training import Setup, Trainer
from tests.models.zoo.runs import arguments, finish

STEPS = {"vit": 3, "clip": 2}


@pytest.fixture(scope="module")
def teacher(task, tmp_path_factory):
    """The path of a vit's finished run."""
    page = PAGES["vit"]
    trainer = Trainer(task, Setup("vit", page.small, replace(page.recipe, batch=16), STEPS["vit"]))
    finish(trainer)
    path = tmp_path_factory.mktemp("teacher") / FILE_NAME
    trainer.checkpoint().save(path)
    return path


def largest_error(weight, quantized):
    """In units of the row's scale."""
    scale = weight.abs().amax(1, keepdim=True) / 127.5
    return ((quantized - weight).abs() / scale).max().item()


def test_int8_weights_are_the_rounded_ones():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.Conv2d(1, 1, 3), torch.nn.Embedding(5, 7))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantize(model)
    parts = plain_tensors(model)
    assert parts["0.weight:qdata"].dtype == torch.int8 and parts["0.weight:scale"].numel() == 40
    dense = parts["0.weight:qdata"].float() * parts["0.weight:scale"].view(-1, 1)
    assert largest_error(before["0.weight"], dense) <= 0.51
    for name in ("0.bias", "1.weight", "2.weight"):
        assert torch.equal(parts[name], before[name]), name
    x = torch.randn(3, 24)
    torch.testing.assert_close(model[0](x), x @ dense.t() + before["0.bias"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["vit", *(pytest.param(n, marks=pytest.mark.slow) for n in PAGES if n != "vit")])
def test_deployed_int8_says_the_same_after_a_round_trip(new_trainer, tmp_path, name):
    """Bit for bit what the quantised system in memory says; a smaller file; every preset."""
    trainer = new_trainer(name, 1)
    trainer.train_step()
    saved = trainer.checkpoint()
    for precision in ("fp32", "int8"):
        deploy(saved, precision).save(tmp_path / precision)
    loaded = load_any(tmp_path / "int8")
    assert isinstance(loaded, Deployed) and loaded.precision == "int8" and not loaded.optimizer
    quantize(trainer.model)
    batch, model = trainer.batches.batch(3), loaded.build_model(None).eval()
    with torch.no_grad():
        wanted = trainer.model.eval().losses(batch, saved.recipe)
        found = model.losses(batch, saved.recipe)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    spared = (tmp_path / "fp32").stat().st_size - (tmp_path / "int8").stat().st_size
    assert linear and 2.8 * linear < spared <= 3 * linear


def test_deployed_fp32_scores_as_the_checkpoint(teacher, task, tmp_path):
    saved = load_any(teacher)
    deploy(saved).save(tmp_path / "weights")
    loaded = load_any(tmp_path / "weights")
    assert loaded.precision == "fp32" and (tmp_path / "weights").stat().st_size < teacher.stat().st_size / 2
    scores = [evaluate(each.build_model(None), task, each.recipe) for each in (saved, loaded)]
    assert scores[0] == scores[1]


def test_refusals_of_deployed_files(teacher, new_trainer, tmp_path):
    saved = load_any(teacher)
    with pytest.raises(ValueError, match="precision must be one of fp32, int8, got 'int4'"):
        deploy(saved, "int4")
    deploy(saved, "int8").save(tmp_path / "int8")
    with pytest.raises(ValueError, match="is a zoo weights, expected a zoo checkpoint"):
        Trainer.resume(tmp_path / "int8", new_trainer("vit").task)
    content = bytearray((tmp_path / "int8").read_bytes())
    content[-1] ^= 1
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        load_any(tmp_path / "bad")
    tensors = plain_tensors(new_trainer("vit").model)
    with pytest.raises(ValueError, match="is not in both"):
        load_plain_tensors(new_trainer("clip").model, tensors)
    tensors["heads.classification.bias"] = tensors["heads.classification.bias"][1:]
    with pytest.raises(ValueError, match=r"heads.classification.bias is torch.float32 \(\d+,\), expected"):
        load_plain_tensors(new_trainer("vit").model, tensors)


@pytest.mark.parametrize("name", list(PAGES))
def test_smaller_systems_are_systems(new_trainer, name):
    page = PAGES[name]
    config = smaller(page.small, 0.5, 0.5)
    assert from_json(to_json(config)) == config
    sizes = new_trainer(name).sizes
    objectives = [entry for entry, _ in page.recipe.objectives]
    big, small = (sum(p.numel() for p in System(c, sizes, objectives).parameters()) for c in (page.small, config))
    assert choose(objectives, config) and small < 0.6 * big


def test_smaller_keeps_the_size_of_a_head():
    blocks = smaller(PAGES["vit"].small, 0.5, 0.34).image.blocks
    assert (blocks.width, blocks.heads, blocks.layers, blocks.mlp) == (64, 2, 1, 192)
    assert smaller(PAGES["vit"].small, 1.0, 1.0) == PAGES["vit"].small
    with pytest.raises(ValueError, match=r"the share of width must be in \(0, 1\], got 2"):
        smaller(PAGES["vit"].small, 2.0)


def test_comparison(teacher, task, tmp_path):
    with StopRequest() as stop:
        results = compare(teacher, tmp_path, task, Plan(2, seeds=2, rounds=2), None, stop)
        again = compare(teacher, tmp_path, task, Plan(2, seeds=2, rounds=2), None, stop)
        with pytest.raises(ValueError, match="is of another run than this one"):
            compare(teacher, tmp_path, task, Plan(3, seeds=2, rounds=2), None, stop)
    systems = results["systems"]
    assert list(systems) == [
        "teacher", "teacher, int8", "smaller, alone", "smaller, distilled", "smaller, distilled, int8",
    ]  # fmt: skip
    assert json.loads(json.dumps(results))["plan"]["seeds"] == 2
    assert systems[TEACHER]["forward"] == 1.0 and all(entry["forward"] > 0 for entry in systems.values())
    assert systems[TEACHER_INT8]["bytes"] < 0.5 * systems[TEACHER]["bytes"]
    assert systems["smaller, alone"]["parameters"] < 0.5 * systems[TEACHER]["parameters"]
    for name, entry in systems.items():
        assert len(entry["scores"]) == (1 if name.startswith("teacher") else 2)
        assert entry["scores"] == again["systems"][name]["scores"], "finished runs are not trained again"
    assert systems["smaller, alone"]["scores"][0] != systems["smaller, alone"]["scores"][1]
    title, head, rows = as_table(results)
    assert title == "vit, classification: accuracy, %" and {len(row) for row in rows} == {len(head)}
    assert "±" in rows[2][-1] and "±" not in rows[0][-1]
    assert (tmp_path / "teacher-int8.safetensors").stat().st_size == systems[TEACHER_INT8]["bytes"]


def test_command(teacher, task, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands, "load_task", lambda *_: task)
    line = f"{teacher.parent} --out {tmp_path} --steps 1 --rounds 1"
    assert commands.compress(arguments(f"{line} --json", commands.add_arguments)) == 0
    results = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / commands.RESULTS_NAME).read_text()) == results
    assert commands.compress(arguments(line, commands.add_arguments)) == 0
    assert "smaller, distilled, int8" in capsys.readouterr().out
    for wrong in ("--rounds 0", "--width 0", "--steps -1", "--weight 2", "--temperature 0"):
        with pytest.raises(ValueError, match="must be"):
            commands.compress(arguments(f"{line} {wrong}", commands.add_arguments))


@pytest.mark.nightly
def test_int8_keeps_the_accuracy(full_corpus, tmp_path):
    """docs/compression.md: within a point on known things in unseen views, in less than a third of the bytes."""
    page, task = PAGES["vit"], openmoji_task(32, full_corpus)
    trainer = Trainer(task, Setup("vit", page.small, page.recipe, 600))
    finish(trainer)
    scores, sizes = {}, {}
    for precision in ("fp32", "int8"):
        deploy(trainer.checkpoint(), precision).save(tmp_path / precision)
        loaded = load_any(tmp_path / precision)
        scores[precision] = evaluate(loaded.build_model(None), task, loaded.recipe)["classification"]
        sizes[precision] = (tmp_path / precision).stat().st_size
    for side in ("held_out", "known_views"):
        assert abs(scores["int8"][side][0].model - scores["fp32"][side][0].model) <= 1.0, side
    assert scores["fp32"]["known_views"][0].model > 2 * scores["fp32"]["known_views"][0].baseline
    assert sizes["int8"] < sizes["fp32"] / 3
