"""RUN/latest/STAGE: copies of a finished stage's pages and pictures, without the hash in between.

Nothing reads them again. They are copies, because these outlive moving, zipping and file systems without links, and
may be drawn on without damaging what a record vouches for. What segpipe did not write there, or what was changed since,
is kept.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from segpipe.rundir.manifest import StageRecord
from segpipe.rundir.storage import (
    open_regular,
    read_bounded,
    sha256_of,
    sha256_of_bytes,
    sweep_temporaries,
    write_atomically,
)

FOLDER = "latest"

_MADE = ".segpipe-made"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")  # as sha256sum writes it
_LOOKED_AT = (".html", ".png")

_log = logging.getLogger(__name__)


def refresh(run: Path, stages: Mapping[str, StageRecord]) -> None:
    """Bring the folder up to date. The caller holds the writer's lock. It fails no command: these are copies."""
    latest = run / FOLDER
    try:
        for stage, record in stages.items():
            if not latest.is_symlink() and not (latest / stage).is_symlink():
                _refresh(latest / stage, _wanted(run, record))
    except OSError as error:
        _log.warning("%s is not up to date: %s", latest, error)


def _wanted(run: Path, record: StageRecord) -> dict[str, tuple[Path, str]]:
    """What belongs there: the file and its hash by the copy's name."""
    return {
        name.replace("/", "-"): (run / record.path / name, output.sha256)
        for name, output in record.outputs.items()
        if name.endswith(_LOOKED_AT)
    }


def _refresh(folder: Path, wanted: Mapping[str, tuple[Path, str]]) -> None:
    made = _made(folder)
    if not wanted and not made:
        return
    folder.mkdir(parents=True, exist_ok=True)
    sweep_temporaries(folder)
    present = {path.name: _hash_of(path) for path in folder.iterdir()}
    own = {(digest, name) for digest, name in made if present.get(name) == digest}
    described = {(digest, name) for name, (_, digest) in wanted.items()}
    if made != own | described:
        _remember(folder, own | described)  # before anything is written, so that no kill leaves a copy unknown
    for _, name in own:
        if name not in wanted:
            (folder / name).unlink()
    for name, (source, digest) in wanted.items():
        if present.get(name, "") == digest:
            continue
        if name not in present or (present[name], name) in own:
            _copy(source, digest, folder / name)
        elif (digest, name) not in made:
            _log.info("%s is not what segpipe wrote there and is kept; delete it to have the new one", folder / name)


def _copy(source: Path, digest: str, target: Path) -> None:
    """What does not have its recorded bytes is for `segpipe verify` to tell."""
    with open_regular(source) as file:
        data = file.read()
    if sha256_of_bytes(data) == digest:
        write_atomically(target, data)


def _made(folder: Path) -> set[tuple[str, str]]:
    """Hash and name of each copy that segpipe made, or was about to make."""
    try:
        text = read_bounded(folder / _MADE).decode("utf-8", "replace")
    except FileNotFoundError:
        return set()
    return {(found[1], found[2]) for line in text.splitlines() if (found := _LINE.fullmatch(line))}


def _remember(folder: Path, copies: set[tuple[str, str]]) -> None:
    write_atomically(folder / _MADE, "".join(f"{digest}  {name}\n" for digest, name in sorted(copies)).encode())


def _hash_of(path: Path) -> str:
    """Of a regular file; empty for anything else, which is nobody's copy."""
    return sha256_of(path) if path.is_file() and not path.is_symlink() else ""
