"""Picture files of every kind, and damaged in every way."""

from __future__ import annotations

import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mmkernels.models.sources.images import FORMATS, read_picture

RED, GREEN, CLEAR = (255, 0, 0), (0, 128, 0), (0, 255, 0, 0)


def saved(tmp_path, image, name="x.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def pixel(path, size=8, at=(4, 4)):
    return read_picture(path, size)[:, at[0], at[1]].tolist()


def half_and_half(mode="RGB", top=RED, bottom=GREEN):
    image = Image.new(mode, (16, 16), bottom)
    image.paste(top, (0, 0, 16, 8))
    return image


def test_a_wide_picture_stands_in_the_middle_of_a_transparent_square(tmp_path):
    x = read_picture(saved(tmp_path, Image.new("RGB", (40, 20), RED)), 8)
    assert x.shape == (4, 8, 8) and x.dtype == torch.float32
    assert x[3].tolist() == [[float(2 <= i < 6)] * 8 for i in range(8)]
    assert torch.equal(x[0], x[3]) and not x[1:3].any()


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (1, 1)])
def test_extreme_shapes(tmp_path, size):
    assert read_picture(saved(tmp_path, Image.new("RGB", size, RED)), 8)[3].sum() >= 8


def test_transparent_pixels_lend_no_colour(tmp_path):
    image = Image.new("RGBA", (64, 64), CLEAR)
    image.paste((255, 0, 0, 255), (0, 0, 33, 64))
    x = read_picture(saved(tmp_path, image), 8)
    assert not x[1].any(), "green of transparent pixels has leaked"
    assert (x[:3] <= x[3:] + 1e-6).all(), "colour is not premultiplied"
    assert (x[3, :, 0] == 1).all() and (x[3, :, 7] == 0).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = half_and_half()
    upright.paste((255, 255, 0), (0, 0, 8, 8))  # top left yellow, so that all eight differ
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, stored, "x.png", exif=exif)
    assert pixel(path, at=(1, 1)) == [1, 1, 0, 1] and pixel(path, at=(1, 6)) == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("mode", "colour", "name", "expected"),
    [
        ("L", 51, "x.png", [0.2, 0.2, 0.2, 1]),
        ("LA", (255, 51), "x.png", [0.2, 0.2, 0.2, 0.2]),
        ("1", 1, "x.png", [1, 1, 1, 1]),
        ("RGBA", (255, 0, 0, 51), "x.png", [0.2, 0, 0, 0.2]),
        ("CMYK", (0, 255, 255, 0), "x.tiff", [1, 0, 0, 1]),
        ("I;16", 0x3333, "x.png", [0.2, 0.2, 0.2, 1]),
        ("YCbCr", (76, 85, 255), "x.tiff", [1, 0, 0, 1]),
    ],
)
def test_modes(tmp_path, mode, colour, name, expected):
    path = saved(tmp_path, Image.new(mode, (8, 8), colour), name)
    with Image.open(path) as image:
        assert image.mode == mode
    assert pixel(path) == pytest.approx(expected, abs=0.006)


def test_cmyk_jpeg(tmp_path):
    path = saved(tmp_path, Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "x.jpg", quality=95)
    assert pixel(path) == pytest.approx([1, 0, 0, 1], abs=0.05)


def test_palette_with_a_transparent_colour(tmp_path):
    image = half_and_half().convert("P", palette=Image.Palette.ADAPTIVE)
    clear = image.getpixel((8, 15))
    path = saved(tmp_path, image, "x.png", transparency=clear)
    assert pixel(path, at=(1, 4)) == [1, 0, 0, 1] and pixel(path, at=(6, 4)) == [0, 0, 0, 0]


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.webp"])
def test_the_first_frame_of_an_animation(tmp_path, name):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, (0, 0, 255))]
    options = {"lossless": True} if name.endswith("webp") else {}
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], duration=50, **options)
    with Image.open(path) as image:
        assert image.n_frames == 3
    assert pixel(path) == [1, 0, 0, 1]


def test_pixels_without_a_white_are_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.full((8, 8), 0.5, np.float32)), "x.tiff")
    with pytest.raises(ValueError, match="mode F"):
        read_picture(path, 8)


def png(width, height):
    """A PNG whose header promises what its few bytes of data would unpack to."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [7_100, 10_000, 13_000, 40_000, 2_000_000])
def test_decompression_bombs_are_refused_before_they_are_decoded(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side))
    with warnings.catch_warnings(), pytest.raises(ValueError, match="pixels") as refused:
        warnings.simplefilter("error")
        read_picture(path, 8)
    assert "50,000,000" in str(refused.value)


def test_the_limit_is_the_callers(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (20, 20), RED))
    assert read_picture(path, 8, max_pixels=400).any()
    with pytest.raises(ValueError, match="has 20 x 20 pixels, more than the 399"):
        read_picture(path, 8, max_pixels=399)


def test_formats_that_start_programs_are_not_tried(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    with pytest.raises(ValueError, match="not a picture of the formats PNG, JPEG"):
        read_picture(path, 8)
    assert "EPS" not in FORMATS


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.gif", "x.webp", "x.bmp", "x.tiff", "x.ppm"])
def test_damage_gives_a_sentence_or_a_picture_never_a_crash(tmp_path, name):
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    good = saved(tmp_path, noise, name).read_bytes()
    path, refused = tmp_path / f"damaged-{name}", 0
    for trial in range(60):
        data = bytearray(good)
        if trial % 3 == 0:
            del data[generator.integers(1, len(data)) :]
        else:
            for _ in range(1 + trial % 5):
                data[generator.integers(0, min(len(data), 200 if trial % 2 else len(data)))] = generator.integers(
                    0, 256
                )
        path.write_bytes(data)
        try:
            x = read_picture(path, 8)
        except ValueError as error:
            refused += 1
            assert str(error).split()[0] in ("is", "has", "cannot")
        else:
            assert x.shape == (4, 8, 8) and (x >= 0).all() and (x <= 1).all()
    assert refused > 5, "the damage was not seen"
