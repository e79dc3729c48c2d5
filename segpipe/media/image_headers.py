"""What an image's first bytes claim, before anything is decoded: a small file may unfold to gigabytes.

Pillow reads headers too, but not of every TIFF that OpenCV takes, and of WebP not without memory for the pixels.
"""

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from PIL import JpegImagePlugin, PpmImagePlugin

_Piece = TypeVar("_Piece")

_TIFF_SIDES = (257, 256)  # height, width
_TIFF_BITS, _TIFF_COLOURS = 258, 262
_TIFF_MODES = {(5, False): "CMYK", (5, True): "CMYK", (0, True): "I;16 inverted"}  # what 262 says, deeper than 8 bits
_TIFF_FORMATS = {3: "H", 4: "I", 16: "Q"}
_JPEG2000_SIZES = b"\xff\x4f\xff\x51"  # what its codestream starts with, with or without a file around it
_JPEG, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xda", b"\xd9"
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")  # but those that stand within a scan
_JPEG_HEAD_MARKER = re.compile(rb"\xff([^\x00\xff])")  # as Pillow goes on from one to the next
_MOST_SEGMENTS = 4000  # of a JPEG; those of its colour profile and EXIF hold 64 kB each
_MOST_HEADER_BYTES = 1 << 16  # of a PPM's header, and of what lies between a JPEG's segments: Pillow reads them singly
_MOST_PIECES, _PIECE_BYTES = 4000, 64  # of a file's chunks, boxes and blocks: so many, and one for so many bytes
_GIF_BLOCK = re.compile(rb"[!,;]")
_GIF_EXTENSION, _GIF_PICTURE = b"!", b","
_GIF_SCREEN_BYTES, _GIF_PICTURE_BYTES = 13, 9
_MOST_DIRECTORIES = 1000  # of a TIFF that are looked at: more than one are refused anyway
_BOX_TO_THE_END, _BOX_IS_WIDE = 0, 1  # what a size may stand for


@dataclass(frozen=True)
class Header:
    """Of the file's largest picture."""

    height: int
    width: int
    pictures: int = 1
    mode: str = ""
    """Pillow's name of the colours, where they tell what OpenCV would hide."""
    scans: int = 1
    """How often a JPEG goes over its pixels."""


def read_header(content: bytes) -> Header | None:
    """None for a kind of file that is not known, or whose header is torn."""
    read = next((read for start, read in _READERS.items() if content.startswith(start)), None)
    try:
        return read(content) if read else None
    except (OSError, SyntaxError, ValueError, IndexError, struct.error):
        return None


def is_known_kind(content: bytes) -> bool:
    """Whether it begins as one of the kinds of image that are known here."""
    return content.startswith(tuple(_READERS))


def _png(content: bytes) -> Header | None:
    """Through all of its chunks: Pillow, which reads the EXIF of some, goes through those behind the pixels too."""
    width, height = struct.unpack_from(">II", content, 16)
    pictures, is_head = 1, True
    for kind, at in _few(_png_chunks(content), content):
        is_head = is_head and kind != b"IDAT"
        if is_head and kind == b"acTL":
            (pictures,) = struct.unpack_from(">I", content, at + 8)
    return Header(height, width, pictures)


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, int]]:
    """Kind, and where each begins; bytes behind the last one are none."""
    at = 8
    while (kind := content[at + 4 : at + 8]) and kind != b"IEND":
        yield kind, at
        at += 12 + struct.unpack_from(">I", content, at)[0]


