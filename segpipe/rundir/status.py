"""What `segpipe show` tells of a run: each stage's state, age, size and headline figure.

Order and headlines come from the table of stages, by entry point. Where that is not installed, rows follow their age.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from segpipe.entry_points import load
from segpipe.errors import SegpipeError
from segpipe.rundir.directory import TOML_NAME, RunDirectory
from segpipe.rundir.freshness import stale_against_config, stale_by_descent
from segpipe.rundir.manifest import StageRecord
from segpipe.rundir.ownership import key_folders
from segpipe.rundir.storage import explained_reads
from segpipe.verdict import STAGE, Verdict, held_sha256, local_files, stored_verdicts, why_void

_log = logging.getLogger(__name__)


class _Stage(Protocol):
    """A row of the table of stages."""

    @property
    def name(self) -> str: ...

    def headline(self, figures: Mapping[str, Any], /) -> str: ...


@dataclass(frozen=True)
class StageStatus:
    """One line of the table."""

    stage: str
    state: str
    why: str
    made_utc: str
    size_bytes: int
    headline: str

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def run_status(run: RunDirectory) -> list[StageStatus]:
    """Finished stages in the order of the pipeline, then those that a kill or Ctrl-C left in progress."""
    if run.config_edited():
        _log.warning(
            "%s changed since the last command; what is stale is judged by the one before", run.path / TOML_NAME
        )
    reasons, known = _reasons(run), _known()
    lines = []
    for stage, record in _in_order(run.manifest.stages, list(known)):
        why = reasons.get(stage)
        size = sum(output.size_bytes for output in record.outputs.values())
        state = "stale" if why else "fresh"
        headline = known[stage].headline(record.figures) if stage in known else ""
        lines.append(StageStatus(stage, state, why or "", record.started_utc, size, headline))
    for folder in [folder for home in sorted(run.path.glob("*/")) for folder in key_folders(home)]:
        if folder.suffix == ".partial" and _holds_files(folder):
            lines.append(StageStatus(folder.parent.name, "in progress", "not finished", "", 0, ""))
    return lines + _verdicts(run)


def _verdicts(run: RunDirectory) -> list[StageStatus]:
    """Of a bundle those that came with it, which are the gate's; and those that were made on this machine."""
    own: tuple[Verdict, ...] = ()
    lines, held = [], held_sha256(run.manifest)
    try:
        own = stored_verdicts(run)
    except SegpipeError as error:
        lines.append(StageStatus("verdict", "unreadable", error.message, "", 0, ""))
    if run.manifest.is_bundle and own:
        made = run.record(STAGE).started_utc
        carried = [entry for entry in own if entry.artifact_sha256 in held]
        lines += [StageStatus("verdict", entry.status, "in the bundle", made, 0, _about(entry)) for entry in carried]
    for path, found in local_files(run):
        size = path.stat().st_size
        if isinstance(found, SegpipeError):
            lines.append(StageStatus("verdict", "unreadable", found.message, "", size, ""))
        elif found.verdict.artifact_sha256 in held:
            void = why_void(found.verdict, own, run.manifest)
            state, why = ("void", void) if void else (found.verdict.status, "made here")
            lines.append(StageStatus("verdict", state, why, found.made_utc, size, _about(found.verdict)))
    return lines


def _about(verdict: Verdict) -> str:
    return f"{verdict.artifact} on {verdict.backend} ({verdict.device})"


def age(made_utc: str, now: datetime) -> str:
    """`3 h ago`."""
    seconds = (now - datetime.fromisoformat(made_utc).astimezone(UTC)).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def readable_size(size_bytes: int) -> str:
    """`4.4 MB`."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _known() -> dict[str, _Stage]:
    """Rows of the table by name."""
    return {stage.name: stage for table in load("segpipe.stages", tuple) for stage in table}


def _in_order(stages: Mapping[str, StageRecord], order: Sequence[str]) -> list[tuple[str, StageRecord]]:
    """As the table has them, and by their age where it has none or says nothing of them."""
    place = {stage: number for number, stage in enumerate(order)}
    return sorted(stages.items(), key=lambda item: (place.get(item[0], len(place)), item[1].started_utc))


def _reasons(run: RunDirectory) -> dict[str, str]:
    """Why each stale stage is stale."""
    config = run.config()
    own = {
        stage: stale_against_config(run.manifest, stage, config) or _files_gone(run, record)
        for stage, record in run.manifest.stages.items()
    }
    return stale_by_descent(run.manifest, {stage: why for stage, why in own.items() if why})


def _files_gone(run: RunDirectory, record: StageRecord) -> str | None:
    """Missing or resized files; `segpipe verify` reads every byte."""
    for name, output in record.outputs.items():
        path = run.path / record.path / name
        with explained_reads(path):
            if not path.is_file() or path.stat().st_size != output.size_bytes:
                return f"{name} is damaged or missing"
    return None


def _holds_files(folder: Path) -> bool:
    with explained_reads(folder):
        return any(path.is_file() for path in folder.rglob("*"))
