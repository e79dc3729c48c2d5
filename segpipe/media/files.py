"""Files that somebody hands in, read whole: what cannot be opened as a file is an InputError."""

from io import BufferedReader
from pathlib import Path

from segpipe.errors import InputError, StorageError
from segpipe.rundir import storage


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; the caller closes it."""
    try:
        return storage.open_regular(path)
    except StorageError as error:
        raise InputError(error.message, hint=error.hint) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def read_regular(path: Path) -> bytes:
    """The bytes of a file; an InputError for whatever is none."""
    with open_regular(path) as file:
        try:
            return file.read()
        except OSError as error:
            raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read: {error.strerror}", hint="check the path and its permissions")
