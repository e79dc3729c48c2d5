"""Candidates: what can be opened of a rung on this machine, with what it costs and how good it is."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.artifacts import FAMILIES, Artifact, artifact_named, artifacts_of, held_by
from segpipe.errors import NotValidatedError, SegpipeError
from segpipe.metrics import Confusion, confusion, scores
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.segmenter import Segmenter
from segpipe.verdict import require_passed
from stages.config.root import Config
from stages.data import open_split
from stages.ladder.budget import Kind
from stages.measuring.bootstrap import Drop, Pairs
from stages.measuring.others import Moment, load_warnings, others_share
from stages.measuring.rounds import interleave, latency, warm_up
from stages.results.figures import TrainFigures, read

_WARM_UP_S = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Speed:
    """Milliseconds a frame, end to end: the median with the ends of its 95 % interval."""

    p50_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True)
class Candidate:
    """One file of a rung on one backend. `drop`: of the mean IoU against the source's finest, on the same frames."""

    rung: str
    path: Path
    backend: str
    precision: str
    why_closed: str
    """Why the gate keeps it closed; empty where it passed."""
    size_bytes: int
    macs_share: float
    miou: float
    drop: Drop | None
    speed: Speed

    def cost(self, kind: Kind) -> float:
        """By the budget's kind. Of the time the upper end: a median that only happened to be low is no promise."""
        return {"latency": self.speed.high_ms, "macs": self.macs_share, "size": float(self.size_bytes)}[kind]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class _Opened:
    """A candidate in the making."""

    rung: str
    run: RunDirectory
    row: Artifact
    segmenter: Segmenter
    why_closed: str


@dataclass
class Bench:
    """Measures what is opened. Answers are counted once for each file; times are taken anew, all in turns."""

    config: Config
    base: Path
    """From where the config's data are found: the source run's folder."""
    backend: str

    def __post_init__(self) -> None:
        self.doubts: tuple[str, ...] = ()
        """Why the last times are to be taken with care."""
        self._counted: dict[tuple[Path, str, str], list[Confusion]] = {}

    def measure(self, rungs: Sequence[tuple[str, RunDirectory]]) -> list[Candidate]:
        """Every candidate of these, the source's first."""
        with self._opened(rungs) as entrants:
            speeds = self._speeds(entrants)
            counts = [self._counts(entrant) for entrant in entrants]
            return [
                self._candidate(entrant, found, counts[0], speed)
                for entrant, found, speed in zip(entrants, counts, speeds, strict=True)
            ]

    @contextmanager
    def _opened(self, rungs: Sequence[tuple[str, RunDirectory]]) -> Iterator[list[_Opened]]:
        threads = self.config.benchmark.threads
        with ExitStack() as stack:
            entrants: list[_Opened] = []
            for name, run in rungs:
                for row in meant(run, self.backend):
                    try:
                        opened = Segmenter.open(run.path, row.name, threads=threads, allow_unvalidated=True)
                    except SegpipeError as error:
                        _log.debug("compress: %s of %s does not open here: %s", row.name, name, error)
                        continue
                    segmenter = stack.enter_context(opened)
                    entrants.append(_Opened(name, run, row, segmenter, _why_closed(run, row, segmenter)))
            yield entrants

    def _speeds(self, entrants: Sequence[_Opened]) -> list[Speed]:
        split = open_split(self.config, self.base, "val")
        frames = [split.sample(index)[0] for index in range(min(self.config.benchmark.frames, len(split)))]

        def call(segmenter: Segmenter, number: int) -> object:
            return segmenter(frames[number % len(frames)])

        calls = {str(index): partial(call, entrant.segmenter) for index, entrant in enumerate(entrants)}
        for one in calls.values():
            warm_up(one, _WARM_UP_S)
        settings = self.config.benchmark
        start = Moment.now()
        taken = interleave(calls, settings.rounds, settings.seconds)
        self.doubts = load_warnings(others_share(start, Moment.now()))
        if taken.interrupted:
            raise KeyboardInterrupt
        found = [latency(taken.samples[str(index)]) for index in range(len(entrants))]
        return [Speed(one.p50_ms, one.p50_low_ms or one.p25_ms, one.p50_high_ms or one.p75_ms) for one in found]

    def _counts(self, entrant: _Opened) -> list[Confusion]:
        """Of each test frame, what was answered for which label."""
        key = (entrant.run.path, entrant.row.name, entrant.segmenter.artifact_sha256)
        if key not in self._counted:
            split = open_split(self.config, self.base, "test")
            classes = len(entrant.segmenter.contract.classes)
            samples = map(split.sample, range(len(split)))
            self._counted[key] = [confusion(labels, entrant.segmenter(frame), classes) for frame, labels in samples]
        return self._counted[key]

    def _candidate(
        self, entrant: _Opened, found: list[Confusion], reference: list[Confusion], speed: Speed
    ) -> Candidate:
        figures = read(TrainFigures, entrant.run.manifest.stages)
        unscored = entrant.segmenter.contract.unscored_numbers
        output = entrant.run.recorded(entrant.row.stage, entrant.row.file)
        return Candidate(
            rung=entrant.rung,
            path=entrant.run.path,
            backend=entrant.row.name,
            precision=entrant.row.precision,
            why_closed=entrant.why_closed,
            size_bytes=output.size_bytes,
            macs_share=figures.pruned.share if figures and figures.pruned else 1.0,
            miou=scores(np.sum(found, axis=0), unscored).mean_iou,
            drop=None if found is reference else _drop(reference, found, unscored),
            speed=speed,
        )


def meant(run: RunDirectory, backend: str) -> list[Artifact]:
    """What the run holds of a family, a backend or one of its rows."""
    held = held_by(run.manifest)
    if backend in FAMILIES:
        return [row for row in held if backend in {"auto", "gpu" if row.needs_gpu else "cpu"}]
    rows = artifacts_of(backend) or [artifact_named(backend)]
    return [row for row in held if row.name in {other.name for other in rows}]


def _why_closed(run: RunDirectory, row: Artifact, segmenter: Segmenter) -> str:
    try:
        require_passed(run, segmenter.artifact_sha256, row.name, segmenter.describe()["device"])
    except NotValidatedError as error:
        return error.message
    return ""


def _drop(reference: list[Confusion], found: list[Confusion], unscored: Sequence[int]) -> Drop | None:
    pairs = Pairs()
    for one, other in zip(reference, found, strict=True):
        pairs.add(one, other)
    labelled: NDArray[np.int64] = np.flatnonzero(np.sum(reference, axis=0).sum(1))
    return pairs.drop(np.setdiff1d(labelled, np.asarray(unscored, np.int64)))