def _few(pieces: Iterator[_Piece], content: bytes) -> Iterator[_Piece]:
    """The same, but that megabytes of empty ones are refused."""
    for number, piece in enumerate(pieces):
        _require_few(number, _MOST_PIECES + len(content) // _PIECE_BYTES)
        yield piece


def _jpeg(content: bytes) -> Header | None:
    _require_short_head(content)
    scans = _scans(content)
    image = JpegImagePlugin.jpeg_factory(io.BytesIO(content))
    return Header(image.height, image.width, getattr(image, "n_frames", 1), image.mode, scans)


def _require_short_head(content: bytes) -> None:
    """Megabytes of empty segments, or of bytes between them, would take Pillow many seconds."""
    segments, between, at = 0, 0, len(_JPEG)
    while (found := _JPEG_HEAD_MARKER.search(content, at)) and found[1] != _JPEG_SCAN:
        segments += 1
        between += found.start() - at
        _require_few(segments, _MOST_SEGMENTS)
        _require_few(between, _MOST_HEADER_BYTES)
        at = found.end()
        if JpegImagePlugin.MARKER.get(int.from_bytes(found[0]), ("", "", None))[2]:  # else Pillow knows no length
            at += int.from_bytes(content[at : at + 2])
    _require_few((found.start() if found else len(content)) - at, _MOST_HEADER_BYTES)


def _require_few(count: int, most: int) -> None:
    if count > most:
        raise ValueError("its header is made to take long")


def _scans(content: bytes) -> int:
    """By its markers, up to the picture's end."""
    scans, segments, at = 0, 0, len(_JPEG)
    while (found := _JPEG_MARKER.search(content, at)) and found[1] != _JPEG_END:
        scans += found[1] == _JPEG_SCAN
        segments += 1
        _require_few(segments, _MOST_SEGMENTS)
        at = found.end() + int.from_bytes(content[found.end() : found.end() + 2])
    return scans


def _gif(content: bytes) -> Header | None:
    """By its blocks: Pillow reads each one singly, also what lies between."""
    width, height = struct.unpack_from("<HH", content, 6)
    pictures = 0
    for kind, at in _few(_gif_blocks(content), content):
        if kind == _GIF_PICTURE:
            left, top, wide, high = struct.unpack_from("<HHHH", content, at)
            width, height, pictures = max(width, left + wide), max(height, top + high), pictures + 1
    return Header(height, width, pictures) if pictures else None


def _gif_blocks(content: bytes) -> Iterator[tuple[bytes, int]]:
    """Kind of each, and where it goes on; what a block is cut into counts as blocks without a kind."""
    at, between = _GIF_SCREEN_BYTES + _gif_colours(content[10]), 0
    while (found := _GIF_BLOCK.search(content, at)) and found[0] in (_GIF_EXTENSION, _GIF_PICTURE):
        between += found.start() - at
        _require_few(between, _MOST_HEADER_BYTES)
        at = found.end()
        yield found[0], at
        at += 1  # its label, or how many bits a pixel has
        if found[0] == _GIF_PICTURE:
            at += _GIF_PICTURE_BYTES + _gif_colours(content[at + _GIF_PICTURE_BYTES - 2])
        while size := content[at]:
            at += 1 + size
            yield b"", at
        at += 1
    _require_few((found.start() if found else len(content)) - at, _MOST_HEADER_BYTES)


def _gif_colours(flags: int) -> int:
    """Bytes of the table of colours that follows."""
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def _ppm(content: bytes) -> Header | None:
    image = PpmImagePlugin.PpmImageFile(io.BytesIO(content[: _MOST_HEADER_BYTES + 1]))
    _require_few(image.tile[0].offset, _MOST_HEADER_BYTES)  # a number that is cut off would be a smaller one
    return Header(image.height, image.width)


def _bmp(content: bytes) -> Header | None:
    oldest = struct.unpack_from("<I", content, 14)[0] == 12
    width, height = struct.unpack_from("<HH" if oldest else "<ii", content, 18)
    return Header(abs(height), abs(width))  # upside down where negative


def _webp(content: bytes) -> Header | None:
    kind = content[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(content[at : at + 3], "little") for at in (24, 27))
        return Header(height, width, max(sum(kind == b"ANMF" for kind in _few(_riff_chunks(content), content)), 1))
    if kind == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        return Header(1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF))
    width, height = struct.unpack_from("<HH", content, 26)
    return Header(height & 0x3FFF, width & 0x3FFF)


def _riff_chunks(content: bytes) -> Iterator[bytes]:
    """The kind of each."""
    at = 12
    while kind := content[at : at + 4]:
        yield kind
        size = struct.unpack_from("<I", content, at + 4)[0]
        at += 8 + size + size % 2


