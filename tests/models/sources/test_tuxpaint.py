"""Tux Paint's stamps: a small folder of the same format, and the real ones where they are installed."""

from __future__ import annotations

import pytest
from PIL import Image

from mmkernels.models import sources
from mmkernels.models.captions import words
from mmkernels.models.sources.tuxpaint import PACKAGE, VARIABLE, stamps_folder

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{}">{}</svg>'
DISC = '<circle cx="{0}" cy="{0}" r="{0}" fill="#00f"/>'


@pytest.fixture
def stamps(tmp_path):
    """Stamps as Debian lays them: usr/share/tuxpaint/stamps, and the copyright file beside."""
    root = tmp_path / "share" / "tuxpaint" / "stamps"

    def stamp(name, text, suffix=".png", colour=(255, 0, 0), content=None, options=None):
        path = root / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Image.new("RGB", (20, 10), colour).save(path)
        else:
            path.write_text(content)
        if text is not None:
            path.with_suffix(".txt").write_text(text, "utf-8")
        if options:
            path.with_suffix(".dat").write_text(options)

    stamp(
        "animals/birds/duck", "A duck.\nfr.utf8=Un canard.\nde.utf8=Eine Ente.\npt_BR.utf8=Um pato.\n", colour=(1, 1, 1)
    )
    stamp("animals/birds/duck_flying", "A flying   duck!\nfr.utf8=Un canard qui vole.\n", colour=(90, 0, 0))
    stamp("animals/cat", "A plumber’s cat.\nen_GB.utf8=A plumber’s cat.\nfr.utf8=\n", options="nomirror\nnoflip\n")
    stamp(
        "food/apple",
        "An apple.\nca@valencia.utf8=Una poma.\nno language here\n",
        ".svg",
        None,
        SVG.format("60pt", "60pt", DISC.format(40)),
    )
    stamp("food/pear", "A pear.\n", ".svg", None, SVG.format(80, 80, "<text>pear</text>"))
    stamp("food/pear", None, ".png", (0, 255, 0))
    stamp("food/apple", None, ".png", (0, 255, 0))
    stamp("food/blank", "Nothing.\n", ".svg", None, SVG.format(80, 80, ""))
    stamp("food/broken", "Broken.\n", ".png", None, "no picture")
    stamp("symbols/alphabets/b", "The letter B.\n", colour=(0, 99, 0))
    stamp("town/house", "\nfr.utf8=Une maison.\n", colour=(0, 0, 99))
    stamp("town/house_mirror", None, colour=(0, 0, 88))
    stamp("town/lonely", None, colour=(0, 0, 77))
    (root / "town" / "gone.txt").write_text("Gone.\n")
    doc = tmp_path / "share" / "doc" / PACKAGE / "copyright"
    doc.parent.mkdir(parents=True)
    doc.write_text(
        "Format: x\n\nFiles: *\nCopyright: 2002-2022 by Somebody\nLicense: GPL-2\n\nFiles: debian/*\nLicense: other\n"
    )
    return root


def test_english_comes_first(stamps):
    x = sources.load("tuxpaint", size=16, stamps=stamps)
    assert x.captions == [
        ("A duck.",), ("A flying duck!",), ("A plumber's cat.",), ("An apple.",), ("A pear.",), ("The letter B.",),
    ]  # fmt: skip
    assert x.labels == ["animals", "animals", "animals", "food", "food", "symbols"]
    assert x.groups[0] == x.groups[1] != x.groups[2] and x.groups[5] == "@alphanum" and 5 in x.train
    assert x.mirror.tolist() == [True, True, False, True, True, False]
    assert x.licence.startswith("Tux Paint stamps") and "2002-2022 by Somebody, licence GPL-2" in x.licence


def test_languages_in_the_order_asked_for(stamps):
    x = sources.load("tuxpaint", size=16, stamps=stamps, languages=("fr", "en", "ca@valencia"))
    assert x.captions[:3] == [
        ("Un canard.", "A duck."),
        ("Un canard qui vole.", "A flying duck!"),
        ("A plumber's cat.",),
    ]
    assert x.captions[3] == ("An apple.", "Una poma.") and x.captions[-1] == ("Une maison.",)
    french = sources.load("tuxpaint", size=16, stamps=stamps, languages=["fr"])
    assert [c[0] for c in french.captions] == ["Un canard.", "Un canard qui vole.", "Une maison."]
    assert french.notes[-1] == "4 stamps have no caption in fr"
    twice = sources.load("tuxpaint", size=16, stamps=stamps, languages=("en", "en_GB"))
    assert twice.captions[2] == ("A plumber's cat.",)


def test_the_split_does_not_depend_on_language_or_limit(stamps):
    def sides(**options):
        x = sources.load("tuxpaint", size=16, stamps=stamps, **options)
        return {x.pictures[i].numpy().tobytes(): i in x.held_out for i in range(len(x))}

    everything, french, few = sides(languages=("en", "fr")), sides(languages=("fr",)), sides(limit=3)
    assert len(few) == 3 and 0 < sum(everything.values()) < len(everything)
    assert all(everything[picture] == side for picture, side in [*french.items(), *few.items()])


