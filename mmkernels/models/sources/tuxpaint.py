"""Tux Paint's stamps: drawings and photographs with captions that people wrote in many languages.

A stamp is a picture, `duck.png` or `duck.svg`, beside a `duck.txt`: its first line is the English caption, each of the
others a translation, as `fr.utf8=Un canard.`; a `duck.dat` with the line `nomirror` forbids the mirrored stamp.
"""

from __future__ import annotations

import io
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from mmkernels.models.augment import HANDED_WORDS
from mmkernels.models.captions import words
from mmkernels.models.openmoji import Emoji
from mmkernels.models.sources.images import read_picture, square
from mmkernels.models.sources.picture_set import Entry, PictureSet, assemble, check_memory, spread
from mmkernels.models.split import PINNED, concept

VARIABLE = "MMKERNELS_TUXPAINT_STAMPS"
INSTALLED = Path("/usr/share/tuxpaint/stamps")
PACKAGE = "tuxpaint-stamps-default"
ENGLISH = "en"
TRANSLATION = re.compile(r"([A-Za-z]+(?:[_@-][A-Za-z]+)*)\.utf8=(.*)")
ARTICLES = {"a", "an", "the", "some", "this", "is"}
# Folders whose stamps nobody could name without having seen them, by the subgroup of emoji that is as hopeless.
UNNAMEABLE = {"symbols/alphabets": "alphanum", "symbols/math": "alphanum", "town/flags": "country-flag"}


def load_tuxpaint(
    *,
    size: int,
    limit: int | None,
    languages: Sequence[str] = (ENGLISH,),
    stamps: str | os.PathLike[str] | None = None,
) -> PictureSet:
    """The stamps that have a caption in one of the languages; their classes are the folders of the first level.

    The split is by concept of the English caption, over all stamps: it does not depend on languages and limit.

    Args:
        languages: as "en", "fr", "pt_BR", "ca@valencia"; captions come in this order.
        stamps: the folder; else that of $MMKERNELS_TUXPAINT_STAMPS, else Debian's.

    Raises:
        ValueError: the stamps are not installed, or no stamp has a caption in any of the languages.
    """
    if isinstance(languages, str) or not languages:
        raise ValueError(f"languages must be a list of names such as ('en', 'fr'), got {languages!r}")
    root = stamps_folder(stamps)
    notes: list[str] = []
    found = list(_stamps(root, notes))
    check_memory(len(found), size)
    known: set[str] = set()
    entries, pictures = [], []
    for name, text, files in found:
        captions = read_captions(text, notes, name)
        try:
            pixels = render(files, size)
        except ValueError as error:
            notes.append(f"{name} {error}")
            continue
        known.update(captions)
        pictures.append(pixels)
        entries.append(_entry(name, captions, languages, text.with_suffix(".dat")))
    if not entries:
        raise ValueError(f"{root} holds no stamp that can be used")
    for language in languages:
        if language not in known:
            raise ValueError(f"no stamp has a caption in {language!r}; the languages are {', '.join(sorted(known))}")
    everything = assemble(entries, pictures, notes, licence_note(root), PINNED)
    captioned = [i for i, entry in enumerate(entries) if entry.captions]
    lost = len(entries) - len(captioned)
    more = [f"{lost} stamps have no caption in {', '.join(languages)}"] if lost else []
    return everything.subset([captioned[i] for i in spread(len(captioned), limit)], more)


def stamps_folder(stamps: str | os.PathLike[str] | None) -> Path:
    """Where the stamps are.

    Raises:
        ValueError: nowhere; the sentence says how to install them.
    """
    named = stamps or os.environ.get(VARIABLE)
    root = Path(named) if named else INSTALLED
    if not root.is_dir():
        raise ValueError(
            f"there is no folder {root} of Tux Paint's stamps: install them with `apt-get install {PACKAGE}`, or name "
            f"their folder in ${VARIABLE}"
        )
    return root


def licence_note(root: Path) -> str:
    """Who made the stamps and under which licence, from the copyright file of Debian's package."""
    file = root.parent.parent / "doc" / PACKAGE / "copyright"
    try:
        text = file.read_text("utf-8", errors="replace")
    except OSError:
        return "Tux Paint stamps (https://tuxpaint.org): no copyright file stands beside them"
    fields = {name: re.search(rf"^{name}:[ \t]*(.+)$", text, re.M) for name in ("Copyright", "License")}
    found = {name: match[1].strip() if match else "unknown" for name, match in fields.items()}
    return (
        f"Tux Paint stamps (https://tuxpaint.org), copyright {found['Copyright']}, licence {found['License']}; "
        "the pictures were scaled"
    )


