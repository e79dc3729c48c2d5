"""`benchmark compare`: two runs against each other, live and interleaved, with a verdict; two reports without one."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segpipe.artifacts import Precision
from segpipe.errors import GateFailedError, InputError, NotValidatedError, SegpipeError
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.storage import read_bounded
from segpipe.runtime.by_task import open_segmenter
from segpipe.runtime.instance_segmenter import InstanceSegmenter
from segpipe.runtime.segmenter import Segmenter
from segpipe.verdict import require_passed
from stages.config.root import Config
from stages.data import open_split
from stages.measuring.others import Moment, load_warnings, others_share
from stages.measuring.rounds import Contestant, in_words, interleave, median_of_ratios, warm_up
from stages.results.benchmark import Report, read_report

_log = logging.getLogger(__name__)

_LOOKS = (0.125, 0.25, 0.5, 1.0)  # shares of the time limit: what nobody met in an eighth of it may come later
_LEAST = 80  # rounds before a look ends it: an interval over fewer is itself too uncertain
_LEVEL = 0.99  # of the interval: there are several looks, and each may err
_NO_LIMIT = 1_000_000_000  # rounds: the time ends them

Verdict = Literal["within the margin", "slower", "not decided"]


@dataclass(frozen=True)
class Terms:
    """When two runs count as different, and how long it may take to find out."""

    margin: float = 0.05
    """B may take this share longer than A."""
    seconds: float = 60
    precision: Precision | None = None
    """Of what both run."""


@dataclass(frozen=True)
class DuelResult:
    """B's time over A's, round by round, with a 99 % interval. The two times say what the ratio says."""

    ratio: float
    low: float | None
    high: float | None
    """None where there were too few rounds for an interval."""
    rounds: int
    a_ms: float
    """A's median."""
    b_ms: float
    """What B takes where A takes that: by the ratio, since what both met in a round decides."""
    verdict: Verdict
    disturbed: tuple[str, ...] = ()
    """What else the machine was doing meanwhile."""

    def line(self) -> str:
        """For a person."""
        return (
            f"A {self.a_ms:.2f} ms, B {self.b_ms:.2f} ms: B / A {self.ratio:.3f} "
            f"({in_words(self.low, self.high, '.3f')}, {self.rounds} rounds): "
            f"{'; '.join((self.verdict, *self.disturbed))}"
        )

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


@dataclass(frozen=True)
class Apart:
    """One contestant's medians in two reports."""

    contestant: str
    a_ms: float
    b_ms: float
    ratio: float

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)

    def row(self) -> list[str]:
        """For the table."""
        return [self.contestant, f"{self.a_ms:.2f}", f"{self.b_ms:.2f}", f"{self.ratio:.3f} (measured apart)"]


def compare_runs(runs: tuple[Path, Path], config: Config, backend: str, terms: Terms) -> DuelResult:
    """Measure both on frames of the first run's val split, in one process, turn by turn."""
    split = open_split(config, runs[0], "val")
    frames = [split.sample(index)[0] for index in range(min(config.benchmark.frames, len(split)))]
    if not frames:
        raise InputError("the val split holds no frames to compare with", hint="check [data] in segpipe.toml")
    threads = config.benchmark.threads
    with (
        open_segmenter(runs[0], backend, precision=terms.precision, threads=threads, allow_unvalidated=True) as a,
        open_segmenter(runs[1], backend, precision=terms.precision, threads=threads, allow_unvalidated=True) as b,
    ):
        for run, segmenter in zip(runs, (a, b), strict=True):
            _mark_unvalidated(run, segmenter)
        start = Moment.now()
        outcome = duel(a, b, frames, terms)
        return replace(outcome, disturbed=load_warnings(others_share(start, Moment.now())))


