"""Floors of accuracy: mean IoU and the worst class, compared with the labels. Whether a network is any good."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.config.root import Limits
from stages.measuring.masks import MaskComparison
from stages.results.gate import NO_LABELS
from stages.validate.judging.checks import Check, at_least


def hop_accuracy(masks: MaskComparison, limits: Limits, classes: Sequence[str]) -> list[Check]:
    """The floors that are set, compared with what this hop answers."""
    return _floors("", masks.ious()[1], masks, limits, classes)


def reference_accuracy(masks: MaskComparison, limits: Limits, classes: Sequence[str]) -> list[Check]:
    """The same of the reference: where it fails, no deployed form of it can do better."""
    return _floors("reference_", masks.ious()[0], masks, limits, classes)


def _floors(
    of: str, ious: NDArray[np.float64], masks: MaskComparison, limits: Limits, classes: Sequence[str]
) -> list[Check]:
    held, labelled = [], masks.labelled
    if limits.min_miou is not None:
        mean = float(ious[labelled].mean()) if labelled.size else None
        held.append(at_least(f"{of}miou", mean, limits.min_miou, why_not=NO_LABELS))
    if limits.min_class_iou is not None:
        worst = int(labelled[ious[labelled].argmin()]) if labelled.size else None
        value, where = (None, "") if worst is None else (float(ious[worst]), _named(worst, masks, classes))
        held.append(at_least(f"{of}class_iou", value, limits.min_class_iou, where, NO_LABELS))
    return held


def _named(index: int, masks: MaskComparison, classes: Sequence[str]) -> str:
    return f"class '{classes[index]}', {masks.labelled_pixels(index)} pixels"
