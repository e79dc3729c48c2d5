"""What a report tells, read from the manifest and the stages' own files. Tolerates what a stage did not leave."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, TypeAdapter

from segpipe.documents import Form
from segpipe.errors import InputError, word
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.manifest import StageRecord, logical_name
from stages.report.forms import Form as DeployedForm
from stages.report.forms import Interval, Measured, forms_of
from stages.results import figures
from stages.results.benchmark import Report, read_report
from stages.results.figures import BuildFigures, EngineFigures, TrainFigures, ValidateFigures, read
from stages.results.gate import ThingFigures
from stages.results.precision import Precision, form
from stages.table import TABLE

_T = TypeVar("_T")
_OF_THINGS = ("masks", "boxes", "panoptic")
"""Groups of figures that the page shows of things."""
_MOST_CLASSES, _NARROW = 150, 10  # in a confusion matrix, and in one that fits into a column
_MISTAKES, _MENTIONED = 5, 0.005  # how many of them are named, and from which share of a label on


@dataclass(frozen=True)
class CheckLine:
    """One limit of the release gate, or one line of it that holds no limit."""

    name: str
    value: float | None
    limit: float | None
    status: str


@dataclass(frozen=True)
class HopLine:
    """One judged step from the trained network to what is deployed."""

    name: str
    status: str
    agreement: float | None
    flips: int | None
    flips_inside: float | None
    miou: float | None
    checks: tuple[CheckLine, ...]
    by_name_only: bool
    """Nobody runs it who does not ask, so it fails no run."""
    things: ThingFigures | None = None
    """Of networks that tell things one by one."""


@dataclass(frozen=True)
class ClassLine:
    """One class on held-out frames."""

    name: str
    iou: float | None
    f1: float | None
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Confusion:
    """Rows are labels, columns predictions."""

    classes: tuple[str, ...]
    counts: NDArray[np.int64]

    @property
    def shown(self) -> bool:
        """Whether a person could find anything in it."""
        return len(self.classes) <= _MOST_CLASSES

    @property
    def narrow(self) -> bool:
        """Whether it fits beside something."""
        return len(self.classes) <= _NARROW

    def shares(self) -> NDArray[np.float64]:
        """Of each label's pixels; zeros where a label has none."""
        labelled = self.counts.sum(1, keepdims=True)
        return np.divide(self.counts, labelled, out=np.zeros(self.counts.shape), where=labelled > 0)

    def rows(self) -> Iterator[tuple[str, list[int]]]:
        """Each label with its shares in whole percent."""
        percents = np.rint(100 * self.shares()).astype(int)
        return zip(self.classes, percents.tolist(), strict=True)

    def mistakes(self) -> list[tuple[str, str, float]]:
        """Label, answer and share of the largest few that are not right."""
        wrong = self.shares()
        np.fill_diagonal(wrong, 0)
        largest = np.argsort(-wrong, axis=None, kind="stable")[:_MISTAKES]
        found = (np.unravel_index(flat, wrong.shape) for flat in largest)
        return [(self.classes[i], self.classes[k], float(wrong[i, k])) for i, k in found if wrong[i, k] >= _MENTIONED]


@dataclass(frozen=True)
class Benchmarked:
    """The benchmark's report with its samples in milliseconds."""

    report: Report
    samples: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Facts:
    """All that a page needs."""

    name: str
    contract: str
    stages: dict[str, StageRecord]
    headlines: dict[str, str]
    """What came of each stage, in a line."""
    classes: tuple[ClassLine, ...]
    miou: float | None
    miou_of_all: float | None
    """With the classes that are not scored, where there are some."""
    mean: str
    """Both, in words."""
    frames: str
    """What accuracy was measured on."""
    things: dict[str, dict[str, float | None]]
    """Of networks that tell things one by one: average precision and panoptic quality."""
    pixel_accuracy: float | None
    history: dict[str, list[float]]
    confusion: Confusion | None
    hops: tuple[HopLine, ...]
    data_checks: tuple[CheckLine, ...]
    """Limits on the labels and the reference: where one fails, every hop's verdict does."""
    judged: str
    """What the gate is about: fidelity, accuracy, or both; empty where an older version judged."""
    warnings: tuple[str, ...]
    """What the gate found that no limit fails."""
    engines: dict[str, EngineFigures]
    islands: tuple[str, ...]
    benchmark: Benchmarked | None
    benchmark_unread: str
    forms: tuple[DeployedForm, ...] = ()
    """What can be deployed, side by side."""

    @property
    def gate(self) -> str:
        """The release gate in one word or two."""
        if not self.hops:
            return "not validated"
        statuses = {hop.status for hop in self.hops if not hop.by_name_only}
        if "failed" in {check.status for check in self.data_checks}:
            return "failed"
        return next((status for status in ("failed", "passed") if status in statuses), "not judged")


