"""A note behind the last byte of a file whose readers go by offsets, as TIFF's do: they never look there."""

import os
import struct
from typing import BinaryIO, NamedTuple

_END = struct.Struct(">Q8s")
_MARK = b"segpipe\0"
_MOST_BYTES = 1 << 20


class Note(NamedTuple):
    """What was found, and how many bytes lie before it."""

    text: bytes
    begin: int


def as_note(text: bytes) -> bytes:
    """What to append."""
    return text + _END.pack(len(text), _MARK)


def read_note(file: BinaryIO) -> Note:
    """The note at a file's end; an empty one where there is none."""
    end = file.seek(0, os.SEEK_END)
    if end >= _END.size:
        file.seek(end - _END.size)
        length, mark = _END.unpack(file.read(_END.size))
        if mark == _MARK and length <= min(_MOST_BYTES, end - _END.size):
            begin = end - _END.size - length
            file.seek(begin)
            return Note(file.read(length), begin)
    return Note(b"", end)