def test_pictures_in_points_and_pictures_that_are_only_text(stamps):
    x = sources.load("tuxpaint", size=16, stamps=stamps)
    apple, pear = x.pictures[3], x.pictures[4]
    assert apple[:, 8, 8].tolist() == [0, 0, 1, 1] and apple[3, 0, 0] == 0, "an SVG, its size in points, before the PNG"
    assert pear[:, 8, 8].tolist() == [0, 1, 0, 1] and pear[3].sum() == 16 * 8, "the PNG where the SVG shows nothing"


def test_what_is_left_out_is_listed(stamps):
    notes = sources.load("tuxpaint", size=16, stamps=stamps).notes
    for start in (
        "food/apple.txt line 3 is not a caption: 'no language here'",
        "food/blank .svg shows nothing",
        "food/broken .png is damaged",
        "town/gone has a caption, but no picture",
        "town/house_mirror is the drawn mirror image",
        "town/lonely has a picture, but no caption",
        "1 stamps have no caption in en",
    ):
        assert sum(note.startswith(start) for note in notes) == 1, start
    assert len(notes) == 7


def test_what_cannot_be_named_unseen_is_trained(tmp_path):
    """Of two families the smaller would be held out, were it not the alphabet."""
    for i, name in enumerate([*(f"animals/duck{i}" for i in range(14)), "symbols/alphabets/b"]):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        letter = "alphabets" in name
        Image.new("RGB", (8 + i, 8), (0, 255, 0) if letter else (17 * i, 0, 0)).save(path)
        path.with_suffix(".txt").write_text("A letter." if letter else "A duck.")
    x = sources.load("tuxpaint", size=8, stamps=tmp_path)
    assert {x.captions[i] for i in x.train} == {("A letter.",)} and len(x.held_out) == 14


def test_damaged_texts(stamps):
    (stamps / "animals/cat.txt").write_bytes(b"\xef\xbb\xbfA cat.\r\nfr.utf8=Un ch\xe2t.\r\nde.utf8=Eine Katze.\r\n")
    (stamps / "animals/birds/duck.txt").write_bytes(b"")
    x = sources.load("tuxpaint", size=16, stamps=stamps, languages=("en", "fr", "de"))
    assert ("A cat.", "Eine Katze.") in x.captions and not any("duck." in c for row in x.captions for c in row)
    assert "animals/cat.txt: the caption in fr is not UTF-8" in x.notes
    (stamps / "animals/cat.txt").unlink()
    (stamps / "animals/cat.txt").mkdir()
    assert "animals/cat.txt cannot be read: Is a directory" in sources.load("tuxpaint", size=16, stamps=stamps).notes


def test_where_the_stamps_are(stamps, monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(stamps))
    assert stamps_folder(None) == stamps and len(sources.load("tuxpaint", size=8)) == 6
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"apt-get install tuxpaint-stamps-default.*MMKERNELS_TUXPAINT_STAMPS"):
        sources.load("tuxpaint")
    assert stamps_folder(stamps) == stamps, "the argument goes before the environment"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="no stamp that can be used"):
        sources.load("tuxpaint", stamps=empty)


@pytest.mark.parametrize("languages", ["en", (), ("en", "tlh")])
def test_wrong_languages(stamps, languages):
    with pytest.raises(ValueError, match="languages"):
        sources.load("tuxpaint", stamps=stamps, languages=languages)


def test_a_copy_without_its_copyright_file_says_so(stamps):
    (stamps.parent.parent / "doc" / PACKAGE / "copyright").unlink()
    assert "no copyright file" in sources.load("tuxpaint", size=8, stamps=stamps).licence


# ---- the real ones ----


@pytest.fixture(scope="module")
def real():
    try:
        root = stamps_folder(None)
    except ValueError as error:
        pytest.skip(str(error))
    return sources.load("tuxpaint", size=32, stamps=root, languages=("en", "fr", "ja"))


def test_the_real_stamps(real):
    assert len(real) > 900 and len(real.classes) >= 15 and "GPL-2" in real.licence
    assert all(len(captions) >= 2 for captions in real.captions[:100])
    assert real.pictures.flatten(1).any(1).all() and not any("cannot be" in note for note in real.notes)
    assert 0.1 < len(real.held_out) / len(real) < 0.2


def test_no_concept_of_the_real_stamps_is_on_both_sides(real):
    def last(i):  # written out here, not imported: "A red truck." and "A truck." are both trucks
        return tuple(w for w in words(real.captions[i][0]) if w not in "a an the some red blue green yellow".split())

    assert not {last(i) for i in real.train} & {last(i) for i in real.held_out}
    assert not {real.groups[i] for i in real.train} & {real.groups[i] for i in real.held_out}
