"""What `segpipe runs` tells of every run in a folder: its figures, read from the manifests alone."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segpipe.errors import InputError, SegpipeError, word
from segpipe.rundir import manifest
from segpipe.rundir.directory import TOML_NAME, RunDirectory
from segpipe.rundir.freshness import stale_against_config, stale_by_descent
from segpipe.rundir.manifest import StageRecord, moment_of
from segpipe.rundir.status import age
from segpipe.rundir.storage import explained_reads
from stages.config.root import ModelConfig
from stages.results.figures import BenchmarkFigures, TrainFigures, ValidateFigures, read

COLUMNS = ["run", "network", "mIoU", "gate", "p50 ms", "made", ""]
IMPORTED = "imported"
_STALE = " (stale)"


@dataclass(frozen=True)
class RunLine:
    """One run; a figure that it does not have is None."""

    run: str
    network: str | None = None
    miou: float | None = None
    miou_on: str | None = None
    """The split that mIoU was measured on."""
    miou_of_all: float | None = None
    """Where some classes are not scored: over all of them."""
    gate: str | None = None
    p50_ms: float | None = None
    made_utc: str | None = None
    """When its newest stage was begun."""
    stale: tuple[str, ...] = ()
    """Stages that the next `segpipe run` makes anew."""
    trouble: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {**asdict(self), "stale": list(self.stale)}

    def cells(self, now: datetime) -> list[str]:
        """For people."""
        return [
            self.run,
            self.network or "",
            self._mean(),
            (self.gate or "") + self._if_stale("validate"),
            "" if self.p50_ms is None else f"{self.p50_ms:.2f}{self._if_stale('benchmark')}",
            age(self.made_utc, now) if self.made_utc else "",
            self.trouble or "",
        ]

    def _mean(self) -> str:
        of_all = "" if self.miou_of_all is None else f" ({self.miou_of_all:.4f} of all classes)"
        return "" if self.miou is None else f"{self.miou:.4f}{of_all} {self.miou_on}{self._if_stale('train')}"

    def _if_stale(self, stage: str) -> str:
        return _STALE if stage in self.stale else ""


def list_runs(folder: Path) -> list[RunLine]:
    """Every run directly below the folder, the newest first; one that cannot be read is a line that says why."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder", hint="name the folder that holds the runs, such as runs")
    if _holds(folder, manifest.FILE_NAME):
        raise InputError(f"{folder} is itself a run", hint=f"`segpipe show {word(folder)}` tells of it")
    found = [_line(path) for path in _runs(folder)]
    if not found:
        raise InputError(f"{folder} holds no runs", hint=f"start one with `segpipe new {word(folder / 'NAME')}`")
    return sorted(sorted(found, key=lambda line: line.run), key=_moment, reverse=True)


def _runs(folder: Path) -> Iterator[Path]:
    with explained_reads(folder):
        paths = [*folder.iterdir()]
    yield from (path for path in paths if _holds(path, manifest.FILE_NAME) or _holds(path, TOML_NAME))


def _holds(folder: Path, name: str) -> bool:
    """A folder that may not be looked into counts as a run: reading it says so in its line."""
    try:
        return (folder / name).exists()
    except OSError:
        return True


def _line(path: Path) -> RunLine:
    try:
        return _read(RunDirectory(path))
    except SegpipeError as error:
        return RunLine(path.name, trouble=error.message)


def _read(run: RunDirectory) -> RunLine:
    stages = run.manifest.stages
    trained = read(TrainFigures, stages) or TrainFigures()
    judged, measured = read(ValidateFigures, stages), read(BenchmarkFigures, stages)
    return RunLine(
        run.path.name,
        network=_network(stages),
        miou=trained.test_miou,
        miou_on=None if trained.test_miou is None else trained.test_split,
        miou_of_all=trained.test_miou_of_all if trained.unscored else None,
        gate=None if judged is None else "FAILED" if judged.failed else judged.status,
        p50_ms=measured.p50_ms if measured else None,
        made_utc=max((record.started_utc for record in stages.values()), key=moment_of, default=None),
        stale=tuple(_stale(run)),
        trouble=None if stages else "nothing has finished",
    )


def _network(stages: dict[str, StageRecord]) -> str | None:
    if "train" not in stages:
        return IMPORTED if "import" in stages else None
    model = stages["train"].params.get("model")
    return str(model.get("name", ModelConfig().name)) if isinstance(model, dict) else None


def _stale(run: RunDirectory) -> list[str]:
    config = run.config()
    own = {stage: stale_against_config(run.manifest, stage, config) for stage in run.manifest.stages}
    return sorted(stale_by_descent(run.manifest, {stage: why for stage, why in own.items() if why}))


def _moment(line: RunLine) -> datetime:
    return moment_of(line.made_utc) if line.made_utc else datetime.min.replace(tzinfo=UTC)
