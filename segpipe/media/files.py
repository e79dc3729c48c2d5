"""Files that are read whole: opened only when they are files."""

import os
import stat
from io import BufferedReader
from pathlib import Path

from segpipe.errors import InputError


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading, and nothing else: a FIFO would wait for ever for somebody to write."""
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115 - the caller closes it
    except OSError as error:
        raise _unreadable(path, error) from None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise InputError(f"{path} is not a regular file", hint="give a file: FIFOs and devices are not read")


def read_regular(path: Path) -> bytes:
    """The bytes of a file; an InputError for whatever is none."""
    with open_regular(path) as file:
        try:
            return file.read()
        except OSError as error:
            raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read: {error.strerror}", hint="check the path and its permissions")
