"""The command's stdout and stderr as they may be: closed, full, read by somebody who has left, of another encoding."""

import codecs
import errno
import io
import os
import sys
from typing import Any, TextIO

from segpipe.errors import StorageError

READER_LEFT = 141  # what a shell shows for any tool whose reader has left: 128 + SIGPIPE
_AS_ON_DISK = "segpipe.as-on-disk"


def prepare_streams() -> None:
    """What stdout refuses becomes an error of the command; what stderr refuses is lost, and the work goes on."""
    _fill_closed()
    if "JPY_PARENT_PID" in os.environ:  # a notebook's `!` gives a terminal, but shows no cursor that moves
        os.environ["TERM"] = "dumb"
    codecs.register_error(_AS_ON_DISK, _as_on_disk)
    if sys.stdout is sys.__stdout__:  # not where a notebook or a test has put its own
        sys.stdout = _text(_Stdout(1), sys.stdout, _AS_ON_DISK)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Stderr(2), sys.stderr, "backslashreplace")


class _Stderr(io.RawIOBase):
    """Once it has refused it takes everything: nobody reads it, and the exit code still says how the command ended."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._refused = False

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if self._refused:
            return len(data)
        try:
            return os.write(self._descriptor, data)
        except OSError as error:
            self._refused = True
            self._refuse(error)
        return len(data)

    def _refuse(self, error: OSError) -> None:
        """Say so, where it matters."""


class _Stdout(_Stderr):
    """Results go there: the first refusal ends the command, and what is flushed at exit does not complain again."""

    def _refuse(self, error: OSError) -> None:
        if error.errno == errno.EPIPE:
            sys.exit(READER_LEFT)
        reason = "it is closed" if error.errno == errno.EBADF else error.strerror
        raise StorageError(f"cannot write to stdout: {reason}", hint="send it elsewhere; files that were made are kept")


def _fill_closed() -> None:
    """Else the next file to be opened would be taken for stdout. Where results go, /dev/null refuses them too."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if descriptor == 2 else os.O_RDONLY)  # takes the lowest that is free


def _text(raw: _Stderr, stream: TextIO | None, errors: str) -> TextIO:
    encoding = stream.encoding if stream is not None else "utf-8"
    at_once = raw.isatty() or not isinstance(raw, _Stdout)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=at_once)


def _as_on_disk(error: UnicodeError) -> tuple[str | bytes, int]:
    """What the encoding lacks comes out as in a file's name, so that a printed path can be used."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    piece = error.object[error.start : error.end]
    try:
        return os.fsencode(piece), error.end
    except UnicodeEncodeError:
        return piece.encode("ascii", "backslashreplace"), error.end