def read_facts(rundir: RunDirectory) -> Facts:
    """Read a run, whatever stages it has."""
    kept = rundir.manifest.stages
    stages = {stage.name: kept[stage.name] for stage in TABLE if stage.name in kept}
    trained = read(TrainFigures, kept) or TrainFigures()
    judged, built = read(ValidateFigures, kept), read(BuildFigures, kept)
    benchmark, unread = _benchmark(rundir)
    gate = _document(rundir, "validate", "report.json", _GATE) or _Gate()
    matrix = _confusion(_document(rundir, "train", "confusion.json", _MATRICES))
    return Facts(
        name=rundir.path.resolve().name,
        contract=rundir.manifest.contract_sha256 or "",
        stages=stages,
        headlines={stage.name: stage.headline(kept[stage.name].figures) for stage in TABLE if stage.name in kept},
        classes=_classes(trained.test_classes, matrix.classes if matrix else ()),
        miou=trained.test_miou,
        miou_of_all=trained.test_miou_of_all,
        mean=trained.mean(),
        frames=trained.frames,
        things={group: of for group, of in trained.test_things.items() if group in _OF_THINGS},
        pixel_accuracy=trained.test_pixel_accuracy,
        history=_history(_text(rundir, "train", "history.csv")),
        confusion=matrix,
        hops=tuple(_hop(name, entry, name in gate.by_name_only) for name, entry in gate.hops.items()),
        data_checks=_checks(gate.data_checks),
        judged=judged.judged if judged else "",
        warnings=judged.warnings if judged else (),
        engines=built.root if built else {},
        islands=_islands(_document(rundir, "export", "precision.json", _PRECISION)),
        benchmark=benchmark,
        benchmark_unread=unread,
        forms=forms_of(rundir.manifest, _measured(gate.hops), benchmark.report if benchmark else None),
    )


def producers(record: StageRecord) -> list[tuple[str, str]]:
    """(stage, file) of each input; the stage is empty for what came from outside the run."""
    pairs = (logical_name(path).partition("/") for path in record.inputs)
    return [(stage, name) if name else ("", stage) for stage, _, name in pairs]


def differences(runs: Sequence[Facts]) -> dict[str, list[str]]:
    """Settings that are not the same in all runs, of the stages that all of them have, by their dotted names.

    What several stages are made with stands there once; where they were made with different values, by stage.
    """
    common = [name for name in runs[0].stages if all(name in run.stages for run in runs)]
    by_setting: dict[str, dict[str, tuple[str, ...]]] = {}
    for stage in common:
        settings = [_leaves(run.stages[stage].params) for run in runs]
        for name in sorted({name for each in settings for name in each}):
            values = tuple(each.get(name, "default") for each in settings)
            if len(set(values)) > 1:
                by_setting.setdefault(name, {})[stage] = values
    found: dict[str, list[str]] = {}
    for name, stages in by_setting.items():
        once = "." in name and len(set(stages.values())) == 1  # without a dot it is of the stage, not of the config
        found |= {name if once else f"{name} ({stage})": list(values) for stage, values in stages.items()}
    return found


