"""Finds the first place where two networks part: bisection over checkpoints that both can show. Knows no network."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from stages.measuring.tensors import TensorComparison

Side = Callable[[Sequence[str]], dict[str, NDArray[Any]]]
"""One run of a network: checkpoint names to their tensors."""

MAX_RUNS = 11  # of both networks together; measuring ranges is the twelfth
_WIDTH = 7  # checkpoints shown in one run: their tensors are in memory together


@dataclass(frozen=True)
class Divergence:
    """The first checkpoint past the threshold, and the last good one before it."""

    checkpoint: str
    error: float
    before: str | None
    error_before: float


@dataclass(frozen=True)
class Tolerance:
    """Relative errors that are honest: of one layer, and of a whole network."""

    layer: float
    network: float


class _Errors:
    """Relative errors of checkpoints, measured when asked for and remembered."""

    def __init__(self, ours: Side, theirs: Side) -> None:
        self._ours, self._theirs = ours, theirs
        self._known: dict[str, float] = {}
        self.runs = 0

    def of(self, names: Sequence[str]) -> list[float]:
        """One run of each network for what is not known yet."""
        unknown = [name for name in names if name not in self._known]
        if unknown:
            ours, theirs = self._ours(unknown), self._theirs(unknown)
            self.runs += 2
            self._known |= {name: relative_error(ours[name], theirs[name]) for name in unknown}
        return [self._known[name] for name in names]

    def last_within(self, threshold: float, names: Sequence[str]) -> str | None:
        """The last of some checkpoints that is known to be good; asks for no further run."""
        return next((name for name in reversed(names) if self._known.get(name, math.inf) <= threshold), None)


def first_divergence(
    order: Sequence[str], ours: Side, theirs: Side, tolerance: Tolerance
) -> tuple[Divergence | None, int]:
    """Bisect `order` (as executed); None when the last checkpoint is honest. Also tells the runs it took."""
    errors = _Errors(ours, theirs)
    final = errors.of(order[-1:])[0]
    if final <= tolerance.network:
        return None, errors.runs
    threshold = math.sqrt(tolerance.layer * min(final, 1.0))  # between one layer's rounding and what the network shows
    bad = _narrowed(order, errors, threshold, -1, len(order) - 1)
    while bad > 0 and errors.runs + 2 <= MAX_RUNS:  # branches: an earlier checkpoint may be bad behind a good one
        window = range(max(0, bad - _WIDTH), bad)
        found = errors.of([order[index] for index in window])
        earlier = [index for index, error in zip(window, found, strict=True) if not error <= threshold]
        if not earlier:
            break
        bad = earlier[0]
    before = errors.last_within(threshold, order[:bad])
    error_before = errors.of([before])[0] if before is not None else 0.0
    return Divergence(order[bad], errors.of([order[bad]])[0], before, error_before), errors.runs


def relative_error(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Relative L2; infinite where one holds what is no number, or the shapes differ."""
    compared = TensorComparison()
    compared.add(ours, theirs)
    return float("inf") if compared.non_finite else compared.worst_relative_l2


def _narrowed(order: Sequence[str], errors: _Errors, threshold: float, good: int, bad: int) -> int:
    """Close in until a bad checkpoint follows a good one."""
    while bad - good > 1:
        count = min(_WIDTH, bad - good - 1)
        points = [good + (bad - good) * (step + 1) // (count + 1) for step in range(count)]
        found = errors.of([order[point] for point in points])
        wrong = [point for point, error in zip(points, found, strict=True) if not error <= threshold]
        right = [point for point in points if not wrong or point < wrong[0]]
        good, bad = (right[-1] if right else good), (wrong[0] if wrong else bad)
    return bad
