"""The boxes of an MP4 or QuickTime file: how much of its pictures its edit list shows, and a note of ours at its end.

A clip that was cut out without encoding begins at the key frame before the cut; its edit list hides what is too early.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_HEADER = struct.Struct(">I4s")
_TO_THE_END, _WIDE = 0, 1  # what a size may stand for: the rest of the file, or 64 bits behind the kind
_NOTE = b"uuid" + bytes.fromhex("6f5e1f0b7a0c4d3c9d1e736567706970")  # a box that players skip; its name is ours
_LONGEST_NOTE = 1 << 20  # bytes
_PAUSE = -1  # the begin of an edit that shows nothing


def shown_share(file: BinaryIO) -> float:
    """Of the time that the pictures last; 1 where no edit list says less, or the index is of an unknown make."""
    try:
        movie = _movie(file)
        tracks = [box for kind, box in _boxes(movie) if kind == b"trak"]
        track = next(track for track in tracks if _inside(track, b"mdia", b"hdlr")[8:12] == b"vide")
        units_per_s, duration = _times(_inside(track, b"mdia", b"mdhd"))
        edits = _edits(_inside(track, b"edts", b"elst"))
        shown_s = sum(length for length, begin in edits if begin != _PAUSE) / _times(_inside(movie, b"mvhd"))[0]
        hidden_s = max(begin for _, begin in edits) / units_per_s
        media_s = duration / units_per_s
        return max(min(shown_s, media_s - hidden_s, media_s) / media_s, 0)
    except (struct.error, KeyError, StopIteration, ValueError, ZeroDivisionError):
        return 1.0


def append_note(path: Path, note: bytes) -> None:
    """Add a box that players skip."""
    with path.open("ab") as file:
        file.write((len(_NOTE) + 4 + len(note)).to_bytes(4) + _NOTE + note)


def read_note(file: BinaryIO) -> bytes:
    """What `append_note` added to a file; nothing where there is no such box."""
    try:
        for kind, begin, end in top_boxes(file):
            file.seek(begin)
            if kind + file.read(len(_NOTE) - len(kind)) == _NOTE:
                return file.read(min(max(end - file.tell(), 0), _LONGEST_NOTE))
    except struct.error:
        return b""
    return b""


def top_boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of the content of one box after the other; struct.error where a header is cut off."""
    at, there = 0, os.fstat(file.fileno()).st_size
    while at < there:
        file.seek(at)
        size, kind = _HEADER.unpack(file.read(_HEADER.size))
        begin = at + _HEADER.size
        if size == _TO_THE_END or not kind.strip(b"\0"):  # or zeros that some writers leave at the end
            size = there - at
        elif size == _WIDE:
            (size,) = struct.unpack(">Q", file.read(8))
            begin += 8
        at += max(size, _HEADER.size)
        yield kind, begin, at


def _movie(file: BinaryIO) -> bytes:
    """The box `moov`, which lies at the file's beginning or end."""
    begin, end = next((begin, end) for kind, begin, end in top_boxes(file) if kind == b"moov")
    file.seek(begin)
    return file.read(end - begin)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        size, kind = _HEADER.unpack_from(data, at)
        yield kind, data[at + _HEADER.size : at + size]
        at += max(size, _HEADER.size)


def _inside(data: bytes, *kinds: bytes) -> bytes:
    for kind in kinds:
        data = dict(_boxes(data))[kind]
    return data


def _times(header: bytes) -> tuple[int, int]:
    """Units a second, and the duration in them."""
    units_per_s, duration = struct.unpack_from(">IQ" if header[0] else ">II", header, 20 if header[0] else 12)
    return units_per_s, duration


def _edits(box: bytes) -> list[tuple[int, int]]:
    """Length, in the movie's units, and begin, in the track's."""
    entry = struct.Struct(">Qqi" if box[0] else ">Iii")
    (count,) = struct.unpack_from(">I", box, 4)
    return [entry.unpack_from(box, 8 + entry.size * number)[:2] for number in range(count)]
