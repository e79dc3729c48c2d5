"""The maths of comparing two networks' masks. numpy and OpenCV; knows no network, no limit and no file."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.metrics import Confusion, confusion, scores
from stages.measuring.bootstrap import Drop, Pairs

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
    label_counts: Confusion
    margins: Margins | None
    """None where the network gives no scores."""

    @classmethod
    def of(
        cls, mask: NDArray[Any], labels: NDArray[Any] | None, margins: Margins | None, shape: "MaskShape"
    ) -> "Truth":
        """What every candidate shares is computed once."""
        counts = _no_counts(shape.classes) if labels is None else confusion(labels, mask, shape.classes)
        return cls(mask, boundary_band(mask, shape.boundary_px), labels, counts, margins)


@dataclass(frozen=True)
class MaskShape:
    """How masks are counted: number of classes, width of the boundary band, and from which margin a flip is large."""

    classes: int
    boundary_px: int
    large_margin: float = 0.1
    unscored: tuple[int, ...] = ()
    """Class numbers that no IoU is held to."""


@dataclass(frozen=True)
class Flips:
    """The pixels of one image whose class changed: flat numbers, and the reference's margin there."""

    at: NDArray[np.int64]
    margins: NDArray[np.float64]
    """Zeros where the network gives no scores."""
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
    """Flips against a wide margin; a margin that is no number counts as wide."""
    largest_margin: float = 0.0
    has_margins: bool = True
    worst_agreement: float = 1.0
    worst_at: str = ""
    margin_counts: NDArray[np.int64] = field(init=False)
    class_pixels: NDArray[np.int64] = field(init=False)
    pairs: Confusion = field(init=False)
    """Flipped pixels only: reference class by candidate class. The last row and column stand for no class."""
    _reference: Confusion = field(init=False)
    _candidate: Confusion = field(init=False)
    _pairs: Pairs = field(default_factory=Pairs)

    def __post_init__(self) -> None:
        classes = self.shape.classes
        self.margin_counts = np.zeros(len(MARGIN_EDGES), np.int64)
        self.class_pixels = np.zeros(classes + 1, np.int64)
        self.pairs = np.zeros((classes + 1, classes + 1), np.int64)
        self._reference, self._candidate = _no_counts(classes), _no_counts(classes)

    def add(self, truth: Truth, candidate: NDArray[Any], where: str = "") -> Flips:
        """Count one image and return what flipped; `where` names the image in a verdict."""
        at = np.flatnonzero(truth.mask != candidate)
        margins = np.zeros(at.size) if truth.margins is None else truth.margins(at)
        flips = Flips(at, margins, int(at.size - truth.band.reshape(-1)[at].sum()))
        self.has_margins &= truth.margins is not None
        self.images += 1
        self.pixels += truth.mask.size
        self.flips += flips.count
        self.band_pixels += int(truth.band.sum())
        self.band_flips += flips.count - flips.inside
        self._add_worst(1 - flips.count / truth.mask.size, where)
        self._add_margins(flips.margins)
        self._add_classes(truth, candidate, at)
        return flips

    def _add_worst(self, agreement: float, where: str) -> None:
        if self.images == 1 or agreement < self.worst_agreement:
            self.worst_agreement, self.worst_at = agreement, where

    def _add_margins(self, margins: NDArray[np.float64]) -> None:
        self.large_flips += int((~(margins <= self.shape.large_margin)).sum())
        self.largest_margin = max(self.largest_margin, float(margins.max(initial=0)))
        bins = np.searchsorted(MARGIN_EDGES, margins, "right") - 1
        self.margin_counts += np.bincount(bins.clip(0), minlength=len(MARGIN_EDGES))

    def _add_classes(self, truth: Truth, candidate: NDArray[Any], at: NDArray[np.int64]) -> None:
        """Only flipped pixels are counted again: the rest of the candidate's confusion is the reference's."""
        classes = self.shape.classes
        self.class_pixels += np.bincount(_at_most(truth.mask.reshape(-1), classes), minlength=classes + 1)
        old, new = (_at_most(mask.reshape(-1)[at], classes) for mask in (truth.mask, candidate))
        self.pairs += np.bincount(old * (classes + 1) + new, minlength=(classes + 1) ** 2).reshape(self.pairs.shape)
        if truth.labels is not None:
            labels = truth.labels.reshape(-1)[at]
            counts = truth.label_counts + confusion(labels, new, classes) - confusion(labels, old, classes)
            self._reference += truth.label_counts
            self._candidate += counts
            self._pairs.add(truth.label_counts, counts)

    @property
    def labelled(self) -> NDArray[np.int64]:
        """The classes that the labels hold and that are scored."""
        return np.setdiff1d(np.flatnonzero(self._reference.sum(1) > 0), self.shape.unscored)

    def reference_miou(self) -> float | None:
        """The reference's mean IoU over the labelled classes."""
        return self._miou(self._reference)

    def candidate_miou(self) -> float | None:
        """The candidate's, over the same classes: one pixel of a class that nobody labelled moves no mean."""
        return self._miou(self._candidate)

    def mious_of_all(self) -> tuple[float | None, float | None]:
        """The reference's and the candidate's over every class that is labelled or answered; None without labels."""
        if not self._reference.any():
            return None, None
        return scores(self._reference).mean_iou, scores(self._candidate).mean_iou

    def _miou(self, counts: Confusion) -> float | None:
        return float(scores(counts).iou[self.labelled].mean()) if self.labelled.size else None

    def ious(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Reference and candidate, a value a class; NaN where a class is neither labelled nor predicted."""
        return scores(self._reference).iou, scores(self._candidate).iou

    def iou_drop(self) -> tuple[float, int] | None:
        """The greatest loss of IoU of a labelled class, and that class; None without labels.

        A class that vanishes loses all it had. What is predicted without labels costs the classes whose pixels it took.
        The mean over the same classes never loses more.
        """
        if not self.labelled.size:
            return None
        reference, candidate = self.ious()
        drops = (reference - candidate)[self.labelled]
        worst = int(drops.argmax())
        return float(drops[worst]), int(self.labelled[worst])

    def miou_drop(self) -> Drop | None:
        """How far the mean IoU fell over the labelled classes, with its interval; None for too few labelled images."""
        return self._pairs.drop(self.labelled)

    def labelled_pixels(self, index: int) -> int:
        """Of one class."""
        return int(self._reference[index].sum())

    def label_confusion(self) -> Confusion:
        """The reference against the labels, pixels of no class left out."""
        return self._reference[:, :-1]


@dataclass
class Agreement:
    """Pixels that two masks share, where that is all there is to know."""

    pixels: int = 0
    flips: int = 0

    def add(self, one: NDArray[Any], other: NDArray[Any]) -> None:
        """Count one pair."""
        self.pixels += one.size
        self.flips += int((one != other).sum())

    @property
    def share(self) -> float | None:
        """Of all pixels."""
        return share(self.pixels - self.flips, self.pixels)


def boundary_band(mask: NDArray[Any], width: int) -> NDArray[np.bool_]:
    """The `width` pixels on either side of each change of class."""
    across, down = mask[:, 1:] != mask[:, :-1], mask[1:] != mask[:-1]
    edge = np.zeros(mask.shape, np.uint8)
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    kernel = np.ones((2 * width - 1, 2 * width - 1), np.uint8)
    return cv2.dilate(edge, kernel).astype(np.bool_)


def share(part: int, whole: int) -> float | None:
    """None where there is nothing to take a share of."""
    return part / whole if whole else None


def number(value: float) -> float | None:
    """None for NaN."""
    return None if np.isnan(value) else float(value)


def _no_counts(classes: int) -> Confusion:
    return np.zeros((classes, classes + 1), np.int64)


def _at_most(classes_: NDArray[Any], limit: int) -> NDArray[np.int64]:
    return classes_.astype(np.int64).clip(max=limit)
