"""What `segpipe show` tells of a run: each stage's state, age, size and headline figure. Knows no stage's code."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from segpipe.freshness import stale_against_config
from segpipe.manifest import StageRecord
from segpipe.rundir import RunDirectory
from segpipe.step import own_folders

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
    """Finished stages in the order they were made, then those that a kill or Ctrl-C left in progress."""
    config = run.config()
    records = sorted(run.manifest.stages.items(), key=lambda item: item[1].started_utc)
    lines = []
    for stage, record in records:
        why = stale_against_config(run.manifest, stage, config) or _files_gone(run, record)
        size = sum(output.size_bytes for output in record.outputs.values())
        state = "stale" if why else "fresh"
        lines.append(StageStatus(stage, state, why or "", record.started_utc, size, _headline(record)))
    for folder in [folder for home in sorted(run.path.glob("*/")) for folder in own_folders(home)]:
        if folder.suffix == ".partial":
            lines.append(StageStatus(folder.parent.name, "in progress", "not finished", "", 0, ""))
    return lines


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


def _files_gone(run: RunDirectory, record: StageRecord) -> str | None:
    """Missing or resized files; `segpipe verify` reads every byte."""
    for name, output in record.outputs.items():
        path = run.path / record.path / name
        if not path.is_file() or path.stat().st_size != output.size_bytes:
            return f"{name} is damaged or missing"
    return None


def _headline(record: StageRecord) -> str:
    figures = record.figures
    if "failed" in figures:
        worst = min((value for value in figures["agreement"].values() if value is not None), default=None)
        verdict = f"FAILED: {len(figures['failed'])} limits" if figures["failed"] else "passed"
        return verdict if worst is None else f"{verdict}, agreement {worst:.4%}"
    for key, text in _HEADLINES:
        if isinstance(figures.get(key), (int, float)):
            return text.format(figures[key])
    shares = [f"{name} {entry['fp16_share']:.0%} FP16" for name, entry in figures.items() if "fp16_share" in str(entry)]
    return ", ".join(shares)
