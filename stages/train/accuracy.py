"""How good a network is on a split: every frame at its own size, by the contract's definition. Shared with adopting."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe import metrics
from segpipe.contract.schema import AnyContract, InstanceContract
from segpipe.id_maps import classes_in
from segpipe.instance_metrics import InstanceFigures, InstanceMeter, panoptic_quality
from segpipe.instances import Instances
from stages.data import Split
from stages.train.dataset import frame_loader
from stages.train.interrupts import Interrupts
from stages.train.pictures import Gallery, Shot

Segment = Callable[[NDArray[Any]], Any]
"""A frame to its mask, or to its things."""


@dataclass
class Accuracy:
    """What was counted on a split."""

    matrix: metrics.Confusion
    """Of masks; of networks for things, of the class that their id map gives each pixel."""
    things: InstanceFigures | None = None
    """Of networks for things."""
    gallery: Gallery = field(default_factory=Gallery)


def accuracy_on(split: Split, segment: Segment, contract: AnyContract, workers: int) -> Accuracy:
    """Count every frame of the split, and keep the best and the worst."""
    classes = len(contract.classes)
    found = Accuracy(np.zeros((classes, classes), np.int64))
    meter = InstanceMeter(contract) if isinstance(contract, InstanceContract) else None
    interrupts = Interrupts()
    with interrupts.watching():
        for frame, labels, index in frame_loader(split, workers):
            interrupts.stop_if_asked()
            shot = shot_of(split.name(index), frame, labels, segment(frame))
            own = metrics.confusion(shot.labels, shot.mask, classes)[:, :classes]  # scores name no other class
            found.matrix += own
            figure = metrics.scores(own, contract.unscored_numbers).mean_iou
            if meter is not None and shot.things is not None:
                meter.add(labels, shot.things)
                figure = panoptic_quality(labels, shot.things) if shot.figure == "PQ" else figure
            found.gallery.consider(figure, shot)
    found.things = None if meter is None else meter.figures()
    return found


def shot_of(name: str, frame: NDArray[Any], labels: NDArray[Any], answer: Any) -> Shot:
    """A frame's labels and answer as classes of its pixels, beside things where there are some."""
    if not isinstance(answer, Instances):
        return Shot(name, frame, labels, answer)
    return Shot(name, frame, classes_in(labels), classes_in(answer.panoptic()), answer, labels)


def test_figures(matrix: metrics.Confusion, contract: AnyContract) -> dict[str, Any]:
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


def things_figures(found: Accuracy) -> dict[str, Any]:
    """Average precision and panoptic quality on the test split; nothing of networks for masks."""
    if found.things is None:
        return {}
    return {"test_things": {group: of for group, of in found.things.as_dict().items() if group != "frames"}}


def unscored_figures(val: metrics.Confusion, contract: AnyContract) -> dict[str, Any]:
    """What is said of classes that no mean counts; nothing where there are none."""
    if not contract.unscored:
        return {}
    return {"unscored": contract.unscored, "val_miou_of_all": round(metrics.scores(val).mean_iou_of_all, 6)}
