"""Re-hashes everything a run directory vouches for, and names what it does not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from segpipe.rundir import RunDirectory
from segpipe.storage import sha256_of


@dataclass(frozen=True)
class Finding:
    """Something about one path, relative to the run. Only damage is an error."""

    path: str
    state: Literal["damaged", "missing", "work in progress"]

    @property
    def is_damage(self) -> bool:
        """Whether a vouched-for file is not what it was."""
        return self.state in {"damaged", "missing"}


def verify(run: RunDirectory) -> tuple[int, list[Finding]]:
    """The number of files checked, and everything found that is not in order."""
    checked, findings = 0, []
    for record in run.manifest.stages.values():
        for name, output in record.outputs.items():
            checked += 1
            path = run.path / record.path / name
            relative = f"{record.path}/{name}"
            if not path.is_file():
                findings.append(Finding(relative, "missing"))
            elif sha256_of(path) != output.sha256:
                findings.append(Finding(relative, "damaged"))
    return checked, findings + _unnamed(run)


def _unnamed(run: RunDirectory) -> list[Finding]:
    """Folders of stages that the manifest does not name, and files in named folders that it does not list."""
    named = {record.path: set(record.outputs) for record in run.manifest.stages.values()}
    findings = []
    for folder in sorted(run.path.glob("*/*")):
        relative = folder.relative_to(run.path).as_posix()
        if relative in named:
            findings += [
                Finding(f"{relative}/{name}", "work in progress")
                for name in _files(folder)
                if name not in named[relative]
            ]
        elif folder.suffix == ".partial" or _is_unnamed_stage(folder):
            findings.append(Finding(relative, "work in progress"))
    return findings


def _is_unnamed_stage(folder: Path) -> bool:
    """A finished folder that a kill kept out of the manifest, or a superseded one that it kept from deletion."""
    name = folder.name.partition("-")[0]
    return folder.is_dir() and len(name) == 12 and all(letter in "0123456789abcdef" for letter in name)


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
