"""The maths of comparing two networks' things, and the maps that they were picked from. numpy; knows no limit."""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.errors import BackendMissingError
from segpipe.id_maps import Crop
from segpipe.instance_metrics import InstanceFigures, InstanceMeter
from segpipe.instances import Instances
from stages.measuring.tensors import TensorComparison

LEAST_SCORE = 0.3
"""Of the things that must be found again."""
_NEAR = 1.25
"""A score within this factor of the threshold may fall on either side of it by rounding alone."""
_SAME_IOU = 0.5  # below it two things are two
_OTHER_CLASS = -9.0


@dataclass
class ThingsComparison:
    """Sums over frames. Things are matched by their overlap less the difference of their scores: of two things on one
    place the scores tell which is which."""

    frames: int = 0
    pairs: int = 0
    lost: int = 0
    """Of the reference's, sure ones that nobody found again."""
    extra: int = 0
    """Sure ones that the reference has not."""
    lost_at: str = ""
    extra_at: str = ""
    worst_iou: float = 1.0
    worst_iou_at: str = ""
    largest_score_error: float = 0.0
    largest_box_error_px: float = 0.0
    """In pixels of the network's input: a large frame makes no error larger."""
    maps: dict[str, TensorComparison] = field(default_factory=dict)
    """What the rows were picked from, each map by itself: a quiet head does not hide behind a loud one."""
    _ious: float = 0.0
    _meters: tuple[InstanceMeter, InstanceMeter] | None = None
    _counted: tuple[InstanceFigures, InstanceFigures] | None = None

    def add(self, reference: Instances, candidate: Instances, where: str, truth: NDArray[Any] | None = None) -> None:
        """Count one frame; `truth` is its id map, where there is one."""
        self.frames += 1
        for name, ours in reference.dense.items():
            compared = self.maps.setdefault(name, TensorComparison())
            compared.add(ours, candidate.dense.get(name, np.empty(0)), f"{name} of {where}")
        self._match(reference, candidate, where)
        if truth is not None:
            if self._meters is None:
                self._meters = (InstanceMeter(reference.contract), InstanceMeter(reference.contract))
            self._counted = None
            for meter, answer in zip(self._meters, (reference, candidate), strict=True):
                meter.add(truth, answer)

    @property
    def worst_map(self) -> TensorComparison:
        """The map that is farthest from the reference's; nothing compared where there are no maps."""
        return max(self.maps.values(), key=_distance, default=TensorComparison())

    @property
    def mean_iou(self) -> float | None:
        """Of all pairs."""
        return self._ious / self.pairs if self.pairs else None

    def accuracy(self) -> tuple[InstanceFigures, InstanceFigures] | None:
        """The reference's and the candidate's against the labels; None without labels, or where the library that
        counts is not installed: machines that only deploy may lack it."""
        if self._counted is None and self._meters is not None:
            with suppress(BackendMissingError):
                self._counted = (self._meters[0].figures(), self._meters[1].figures())
        return self._counted

    def ap_drop(self) -> float | None:
        """How much less average precision the candidate has; None where nothing was counted, or no thing is there."""
        counted = self.accuracy()
        if counted is None:
            return None
        ours, theirs = ((figures.masks or figures.boxes)["ap"] for figures in counted)
        return None if np.isnan(ours) else ours - (0.0 if np.isnan(theirs) else theirs)

    def _match(self, reference: Instances, candidate: Instances, where: str) -> None:
        free = [*np.flatnonzero(candidate.scores >= LEAST_SCORE / 2).tolist()]
        for number in np.flatnonzero(reference.scores >= LEAST_SCORE).tolist():
            best = max(free, key=lambda other: _likeness(reference, number, candidate, other), default=None)
            iou = 0.0 if best is None else _iou(reference, number, candidate, best)
            if best is None or reference.labels[number] != candidate.labels[best] or iou < _SAME_IOU:
                sure = bool(reference.scores[number] >= _NEAR * LEAST_SCORE)
                self.lost += sure
                self.lost_at = self.lost_at or (where if sure else "")
                continue
            free.remove(best)
            self._add_pair(reference, number, candidate, best, (iou, where))
        extra = sum(bool(candidate.scores[number] >= _NEAR * LEAST_SCORE) for number in free)
        self.extra += extra
        self.extra_at = self.extra_at or (where if extra else "")

    def _add_pair(self, ours: Instances, i: int, theirs: Instances, j: int, found: tuple[float, str]) -> None:
        iou, where = found
        self.pairs += 1
        self._ious += iou
        if iou < self.worst_iou:
            self.worst_iou, self.worst_iou_at = iou, where
        self.largest_score_error = max(self.largest_score_error, abs(float(ours.scores[i] - theirs.scores[j])))
        (height, width), (tall, wide) = ours.placement.source, ours.placement.resized
        scale = np.array([wide / width, tall / height] * 2)
        error = float((np.abs(ours.boxes[i] - theirs.boxes[j]) * scale).max())
        self.largest_box_error_px = max(self.largest_box_error_px, error)


def _distance(compared: TensorComparison) -> tuple[int, float]:
    return compared.non_finite, compared.worst_relative_l2


def _likeness(ours: Instances, i: int, theirs: Instances, j: int) -> float:
    if ours.labels[i] != theirs.labels[j]:
        return _OTHER_CLASS
    return _iou(ours, i, theirs, j) - abs(float(ours.scores[i] - theirs.scores[j]))


def _iou(ours: Instances, i: int, theirs: Instances, j: int) -> float:
    """Of masks; of boxes where there are no masks."""
    if ours.crops and theirs.crops:
        return crop_iou(ours.crops[i], theirs.crops[j])
    return box_iou(ours.boxes[i], theirs.boxes[j])


def crop_iou(one: Crop, other: Crop) -> float:
    """Of two things of a frame; two without a pixel are the same."""
    both = one.shared_with(other)
    union = one.area + other.area - both
    return both / union if union else 1.0


def box_iou(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Of two boxes; two without an area are the same."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    both = float((high - low).clip(0).prod())
    union = float((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod()) - both
    return both / union if union > 0 else 1.0
