"""Labelled frames through the deployed runtime: one confusion matrix, its figures. Knows no data set and no torch."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.metrics import Confusion, Scores, confusion, scores
from segpipe.runtime.segmenter import Segmenter

_log = logging.getLogger(__name__)

Sample = tuple[NDArray[Any], NDArray[Any]]
"""Frame HxWxC and labels HxW."""


@dataclass(frozen=True)
class Figures:
    """What was measured, by class name."""

    classes: tuple[str, ...]
    frames: int
    scores: Scores
    no_class_pixels: int
    """Labelled pixels whose answer is no class of the contract: wrong for every class."""

    def rows(self) -> list[list[str]]:
        """A table: class, IoU, F1, precision, recall; a class that never appears has dashes."""
        return [[name, *(_text(row[k]) for k in _COLUMNS)] for name, row in self._by_class().items()]

    def as_dict(self) -> dict[str, Any]:
        """For --json; NaN becomes null."""
        return {
            "frames": self.frames,
            "no_class_pixels": self.no_class_pixels,
            "mean_iou": _number(self.scores.mean_iou),
            "pixel_accuracy": _number(self.scores.pixel_accuracy),
            "classes": {name: {k: _number(v) for k, v in row.items()} for name, row in self._by_class().items()},
        }

    def _by_class(self) -> dict[str, dict[str, float]]:
        columns = {name: getattr(self.scores, name) for name in _COLUMNS}
        return {
            name: {key: float(values[index]) for key, values in columns.items()}
            for index, name in enumerate(self.classes)
        }


_COLUMNS = ("iou", "f1", "precision", "recall")


def evaluate_frames(segmenter: Segmenter, samples: Iterable[Sample], tick: Callable[[int], None]) -> Figures:
    """Segment every sample at its own size and count; `tick` is called with each finished frame."""
    classes = segmenter.contract.classes
    matrix: Confusion = np.zeros((len(classes), len(classes) + 1), np.int64)
    waiting: deque[NDArray[Any]] = deque()
    frames = 0
    for mask in segmenter.stream(_frames(samples, waiting)):
        matrix += confusion(waiting.popleft(), mask, len(classes))
        frames += 1
        tick(1)
    no_class = int(matrix[:, -1].sum())
    if no_class:
        _log.warning(
            "%d of %d labelled pixels are answered with none of the %d classes; they count as wrong for every class",
            no_class,
            matrix.sum(),
            len(classes),
        )
    return Figures(classes, frames, scores(matrix), no_class)


def _frames(samples: Iterable[Sample], waiting: deque[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Labels wait for their frame's mask."""
    for frame, labels in samples:
        waiting.append(labels)
        yield frame


def _text(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)
