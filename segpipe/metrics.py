"""Segmentation metrics from one confusion matrix: IoU, F1, precision, recall, accuracy. numpy only."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

_log = logging.getLogger(__name__)

Confusion = NDArray[np.int64]
"""Rows are the labels, columns the predictions; a column more than rows counts answers that are no class."""


@dataclass(frozen=True)
class Scores:
    """Figures over a whole data set. A class that neither appears nor is predicted is NaN and left out of means."""

    iou: NDArray[np.float64]
    f1: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    pixel_accuracy: float
    mean_iou: float
    """Without the unscored classes."""
    mean_iou_of_all: float
    """With them: what a network loses that answers a class which the labels do not know."""


@dataclass(frozen=True)
class DatasetFigures:
    """What was measured, by class name."""

    classes: tuple[str, ...]
    frames: int
    scores: Scores
    no_class_pixels: int
    """Labelled pixels whose answer is no class of the contract: wrong for every class."""
    unscored: tuple[str, ...] = ()
    """Classes that the mean leaves out."""
    columns: ClassVar[list[str]] = ["class", "IoU", "F1", "precision", "recall"]
    """Of `rows`."""

    def mean(self) -> str:
        """The mean IoU for a person, and beside it that over all classes where some are not scored."""
        return mean_in_words(self.scores.mean_iou, self.scores.mean_iou_of_all, self.unscored)

    def summary(self) -> str:
        """One line."""
        return f"{self.mean()}, pixel accuracy {self.scores.pixel_accuracy:.4f}"

    def rows(self) -> list[list[str]]:
        """A table: class, IoU, F1, precision, recall; a class that never appears has dashes."""
        return [[name, *(_text(row[k]) for k in _COLUMNS)] for name, row in self._by_class().items()]

    def as_dict(self) -> dict[str, Any]:
        """For --json; NaN becomes null."""
        return {
            "frames": self.frames,
            "no_class_pixels": self.no_class_pixels,
            "mean_iou": _number(self.scores.mean_iou),
            **self._of_all(),
            "pixel_accuracy": _number(self.scores.pixel_accuracy),
            "classes": {name: {k: _number(v) for k, v in row.items()} for name, row in self._by_class().items()},
        }

    def _of_all(self) -> dict[str, Any]:
        if not self.unscored:
            return {}
        return {"mean_iou_of_all": _number(self.scores.mean_iou_of_all), "unscored": list(self.unscored)}

    def _by_class(self) -> dict[str, dict[str, float]]:
        columns = {name: getattr(self.scores, name) for name in _COLUMNS}
        return {
            name: {key: float(values[index]) for key, values in columns.items()}
            for index, name in enumerate(self.classes)
        }


_COLUMNS = ("iou", "f1", "precision", "recall")


class MaskMeter:
    """A confusion matrix in the making."""

    def __init__(self, classes: tuple[str, ...], unscored: tuple[str, ...] = ()) -> None:
        self._classes, self._unscored = classes, unscored
        self._frames = 0
        self._matrix: Confusion = np.zeros((len(classes), len(classes) + 1), np.int64)

    def add(self, truth: NDArray[Any], answer: NDArray[Any]) -> None:
        """Count one frame's mask against its labels."""
        self._matrix += confusion(truth, answer, len(self._classes))
        self._frames += 1

    def figures(self) -> DatasetFigures:
        """Of all frames; warns of answers that are no class."""
        no_class = int(self._matrix[:, -1].sum())
        if no_class:
            _log.warning(
                "%d of %d labelled pixels are answered with none of the %d classes; "
                "they count as wrong for every class",
                no_class,
                self._matrix.sum(),
                len(self._classes),
            )
        left_out = [number for number, name in enumerate(self._classes) if name in self._unscored]
        counted = scores(self._matrix, left_out)
        return DatasetFigures(self._classes, self._frames, counted, no_class, self._unscored)


def confusion(labels: NDArray[Any], mask: NDArray[Any], classes: int) -> Confusion:
    """Count pixels by (label, prediction), classes x (classes + 1). Labels outside the classes, the ignore index among
    them, are left out; an answer outside them is wrong for its label and a hit of none."""
    inside = labels < classes
    pairs = labels[inside].astype(np.int64) * (classes + 1) + mask[inside].astype(np.int64).clip(max=classes)
    return np.bincount(pairs, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def scores(matrix: Confusion, unscored: Sequence[int] = ()) -> Scores:
    """All figures of a confusion matrix, summed over the data set before any division. `unscored`: class numbers."""
    hits = np.diag(matrix).astype(np.float64)
    labelled, predicted = matrix.sum(1), matrix.sum(0)[: len(matrix)]
    iou = _ratio(hits, labelled + predicted - hits)
    return Scores(
        iou=iou,
        f1=_ratio(2 * hits, labelled + predicted),
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, labelled),
        pixel_accuracy=float(_ratio(hits.sum(), matrix.sum())),
        mean_iou=_mean(np.delete(iou, list(unscored))),
        mean_iou_of_all=_mean(iou),
    )


def mean_in_words(scored: float, of_all: float | None, unscored: Sequence[str]) -> str:
    """`mIoU 0.5720 (0.5243 with 'void', not scored)`."""
    if not unscored or of_all is None:
        return f"mIoU {scored:.4f}"
    return f"mIoU {scored:.4f} ({of_all:.4f} with {', '.join(map(repr, unscored))}, not scored)"


def _mean(iou: NDArray[np.float64]) -> float:
    return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")


def _ratio(part: Any, whole: Any) -> NDArray[np.float64]:
    whole = np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _text(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)
