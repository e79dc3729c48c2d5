"""A video's many files, or a raster's large one: written aside by one process at a time, named when they are whole."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from segpipe.predicting.done import Origin, pictures_sha256, seal_video, write_record
from segpipe.predicting.job import MASKS, VIDEOS
from segpipe.predicting.ownership import TakenError, remove_ours, remove_stale, require_ours
from segpipe.rundir.storage import explained_refusals, sha256_of, sha256_of_bytes, sync_directory, sync_file


@contextmanager
def aside(wanted: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Hidden places beside the targets, empty, and nobody else's; what was not published from them goes."""
    parts = {}
    for folder, target in wanted.items():
        short = sha256_of_bytes(os.fsencode(target.name))[:16]
        parts[folder] = target.with_name(f".{short}.partial{'.mp4' if folder == VIDEOS else ''}")
    with _alone(wanted[MASKS], parts[MASKS].with_suffix(".lock")):
        try:
            for folder, part in parts.items():
                with explained_refusals(str(wanted[folder])):
                    _clear(part)
                    (part.parent if folder == VIDEOS else part).mkdir(parents=True, exist_ok=True)
            yield parts
        finally:
            for part in parts.values():
                _clear(part)


@contextmanager
def whole(target: Path, out: Path) -> Iterator[Path]:
    """A hidden place for one file, which has its name when this ends well, and is gone when it does not."""
    require_ours(target, out)
    with aside({MASKS: target}) as parts:
        yield (part := parts[MASKS] / target.name)
        require_ours(target, out)
        with explained_refusals(str(target)):
            sync_file(part)
            part.replace(target)
            sync_directory(target.parent)


def publish(parts: Mapping[str, Path], targets: Mapping[str, Path], origin: Origin, out: Path) -> list[Path]:
    """Give everything its name, the masks with the record last; returns what of other bytes was removed beside it.

    Whose the targets are is asked once more: the work took its time.
    """
    for folder in parts:
        require_ours(targets[folder], out)
    with explained_refusals(str(targets[MASKS])):
        if VIDEOS in parts:
            seal_video(parts[VIDEOS], origin)
            sync_file(parts[VIDEOS])
        write_record(parts[MASKS], origin, {folder: sha256_of_output(part) for folder, part in parts.items()})
        beside = [target for folder, target in targets.items() if folder not in parts]
        stale = [target for target in beside if remove_stale(target, origin.source, out)]
        for folder, part in parts.items():
            remove_ours(targets[folder], out)
            part.rename(targets[folder])
            sync_directory(part.parent)
    return stale


def sha256_of_output(target: Path) -> str:
    """Of a video, or of a folder's pictures; nothing where neither is."""
    if target.is_dir():
        return pictures_sha256(target)
    return sha256_of(target) if target.is_file() else ""


@contextmanager
def _alone(target: Path, lock: Path) -> Iterator[None]:
    """Hold a target for this process. The kernel frees it when the process dies, however it dies."""
    with explained_refusals(str(target)):
        lock.parent.mkdir(parents=True, exist_ok=True)
        if lock.is_symlink():
            lock.unlink()
        file = open(lock, "ab", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644))  # noqa: SIM115 - closed below
    with file:
        busy = TakenError(f"{target} is being made by another segpipe", hint="wait for it, or name another folder")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError:
            pass  # a file system without locks: as well as it goes
        if not _is_at(file.fileno(), lock):  # another one ended between the opening and the locking
            raise busy
        name = os.fspath(lock)
        try:
            yield
        finally:
            try:  # noqa: SIM105 - in C alone: Ctrl-C in a line of Python, a path's own even, would leave the file
                os.unlink(name)  # noqa: PTH108 - see above
            except FileNotFoundError:
                pass


def _is_at(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    return False


def _clear(part: Path) -> None:
    """Delete what lies under a hidden name; a link goes, not what it points to."""
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part)
    else:
        part.unlink(missing_ok=True)
