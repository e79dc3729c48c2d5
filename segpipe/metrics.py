"""Segmentation metrics from one confusion matrix: IoU, F1, precision, recall, accuracy. numpy only."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def confusion(labels: NDArray[Any], mask: NDArray[Any], classes: int) -> Confusion:
    """Count pixels by (label, prediction), classes x (classes + 1). Labels outside the classes, the ignore index among
    them, are left out; an answer outside them is wrong for its label and a hit of none."""
    inside = labels < classes
    pairs = labels[inside].astype(np.int64) * (classes + 1) + mask[inside].astype(np.int64).clip(max=classes)
    return np.bincount(pairs, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def scores(matrix: Confusion) -> Scores:
    """All figures of a confusion matrix, summed over the data set before any division."""
    hits = np.diag(matrix).astype(np.float64)
    labelled, predicted = matrix.sum(1), matrix.sum(0)[: len(matrix)]
    iou = _ratio(hits, labelled + predicted - hits)
    return Scores(
        iou=iou,
        f1=_ratio(2 * hits, labelled + predicted),
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, labelled),
        pixel_accuracy=float(_ratio(hits.sum(), matrix.sum())),
        mean_iou=float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan"),
    )


def _ratio(part: Any, whole: Any) -> NDArray[np.float64]:
    whole = np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