def _tiff(content: bytes) -> Header | None:
    """Through its chain of directories; `+` for 64-bit offsets, which BigTIFF has."""
    order = "<" if content.startswith(b"II") else ">"
    big = 43 in content[2:4]
    count_format, entry_bytes, offset = ("Q", 20, "Q") if big else ("H", 12, "I")
    (at,) = struct.unpack_from(order + offset, content, 8 if big else 4)
    seen: dict[int, tuple[int, int]] = {}
    mode, left_bytes = "", len(content)
    while at and at not in seen and len(seen) < _MOST_DIRECTORIES:
        (count,) = struct.unpack_from(order + count_format, content, at)
        first = at + struct.calcsize(count_format)
        left_bytes -= entry_bytes * count
        if left_bytes < 0:
            raise ValueError("its directories lie over each other")
        seen[at] = _tiff_sides(content, order, range(first, first + entry_bytes * count, entry_bytes), big)
        mode = mode or _tiff_mode(content, order, range(first, first + entry_bytes * count, entry_bytes), big)
        (at,) = struct.unpack_from(order + offset, content, first + entry_bytes * count)
    height, width = max(seen.values(), key=lambda sides: sides[0] * sides[1])
    return Header(height, width, len(seen), mode)


def _tiff_sides(content: bytes, order: str, entries: range, big: bool) -> tuple[int, int]:
    """Of a tag that occurs twice the larger value: decoders differ in which they take."""
    sides: dict[int, int] = {}
    for at in entries:
        tag, kind = struct.unpack_from(order + "HH", content, at)
        if tag in _TIFF_SIDES:
            (side,) = struct.unpack_from(order + _TIFF_FORMATS.get(kind, "I"), content, at + (12 if big else 8))
            sides[tag] = max(side, sides.get(tag, 0))
    height, width = (sides.get(tag, 0) for tag in _TIFF_SIDES)
    return height, width


def _tiff_mode(content: bytes, order: str, entries: range, big: bool) -> str:
    """Of colours that OpenCV would give as others: it converts ink without its profile, and inverts only 8 bits."""
    found = {}
    for at in entries:
        tag = struct.unpack_from(order + "H", content, at)[0]
        if tag in {_TIFF_BITS, _TIFF_COLOURS}:
            (found[tag],) = struct.unpack_from(order + "H", content, at + (12 if big else 8))
    return _TIFF_MODES.get((found.get(_TIFF_COLOURS, 1), found.get(_TIFF_BITS, 1) > 8), "")


def _jpeg2000(content: bytes) -> Header | None:
    """A bare codestream, or the largest one among a file's boxes; what other boxes hold is not decoded."""
    if content.startswith(_JPEG2000_SIZES):
        return _codestream(content, 0)
    found = [_codestream(content, at) for kind, at in _few(_jpeg2000_boxes(content), content) if kind == b"jp2c"]
    return max(found, key=lambda header: header.height * header.width) if found else None


def _codestream(content: bytes, at: int) -> Header:
    if not content.startswith(_JPEG2000_SIZES, at):
        raise ValueError("its sizes come first")
    width, height, left, top = struct.unpack_from(">IIII", content, at + 8)
    return Header(height - top, width - left)


def _jpeg2000_boxes(content: bytes) -> Iterator[tuple[bytes, int]]:
    """Kind and where the content starts, of those that lie in no other box."""
    at = 0
    while at < len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        start = at + 8
        if size == _BOX_IS_WIDE:
            (size,) = struct.unpack_from(">Q", content, start)
            start += 8
        yield kind, start
        if size == _BOX_TO_THE_END:
            return
        at += max(size, start - at)


_READERS = {
    b"\x89PNG": _png,
    _JPEG: _jpeg,
    b"RIFF": _webp,
    b"BM": _bmp,
    b"GIF8": _gif,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    b"II+\0": _tiff,
    b"MM\0+": _tiff,
    _JPEG2000_SIZES: _jpeg2000,
    b"\0\0\0\x0cjP": _jpeg2000,
    **dict.fromkeys((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"), _ppm),
}
