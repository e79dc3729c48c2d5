"""The lock of a run directory: one writer at a time. The kernel frees it when its process dies, however it dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segpipe.errors import RunLockedError
from segpipe.storage import explained_refusals

FILE_NAME = ".lock"


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold the directory for writing, or raise RunLockedError at once with the holder's process number."""
    with explained_refusals(str(directory / FILE_NAME)):
        descriptor = os.open(directory / FILE_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise RunLockedError(
                f"{directory} is being written by another segpipe (process {holder})",
                hint="wait for it to finish, or use another run directory",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
