"""From what a person types to the files that are meant: names, folders and patterns."""

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from segpipe.errors import InputError
from segpipe.media.images import SUFFIXES
from segpipe.predicting.video import VIDEO_SUFFIXES
from segpipe.rundir.storage import explained_reads

_log = logging.getLogger(__name__)

_RECURSIVE = re.compile(r"(?P<head>(?:.*?/)?)\*\*(?:/+(?P<tail>.*))?", re.DOTALL)


def find_inputs(inputs: Sequence[str], rasters: frozenset[str] = frozenset()) -> list[Path]:
    """Files, folders and globs to files, in order and once each; `rasters` are suffixes that count as images too."""
    found: dict[Path, None] = {}
    for text in inputs:
        path = Path(text)
        with explained_reads(path):
            matches = _in_folder(path, SUFFIXES | VIDEO_SUFFIXES | rasters) if path.is_dir() else _named(text)
        if not matches and "*" not in text and not path.exists():
            raise InputError(f"{text} does not exist", hint="check the path")
        if not matches:
            raise InputError(f"{text} names no image", hint="give image files, videos, folders of them or globs")
        found |= dict.fromkeys(matches)
    _refuse_equal_names(found)
    return list(found)


def _in_folder(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """What lies in a folder and is read by its suffix; one line counts what is not."""
    matches, left_out = [], Counter[str]()
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes:
            matches.append(path)
        elif not path.name.startswith("."):
            left_out["folders" if path.is_dir() else path.suffix.lower() or "without a suffix"] += 1
    if left_out:
        suffix = matches[0].suffix if matches else ".jpg"
        deeper = f"; folders are not entered: give '{folder}/**/*{suffix}' to read those too"
        deeper = deeper if "folders" in left_out else ""
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(left_out.items()))
        _log.warning("%s: left out, not read as image or video: %s%s", folder, counts, deeper)
    return matches


def _named(text: str) -> list[Path]:
    """The file of this name, or the matches of this pattern."""
    path = Path(text)
    return [path] if path.exists() else sorted({Path(match) for match in _matches(text)})


def _matches(pattern: str) -> Iterator[str]:
    """Like `glob.glob`, but `**` follows no link: links that lead in a circle have no end."""
    recursive = _RECURSIVE.fullmatch(pattern)
    if recursive is None:
        yield from glob.glob(pattern)  # noqa: PTH207 - Path.glob refuses absolute patterns
        return
    tail = recursive["tail"] or "*"
    for top in _matches(recursive["head"]) if recursive["head"] else [""]:
        for folder in _folders(top):
            yield from _matches(os.path.join(glob.escape(folder), tail))  # noqa: PTH118 - keeps an empty folder empty


def _folders(top: str) -> Iterator[str]:
    """A folder and all below it, hidden ones apart."""
    for folder, names, _ in os.walk(top or os.curdir):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in names:
            if (linked := Path(folder, name)).is_symlink():
                _log.warning("%s: left out, `**` follows no links; name it itself to read it", linked)
        yield folder if top else os.path.relpath(folder).removeprefix(os.curdir)


def _refuse_equal_names(paths: Iterable[Path]) -> None:
    """Two inputs of one name would write to one mask."""
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in seen:
            raise InputError(
                f"{seen[path.stem]} and {path} would both write {path.stem}", hint="predict them into two folders"
            )
        seen[path.stem] = path
