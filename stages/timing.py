"""The maths of measuring: interleaved rounds, medians with their spread, ratios with an interval. numpy only."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Contestant = Callable[[int], object]
"""Called with the number of the round; does one frame."""

_BEYOND = 10  # samples that must lie beyond a percentile before it is told
_RESAMPLES = 2000


@dataclass(frozen=True)
class Latency:
    """Milliseconds. A percentile with fewer than ten samples beyond it is None."""

    samples: int
    p50_ms: float
    p25_ms: float
    p75_ms: float
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float

    def as_dict(self) -> dict[str, Any]:
        """For a report."""
        return asdict(self)


def interleave(
    contestants: Mapping[str, Contestant], rounds: int, seconds: float = 600, warm_up: int = 3
) -> dict[str, NDArray[np.int64]]:
    """Nanoseconds of each call, A B C A B C ..., so that a drift of the machine meets all alike.

    Ends after `rounds`, or with the round in which `seconds` are over: a busy machine gives fewer samples.
    """
    taken: dict[str, list[int]] = {name: [] for name in contestants}
    end = time.monotonic() + seconds
    for number in range(-warm_up, rounds):
        if number > 0 and time.monotonic() > end:
            break
        for name, contestant in contestants.items():
            start = time.perf_counter_ns()
            contestant(number)
            stop = time.perf_counter_ns()
            if number >= 0:
                taken[name].append(stop - start)
    return {name: np.array(values, np.int64) for name, values in taken.items()}


def latency(nanoseconds: NDArray[np.int64]) -> Latency:
    """Summarise one contestant."""
    milliseconds = nanoseconds / 1e6
    return Latency(
        samples=len(milliseconds),
        p50_ms=_rounded(np.percentile(milliseconds, 50)),
        p25_ms=_rounded(np.percentile(milliseconds, 25)),
        p75_ms=_rounded(np.percentile(milliseconds, 75)),
        p90_ms=_tail(milliseconds, 90),
        p99_ms=_tail(milliseconds, 99),
        max_ms=_rounded(milliseconds.max()),
    )


def ratio_of_medians(slow: NDArray[np.int64], fast: NDArray[np.int64]) -> tuple[float, float, float]:
    """median(slow) / median(fast), with a 95 % bootstrap interval over the paired rounds."""
    rng = np.random.default_rng(0)
    rounds = rng.integers(0, len(slow), (_RESAMPLES, len(slow)))
    ratios = np.median(slow[rounds], 1) / np.median(fast[rounds], 1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return round(float(np.median(slow) / np.median(fast)), 3), round(float(low), 3), round(float(high), 3)


def _tail(milliseconds: NDArray[np.float64], percentile: float) -> float | None:
    if len(milliseconds) * (1 - percentile / 100) < _BEYOND:
        return None
    return _rounded(np.percentile(milliseconds, percentile))


def _rounded(value: Any) -> float:
    return round(float(value), 4)
