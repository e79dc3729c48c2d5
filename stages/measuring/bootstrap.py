"""How far a mean IoU may have dropped: an interval by drawing blocks of neighbouring images again and again. numpy."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segpipe.metrics import Confusion

_MOST = 64  # blocks; then two neighbours become one
_DRAWS = 2000
_SEED = 1
LEAST = 4
"""Fewer blocks tell no interval."""


@dataclass(frozen=True)
class Drop:
    """Of the mean IoU over the labelled classes: as measured, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass
class Pairs:
    """What reference and candidate answered on the same images, block by block. Neighbours of a video are alike, so
    they are drawn together; memory does not grow with the images."""

    size: int = 1
    _reference: list[Confusion] = field(default_factory=list)
    _candidate: list[Confusion] = field(default_factory=list)
    _images: int = 0

    def add(self, reference: Confusion, candidate: Confusion) -> None:
        """One labelled image, rows by label."""
        if self._images % self.size == 0:
            if len(self._reference) == _MOST:
                self._halve()
            self._reference.append(np.zeros_like(reference))
            self._candidate.append(np.zeros_like(candidate))
        self._reference[-1] += reference
        self._candidate[-1] += candidate
        self._images += 1

    def drop(self, classes: NDArray[np.int64]) -> Drop | None:
        """Over the classes given; None for too few blocks."""
        if len(self._reference) < LEAST or not classes.size:
            return None
        before, after = np.stack(self._reference), np.stack(self._candidate)
        rng = np.random.default_rng(_SEED)
        drawn = rng.integers(0, len(before), (_DRAWS, len(before)))
        weights = np.stack([np.bincount(draw, minlength=len(before)) for draw in drawn])
        drops = _mean_iou(before, weights, classes) - _mean_iou(after, weights, classes)
        whole = np.ones((1, len(before)), np.int64)
        value = _mean_iou(before, whole, classes) - _mean_iou(after, whole, classes)
        low, high = np.percentile(drops[np.isfinite(drops)], (2.5, 97.5))
        return Drop(float(value[0]), float(low), float(high))

    def _halve(self) -> None:
        """An even number of full blocks becomes half as many."""
        for blocks in (self._reference, self._candidate):
            blocks[:] = [one + other for one, other in zip(blocks[::2], blocks[1::2], strict=True)]
        self.size *= 2


def _mean_iou(counts: NDArray[np.int64], weights: NDArray[np.int64], classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """For each draw of blocks, over the classes that its labels hold; NaN where they hold none."""
    square = counts[:, :, :-1]
    hits = np.einsum("bii->bi", square)
    labelled = (weights @ counts.sum(2))[:, classes]
    either = (weights @ (counts.sum(2) + square.sum(1) - hits))[:, classes]  # labelled or answered
    ious = (weights @ hits)[:, classes] / np.maximum(either, 1)
    held = (labelled > 0).sum(1)
    means: NDArray[np.float64] = np.where(held > 0, (ious * (labelled > 0)).sum(1) / np.maximum(held, 1), np.nan)
    return means
