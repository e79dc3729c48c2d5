"""What `segpipe show` tells of a run: each stage's state, age, size and headline figure. Knows no stage's code."""

import logging
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from segpipe.errors import SegpipeError
from segpipe.rundir.directory import TOML_NAME, RunDirectory
from segpipe.rundir.freshness import stale_against_config, stale_by_descent
from segpipe.rundir.manifest import StageRecord
from segpipe.rundir.ownership import key_folders
from segpipe.rundir.storage import explained_reads
from segpipe.verdict import STAGE, Verdict, held_sha256, local_files, stored_verdicts, why_void

_log = logging.getLogger(__name__)

ORDER = ("train", "import", "export", "build", "validate", "benchmark")
"""Rows follow the pipeline; what else left a record comes last."""

_HEADLINES = (
    ("test_miou", "test mIoU {:.4f}"),
    ("fp16_size_ratio", "FP16 file {:.0%} of FP32"),
    ("p50_ms", "{:.2f} ms a frame"),
)


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
    reasons = _reasons(run)
    lines = []
    for stage, record in sorted(run.manifest.stages.items(), key=lambda item: _place(*item)):
        why = reasons.get(stage)
        size = sum(output.size_bytes for output in record.outputs.values())
        state = "stale" if why else "fresh"
        lines.append(StageStatus(stage, state, why or "", record.started_utc, size, _headline(record)))
    for folder in [folder for home in sorted(run.path.glob("*/")) for folder in key_folders(home)]:
        if folder.suffix == ".partial" and _holds_files(folder):
            lines.append(StageStatus(folder.parent.name, "in progress", "not finished", "", 0, ""))
    return lines + _verdicts(run)


def _verdicts(run: RunDirectory) -> list[StageStatus]:
    """Of a bundle those that came with it, which are the gate's; and those that were made on this machine."""
    own: tuple[Verdict, ...] = ()
    lines = []
    try:
        own = stored_verdicts(run)
    except SegpipeError as error:
        lines.append(StageStatus("verdict", "unreadable", error.message, "", 0, ""))
    if run.manifest.is_bundle and own:
        made = run.record(STAGE).started_utc
        lines += [StageStatus("verdict", entry.status, "in the bundle", made, 0, _about(entry)) for entry in own]
    for path, found in local_files(run):
        size = path.stat().st_size
        if isinstance(found, SegpipeError):
            lines.append(StageStatus("verdict", "unreadable", found.message, "", size, ""))
        elif found.verdict.artifact_sha256 in held_sha256(run.manifest):
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


def _place(stage: str, record: StageRecord) -> tuple[int, str]:
    return (ORDER.index(stage) if stage in ORDER else len(ORDER), record.started_utc)


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


class _Judged(BaseModel):
    """What the release gate's figures must hold to be told."""

    failed: list[Any]
    status: str = "passed"
    agreement: dict[str, float | None]
    unjudged: dict[str, list[Any]] = {}
    judged: str = ""
    warnings: list[str] = []

    def headline(self) -> str:
        """Passed or not, what was judged, and how many limits had nothing to judge."""
        unjudged = sum(map(len, self.unjudged.values()))
        about = f" ({self.judged})" if self.judged else ""
        verdict = self.status + about + (f", {_limits(unjudged)} not judged" if unjudged else "")
        if self.failed:
            verdict = f"FAILED: {_limits(len(self.failed))}"
        worst = min((value for value in self.agreement.values() if value is not None), default=None)
        told = verdict if worst is None else f"{verdict}, agreement {worst:.4%}"
        return "; ".join((told, *self.warnings))


def _limits(count: int) -> str:
    return "1 limit" if count == 1 else f"{count} limits"


def _headline(record: StageRecord) -> str:
    """One figure; nothing where a stage recorded none that is known here."""
    figures = record.figures
    with suppress(ValidationError):
        return _Judged.model_validate(figures).headline()
    for key, text in _HEADLINES:
        if isinstance(figures.get(key), float):
            return "; ".join((text.format(figures[key]), *_doubts(figures)))
    shares = {name: entry.get("fp16_share") for name, entry in figures.items() if isinstance(entry, dict)}
    return ", ".join(f"{name} {share:.0%} FP16" for name, share in shares.items() if isinstance(share, float))


def _doubts(figures: dict[str, Any]) -> list[str]:
    """What disturbed a measurement."""
    doubts = figures.get("doubts")
    return [str(doubt) for doubt in doubts] if isinstance(doubts, list) else []
