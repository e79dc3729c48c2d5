"""What in an output folder is segpipe's, and may be replaced or removed: records decide, names never do."""

import errno
from pathlib import Path
from typing import Any

from segpipe.errors import InputError
from segpipe.predicting.done import Source, place, record_in
from segpipe.rundir.storage import explained_refusals

STAMP = "segpipe-predicted.json"
"""What an older segpipe, which wrote no records, left in its output folder."""

_WRITTEN = frozenset({".png", ".mp4"})


class TakenError(InputError):
    """A place in the output is somebody's, or another segpipe's who works there: this input is left out."""


def require_ours(target: Path, out: Path) -> list[Path]:
    """The files of a target, which may be gone, a file or a folder; a TakenError where one carries no record."""
    with explained_refusals(str(target)):
        records = _records(target)
        old = (out / STAMP).is_file()
    for file, record in records.items():
        if not record and not (old and file.suffix in _WRITTEN and file.is_file() and not file.is_symlink()):
            raise TakenError(
                f"{file} is not segpipe's, it carries no record of one, and would be replaced",
                hint="name another folder with --out, or move it",
            )
    return list(records)


def remove_ours(target: Path, out: Path) -> None:
    """Delete a target that is ours, and nothing that somebody puts there at the same time."""
    files = require_ours(target, out)
    with explained_refusals(str(target)):
        for file in files:
            file.unlink(missing_ok=True)
        try:
            if target.is_dir():
                target.rmdir()
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            raise TakenError(f"{target} got files of somebody's while it was replaced", hint="move them") from None


def remove_made_of(target: Path, source: Path, out: Path) -> bool:
    """Delete what was made of the file at this place, and only that; whether there was something."""
    sources = _sources(target)
    mine = bool(sources) and all(each.get("path") == str(place(source)) for each in sources)
    if mine:
        remove_ours(target, out)
    return mine


def remove_stale(target: Path, source: Source, out: Path) -> bool:
    """Delete what was made of other bytes and would lie beside what is made of these; whether there was something."""
    sources = _sources(target)
    stale = bool(sources) and all(each.get("sha256") not in (None, source.sha256) for each in sources)
    if stale:
        remove_ours(target, out)
    return stale


def _sources(target: Path) -> list[dict[str, Any]]:
    """The sources of all files of a target."""
    try:
        return [record.get("source", {}) for record in _records(target).values()]
    except OSError:  # no name that this file system takes, or a folder that cannot be read
        return []


def _records(target: Path) -> dict[Path, dict[str, Any]]:
    if target.is_dir() and not target.is_symlink():
        return {file: record_in(file) for file in sorted(target.iterdir())}
    return {target: record_in(target)} if target.is_symlink() or target.exists() else {}