def duel(
    a: Callable[[NDArray[Any]], object],
    b: Callable[[NDArray[Any]], object],
    frames: Sequence[NDArray[Any]],
    terms: Terms,
) -> DuelResult:
    """Rounds of both until at one of the looks the interval lies on one side of the margin, or the time is over."""
    calls = {
        "A": lambda number: a(frames[number % len(frames)]),
        "B": lambda number: b(frames[number % len(frames)]),
    }
    for call in calls.values():
        warm_up(call, terms.seconds / 10)
    start = time.monotonic()
    taken = {name: np.empty(0, np.int64) for name in calls}
    for share in _LOOKS:
        more = _rounds(calls, start + share * terms.seconds - time.monotonic(), seed=len(taken["A"]))
        taken = {name: np.concatenate([values, more[name]]) for name, values in taken.items()}
        outcome = judge(taken["A"], taken["B"], terms.margin, over=share == _LOOKS[-1])
        if outcome.verdict != "not decided" and outcome.rounds >= _LEAST:
            break
    return outcome


def _mark_unvalidated(run: Path, segmenter: Segmenter | InstanceSegmenter) -> None:
    what = segmenter.describe()
    try:
        require_passed(RunDirectory(run), segmenter.artifact_sha256, what["backend"], what["device"])
    except NotValidatedError as reason:
        _log.warning("NOT VALIDATED: %s", reason)


def _rounds(calls: Mapping[str, Contestant], seconds: float, seed: int) -> dict[str, NDArray[np.int64]]:
    """One round at least, of both or of none."""
    rounds = interleave(calls, _NO_LIMIT, seconds, seed)
    if rounds.interrupted:
        raise KeyboardInterrupt
    for name, reason in rounds.failed.items():
        raise InputError(f"run {name} {reason}", hint="run `segpipe benchmark` on it")
    return rounds.samples


def judge(a: NDArray[np.int64], b: NDArray[np.int64], margin: float, over: bool) -> DuelResult:
    """Decided when the whole interval is on one side. At the end the estimate decides, if it is no chance at all."""
    ratio, low, high = median_of_ratios(b, a, _LEVEL)
    verdict: Verdict = "not decided"
    if low is not None and (low > 1 + margin or (over and ratio > 1 + margin and low > 1)):
        verdict = "slower"
    elif high is not None and high <= 1 + margin:
        verdict = "within the margin"
    a_ms = round(float(np.median(a)) / 1e6, 4)
    return DuelResult(ratio, low, high, len(a), a_ms, round(a_ms * ratio, 4), verdict)


def require_within_margin(outcome: DuelResult, margin: float) -> None:
    """Exit code 3 for a run that is slower than it may be."""
    if outcome.verdict == "slower":
        raise GateFailedError(
            f"B takes {outcome.ratio:.3f} times as long as A ({in_words(outcome.low, outcome.high, '.3f')}), "
            f"the margin is {1 + margin:.3f}",
            hint="`segpipe benchmark RUN` on each shows the network alone beside the whole frame; or raise --margin",
        )


def compare_reports(a: Path, b: Path) -> list[Apart]:
    """Whoever is in both. Measured apart, so without interval and without verdict."""
    first, second = _read(a), _read(b)
    for path, report in ((a, first), (b, second)):
        for doubt in report.doubts:
            _log.warning("%s: %s", path, doubt)
    theirs = {entry.name: entry.latency.p50_ms for entry in second.contestants if entry.latency}
    return [
        Apart(entry.name, entry.latency.p50_ms, theirs[entry.name], theirs[entry.name] / entry.latency.p50_ms)
        for entry in first.contestants
        if entry.latency and entry.name in theirs
    ]


def _read(path: Path) -> Report:
    """A report file, or that of a run directory."""
    try:
        data = RunDirectory(path).artifact_bytes("benchmark", "report.json") if path.is_dir() else read_bounded(path)
    except FileNotFoundError as error:
        if isinstance(error, SegpipeError):
            raise
        raise InputError(f"{path} does not exist", hint="give a run directory or a benchmark's report.json") from None
    return read_report(data, str(path))
