"""Writes that a power cut or a kill cannot tear, hashes of what is on disk, and the words for a disk that refuses."""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from segpipe.errors import SegpipeError, StorageError

_HINTS = {
    errno.ENOSPC: "free some space and run the same command again; nothing finished is lost",
    errno.EDQUOT: "free some of the quota and run the same command again; nothing finished is lost",
    errno.EFBIG: "raise the file size limit (ulimit -f) and run the same command again; nothing finished is lost",
    errno.EROFS: "the file system is read-only: use a run directory on a writable one",
    errno.EACCES: "give this user write permission, or use another run directory",
    errno.EPERM: "give this user write permission, or use another run directory",
    errno.ENOENT: "the folder it belongs to cannot be made there: name another path",
    errno.ENOTDIR: "a file lies where a directory is needed: move it, or name another path",
    errno.EEXIST: "a file lies where a directory is needed: move it, or name another path",
    errno.EISDIR: "a directory lies where a file is needed: move it, or name another path",
    errno.ELOOP: "a symbolic link lies where a file is needed: delete it, or name another path",
    errno.ENAMETOOLONG: "the file system takes no name or path of this length: give a shorter one",
    errno.EILSEQ: "the file system takes no name of these characters: give another one",
    errno.EIO: "the device reports a fault: check it, and its connection, before trusting what it holds",
}
_READ_HINTS = _HINTS | {
    errno.EACCES: "give this user permission to read it",
    errno.EPERM: "give this user permission to read it",
}

_TEMPORARY_SUFFIX = ".segpipe-tmp"
_TEMPORARY = re.compile(r"\..+\.[1-9][0-9]*\.[0-9a-f]{8}\.segpipe-tmp")
_READ_LIMIT_BYTES = 1 << 26  # of JSON and TOML: the largest report has a few MB
_LONGEST_NAME = 200  # bytes, of 255: dots, a process's number, a random one and the suffix are added


@contextmanager
def explained_refusals(doing: str) -> Iterator[None]:
    """Turn the operating system's refusals of a write into a StorageError; other errors pass."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError) or error.errno not in _HINTS:
            raise
        where = f" ({error.filename})" if error.filename else ""
        raise StorageError(f"cannot write {doing}: {error.strerror}{where}", hint=_HINTS[error.errno]) from error


@contextmanager
def explained_reads(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals of a read into a StorageError; a file that is gone passes."""
    try:
        yield
    except (FileNotFoundError, StorageError):
        raise
    except OSError as error:
        hint = _READ_HINTS.get(error.errno or 0, "check the path and the file system it is on")
        raise StorageError(f"cannot use {path}: {error.strerror}", hint=hint) from error


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading, and nothing else: a FIFO would wait for ever for somebody to write.

    A refusal of the operating system passes as it is; the caller closes the file.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise StorageError(f"{path} is not a regular file", hint="put a file in its place: pipes and devices are not read")


def read_bounded(path: Path, limit_bytes: int = _READ_LIMIT_BYTES) -> bytes:
    """The bytes of a small regular file: never waits for a FIFO, never reads a device or what has no end."""
    with explained_reads(path), open_regular(path) as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise StorageError(
            f"{path} has more than {limit_bytes >> 20} MiB", hint="segpipe reads no such file: move it aside"
        )
    return data


def read_text_file(path: Path, error: type[SegpipeError], limit_bytes: int = _READ_LIMIT_BYTES) -> str:
    """A small text file, its line ends as they are; `error` is raised for what is not UTF-8."""
    try:
        return read_bounded(path, limit_bytes).decode()
    except UnicodeDecodeError:
        raise error(f"{path} is not UTF-8 text", hint="save it as UTF-8") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` as a whole: after a kill it holds the old bytes or the new ones."""
    temporary = path.with_name(f".{_short(path.name)}.{os.getpid()}.{os.urandom(4).hex()}{_TEMPORARY_SUFFIX}")
    with explained_refusals(str(path)):
        try:
            with _opened_for_us(temporary) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)  # still locked: a sweeper would take it for a dead writer's
            sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _opened_for_us(temporary: Path) -> BinaryIO:
    """A new file, locked for as long as it is open: numbers of processes say nothing across containers."""
    while True:
        file = temporary.open("xb")
        with suppress(OSError):  # a file system without locks, on which nothing is swept
            fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():
            return file
        file.close()  # swept before it was locked


def _short(name: str) -> str:
    """The name, or what stands for one that a file system of 255 bytes a name would not take any longer."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= _LONGEST_NAME else sha256_of_bytes(encoded)


def sweep_temporaries(directory: Path) -> None:
    """Delete what killed processes left of `write_atomically` in a directory; a living process holds its own locked."""
    for path in directory.glob(f".*{_TEMPORARY_SUFFIX}"):
        if _TEMPORARY.fullmatch(path.name) and not path.is_symlink() and path.is_file():
            with suppress(OSError), open(path, "rb", opener=_open_quietly) as file:  # it is gone, or locked
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def _open_quietly(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def remove_folder(parent: Path, name: str) -> None:
    """Delete a folder that lies directly in `parent`. Neither may be a link; links inside are deleted, not followed."""
    descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        shutil.rmtree(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def remove_others(folder: Path, keep: Collection[str]) -> None:
    """Delete every file of a folder whose relative name is not in `keep`, and the folders that are empty then."""
    for parent, folders, files, descriptor in os.fwalk(folder, topdown=False, follow_symlinks=False):
        for name in files:
            if Path(parent, name).relative_to(folder).as_posix() not in keep:
                os.unlink(name, dir_fd=descriptor)
        for name in folders:
            with suppress(OSError):  # it is not empty, or a link
                os.rmdir(name, dir_fd=descriptor)


def sync_file(path: Path) -> None:
    """Force a file's bytes to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Force a directory's entries to the disk, so that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_bytes(data: bytes) -> str:
    """SHA-256 of bytes already in memory."""
    return hashlib.sha256(data).hexdigest()
