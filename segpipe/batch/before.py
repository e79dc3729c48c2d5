"""What is looked at before anybody segments: source, target, room. What would fail an hour later fails now."""

import logging
import os
from pathlib import Path

from segpipe.batch.sources import LISTS
from segpipe.batch.stores import LocalStore, Store, is_remote, open_store, plain
from segpipe.errors import InputError, StorageError

_log = logging.getLogger(__name__)

_PROBE = ".segpipe-probe"
_LEAST_BYTES = 1 << 20
"""With less no batch gets anywhere."""


def require_places(source: str, out: str) -> tuple[str, ...]:
    """Both are to be reached with these credentials, and masks can be written; nothing is listed yet.

    Returns the places that whoever segments has to see as well; a list of paths is read here alone.
    """
    places = [*_source(source), *_target(open_store(out))]
    return tuple(dict.fromkeys(places))


def _source(source: str) -> list[str]:
    if is_remote(source):
        open_store(source).entry("")
        return []
    path = Path(plain(source))
    if not path.exists():
        raise InputError(f"{path} does not exist", hint="name a folder, a .tar, or a .csv or .parquet list of paths")
    return [] if path.suffix.lower() in LISTS else [str(path)]


def _target(store: Store) -> list[str]:
    if not isinstance(store, LocalStore):
        store.write(_PROBE, b"")  # who may list a bucket may not write to it
        store.remove(_PROBE)
        return []
    folder = _standing(store.root)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"{folder} cannot be written to", hint="give this user permission, or name another --out")
    found = os.statvfs(folder)
    if found.f_bavail * found.f_frsize < _LEAST_BYTES or (found.f_files and not found.f_favail):
        raise StorageError(f"the disk of {folder} is full", hint="free some space, or name another --out")
    return [str(folder)]


def warn_of_room(store: Store, written_bytes: int, written: int, left: int) -> None:
    """Say in time that the masks to come, if they are like those that were written, do not fit."""
    if not isinstance(store, LocalStore) or not written:
        return
    found = os.statvfs(store.root)
    wanted, free = written_bytes / written * left, found.f_bavail * found.f_frsize
    if wanted > free:
        _log.warning(
            "%d masks to come take about %.1f GB, %s has %.1f GB left", left, wanted / 1e9, store.root, free / 1e9
        )
    elif found.f_files and left > found.f_favail:
        _log.warning("%d masks are to come, %s has room for %d files", left, store.root, found.f_favail)


def _standing(path: Path) -> Path:
    """The folder that would hold what is made at a path."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
