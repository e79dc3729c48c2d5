"""The maths of comparing two networks: masks and tensors. numpy and OpenCV; knows no network, no limit and no file."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.metrics import Confusion, confusion, scores

FP16_MAX = 65504.0
MARGIN_EDGES = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
"""Lower edges of the margin histogram, in spreads (standard deviations) of the reference's scores."""

Margins = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""Flat pixel numbers to the reference's lead of its class there, in spreads of its scores."""


@dataclass(frozen=True)
class Truth:
    """One image as the reference sees it. `labels` are None where there are none."""

    mask: NDArray[Any]
    band: NDArray[np.bool_]
    labels: NDArray[Any] | None
    label_confusion: Confusion
    margins: Margins

    @classmethod
    def of(cls, mask: NDArray[Any], labels: NDArray[Any] | None, margins: Margins, shape: "MaskShape") -> "Truth":
        """What every candidate shares is computed once."""
        counted = (
            np.zeros((shape.classes, shape.classes), np.int64)
            if labels is None
            else confusion(labels, mask, shape.classes)
        )
        return cls(mask, boundary_band(mask, shape.boundary_px), labels, counted, margins)


@dataclass(frozen=True)
class MaskShape:
    """How masks are counted: number of classes, width of the boundary band, and from which margin a flip is large."""

    classes: int
    boundary_px: int
    large_margin: float = 0.1


@dataclass(frozen=True)
class Flips:
    """The pixels of one image whose class changed: flat numbers, and the reference's margin there."""

    at: NDArray[np.int64]
    margins: NDArray[np.float64]
    inside: int

    @property
    def count(self) -> int:
        """How many."""
        return int(self.at.size)


