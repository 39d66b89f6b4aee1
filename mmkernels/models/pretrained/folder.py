"""A model's folder as transformers writes it: config.json and safetensors, read without running anything of it."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
LEVELS = 255  # of a pixel before it is scaled

Channels = tuple[float, float, float]


class Folder(NamedTuple):
    """A configuration of transformers, tensors, and what brings pictures in [0, 1] to zero mean and unit spread."""

    config: Any
    tensors: dict[str, Tensor]
    pixels: tuple[Channels, Channels] | None


def read_folder(path: Path, known: Collection[str]) -> Folder:
    """Reads a folder.

    Args:
        known: architectures that are read.

    Raises:
        ImportError: transformers is not installed.
        ValueError: it is no such folder, of another architecture, or damaged; in one sentence.
    """
    return Folder(read_config(path, known), read_tensors(path), read_pixels(path))


def read_config(path: Path, known: Collection[str]) -> Any:
    """The configuration; what config.json leaves out has the defaults of the installed transformers."""
    plain = _json(path / CONFIG)
    if plain.get("model_type") not in known:
        raise ValueError(
            f"model_type of {path / CONFIG} must be one of {', '.join(known)}, got {plain.get('model_type')!r}"
        )
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    try:
        return CONFIG_MAPPING[plain["model_type"]].from_dict(plain)
    except (AttributeError, KeyError, TypeError, ValueError, StrictDataclassError) as error:
        raise ValueError(f"cannot understand {path / CONFIG}: {' '.join(str(error).split())}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors, of one file or of the files that an index names."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for name in _weight_files(path):
        try:
            found.update(load_file(path / name))
        except FileNotFoundError:
            raise ValueError(f"{path} has no file {name}, which its index names") from None
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path / name} is damaged, or not a safetensors file ({error})") from None
    return found


def read_pixels(path: Path) -> tuple[Channels, Channels] | None:
    """Mean and spread of RGB in [0, 1] that the folder's picture processor works with; None where it has none."""
    for name in PROCESSORS:
        if (path / name).exists():
            plain = _json(path / name)
            plain = plain.get("image_processor", plain)
            if "image_mean" in plain or "rescale_factor" in plain:
                return pixels_of(plain, path / name)
    return None


def pixels_of(plain: dict[str, Any], path: Path) -> tuple[Channels, Channels]:
    """What a processor does to pixels from 0 to 255, as mean and spread of pixels from 0 to 1.

    Raises:
        ValueError: it is not said in numbers of three channels.
    """
    normalized = plain.get("do_normalize", True)
    scale = LEVELS * plain.get("rescale_factor", 1 / LEVELS) if plain.get("do_rescale", True) else 1.0
    scale = round(scale, 6)  # 1 / 255 in decimals, times 255
    lift = 1.0 if plain.get("rescale_offset", False) else 0.0
    mean = plain.get("image_mean", [0.5] * 3) if normalized else [0.0] * 3
    spread = plain.get("image_std", [0.5] * 3) if normalized else [1.0] * 3
    if len(mean) != 3 or len(spread) != 3 or scale <= 0 or min(spread) <= 0:
        raise ValueError(f"{path} must give image_mean and image_std of three channels, got {mean} and {spread}")
    first, second, third = ((lift + value) / scale for value in mean)
    one, two, three = (value / scale for value in spread)
    return (first, second, third), (one, two, three)


def _weight_files(path: Path) -> list[str]:
    if (path / WEIGHTS).exists():
        return [WEIGHTS]
    if not (path / INDEX).exists():
        pickled = next(iter(sorted(path.glob("*.bin"))), None)
        more = "" if pickled is None else f" ({pickled.name} is a pickle, which can run code: it is not read)"
        raise ValueError(f"{path} has no {WEIGHTS} and no {INDEX}{more}")
    places = _json(path / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{path / INDEX} is damaged: it has no weight_map of names")
    names = sorted(set(places.values()))
    strange = next((name for name in names if Path(name).name != name), None)
    if strange is not None:
        raise ValueError(f"{path / INDEX} names a file outside of its folder: {strange!r}")
    return names


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError:
        raise ValueError(f"{path} is damaged: it is not JSON") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it is not a JSON object")
    return found
