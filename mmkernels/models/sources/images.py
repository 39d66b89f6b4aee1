"""Picture files to squares of pixels, whatever they hold; one that cannot be read says why."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

# Named, because Pillow would start another program for some of the others (Ghostscript for EPS).
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF")
MAX_PIXELS = 50_000_000  # decoded they take 200 MB


def read_picture(path: Path, size: int, max_pixels: int = MAX_PIXELS) -> Tensor:
    """The first frame, upright, as `square` has it: float (4, size, size).

    Raises:
        ValueError: what is wrong with the file, as the end of a sentence that begins with its name.
    """
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise ValueError("is no file" if path.exists() else "does not exist")
    if path.stat().st_size == 0:
        raise ValueError("is empty")
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd but readable files; sizes are checked below
            with Image.open(path, formats=formats) as image:
                check_pixels(image, max_pixels)
                return square(image, size)
    except _Refused as refused:
        raise ValueError(str(refused)) from None
    except Image.DecompressionBombError:
        raise ValueError(f"has more than the {max_pixels:,} pixels that are allowed") from None
    except UnidentifiedImageError:
        raise ValueError(f"is damaged, or not a picture of the formats {', '.join(formats)}") from None
    except Exception as error:  # decoders fail on damaged files in every way there is
        raise ValueError(f"cannot be decoded: {error or type(error).__name__}") from None


def check_pixels(image: Picture, max_pixels: int) -> None:
    """Refuses a picture by the size that its header says, before anything is decoded."""
    width, height = image.size
    if width * height > max_pixels:
        raise _Refused(f"has {width} x {height} pixels, more than the {max_pixels:,} that are allowed")


def square(image: Picture, size: int) -> Tensor:
    """Scales a picture into the middle of a transparent square, its sides' ratio kept.

    Orientation is EXIF's. Grey, palette and CMYK pictures become RGB, 16 bits become 8.

    Returns:
        Premultiplied RGBA in [0, 1], float (4, size, size).
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise _Refused(f"has pixels of mode {image.mode}, of which nobody knows what is white")
    image = image.convert("RGBA").convert("RGBa")  # premultiplied: transparent pixels lend no colour to the scaled ones
    longest = max(image.size)
    width, height = (max(1, round(side * size / longest)) for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    canvas = np.zeros((size, size, 4), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = pixels
    return torch.from_numpy(canvas).permute(2, 0, 1).float() / 255


def in_white_square(picture: Tensor) -> Tensor:
    """(3, H, W) -> (3, S, S), S the longer side."""
    side = max(picture.shape[-2:])
    down, right = (side - length for length in picture.shape[-2:])
    return F.pad(picture, (right // 2, right - right // 2, down // 2, down - down // 2), value=1.0)


class _Refused(Exception):
    """A picture that we refuse ourselves, in a sentence of our own."""