def read_captions(text: Path, notes: list[str], name: str) -> dict[str, str]:
    """Captions by language, English under "en"."""
    try:
        lines = text.read_bytes().decode("utf-8-sig", errors="replace").split("\n")
    except OSError as error:
        notes.append(f"{name}.txt cannot be read: {error.strerror or error}")
        return {}
    captions = {ENGLISH: lines[0]}
    for number, line in enumerate(lines[1:], 2):
        match = TRANSLATION.fullmatch(line.strip())
        if match:
            captions.setdefault(match[1], match[2])
        elif line.strip():
            notes.append(f"{name}.txt line {number} is not a caption: {line.strip()[:60]!r}")
    for language, caption in list(captions.items()):
        captions[language] = " ".join(caption.replace("’", "'").split())
        if "\ufffd" in caption:
            notes.append(f"{name}.txt: the caption in {language} is not UTF-8")
        if "\ufffd" in caption or not captions[language]:
            del captions[language]
    return captions


def render(files: Sequence[Path], size: int) -> Tensor:
    """The first of a stamp's files that shows something, as `images.square` has it.

    Raises:
        ValueError: what is wrong with them, as the end of a sentence that begins with the stamp's name.
    """
    reasons = []
    for file in files:
        try:
            pixels = _render_svg(file, size) if file.suffix == ".svg" else read_picture(file, size)
        except ValueError as error:
            reasons.append(f"{file.suffix} {error}")
            continue
        if pixels.any():
            return pixels
        reasons.append(f"{file.suffix} shows nothing")
    raise ValueError("; ".join(reasons))


def _render_svg(file: Path, size: int) -> Tensor:
    import resvg_py
    from PIL import Image

    try:  # without dpi, sizes in points are zero; without fonts, texts are left out, the same on every machine
        png = bytes(resvg_py.svg_to_bytes(svg_path=str(file), width=2 * size, dpi=96, skip_system_fonts=True))
    except ValueError as error:
        raise ValueError(f"cannot be rendered: {error}") from None
    with Image.open(io.BytesIO(png)) as image:
        return square(image, size)


def _stamps(root: Path, notes: list[str]) -> Iterator[tuple[str, Path, list[Path]]]:
    """(name, text, pictures) of every stamp, its SVG before its PNG."""
    texts: dict[Path, Path] = {}
    pictures: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted(root.rglob("*"), reverse=True):  # .svg comes before .png
        stem = path.with_suffix("")
        if path.suffix == ".txt":
            texts[stem] = path
        elif path.suffix in (".svg", ".png"):
            pictures[stem].append(path)
    for stem in sorted({*pictures, *texts}):
        name = stem.relative_to(root).as_posix()
        if stem not in pictures:
            notes.append(f"{name} has a caption, but no picture")
        elif stem in texts:
            yield name, texts[stem], pictures[stem]
        elif stem.name.endswith("_mirror"):
            notes.append(f"{name} is the drawn mirror image of another stamp")
        else:
            notes.append(f"{name} has a picture, but no caption")


def _entry(name: str, captions: dict[str, str], languages: Sequence[str], options: Path) -> Entry:
    english = words(captions.get(ENGLISH, ""))
    while english and english[0] in ARTICLES:
        english = english[1:]
    subgroup = next((kind for folder, kind in UNNAMEABLE.items() if name.startswith(f"{folder}/")), "")
    bare = " ".join(english) or re.sub(r"[^a-z]+", " ", name.rpartition("/")[2].lower())
    still = options.exists() and "nomirror" in options.read_text("utf-8", errors="replace").split()
    return Entry(
        captions=tuple(dict.fromkeys(captions[each] for each in languages if each in captions)),
        label=name.partition("/")[0],
        group=concept(Emoji("", bare, (), subgroup, "")),
        kin=_kin(name),
        mirror=not (still or subgroup or HANDED_WORDS & set(english)),
    )


def _kin(name: str) -> str:
    """Folder and first word of a file's name: an apple is food/fruit/apple_red, and so is its core."""
    folder, _, file = name.replace("/cartoon/", "/").rpartition("/")
    first = re.split(r"[^a-z]+", file.lower())[0]
    return f"{folder}/{first}" if len(first) > 2 else ""
