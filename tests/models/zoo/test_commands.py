"""The command line for the zoo."""

from __future__ import annotations

import json

import pytest

from mmkernels.cli import run
from mmkernels.models.saved_run import FILE_NAME
from mmkernels.models.zoo.checkpoint import ZooCheckpoint

SHORT = ["--preset", "vit", "--steps", "3", "--batch", "8", "--json"]


def refused(capsys, arguments):
    """What a refused command says."""
    capsys.readouterr()
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    return said.err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with the checkpoint of a finished run."""
    out = tmp_path_factory.mktemp("run")
    assert run(["train", *SHORT, "--objective", "classification:2,masked_patches", "--out", str(out)]) == 0
    return out


def test_train_eval_resume(finished, capsys):
    saved = ZooCheckpoint.load(finished / FILE_NAME)
    assert saved.recipe.objectives == (("classification", 2.0), ("masked_patches", 1.0)) and saved.recipe.batch == 8
    assert sorted(entry.name for entry in finished.iterdir()) == [FILE_NAME, "log.jsonl", "log.svg"]
    capsys.readouterr()
    assert run(["eval", str(finished), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    accuracy = results["classification"]["held_out"]["accuracy"]
    assert results["preset"] == "vit" and set(accuracy) == {"model", "chance", "majority"}
    assert run(["eval", str(finished)]) == 0
    assert "classification, held-out concepts" in capsys.readouterr().out
    assert run(["train", "--resume", "--out", str(finished), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 3


def test_fine_tuning(finished, capsys, tmp_path):
    capsys.readouterr()
    assert run(["train", *SHORT, "--start", str(finished / FILE_NAME), "--out", str(tmp_path)]) == 0
    assert "tensors begin as in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--preset", "vit", "--objective", "contrastive"], "needs an image tower and a text tower"),
        (["--preset", "vit", "--objective", "sleeping"], "objective must be one of"),
        (["--preset", "vit", "--steps", "0"], "steps must be at least 1"),
        (["--preset", "vit", "--steps", "2", "--minutes", "1"], "not both"),
        (["--preset", "vit", "--minutes", "nan"], "--minutes must be positive"),
        (["--preset", "vit", "--schedule", "stairs"], "schedule must be one of"),
        (["--preset", "vit", "--autocast", "fp4"], "autocast must be one of"),
        (["--preset", "align", "--window", "2", "--objective", "vqa", "--rate", "-1"], "rate must be positive"),
        (["--preset", "vit:giant"], "the published sizes of preset vit are base"),
        (["--preset", "vit", "--start", "nowhere"], "cannot read nowhere"),
        (["--preset", "tiny", "--objective", "contrastive", "--compile"], "belong to the presets clip"),
        (["--preset", "vit", "--steps", "1", "--backend", "fast"], "backend must be None or one of"),
        (["--preset", "vit", "--dropout", "1.5"], "dropout must be in"),
    ],
)
def test_wrong_arguments(capsys, tmp_path, arguments, sentence):
    assert sentence in refused(capsys, ["train", "--out", str(tmp_path), *arguments])
    assert not list(tmp_path.iterdir())


def test_resume_takes_its_setup_from_the_checkpoint(finished, capsys):
    said = refused(capsys, ["train", "--resume", "--out", str(finished), "--objective", "vqa", "--compile"])
    assert "do not give them again: --objective, --compile" in said
