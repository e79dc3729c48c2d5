"""Whether a network that says 0.8 is right eight times in ten: the expected calibration error. numpy only."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BINS = 15


def _nothing() -> NDArray[np.float64]:
    return np.zeros(_BINS)


@dataclass
class Reliability:
    """Pixels by how sure the network was of them; memory does not grow with their number."""

    pixels: NDArray[np.float64] = field(default_factory=_nothing)
    sure: NDArray[np.float64] = field(default_factory=_nothing)
    """Sum of confidences."""
    right: NDArray[np.float64] = field(default_factory=_nothing)

    def add(self, confidence: NDArray[Any], right: NDArray[np.bool_]) -> None:
        """Some pixels; a confidence that is no number counts as sure and wrong."""
        known = np.isfinite(confidence)
        values = np.where(known, confidence, 1.0).astype(np.float64)
        bins = (values * _BINS).astype(np.int64).clip(0, _BINS - 1)
        self.pixels += np.bincount(bins, minlength=_BINS)
        self.sure += np.bincount(bins, values, _BINS)
        self.right += np.bincount(bins, right & known, _BINS)

    @property
    def error(self) -> float | None:
        """The mean over pixels of how far a bin's accuracy is from its confidence; None without pixels."""
        whole = float(self.pixels.sum())
        return float(np.abs(self.right - self.sure).sum()) / whole if whole else None
