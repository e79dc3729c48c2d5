"""Which folders of a run segpipe made. Their names are written down before they are made, so no kill hides one."""

import os
import re
from pathlib import Path

from segpipe.rundir.storage import read_bounded, write_atomically

FILE_NAME = ".segpipe-folders"

_FOLDER = re.compile(r"[0-9a-f]{12}(-[0-9])?(\.partial)?")
_ENTRY = re.compile(r"[a-z]+/[0-9a-f]{12}")
_KEY_CHARACTERS = 12


def key_folders(home: Path) -> list[Path]:
    """The folders in a stage's home that are named like a key, finished and in progress; a user may have such too."""
    if home.is_symlink() or not home.is_dir():
        return []
    with os.scandir(home) as entries:
        names = [e.name for e in entries if is_key_name(e.name) and e.is_dir(follow_symlinks=False)]
    return sorted(home / name for name in names)


def is_key_name(name: str) -> bool:
    """Whether a stage could give this name to a folder; twelve digits of a date are one too."""
    return _FOLDER.fullmatch(name) is not None


def entry_of(folder: Path) -> str:
    """Stage and key: the folder in progress, the finished one and those of forced runs share an entry."""
    return f"{folder.parent.name}/{folder.name[:_KEY_CHARACTERS]}"


def made_entries(run: Path) -> set[str]:
    """What segpipe wrote down. Versions before wrote nothing: what a kill of theirs left is kept."""
    try:
        lines = read_bounded(run / FILE_NAME).decode("ascii", "replace").splitlines()
    except FileNotFoundError:
        return set()
    return {line for line in lines if _ENTRY.fullmatch(line)}


def remember(run: Path, entries: set[str]) -> None:
    """Add entries, before their folders are made; what has no folder any longer is forgotten."""
    known = made_entries(run)
    homes = {run / entry.partition("/")[0] for entry in known}
    there = {entry_of(folder) for home in homes for folder in key_folders(home)}
    wanted = (known & there) | entries
    if wanted != known:
        write_atomically(run / FILE_NAME, "".join(f"{entry}\n" for entry in sorted(wanted)).encode())
