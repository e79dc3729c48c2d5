"""How good a network is on a split: every frame at its own size, by the contract's definition. Shared with adopting."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe import metrics
from segpipe.contract.schema import Contract
from stages.data import Split
from stages.train.dataset import frame_loader
from stages.train.interrupts import Interrupts
from stages.train.pictures import Gallery, Shot

Segment = Callable[[NDArray[Any]], NDArray[Any]]
"""A frame to its mask."""


@dataclass
class Accuracy:
    """What was counted on a split."""

    matrix: metrics.Confusion
    gallery: Gallery = field(default_factory=Gallery)


def accuracy_on(split: Split, segment: Segment, contract: Contract, workers: int) -> Accuracy:
    """Count every frame of the split, and keep the best and the worst."""
    classes = len(contract.classes)
    found = Accuracy(np.zeros((classes, classes), np.int64))
    interrupts = Interrupts()
    with interrupts.watching():
        for frame, labels, index in frame_loader(split, workers):
            interrupts.stop_if_asked()
            mask = segment(frame)
            own = metrics.confusion(labels, mask, classes)[:, :classes]  # scores name no other class
            found.matrix += own
            mean = metrics.scores(own, contract.unscored_numbers).mean_iou
            found.gallery.consider(mean, Shot(split.name(index), frame, labels, mask))
    return found


def test_figures(matrix: metrics.Confusion, contract: Contract) -> dict[str, Any]:
    """Over the whole split, ignored pixels left out; None for a class that the split does not hold."""
    result = metrics.scores(matrix, contract.unscored_numbers)
    columns = {"iou": result.iou, "f1": result.f1, "precision": result.precision, "recall": result.recall}
    by_class = {
        name: {key: None if math.isnan(v[n]) else round(float(v[n]), 6) for key, v in columns.items()}
        for n, name in enumerate(contract.classes)
    }
    return {
        "test_miou": round(result.mean_iou, 6),
        "test_pixel_accuracy": round(result.pixel_accuracy, 6),
        "test_classes": by_class,
        **({"test_miou_of_all": round(result.mean_iou_of_all, 6)} if contract.unscored else {}),
    }


def unscored_figures(val: metrics.Confusion, contract: Contract) -> dict[str, Any]:
    """What is said of classes that no mean counts; nothing where there are none."""
    if not contract.unscored:
        return {}
    return {"unscored": contract.unscored, "val_miou_of_all": round(metrics.scores(val).mean_iou_of_all, 6)}