def _leaves(value: Any, name: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        return {k: v for key, inner in value.items() for k, v in _leaves(inner, f"{name}.{key}".strip(".")).items()}
    return {name: str(value)}


class _GateHop(BaseModel):
    """What is told of a hop; the gate's report holds more."""

    status: str = "not judged"
    figures: dict[str, Any] | None = None
    checks: tuple[dict[str, Any], ...] = ()
    things: ThingFigures | None = None


class _Gate(BaseModel):
    """What is told of the gate's report."""

    hops: dict[str, _GateHop] = {}
    by_name_only: tuple[str, ...] = ()
    data_checks: tuple[dict[str, Any], ...] = ()


class _Matrices(BaseModel):
    """confusion.json."""

    classes: tuple[str, ...] = ()
    test: tuple[tuple[Annotated[int, Field(ge=0, lt=1 << 63)], ...], ...] = ()


_GATE = Form("gate report", TypeAdapter(_Gate), InputError)
_MATRICES = Form("confusion matrix", TypeAdapter(_Matrices), InputError)
_PRECISION = form(InputError)


def _hop(name: str, entry: _GateHop, by_name_only: bool) -> HopLine:
    figures = entry.figures or {}
    flips = figures.get("flips")
    return HopLine(
        name=name,
        status=entry.status,
        agreement=_float(figures, "agreement"),
        flips=flips if isinstance(flips, int) else None,
        flips_inside=_float(figures, "flips_inside"),
        miou=_float(figures, "miou"),
        checks=_checks(entry.checks),
        by_name_only=by_name_only,
        things=entry.things,
    )


def _measured(hops: Mapping[str, _GateHop]) -> dict[str, Measured]:
    """Hops for the table of forms."""
    return {
        name: Measured(
            status=hop.status,
            miou=_float(hop.figures, "miou"),
            drop=_drop((hop.figures or {}).get("miou_drop")),
            agreement=_float(hop.figures, "agreement"),
        )
        for name, hop in hops.items()
    }


def _drop(told: Any) -> Interval | None:
    value = _float(told, "value")
    return None if value is None else Interval(value, _float(told, "low"), _float(told, "high"))


def _checks(entries: Sequence[Mapping[str, Any]]) -> tuple[CheckLine, ...]:
    return tuple(
        CheckLine(str(c.get("name", "?")), _float(c, "value"), _float(c, "limit"), str(c.get("status", "?")))
        for c in entries
    )


def _benchmark(rundir: RunDirectory) -> tuple[Benchmarked | None, str]:
    """Figures of another version's form are not guessed at."""
    text = _text(rundir, "benchmark", "report.json")
    if not text:
        return None, ""
    try:
        report = read_report(text, "the benchmark")
    except InputError as error:
        return None, str(error)
    samples: dict[str, list[float]] = {}
    for row in csv.DictReader(io.StringIO(_text(rundir, "benchmark", "samples.csv"))):
        samples.setdefault(row["contestant"], []).append(int(row["nanoseconds"]) / 1e6)
    return Benchmarked(report, {name: np.array(values) for name, values in samples.items()}), ""


def _classes(scores: Mapping[str, figures.ClassScores], order: Sequence[str]) -> tuple[ClassLine, ...]:
    """In the contract's order where it is known: the manifest sorts by name."""
    names = [name for name in order if name in scores]
    names += [name for name in scores if name not in order]
    return tuple(ClassLine(name, s.iou, s.f1, s.precision, s.recall) for name in names for s in (scores[name],))


def _history(text: str) -> dict[str, list[float]]:
    """Columns of history.csv that are numbers in every row."""
    rows = list(csv.DictReader(io.StringIO(text)))
    columns: dict[str, list[float]] = {}
    for name in rows[0] if rows else ():
        try:
            columns[name] = [float(row[name]) for row in rows]
        except (TypeError, ValueError):
            continue
    return columns


def _confusion(content: _Matrices | None) -> Confusion | None:
    if content is None or not content.test:
        return None
    square = {len(content.test), *map(len, content.test)} == {len(content.classes)}
    return Confusion(content.classes, np.array(content.test, np.int64)) if square else None


def _islands(described: Precision | None) -> tuple[str, ...]:
    """The modules (of an imported graph: nodes) that stay in FP32, as the export recorded."""
    return tuple(dict.fromkeys(island.module or island.node for island in described.islands)) if described else ()


def _float(values: Any, key: str) -> float | None:
    value = values.get(key) if isinstance(values, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else None


def _document(rundir: RunDirectory, stage: str, name: str, form: Form[_T]) -> _T | None:
    text = _text(rundir, stage, name)
    hint = f"run `segpipe run {word(rundir.path)} --from {stage} --force`"
    return form.read(text, f"{stage}/{name} of {rundir.path}", hint) if text else None


def _text(rundir: RunDirectory, stage: str, name: str) -> str:
    record = rundir.manifest.stages.get(stage)
    if record is None or name not in record.outputs:
        return ""
    return rundir.artifact_bytes(stage, name).decode(errors="replace")
