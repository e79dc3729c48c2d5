"""Checks a data set before anything rests on it: every broken frame, how often each class occurs, class weights."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segpipe.cores import usable_cores
from segpipe.errors import ConfigError, DataError
from segpipe.id_maps import classes_in
from segpipe.rundir.storage import read_bounded, sha256_of_bytes, write_atomically
from segpipe.runtime.streaming import ordered
from stages.config.root import CocoData, Config, InstancesConfig, ShapesData
from stages.data import Split, SplitName, files, labels_of, open_split
from stages.data.classes import class_faults
from stages.data.faults import Fault, lines
from stages.data.layout import FilesConfig, listing

SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
SHOWN = 20  # lines of faults that `segpipe data check` prints
WEIGHTS: tuple[Literal["median-frequency", "log-frequency"], ...] = ("median-frequency", "log-frequency")
VERSION = 2
"""Of what makes a set sound: one that an older check passed is read again."""
_IN_ERROR = 3  # lines of faults in training's error
_EVEN = 1.10  # of log-frequency: keeps the weight of the commonest class finite and the rarest below 11


@dataclass
class SplitReport:
    """What one split holds."""

    frames: int = 0
    offenders: list[Fault] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)
    """Of each class."""
    pixels_where_present: list[int] = field(default_factory=list)
    """Labelled pixels of the frames that hold the class."""
    ignored: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {**vars(self), "offenders": [f"{fault.message}. {fault.hint}" for fault in self.offenders]}


def check(config: Config, base: Path, trains: bool = True) -> dict[SplitName, SplitReport]:
    """Read every frame of every split with its labels. Where nothing trains, a missing train split is left out."""
    splits = _needed(config) if trains or not _is_so(files.lacks_train, config, base) else SPLITS[1:]
    reports = {split: check_split(config, base, split) for split in splits if not val_serves(config, base, split)}
    return {split: reports.get(split, reports["val"]) for split in splits}


def _needed(config: Config) -> tuple[SplitName, ...]:
    """A network that is trained already needs no train split, and what its labels lack it once had elsewhere."""
    return SPLITS[1:] if config.model.trained else SPLITS


def val_serves(config: Config, base: Path, split: SplitName) -> bool:
    """Whether this is the test split of a set that has none, so that val is used."""
    return split == "test" and _is_so(files.val_serves_as_test, config, base)


def _is_so(question: Callable[[FilesConfig, Path], bool], config: Config, base: Path) -> bool:
    """Asked of a set of files; one without a folder is no, for the splits tell of it."""
    try:
        return not isinstance(config.data, ShapesData) and question(config.data, base)
    except DataError:
        return False


def check_split(config: Config, base: Path, split: SplitName) -> SplitReport:
    """Read one split; broken frames are listed and left out of the counts."""
    classes = len(labels_of(config).classes)
    report = SplitReport(pixels=[0] * classes, pixels_where_present=[0] * classes)
    if not isinstance(config.data, ShapesData):
        try:
            report.offenders += files.unpaired(config.data, base, split, isinstance(config.task, InstancesConfig))
            report.offenders += _coco_faults(config, base, split)
        except DataError as error:
            report.offenders.append(Fault.of(error, split))
            return report
    try:
        frames = open_split(config, base, split, complete=False)
    except DataError as error:
        report.offenders.append(Fault.of(error, split))
        return report
    report.frames = len(frames)
    numbers = classes_in if isinstance(config.task, InstancesConfig) else _as_they_are
    for outcome in ordered(
        lambda index: _counted(frames, index, classes, (split, numbers)), range(len(frames)), usable_cores()
    ):
        _add(report, outcome)
    if isinstance(config.data, ShapesData) or not files.has_labels(config.data):
        return report
    if split != "test" and not report.offenders:
        data = config.data
        if config.model.trained:
            data = data.model_copy(update={"absent_classes": labels_of(config).classes})
        report.offenders += class_faults(data, split, report.pixels, report.ignored)
    return report


def refuse_broken(config: Config, base: Path, cache: Path, fingerprint: str) -> None:
    """Raise before the first step when any frame is broken, or a class never occurs.

    One reading tells both; a set that was sound is not read again.
    """
    if isinstance(config.data, ShapesData):
        return
    files.require_labels(config.data, "training")
    decides = [VERSION, fingerprint, config.sections("data", "input"), config.data.absent_classes]
    decides += [_needed(config)] if config.model.trained else []
    key = sha256_of_bytes(json.dumps(decides, sort_keys=True).encode())
    if cache.exists() and read_bounded(cache) == key.encode():
        return
    faults = all_faults(check(config, base))
    if len(faults) == 1:
        raise DataError(faults[0].message, hint=faults[0].hint)
    if faults:
        kinds = lines(faults)
        more = f" (and {len(kinds) - _IN_ERROR} more kinds of fault)" if len(kinds) > _IN_ERROR else ""
        raise DataError(
            f"the data set has {len(faults)} faults: {' '.join(f'{line};' for line in kinds[:_IN_ERROR])}"[:-1] + more,
            hint=f"`segpipe data check {base}` shows them all",
        )
    write_atomically(cache, key.encode())


def all_faults(reports: dict[SplitName, SplitReport]) -> list[Fault]:
    """Each fault once: a val split that serves as test has one report for both."""
    return list(dict.fromkeys(fault for report in reports.values() for fault in report.offenders))


def class_weights(config: Config, base: Path) -> tuple[float, ...] | None:
    """The weights that [train] class_weights asks for."""
    wanted = config.train.class_weights
    if wanted == "none":
        return None
    classes = labels_of(config).classes
    if not isinstance(wanted, str):
        if len(wanted) != len(classes):
            raise ConfigError(
                f"train.class_weights has {len(wanted)} values for {len(classes)} classes", hint="give one a class"
            )
        return wanted
    return suggested_weights(check_split(config, base, "train"), wanted)


def suggested_weights(report: SplitReport, how: str) -> tuple[float, ...]:
    """A weight for each class; 1 for classes that the split does not hold."""
    pixels = np.array(report.pixels, np.float64)
    held = pixels > 0
    if not held.any():
        raise DataError("the train split holds no labelled pixel", hint="check the masks and the ignore index")
    if how == "median-frequency":
        frequency = np.divide(pixels, report.pixels_where_present, out=np.ones_like(pixels), where=held)
        weights = np.median(frequency[held]) / frequency
    else:
        weights = 1 / np.log(_EVEN + pixels / pixels.sum())
    return tuple(round(float(weight), 4) if held[number] else 1.0 for number, weight in enumerate(weights))


def _coco_faults(config: Config, base: Path, split: str) -> list[Fault]:
    """What is wrong with the things of a file of COCO: boxes outside, empty masks, what is twice or unknown."""
    if not isinstance(config.data, CocoData):
        return []
    file = base / config.data.root / listing(config.data, split)
    return [*files.known_coco(file, config.data.classes).faults()] if file.is_file() else []


def _as_they_are(labels: NDArray[Any]) -> NDArray[Any]:
    """Class numbers."""
    return labels


def _counted(
    frames: Split, index: int, classes: int, of: tuple[str, Callable[[NDArray[Any]], NDArray[Any]]]
) -> NDArray[np.int64] | Fault:
    """Pixels of each class and, last, ignored ones; or what is wrong with the frame. `of`: the split's name, and what
    makes class numbers of its labels."""
    split, numbers = of
    try:
        labels = numbers(frames.sample(index)[1])
    except DataError as error:
        return Fault.of(error, f"{split}/{frames.name(index)}")
    counts = np.bincount(np.minimum(labels, classes).ravel(), minlength=classes + 1)
    return counts.astype(np.int64)


def _add(report: SplitReport, outcome: NDArray[np.int64] | Fault) -> None:
    if isinstance(outcome, Fault):
        report.offenders.append(outcome)
        return
    labelled = int(outcome[:-1].sum())
    report.ignored += int(outcome[-1])
    for number, count in enumerate(outcome[:-1].tolist()):
        report.pixels[number] += count
        report.pixels_where_present[number] += labelled if count else 0


def summary(config: Config, reports: dict[SplitName, SplitReport]) -> Iterator[list[str]]:
    """Rows of class, share of the labelled pixels in each split, and the two suggestions of weights; last the share
    of all pixels that are ignored. Nothing where nothing could be read."""
    if not any(any(report.pixels) for report in reports.values()):
        return
    train = reports.get("train")
    weights = [suggested_weights(train, how) for how in WEIGHTS] if train and any(train.pixels) else []
    for number, name in enumerate(labels_of(config).classes):
        shares = [_share(report.pixels[number], sum(report.pixels)) for report in reports.values()]
        yield [name, *shares, *(f"{weight[number]:.3f}" for weight in weights or ())] + ["-"] * (2 - len(weights))
    ignored = [_share(report.ignored, report.ignored + sum(report.pixels)) for report in reports.values()]
    yield ["ignored, of all pixels", *ignored, "", ""]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3%}" if whole else "-"
