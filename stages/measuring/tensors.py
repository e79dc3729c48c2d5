"""The maths of comparing two networks' tensors: errors, what is no number, ranges. numpy only."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FP16_MAX = 65504.0
_AT_ONCE = 1 << 18
_QUIET = 0.1
"""A tensor that is quieter than this share of all of them is measured by that share: a picture without foreground has
next to no scores, and any error is large beside nothing."""


@dataclass(frozen=True)
class Distance:
    """Of one pair: sums of squares, of the error and of the reference, and how many numbers were summed."""

    where: str
    error: float
    own: float
    elements: int


@dataclass
class TensorComparison:
    """Sums over pairs of tensors. What is no number is counted and left out of the other figures; another shape is an
    infinite error."""

    quietest: float = 0.0
    """Root mean square below which a reference counts as so large: of probabilities, which may all be next to 0."""
    pairs: int = 0
    elements: int = 0
    nan: int = 0
    inf: int = 0
    reference_non_finite: int = 0
    max_abs_error: float = 0.0
    non_finite_at: str = ""
    reference_range: tuple[float, float] = (float("inf"), float("-inf"))
    candidate_range: tuple[float, float] = (float("inf"), float("-inf"))
    _distances: list[Distance] = field(default_factory=list)
    _error_squared: float = 0.0
    _error_absolute: float = 0.0
    _reference_squared: float = 0.0
    _candidate_squared: float = 0.0
    _product: float = 0.0

    def add(
        self, reference: NDArray[Any], candidate: NDArray[Any], where: str = "", whole: NDArray[Any] | None = None
    ) -> None:
        """Count one pair; `where` names it in a verdict. Of a candidate of which both are a sample, `whole` is all:
        range and what is no number are looked for there."""
        self.pairs += 1
        if reference.shape != candidate.shape:
            self._error_squared = float("inf")
            self._distances.append(Distance(where, float("inf"), 0.0, reference.size))
            self.elements += reference.size
            return
        everything = candidate if whole is None else whole
        if not (np.isfinite(everything).all() and np.isfinite(reference).all()):
            self.nan += int(np.isnan(everything).sum())
            self.inf += int(np.isinf(everything).sum())
            self.reference_non_finite += int((~np.isfinite(reference)).sum())
            self.non_finite_at = self.non_finite_at or where
        parts = [self._add_finite(ours, theirs) for ours, theirs in _finite_parts(reference, candidate)]
        if parts:
            squared, own, elements = (sum(column) for column in zip(*parts, strict=True))
            self._distances.append(Distance(where, squared, own, int(elements)))
            self.candidate_range = _widened(self.candidate_range, _finite(everything))

    def _add_finite(self, ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float, int]:
        """Count them; returns the squares of the error and of ours, and how many they are."""
        error = theirs - ours
        squared, own = float(error @ error), float(ours @ ours)
        self.elements += ours.size
        np.abs(error, out=error)
        self.max_abs_error = max(self.max_abs_error, float(error.max()))
        self._error_squared += squared
        self._error_absolute += float(error.sum())
        self._reference_squared += own
        self._candidate_squared += float(theirs @ theirs)
        self._product += float(ours @ theirs)
        self.reference_range = _widened(self.reference_range, ours)
        return squared, own, ours.size

    @property
    def worst_relative_l2(self) -> float:
        """Of the pair that is farthest apart."""
        return max((self._relative(pair) for pair in self._distances), default=0.0)

    @property
    def worst_at(self) -> str:
        """Its name; of equals the last."""
        return max(reversed(self._distances), key=self._relative).where if self._distances else ""

    def relative_l2s(self) -> dict[str, float]:
        """Of each pair, by name; a pair without finite numbers has none."""
        return {pair.where: self._relative(pair) for pair in self._distances}

    def _relative(self, pair: Distance) -> float:
        """Length of the error as a share of the reference's; a quiet reference counts as a tenth of the usual."""
        if not np.isfinite(pair.error):
            return float("inf")
        usual = self._reference_squared / max(1, self.elements)
        least = max(_QUIET**2 * usual, self.quietest**2) * pair.elements
        return _relative(pair.error, max(pair.own, least))

    @property
    def non_finite(self) -> int:
        """NaN and Inf, the reference's own among them."""
        return self.nan + self.inf + self.reference_non_finite

    @property
    def relative_l2(self) -> float | None:
        """Length of the error as a share of the reference's length; infinite where only the reference is zero."""
        if not self.elements:
            return None
        return _relative(self._error_squared, self._reference_squared)

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


def _relative(squared: float, own: float) -> float:
    if not squared:
        return 0.0
    return float(np.sqrt(squared / own)) if own else float("inf")


def _finite_parts(
    ours: NDArray[Any], theirs: NDArray[Any]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Where both are numbers, a part at a time: whole tensors in float64, and all made of them, take much memory."""
    flat = ours.reshape(-1), theirs.reshape(-1)
    for start in range(0, ours.size, _AT_ONCE):
        part = [values[start : start + _AT_ONCE].astype(np.float64) for values in flat]
        finite = np.isfinite(part[0]) & np.isfinite(part[1])
        if finite.all():
            yield part[0], part[1]
        elif finite.any():
            yield part[0][finite], part[1][finite]


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    return values[np.isfinite(values)]


def _widened(known: tuple[float, float], values: NDArray[Any]) -> tuple[float, float]:
    return min(known[0], float(values.min())), max(known[1], float(values.max()))
