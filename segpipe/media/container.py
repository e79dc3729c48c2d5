"""Whether a video file is all there: what its container says of itself, against what lies on the disk."""

import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from segpipe.errors import InputError
from segpipe.media.mp4 import shown_share, top_boxes

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # of which one comes first
_ESTIMATE = 0.9  # Matroska counts no frames: duration times rate, and its sound may last longer
_EDGE_FRAMES = 1  # that rounding may lose where an edit begins


def require_whole(path: Path, file: BinaryIO) -> None:
    """Refuse a file that ends before its container does. One that gives no sizes passes."""
    file.seek(0)
    start = file.read(12)
    read = _riff_end if start[:4] == b"RIFF" else _matroska_end if start[:4] == _EBML else None
    if start[4:8] in _BOXES:
        read = _boxes_end
    there = os.fstat(file.fileno()).st_size
    wanted = _end(file, there, read) if read else 0
    if wanted > there:
        raise InputError(
            f"{path} is cut off: it has {there} bytes, its container says {wanted}",
            hint=f"copy it again; to use what there is, rewrite it: ffmpeg -i {path.name} whole{path.suffix}",
        )


def least_frames(file: BinaryIO, counted: int) -> int:
    """How many frames a whole file gives at least, whose header counts so many.

    AVI's count holds. MP4's includes what an edit list hides, as it does where a clip was cut out without encoding.
    """
    file.seek(0)
    start = file.read(12)
    if start[:4] == _EBML:
        return int(_ESTIMATE * counted)
    if start[4:8] not in _BOXES:
        return counted
    return min(counted, math.ceil(counted * shown_share(file)) - _EDGE_FRAMES)


def _end(file: BinaryIO, there: int, read: Callable[[BinaryIO, int], int]) -> int:
    try:
        return read(file, there)
    except struct.error:  # ends inside a header: at least one more byte was meant
        return there + 1


def _boxes_end(file: BinaryIO, there: int) -> int:
    """MP4 and QuickTime: boxes one after the other."""
    return max((end for _, _, end in top_boxes(file)), default=there)


def _riff_end(file: BinaryIO, there: int) -> int:
    """AVI: one RIFF chunk after the other, at most 2 GB each."""
    at = 0
    while at < there:
        file.seek(at)
        kind, size = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF":
            return there
        at += 8 + size
    return at


def _matroska_end(file: BinaryIO, there: int) -> int:
    """MKV and WebM: a header and one segment, whose size a live recording leaves open."""
    file.seek(4)
    size = _variable_size(file)
    file.seek(size or 0, os.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return there
    size = _variable_size(file)
    return there if size is None else file.tell() + size


def _variable_size(file: BinaryIO) -> int | None:
    """EBML: as many bytes follow as zero bits lead; all ones stand for unknown."""
    (first,) = struct.unpack("B", file.read(1))
    more = 8 - first.bit_length()
    (value,) = struct.unpack(">Q", (bytes([first]) + file.read(more)).rjust(8, b"\0"))
    unknown = (1 << 7 * (more + 1)) - 1
    value &= unknown
    return None if value == unknown else value
