"""`--data`: which data a run is about, what of it was left out, and that it is the same afterwards."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from mmkernels.cli import run
from mmkernels.models.captions import words
from mmkernels.models.presets import PAGES
from mmkernels.models.recipe import DataConfig
from mmkernels.models.saved_run import FILE_NAME
from mmkernels.models.sources.picture_set import Entry, assemble
from mmkernels.models.sources.task import task_of
from mmkernels.models.tokenizer import WordTokenizer
from mmkernels.models.zoo import data as module
from mmkernels.models.zoo.checkpoint import ZooCheckpoint
from mmkernels.models.zoo.data import data_of, task_and_notes
from mmkernels.models.zoo.objectives.captioning import caption_figures

COLOURS = ["red", "green", "blue", "grey", "black", "white"]
BROKEN = 7  # rows that cannot be used


@pytest.fixture
def folder(tmp_path):
    """24 pictures of dots in six colours, and rows of all kinds that cannot be used."""
    root = tmp_path / "mine"
    root.mkdir()
    lines = ["file,caption,label,group"]
    for i in range(24):
        image = Image.new("RGB", (40, 30), COLOURS[i % 6])
        image.paste(COLOURS[(i + 1 + i // 6) % 6], (5 + i, 5, 15 + i, 15))
        image.save(root / f"{i}.png")
        lines.append(f"{i}.png,a {COLOURS[i % 6]} sheet number {i},{COLOURS[i % 6]},g{i // 2}")
    (root / "damaged.png").write_bytes((root / "0.png").read_bytes()[:60])
    lines.append("damaged.png,a damaged one,red,x")
    lines += [f"missing{i}.png,nothing,red,x" for i in range(BROKEN - 1)]
    (root / "captions.csv").write_text("\n".join(lines))
    return root


def train(folder, out, *more, preset="clip"):
    arguments = ["train", "--preset", preset, "--steps", "2", "--batch", "4", "--out", str(out), "--json"]
    return run([*arguments, "--data", str(folder), *more])


def refused(capsys, status):
    said = capsys.readouterr()
    assert status == 2 and said.out == "" and said.err.count("\n") == 1
    return said.err


# ---- which data ----


def test_usual_data():
    assert data_of(PAGES["vit"].small) == DataConfig("openmoji") == data_of(PAGES["video"].small)
    assert data_of(PAGES["audio"].small) == DataConfig("sounds")
    assert data_of(PAGES["vit"].small, "tuxpaint", ("en", "fr")) == DataConfig("tuxpaint", ("en", "fr"))


def test_a_folder_is_found_from_anywhere(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert data_of(PAGES["vit"].small, "mine").name == str(folder)


def test_sizes_and_notes(folder):
    task, notes = task_and_notes(PAGES["clip"].published["ViT-B-32"], DataConfig(str(folder)))
    assert task.plain([0]).shape == (1, 3, 224, 224) and len(notes) == BROKEN
    assert len(task.train) + len(task.held_out) == 24 and task.classes == sorted(COLOURS)
    clips, _ = task_and_notes(PAGES["video"].small, DataConfig(str(folder)))
    assert clips.plain([0]).shape == (1, 3, 3, 32, 32)


def test_languages_reach_tuxpaint(monkeypatch):
    asked = {}

    def load(name, **options):
        asked.update(options, name=name)
        return SimpleNamespace(
            pictures=torch.rand(2, 4, 32, 32), mirror=torch.ones(2, dtype=torch.bool), labels=["x", "x"],
            captions=[("un canard",), ("b",)], train=[0], held_out=[1], fingerprint="f", licence="l", notes=["a note"],
        )  # fmt: skip

    monkeypatch.setattr(module.sources, "load", load)
    task, notes = task_and_notes(PAGES["vit"].small, DataConfig("tuxpaint", ("fr", "en")))
    assert asked == {"name": "tuxpaint", "size": 32, "languages": ("fr", "en")}
    assert task.captions[0] == ("un canard",) and notes == ["a note"]


# ---- commands ----


@pytest.mark.parametrize("preset", ["clip", pytest.param("video", marks=pytest.mark.slow)])
def test_train_eval_resume(folder, tmp_path, capsys, preset):
    out = tmp_path / "run"
    assert train(folder, out, preset=preset) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["data"] == str(folder)
    noted = [line for line in said.err.splitlines() if "captions.csv line" in line]
    assert len(noted) == 5 and f"{BROKEN} notes in all, these were the first 5" in said.err
    assert ZooCheckpoint.load(out / FILE_NAME).data == DataConfig(str(folder))
    assert run(["eval", str(out), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["data"] == str(folder) and PAGES[preset].main in scores
    assert run(["train", "--resume", "--out", str(out), "--json"]) == 0
    capsys.readouterr()


def test_a_folder_that_moved(folder, tmp_path, capsys):
    out, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    assert train(folder, out) == 0
    folder.rename(elsewhere)
    capsys.readouterr()
    assert "there is no source or folder" in refused(capsys, run(["eval", str(out)]))
    assert run(["eval", str(out), "--data", str(elsewhere), "--json"]) == 0
    assert run(["train", "--resume", "--out", str(out), "--data", str(elsewhere), "--json"]) == 0
    assert ZooCheckpoint.load(out / FILE_NAME).data.name == str(elsewhere)
    table = elsewhere / "captions.csv"
    table.write_text(table.read_text().replace("sheet", "page"))
    capsys.readouterr()
    assert run(["eval", str(out), "--data", str(elsewhere)]) == 2
    assert "was trained on other data than" in capsys.readouterr().err


def test_unusable_data_is_one_sentence(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "run"
    assert "has no captions.csv or captions.jsonl" in refused(capsys, train(tmp_path / "empty", out))
    (tmp_path / "empty" / "captions.csv").write_text("file,caption\nnone.png,nothing\n")
    assert "has no row that can be used; the first:" in refused(capsys, train(tmp_path / "empty", out))
    assert "there is no source or folder" in refused(capsys, train(tmp_path / "nowhere", out))
    assert "data must be pictures for a system that sees" in refused(capsys, train("sounds", out))
    assert "data must be 'sounds' for a system that hears" in refused(capsys, train("tuxpaint", out, preset="audio"))
    said = refused(capsys, train("openmoji", out, "--languages", "fr"))
    assert "languages are those of tuxpaint's captions" in said
    assert not (out / FILE_NAME).exists()


def test_questions_need_emoji(folder, tmp_path, capsys):
    assert train(folder, tmp_path / "run", "--objective", "vqa") == 2
    assert "questions are composed of emoji, which this data has not" in capsys.readouterr().err


def test_the_demo_has_its_own_data(tmp_path, capsys):
    assert "these belong to the presets" in refused(capsys, train("tuxpaint", tmp_path / "run", preset="tiny"))


EVERY = [name if name == "uniter" else pytest.param(name, marks=pytest.mark.slow) for name in PAGES if name != "audio"]


@pytest.mark.parametrize("preset", EVERY)
def test_a_tiny_folder_trains_every_preset_or_says_why_not(tmp_path, capsys, preset):
    """Six pictures, one of which is held out, with captions of which the tokenizer knows little."""
    root = tmp_path / "tiny"
    root.mkdir()
    rows = []
    for i, caption in enumerate(["red", "象", "", "one two", "!!!", "a", "b"]):
        Image.new("RGB", (9, 20), COLOURS[i % 6]).save(root / f"{i}.png")
        rows.append({"file": f"{i}.png", "caption": caption, "split": "held_out" if i == 3 else "train"})
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    status = train(root, tmp_path / "run", preset=preset)
    said = capsys.readouterr().err
    assert status == 0 or (status == 2 and "a batch has 4 pairs, but there are 1 held out" in said), said
    if status == 0:
        assert run(["eval", str(tmp_path / "run"), "--json"]) == 0


def test_words_of_any_script():
    plain, any_letters = (
        WordTokenizer.train(["Un écureuil", "Ёж e\u0301te\u0301"], letters) for letters in (False, True)
    )
    assert any_letters.words("l'Été_vert, ЁЖ!") == ["l'été", "vert", "ёж"], "composed, lower case"
    assert plain.words("Un Écureuil") == ["un", "cureuil"] == words("Un Écureuil")
    assert "écureuil" in any_letters and "été" in any_letters and "ёж" in any_letters and "ёж" not in plain
    tokens = any_letters.encode(["ёж, écureuil"], 8)
    assert any_letters.decode(tokens.ids[0, 1:].tolist()) == "ёж écureuil"


def test_figures_of_captions_in_any_script():
    data = coloured(["ёж", "белка", "ёж", "ёж"])
    f1, exact, _ = caption_figures(["ёж", "лиса"], data, [0, 1])
    assert exact.model == f1.model == 50.0 and exact.majority == 50.0, "ёж is the most frequent word of training"


def coloured(captions):
    """A task of as many squares."""
    entries = [Entry((text,), "x", f"g{i}", True, side="train" if i else "held_out") for i, text in enumerate(captions)]
    return task_of(assemble(entries, list(torch.rand(len(entries), 4, 8, 8)), [], "free", set()))
