"""The lock of a run directory: one writer at a time. The kernel frees it when its process dies, however it dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segpipe.errors import RunLockedError
from segpipe.storage import explained_refusals

FILE_NAME = ".lock"

_held: set[int] = set()
"""Descriptors of the locks this process holds."""


def _close_inherited() -> None:
    """A forked worker that outlives its parent would keep the lock: the kernel frees it with the last descriptor."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_close_inherited)


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold the directory for writing, or raise RunLockedError at once with the holder's process number."""
    with explained_refusals(str(directory / FILE_NAME)):
        descriptor = os.open(directory / FILE_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(descriptor)
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
        if descriptor in _held:  # not in a forked child, where the number may be another file's by now
            _held.remove(descriptor)
            os.close(descriptor)
