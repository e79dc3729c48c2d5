"""The lock of a run directory: one writer at a time. The kernel frees it when its process dies, however it dies."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segpipe.errors import RunLockedError, StorageError
from segpipe.rundir.storage import explained_refusals

FILE_NAME = ".lock"
_LONGEST = 32  # bytes of a process's number

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
    path = directory / FILE_NAME
    with explained_refusals(str(path)):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    _held.add(descriptor)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StorageError(f"{path} is not a regular file", hint="delete it: segpipe makes its lock itself")
        _take(descriptor, directory)
        if _is_ours(descriptor):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        if descriptor in _held:  # not in a forked child, where the number may be another file's by now
            _held.remove(descriptor)
            os.close(descriptor)


def _is_ours(descriptor: int) -> bool:
    """Whether it is empty or holds a number: what another tool keeps under this name is locked, never overwritten."""
    content = os.pread(descriptor, _LONGEST + 1, 0)
    return len(content) <= _LONGEST and (not content.strip() or content.strip().isdigit())


def _take(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, _LONGEST, 0).decode("ascii", "replace").strip()
        raise RunLockedError(
            f"{directory} is being written by another segpipe (process {holder if holder.isdigit() else 'unknown'})",
            hint="wait for it to finish, or use another run directory",
        ) from None
    except OSError as error:
        raise StorageError(
            f"{directory} cannot be locked: {error.strerror}",
            hint="its file system has no flock: use a run directory on a local disk, or mount it with locks",
        ) from error
