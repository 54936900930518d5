"""The size and colours of PNG, JPEG, BMP and WebP files, from their first bytes.

Pillow reads all of a file when it opens it: it unpacks compressed text, collects metadata and
allocates the canvas. A header tells what is needed here before any of that, and `pixels_only`
leaves out of a file what Pillow need not see.
Sources: PNG (W3C, third edition) 5 and 11.2; ITU-T T.81 annex B; Microsoft's BITMAPFILEHEADER and
BITMAPINFOHEADER; WebP container specification and RFC 6386, 9.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_PNG = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">L4s")
_DRAWN = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_DEPTHS = {0: (1, 2, 4, 8), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # by colour type
_MAX_PARTS = 65_536  # chunks of a PNG, segments of a JPEG
_MAX_SCANS = 100  # a progressive JPEG has about ten; each is a pass over all pixels
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})  # Huffman or arithmetic coding, with loss
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # JPEG markers without a segment
_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})  # all but JFIF's and Adobe's


class NoImage(ValueError):
    """A file that is none of the formats read, or broken, or of more than 8 bits a channel.

    The message goes on after the file's name.
    """


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an image's file says of it.

    Attributes:
        format: one of `FORMATS`, as Pillow calls them.
        grey: whether it is stored without colours.
    """

    format: str
    width: int
    height: int
    grey: bool


def read_header(content: bytes) -> ImageHeader:
    """The header of an image.

    Raises:
        NoImage: it has none.
    """
    try:
        if content.startswith(_PNG):
            header = _png(content)
        elif content.startswith(b"\xff\xd8\xff"):
            header = _jpeg(content)
        elif content.startswith(b"BM"):
            header = _bmp(content)
        elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            header = _webp(content)
        else:
            raise NoImage(f"is no image; known are {', '.join(FORMATS)}")
    except (struct.error, IndexError):
        raise NoImage("cannot be read as an image, it ends early") from None
    if header.width < 1 or header.height < 1:
        raise NoImage("cannot be read as an image, it has no pixels")
    return header


def _png(content: bytes) -> ImageHeader:
    length, kind, width, height, depth, colours = struct.unpack_from(">L4sLLBB", content, 8)
    if (length, kind) != (13, b"IHDR"):
        raise NoImage("cannot be read as an image, it has no IHDR")
    if depth not in _DEPTHS.get(colours, ()):
        raise NoImage(f"has {depth} bits a channel: use 8")
    return ImageHeader("PNG", width, height, grey=colours in (0, 4))


def _segments(content: bytes) -> list[tuple[int, int, int]]:
    """Marker, begin and end of each of a JPEG's segments up to the first scan, which ends it."""
    found: list[tuple[int, int, int]] = []
    at = 2
    while len(found) < _MAX_PARTS:
        begin = at
        if content[at] != 0xFF:
            raise NoImage("cannot be read as an image, it is a damaged JPEG")
        while content[at] == 0xFF:  # any number of them may fill up
            at += 1
        marker = content[at]
        at += 1
        if marker not in _ALONE:
            (length,) = struct.unpack_from(">H", content, at)
            at += max(length, 2)
        found.append((marker, begin, at))
        if marker == 0xDA:
            return found
    raise NoImage(f"has more than {_MAX_PARTS} segments: save it again")


def _jpeg(content: bytes) -> ImageHeader:
    scans = content.count(b"\xff\xda")
    if scans > _MAX_SCANS:
        raise NoImage(f"has {scans} scans, above the limit of {_MAX_SCANS}: save it again")
    found: ImageHeader | None = None
    for marker, begin, end in _segments(content):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if marker not in _FRAMES:
                raise NoImage("is a JPEG of a kind that is not read: save it as baseline")
            body = content[begin:end].lstrip(b"\xff")
            depth, height, width, channels = struct.unpack_from(">BHHB", body, 3)
            if depth != 8 or channels not in (1, 3, 4):
                raise NoImage(f"has {depth} bits for each of {channels} channels: use 8 and 1-4")
            found = ImageHeader("JPEG", width, height, grey=channels == 1)
    if found is None:
        raise NoImage("cannot be read as an image, it is a JPEG without a frame")
    return found


def _bmp(content: bytes) -> ImageHeader:
    (size,) = struct.unpack_from("<L", content, 14)
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", content, 18)
        colours, entry = 0, 3
    elif size in (40, 52, 56, 64, 108, 124):
        width, height, _, bits = struct.unpack_from("<iiHH", content, 18)
        (colours,) = struct.unpack_from("<L", content, 46)
        entry = 4
    else:
        raise NoImage(f"is a BMP whose header has {size} bytes: save it as PNG")
    if bits not in (1, 4, 8, 16, 24, 32):
        raise NoImage(f"is a BMP of {bits} bits a pixel: save it as PNG")
    grey = bits <= 8 and _grey_palette(content[14 + size :], colours or 1 << bits, entry)
    return ImageHeader("BMP", width, abs(height), grey)


def _grey_palette(palette: bytes, colours: int, entry: int) -> bool:
    """Whether a palette gives each index its own level of grey, as Pillow asks."""
    if colours > 256 or len(palette) < colours * entry:
        return False
    levels = (0, 255) if colours == 2 else range(colours)
    return all(
        palette[index * entry : index * entry + 3] == bytes((level,)) * 3
        for index, level in enumerate(levels)
    )


def _webp(content: bytes) -> ImageHeader:
    kind = content[12:16]
    if kind == b"VP8 ":
        code, width, height = struct.unpack_from("<3sHH", content, 23)
        if code != b"\x9d\x01\x2a":
            raise NoImage("cannot be read as an image, it is a damaged WebP")
        return ImageHeader("WEBP", width & 0x3FFF, height & 0x3FFF, grey=False)
    if kind == b"VP8L":
        signature, bits = struct.unpack_from("<BL", content, 20)
        if signature != 0x2F:
            raise NoImage("cannot be read as an image, it is a damaged WebP")
        return ImageHeader("WEBP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, grey=False)
    if kind == b"VP8X" and len(content) >= 30:
        width = int.from_bytes(content[24:27], "little") + 1
        height = int.from_bytes(content[27:30], "little") + 1
        return ImageHeader("WEBP", width, height, grey=False)
    raise NoImage("cannot be read as an image, it is a damaged WebP")


def pixels_only(content: bytes, format: str) -> bytes:
    """A PNG or JPEG without the metadata, which costs time to read; others as they are.

    Raises:
        NoImage: it is damaged.
    """
    if format == "JPEG":
        segments = _segments(content)
        kept = [content[begin:end] for kind, begin, end in segments if kind not in _METADATA]
        return b"".join((content[:2], *kept, content[segments[-1][2] :]))
    if format != "PNG":
        return content
    chunks = [_PNG]
    at = len(_PNG)
    for _ in range(_MAX_PARTS):
        if at + _CHUNK.size > len(content):
            break  # Pillow says what is missing
        length, kind = _CHUNK.unpack_from(content, at)
        end = at + _CHUNK.size + length + 4
        if kind in _DRAWN:
            chunks.append(content[at:end])
        if kind == b"IEND":
            break
        at = end
    else:
        raise NoImage(f"has more than {_MAX_PARTS} chunks: save it again")
    return b"".join(chunks)
