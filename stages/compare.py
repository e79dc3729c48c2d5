"""The maths of comparing two networks: masks, scores, verdicts. numpy and OpenCV; knows no network and no file."""

from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.metrics import Confusion, confusion, scores
from stages.config import Limits


@dataclass(frozen=True)
class Check:
    """One limit held against one figure."""

    name: str
    value: float | None
    limit: float
    status: Literal["passed", "failed", "not judged"]

    def line(self) -> str:
        """For a person."""
        value = "nothing measured" if self.value is None else f"{self.value:.6g}"
        return f"{self.name} {value} (limit {self.limit:g}): {self.status}"


@dataclass
class Comparison:
    """Sums over images; memory does not grow with their number."""

    classes: int
    boundary_px: int
    images: int = 0
    pixels: int = 0
    flips: int = 0
    inside_pixels: int = 0
    inside_flips: int = 0
    max_abs_error: float = 0.0
    non_finite: int = 0
    _error_squared: float = 0.0
    _reference_squared: float = 0.0
    _largest_flip_margin: float = 0.0
    _reference_confusion: Confusion = field(init=False)
    _candidate_confusion: Confusion = field(init=False)

    def __post_init__(self) -> None:
        self._reference_confusion = np.zeros((self.classes, self.classes), np.int64)
        self._candidate_confusion = self._reference_confusion.copy()

    def add_masks(
        self, reference: NDArray[Any], candidate: NDArray[Any], labels: NDArray[Any], margin: NDArray[Any]
    ) -> int:
        """Count one image; `margin` is the reference's lead of its class at every pixel. Returns the flips."""
        flipped = reference != candidate
        inside = ~boundary_band(reference, self.boundary_px)
        self.images += 1
        self.pixels += reference.size
        self.flips += int(flipped.sum())
        self.inside_pixels += int(inside.sum())
        self.inside_flips += int((flipped & inside).sum())
        self._largest_flip_margin = max(self._largest_flip_margin, float(margin[flipped].max(initial=0)))
        self._reference_confusion += confusion(labels, reference, self.classes)
        self._candidate_confusion += confusion(labels, candidate, self.classes)
        return int(flipped.sum())

    def add_scores(self, reference: NDArray[Any], candidate: NDArray[Any]) -> None:
        """Count one image's raw scores."""
        finite = np.isfinite(candidate)
        self.non_finite += int(candidate.size - finite.sum())
        reference = reference.astype(np.float64)
        error = np.where(finite, candidate.astype(np.float64) - reference, 0.0)
        self.max_abs_error = max(self.max_abs_error, float(np.abs(error).max(initial=0)))
        self._error_squared += float((error**2).sum())
        self._reference_squared += float((reference**2).sum())

    def figures(self) -> dict[str, Any]:
        """What was measured, for a report."""
        reference, candidate = scores(self._reference_confusion), scores(self._candidate_confusion)
        return {
            "images": self.images,
            "agreement": _share(self.pixels - self.flips, self.pixels),
            "flips": self.flips,
            "flips_inside": _share(self.inside_flips, self.inside_pixels),
            "largest_flip_margin": self._largest_flip_margin,
            "relative_l2": self._relative_l2(),
            "max_abs_error": self.max_abs_error,
            "non_finite": self.non_finite,
            "reference_miou": _number(reference.mean_iou),
            "miou": _number(candidate.mean_iou),
            "iou_drop": self._iou_drop(),
        }

    def checks(self, limits: Limits) -> list[Check]:
        """Every limit, held against its figure. What was not measured is not judged; NaN never passes."""
        found = self.figures()
        return [
            _at_least("agreement", found["agreement"], limits.min_agreement),
            _at_most("flips_inside", found["flips_inside"], limits.max_flips_inside),
            _at_most("iou_drop", found["iou_drop"], limits.max_iou_drop),
            _at_most("relative_l2", found["relative_l2"], limits.max_relative_l2),
            _at_most("non_finite", float(self.non_finite), 0.0),
        ]

    def _relative_l2(self) -> float | None:
        if self._reference_squared == 0:
            return None
        return float(np.sqrt(self._error_squared / self._reference_squared))

    def _iou_drop(self) -> float | None:
        """The greatest loss of IoU, of the mean and of each class that the labels hold."""
        reference, candidate = scores(self._reference_confusion), scores(self._candidate_confusion)
        present = self._reference_confusion.sum(1) > 0
        if not present.any():
            return None
        drops = (reference.iou - candidate.iou)[present]
        return float(max(drops.max(), reference.mean_iou - candidate.mean_iou))


def boundary_band(mask: NDArray[Any], width: int) -> NDArray[np.bool_]:
    """Pixels within `width` of a change of class."""
    edge = np.zeros(mask.shape, np.uint8)
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    edge[1:] |= mask[1:] != mask[:-1]
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    return cv2.dilate(edge, kernel).astype(np.bool_)


def _at_least(name: str, value: float | None, limit: float) -> Check:
    if value is None:
        return Check(name, None, limit, "not judged")
    return Check(name, value, limit, "passed" if value >= limit else "failed")


def _at_most(name: str, value: float | None, limit: float) -> Check:
    if value is None:
        return Check(name, None, limit, "not judged")
    return Check(name, value, limit, "passed" if value <= limit else "failed")


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
