"""The user's own folder: what can be used is used, everything else is listed, nothing crashes."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmkernels.models import sources
from mmkernels.models.sources.table import read_table

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def picture(path: Path, colour=RED, size=(8, 8), mode="RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def csv(folder: Path, *lines: str, name="captions.csv", encoding="utf-8", ending="\n") -> Path:
    (folder / name).write_bytes(ending.join(lines).encode(encoding))
    return folder


def load(folder, size=8, **options):
    return sources.load(folder, size=size, **options)


@pytest.fixture
def folder(tmp_path):
    """Four good pictures."""
    for name, colour in (("a", RED), ("b", GREEN), ("c", BLUE), ("d", (9, 9, 9))):
        picture(tmp_path / f"{name}.png", colour)
    return tmp_path


GOOD = ("a.png,red thing", "b.png,green thing", "c.png,blue thing", "d.png,dark thing")


def test_rows_become_a_picture_set(folder):
    x = load(
        csv(folder, "file,caption,label,group", "a.png,a red square,square,red", 'b.png,"green, bright",square,green')
    )
    assert x.captions == [("a red square",), ("green, bright",)]
    assert x.labels == ["square", "square"] and x.groups == ["red", "green"] and not x.licence.startswith("CC")
    assert x.pictures.shape == (2, 4, 8, 8) and x.pictures.dtype == torch.float32
    assert x.pictures[:, :, 4, 4].tolist() == [[1, 0, 0, 1], [0, 1, 0, 1]]
    assert sorted(x.train + x.held_out) == [0, 1] and len(x) == 2 and not x.notes


def test_every_bad_row_is_listed_and_the_others_are_used(folder):
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("this is no picture")
    whole = (folder / "b.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe.png")
    x = load(
        csv(
            folder,
            "file,caption,split",
            "a.png,good,train",
            ",no file,train",
            "b.png,,train",
            "missing.png,not there,train",
            "empty.png,no bytes,train",
            "text.png,not a picture,train",
            "half.png,cut,train",
            "sub,a folder,train",
            "pipe.png,would block,train",
            "b.png,too,many,fields",
            "b.png",
            "b.png,bad side,sometimes",
            'b.png,"quote"rubbish,train',
            "",
            "c.png,good too,test",
        )
    )
    assert x.captions == [("good",), ("good too",)] and (x.train, x.held_out) == ([0], [1])
    expected = {
        3: "no file name",
        4: "no caption",
        5: "'missing.png' does not exist",
        6: "'empty.png' is empty",
        7: "'text.png' is damaged, or not a picture",
        8: "'half.png' ",
        9: "'sub' is no file",
        10: "'pipe.png' is no file",
        11: "4 fields, but there are 3 columns",
        12: "1 fields, but there are 3 columns",
        13: "split is 'sometimes'",
        14: "not CSV",
    }
    assert len(x.notes) == len(expected)
    for line, reason in expected.items():
        (note,) = (note for note in x.notes if note.startswith(f"captions.csv line {line}: "))
        assert reason in note


@pytest.mark.parametrize(
    "escape", ["../secret.png", "/etc/passwd", "sub/../../secret.png", "link.png", "linked/secret.png"]
)
def test_paths_that_leave_the_folder_are_refused(tmp_path, escape):
    secret = picture(tmp_path / "secret.png")
    folder = tmp_path / "data"
    picture(folder / "a.png")
    (folder / "link.png").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path)
    x = load(csv(folder, "file,caption", "a.png,good", f"{escape},steal"))
    assert x.captions == [("good",)]
    assert x.notes[0] == f"captions.csv line 3: {escape!r} is outside of the folder"


@pytest.mark.parametrize("name", ["x" * 5000 + ".png", "loop.png", "a.png/b.png", "zero\0.png"])
def test_odd_file_names_are_listed(folder, name):
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "captions.jsonl").write_text("\n".join(json.dumps({"file": n, "caption": "x"}) for n in ("a.png", name)))
    x = load(folder)
    assert len(x) == 1 and x.notes[0].startswith("captions.jsonl line 2: ")


@pytest.mark.parametrize("write", ["NFC", "NFD"])
def test_unicode_names_in_either_normal_form(folder, write):
    name = "ÉléphantÅ 象.png"
    picture(folder / "zoo" / unicodedata.normalize(write, name), BLUE)
    other = unicodedata.normalize("NFD" if write == "NFC" else "NFC", f"zoo/{name}")
    x = load(csv(folder, "file,caption", f"{other},un éléphant"))
    assert x.captions == [("un éléphant",)] and x.labels == ["zoo"] and not x.notes[1:]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_dialects_of_csv(folder, encoding, ending, delimiter):
    lines = [delimiter.join(("File ", '"caption"', "other")), delimiter.join(("a.png", "ein Käfer", "5")), ""]
    x = load(csv(folder, *lines, encoding=encoding, ending=ending))
    assert x.captions == [("ein Käfer",)]


def test_captions_may_repeat_in_columns_lists_and_rows(folder):
    csv(folder, "caption,file,caption", "one,a.png,two", "three,a.png,", "  one ,./a.png,four")
    lines = [{"file": "a.png", "caption": ["one", "two", "one"]}, {"file": "a.png", "caption": "three  four"}]
    (folder / "more.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert load(folder).captions == [("one", "two", "three", "four")]
    assert load(folder / "more.jsonl").captions == [("one", "two", "three four")]


def test_a_file_with_two_labels_keeps_the_first_and_says_so(folder):
    x = load(csv(folder, "file,caption,label", "a.png,x,first", "b.png,y,", "a.png,z,second"))
    assert (
        x.labels == ["first", "unlabelled"]
        and x.notes[0] == "captions.csv line 4: 'a.png' has the label 'first' of line 2"
    )


def test_bytes_that_are_not_utf8_spoil_their_row_only(folder):
    (folder / "captions.csv").write_bytes(b"file,caption\na.png,caf\xe9\nb.png,fine\n")
    x = load(folder)
    assert x.captions == [("fine",)] and x.notes[0] == "captions.csv line 2: caption is not UTF-8"


def test_a_quote_that_is_never_closed_names_the_lines_it_swallowed(folder):
    x = load(csv(folder, "file,caption", "a.png,good", 'b.png,"open', "c.png,swallowed", "d.png,swallowed"))
    assert x.captions == [("good",)] and x.notes[0].startswith("captions.csv lines 3 to 5: not CSV")


def test_json_lines_of_every_wrong_kind(folder):
    lines = [
        '{"file": "a.png", "caption": "good", "label": 7}',
        "{not json",
        "[1, 2]",
        '{"file": 5.5, "caption": null}',
        '{"file": ["a.png"], "caption": "x"}',
        '{"file": "b.png", "caption": {"en": "x"}}',
        '{"file": "b.png", "caption": ["x", true]}',
        '{"file": "b.png", "caption": "\\ud83d"}',
        "[" * 200_000,
        '{"file": "b.png", "caption": "line\u2028separator", "group": 3}',
    ]
    data = "\n\n".join(lines).encode() + b'\n{"file": "c.png", "caption": "\xff"}'
    (folder / "captions.jsonl").write_bytes(data)
    x = load(folder)
    assert x.captions == [("good",), ("line separator",)] and x.labels[0] == "7" and x.groups == ["good", "3"]
    listed = [int(note.split("line ")[1].split(":")[0]) for note in x.notes if note.startswith("captions.jsonl")]
    assert listed == [3, 5, 7, 9, 11, 13, 15, 17, 20]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf \n", "is empty"),
        ("file,caption\na.png,x".encode("utf-16"), "is UTF-16"),
        (b"name,caption\na.png,x", "no column 'file'"),
        (b"file,text\na.png,x", "no column 'caption'"),
        (b"file,caption,file\na.png,x,b.png", "2 columns 'file'"),
        (b"file,caption\n", "no row that can be used"),
        (b"file,caption\nno.png,x\n", "no row that can be used; the first: captions.csv line 2: 'no.png' does not"),
        (b"\x00\x01\x02\x89PNG\r\n\x1a\n" * 50, "has no column|no row"),
    ],
)
def test_a_table_without_use_is_refused_in_a_sentence(folder, content, sentence):
    (folder / "captions.csv").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        load(folder)


def test_a_folder_needs_one_table(folder):
    with pytest.raises(ValueError, match=r"has no captions.csv or captions.jsonl"):
        load(folder)
    csv(folder, "file,caption", *GOOD)
    csv(folder, "", name="captions.jsonl")
    with pytest.raises(ValueError, match=r"both captions.csv and captions.jsonl"):
        load(folder)
    assert len(load(folder / "captions.csv")) == 4
    with pytest.raises(ValueError, match="neither a folder nor"):
        load(folder / "a.png")
    os.mkfifo(folder / "pipe.csv")
    with pytest.raises(ValueError, match=r"pipe.csv is no file"):
        load(folder / "pipe.csv")


def test_limit_and_the_most_that_memory_takes(folder, monkeypatch):
    csv(folder, "file,caption", *GOOD)
    assert [caption for (caption,) in load(folder, limit=2).captions] == ["red thing", "blue thing"]
    with monkeypatch.context() as patch:
        patch.setattr("mmkernels.models.sources.picture_set.LARGEST_SET", 3)
        with pytest.raises(ValueError, match="4 pictures are more than the 3 that are supported: give a limit"):
            load(folder)
        assert len(load(folder, limit=3)) == 3
    monkeypatch.setattr("mmkernels.models.sources.picture_set.LARGEST_BYTES", 4 * 16 * 8 * 8)
    assert len(load(folder, size=8)) == 4
    with pytest.raises(ValueError, match=r"4 pictures of 9 x 9 pixels take .* smaller size or a limit"):
        load(folder, size=9)


def test_random_bytes_never_crash_the_reader(tmp_path):
    generator = np.random.default_rng(0)
    alphabet = np.frombuffer(
        'file,caption\n\r";\t{}[]:\\ a.png\0é\xff\u2028'.encode("utf-8", "surrogateescape"), np.uint8
    )
    for trial in range(300):
        name = ("captions.csv", "captions.jsonl")[trial % 2]
        head = b"file,caption\n" if trial % 3 else b""
        path = tmp_path / name
        path.write_bytes(head + generator.choice(alphabet, generator.integers(1, 400)).tobytes())
        try:
            rows, notes = read_table(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert all(row.file and row.captions for row in rows) and all(map(str, notes))