@dataclass
class MaskComparison:
    """Sums over images of reference and candidate masks; memory does not grow with their number."""

    shape: MaskShape
    images: int = 0
    pixels: int = 0
    flips: int = 0
    band_pixels: int = 0
    band_flips: int = 0
    large_flips: int = 0
    largest_margin: float = 0.0
    margin_counts: NDArray[np.int64] = field(init=False)
    class_pixels: NDArray[np.int64] = field(init=False)
    pairs: Confusion = field(init=False)
    """Flipped pixels only: reference class by candidate class. The last row and column stand for no class."""
    _reference: Confusion = field(init=False)
    _candidate: Confusion = field(init=False)

    def __post_init__(self) -> None:
        classes = self.shape.classes
        self.margin_counts = np.zeros(len(MARGIN_EDGES), np.int64)
        self.class_pixels = np.zeros(classes + 1, np.int64)
        self.pairs = np.zeros((classes + 1, classes + 1), np.int64)
        self._reference = np.zeros((classes, classes), np.int64)
        self._candidate = self._reference.copy()

    def add(self, truth: Truth, candidate: NDArray[Any]) -> Flips:
        """Count one image and return what flipped."""
        at = np.flatnonzero(truth.mask != candidate)
        flips = Flips(at, truth.margins(at), int(at.size - truth.band.reshape(-1)[at].sum()))
        self.images += 1
        self.pixels += truth.mask.size
        self.flips += flips.count
        self.band_pixels += int(truth.band.sum())
        self.band_flips += flips.count - flips.inside
        self._add_margins(flips.margins)
        self._add_classes(truth, candidate, at)
        return flips

    def _add_margins(self, margins: NDArray[np.float64]) -> None:
        self.large_flips += int((~(margins <= self.shape.large_margin)).sum())
        self.largest_margin = max(self.largest_margin, float(margins.max(initial=0)))
        bins = np.searchsorted(MARGIN_EDGES, margins, "right") - 1
        self.margin_counts += np.bincount(bins.clip(0), minlength=len(MARGIN_EDGES))

    def _add_classes(self, truth: Truth, candidate: NDArray[Any], at: NDArray[np.int64]) -> None:
        """Only flipped pixels are counted again: the rest of the candidate's confusion is the reference's."""
        classes = self.shape.classes
        self.class_pixels += np.bincount(truth.mask.reshape(-1).clip(max=classes), minlength=classes + 1)
        old, new = (mask.reshape(-1)[at].clip(max=classes).astype(np.int64) for mask in (truth.mask, candidate))
        self.pairs += np.bincount(old * (classes + 1) + new, minlength=(classes + 1) ** 2).reshape(self.pairs.shape)
        self._reference += truth.label_confusion
        self._candidate += truth.label_confusion
        if truth.labels is not None:
            labels = truth.labels.reshape(-1)[at]
            known = (old < classes) & (new < classes)
            self._candidate += confusion(labels[known], new[known], classes)
            self._candidate -= confusion(labels[known], old[known], classes)

    @property
    def has_labels(self) -> bool:
        """Whether any pixel had a label."""
        return bool(self._reference.any())

    def reference_miou(self) -> float | None:
        """The reference's mean IoU against the labels."""
        return number(scores(self._reference).mean_iou)

    def candidate_miou(self) -> float | None:
        """The candidate's mean IoU against the labels."""
        return number(scores(self._candidate).mean_iou)

    def ious(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Reference and candidate, a value a class; NaN where a class is absent."""
        return scores(self._reference).iou, scores(self._candidate).iou

    def iou_drop(self) -> tuple[float, int] | None:
        """The greatest loss of IoU and its class; -1 stands for the mean. None without labels."""
        reference, candidate = self.ious()
        present = np.flatnonzero(self._reference.sum(1) > 0)
        if not present.size:
            return None
        drops = (reference - candidate)[present]
        mean = float(np.nanmean(reference) - np.nanmean(candidate))
        worst = int(drops.argmax())
        return (mean, -1) if mean > drops[worst] else (float(drops[worst]), int(present[worst]))

    def label_confusion(self) -> Confusion:
        """The reference against the labels."""
        return self._reference


@dataclass
class TensorComparison:
    """Sums over pairs of tensors. What is no number is counted and left out of the other figures; another shape is an
    infinite error."""

    elements: int = 0
    nan: int = 0
    inf: int = 0
    reference_non_finite: int = 0
    max_abs_error: float = 0.0
    worst_relative_l2: float = 0.0
    worst_at: str = ""
    non_finite_at: str = ""
    reference_range: tuple[float, float] = (float("inf"), float("-inf"))
    candidate_range: tuple[float, float] = (float("inf"), float("-inf"))
    _error_squared: float = 0.0
    _error_absolute: float = 0.0
    _reference_squared: float = 0.0
    _candidate_squared: float = 0.0
    _product: float = 0.0

    def add(self, reference: NDArray[Any], candidate: NDArray[Any], where: str = "") -> None:
        """Count one pair; `where` names it in a verdict."""
        if reference.shape != candidate.shape:
            self._error_squared, self.worst_relative_l2, self.worst_at = float("inf"), float("inf"), where
            self._reference_squared += 1.0
            self.elements += candidate.size
            return
        ours, theirs = reference.reshape(-1).astype(np.float64), candidate.reshape(-1).astype(np.float64)
        good, sound = np.isfinite(theirs), np.isfinite(ours)
        if not (good.all() and sound.all()):
            self.nan += int(np.isnan(theirs).sum())
            self.inf += int(np.isinf(theirs).sum())
            self.reference_non_finite += int((~sound).sum())
            self.non_finite_at = self.non_finite_at or where
            ours, theirs = ours[good & sound], theirs[good & sound]
        if ours.size:
            self._add_finite(ours, theirs, where)

    def _add_finite(self, ours: NDArray[np.float64], theirs: NDArray[np.float64], where: str) -> None:
        error = theirs - ours
        squared, own = float(error @ error), float(ours @ ours)
        self.elements += ours.size
        self.max_abs_error = max(self.max_abs_error, float(np.abs(error).max()))
        self._error_squared += squared
        self._error_absolute += float(np.abs(error).sum())
        self._reference_squared += own
        self._candidate_squared += float(theirs @ theirs)
        self._product += float(ours @ theirs)
        self.reference_range = _widened(self.reference_range, ours)
        self.candidate_range = _widened(self.candidate_range, theirs)
        relative = float(np.sqrt(squared / own)) if own else (0.0 if not squared else float("inf"))
        if relative >= self.worst_relative_l2:
            self.worst_relative_l2, self.worst_at = relative, where

    @property
    def non_finite(self) -> int:
        """NaN and Inf, the reference's own among them."""
        return self.nan + self.inf + self.reference_non_finite

    @property
    def relative_l2(self) -> float | None:
        """Length of the error as a share of the reference's length."""
        return float(np.sqrt(self._error_squared / self._reference_squared)) if self._reference_squared else None

    @property
    def cosine(self) -> float | None:
        """1 where both point the same way."""
        lengths = np.sqrt(self._reference_squared * self._candidate_squared)
        return float(self._product / lengths) if lengths else None

    @property
    def mean_abs_error(self) -> float | None:
        """Over all elements."""
        return self._error_absolute / self.elements if self.elements else None

    @property
    def psnr_db(self) -> float | None:
        """Against the reference's range; None where nothing differs."""
        low, high = self.reference_range
        if not self._error_squared or not high > low:
            return None
        return float(10 * np.log10((high - low) ** 2 * self.elements / self._error_squared))

    @property
    def gain(self) -> float | None:
        """The factor on the reference that comes nearest to the candidate; rounding leaves it at 1."""
        return self._product / self._reference_squared if self._reference_squared else None

    @property
    def fp16_share(self) -> float | None:
        """The largest magnitude on either side, as a share of what FP16 can hold."""
        if not self.elements:
            return None
        return max(map(abs, (*self.reference_range, *self.candidate_range))) / FP16_MAX


def boundary_band(mask: NDArray[Any], width: int) -> NDArray[np.bool_]:
    """Pixels within `width` of a change of class."""
    edge = np.zeros(mask.shape, np.uint8)
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    edge[1:] |= mask[1:] != mask[:-1]
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    return cv2.dilate(edge, kernel).astype(np.bool_)


def share(part: int, whole: int) -> float | None:
    """None where there is nothing to take a share of."""
    return part / whole if whole else None


def number(value: float) -> float | None:
    """None for NaN."""
    return None if np.isnan(value) else float(value)


def _widened(known: tuple[float, float], values: NDArray[np.float64]) -> tuple[float, float]:
    return min(known[0], float(values.min())), max(known[1], float(values.max()))
