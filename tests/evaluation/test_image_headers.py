"""What the headers of images say is what Pillow finds in them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from search.evaluation.image_headers import NoImage, pixels_only, read_header

GREY = {"1", "L", "LA"}


def picture(mode: str) -> Image.Image:
    """7 x 5 pixels, none of them alike."""
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    colours = Image.fromarray(values)
    return colours.convert("RGB").convert(mode) if mode == "P" else colours.convert(mode)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


CASES = [
    *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
    *(("PNG", "P", {"bits": bits}) for bits in (1, 2, 4)),
    *(("JPEG", mode, options) for mode in ("L", "RGB", "CMYK") for options in ({}, {"quality": 5})),
    ("JPEG", "RGB", {"progressive": True}),
    ("JPEG", "RGB", {"comment": b"a comment", "exif": b"Exif\0\0II*\0\x08\0\0\0" + bytes(60)}),
    *(("BMP", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")),
    *(("WEBP", mode, {"lossless": one}) for mode in ("RGB", "RGBA") for one in (True, False)),
    ("WEBP", "RGB", {"icc_profile": b"x" * 200}),
]


@pytest.mark.parametrize(("format", "mode", "options"), CASES)
def test_headers_are_those_that_pillow_reads(
    format: str, mode: str, options: dict[str, Any]
) -> None:
    content = saved(picture(mode), format, **options)
    header = read_header(content)
    with Image.open(io.BytesIO(content)) as opened:
        assert header.format == opened.format
        assert (header.width, header.height) == opened.size
        assert header.grey == (opened.mode in GREY)
        expected = np.asarray(opened.convert("RGB"))
    with Image.open(io.BytesIO(pixels_only(content, format))) as again:
        np.testing.assert_array_equal(np.asarray(again.convert("RGB")), expected)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "WEBP"])
def test_whatever_is_cut_off_is_told(format: str) -> None:
    content = saved(picture("RGB"), format)
    for length in range(60):
        try:
            read_header(content[:length])
        except NoImage:
            continue


def test_sixteen_bits_of_grey_are_too_many() -> None:
    wide = Image.fromarray(np.arange(35, dtype=np.uint16).reshape(5, 7))
    assert read_header(saved(wide.convert("L"), "PNG")).grey
    with pytest.raises(NoImage, match="16 bits a channel"):
        read_header(saved(wide, "PNG"))


def test_only_what_draws_the_picture_is_left() -> None:
    info = PngImagePlugin.PngInfo()
    for number in range(20):
        info.add_text(f"key {number}", "text " * 1000, zip=True)
    plain, texts = (saved(picture("P"), "PNG", pnginfo=known) for known in (None, info))
    assert pixels_only(texts, "PNG") == pixels_only(plain, "PNG") == plain
    exif = b"Exif\0\0" + bytes(50_000)
    plain, tagged = (saved(picture("RGB"), "JPEG", **known) for known in ({}, {"exif": exif}))
    assert len(tagged) > len(plain) + len(exif)
    assert pixels_only(tagged, "JPEG") == pixels_only(plain, "JPEG") == plain


def test_many_parts_are_refused() -> None:
    chunk = struct.pack(">L4sL", 0, b"tEXt", zlib.crc32(b"tEXt"))
    content = saved(picture("L"), "PNG")
    with pytest.raises(NoImage, match="65536 chunks"):
        pixels_only(content[:33] + chunk * 70_000 + content[33:], "PNG")
    photo = saved(picture("L"), "JPEG")
    with pytest.raises(NoImage, match="65536 segments"):
        read_header(photo[:2] + b"\xff\xfe\0\2" * 70_000 + photo[2:])
    with pytest.raises(NoImage, match="scans"):
        read_header(photo[:-2] + b"\xff\xda\0\2" * 101)
