"""Re-hashes everything a run directory vouches for, and names what it does not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from segpipe.errors import SegpipeError
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.ownership import entry_of, key_folders, made_entries
from segpipe.rundir.storage import explained_reads, sha256_of
from segpipe.verdict import local_files


@dataclass(frozen=True)
class PathState:
    """Something about one path, relative to the run. Only damage is an error."""

    path: str
    state: Literal["damaged", "missing", "unreadable", "work in progress", "unknown, kept"]

    @property
    def is_damage(self) -> bool:
        """Whether a vouched-for file is not what it was."""
        return self.state not in {"work in progress", "unknown, kept"}


def verify(run: RunDirectory) -> tuple[int, list[PathState]]:
    """The number of files checked, and everything found that is not in order."""
    checked, findings = _rehash(run)
    while findings and run.refresh():  # what a commit superseded meanwhile is no damage
        checked, findings = _rehash(run)
    local = list(local_files(run))
    unreadable = [
        PathState(_called(path, run), "unreadable") for path, found in local if isinstance(found, SegpipeError)
    ]
    return checked + len(local), findings + unreadable + _unnamed(run)


def _called(path: Path, run: RunDirectory) -> str:
    """Relative to the run; verdicts may be kept in another folder."""
    return path.relative_to(run.path).as_posix() if path.is_relative_to(run.path) else str(path)


def _rehash(run: RunDirectory) -> tuple[int, list[PathState]]:
    checked, findings = 0, []
    for record in run.manifest.stages.values():
        for name, output in record.outputs.items():
            checked += 1
            path = run.path / record.path / name
            relative = f"{record.path}/{name}"
            try:
                with explained_reads(path):
                    intact = path.is_file() and sha256_of(path) == output.sha256
            except FileNotFoundError:
                intact = False
            if not intact:
                findings.append(PathState(relative, "damaged" if path.is_file() else "missing"))
    return checked, findings


def _unnamed(run: RunDirectory) -> list[PathState]:
    """Folders of stages that the manifest does not name, and files in named folders that it does not list.

    A kill kept the folders out of the manifest, or superseded ones from deletion. What segpipe cannot tell from a
    user's own is never deleted: a folder of his that is named like a key, or what a kill of an earlier version left.
    """
    made = made_entries(run.path)
    named = {record.path: set(record.outputs) for record in run.manifest.stages.values()}
    findings = []
    for folder in [folder for home in sorted(run.path.glob("*/")) for folder in key_folders(home)]:
        relative = folder.relative_to(run.path).as_posix()
        if relative in named:
            findings += [
                PathState(f"{relative}/{name}", "work in progress")
                for name in _files(folder)
                if name not in named[relative]
            ]
        else:
            known = folder.suffix == ".partial" or entry_of(folder) in made
            findings.append(PathState(relative, "work in progress" if known else "unknown, kept"))
    return findings


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
