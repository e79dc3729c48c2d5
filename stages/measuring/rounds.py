"""The maths of measuring: interleaved rounds, medians with their spread, ratios with an interval. numpy only."""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.measuring.silence import wait_for_silence

Contestant = Callable[[int], object]
"""Called with the number of the round; does one frame. Below zero it is a call that does not count."""
Nanoseconds = NDArray[np.int64]


class OwnTime(int):
    """Nanoseconds, answered by a contestant that has a better clock than the host's: they are its sample."""


FAILURES = (ArithmeticError, ImportError, LookupError, MemoryError, OSError, RuntimeError, ValueError)
"""What a contestant may fail with: it is listed with the reason, the others go on. Anything else is our bug."""

Estimate = tuple[float, float | None, float | None]
"""A figure with the ends of its interval: None where too few samples were taken for one."""

ENOUGH = 10
"""Samples from which an interval is told: over fewer, resampling knows too little of the spread."""
_BEYOND = 10  # samples that must lie beyond a percentile before it is told
_RESAMPLES = 2000
_DRAWN_AT_ONCE = 2**22  # numbers: many rounds would fill the memory
_BLOCKS = 20  # of neighbouring rounds, drawn whole: they share what the machine is doing, however long that lasts
_WINDOW = 4  # calls whose median is compared with the next window's
_SETTLED = 0.05  # medians of two windows this near: caches, clocks and compilers have settled


@dataclass(frozen=True)
class Latency:
    """Milliseconds. A percentile with fewer than ten samples beyond it is None, and so is an interval over fewer."""

    samples: int
    p50_ms: float
    p50_low_ms: float | None
    p50_high_ms: float | None
    """A 95 % bootstrap interval of the median."""
    p25_ms: float
    p75_ms: float
    p90_ms: float | None
    p99_ms: float | None
    p99_9_ms: float | None
    max_ms: float


@dataclass(frozen=True)
class WarmUp:
    """Calls made before the first sample, and whether the median had settled by then."""

    calls: int
    settled: bool


@dataclass
class Rounds:
    """What came of the rounds: samples in nanoseconds, and why a contestant has none or too few."""

    samples: dict[str, Nanoseconds] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


def warm_up(contestant: Contestant, seconds: float, most: int = 40) -> WarmUp:
    """Call until the medians of two neighbouring windows agree, or the time or the calls are used up."""
    taken: list[float] = []
    wait_for_silence()
    end = time.monotonic() + seconds
    while len(taken) < most:
        start = time.perf_counter_ns()
        answer = contestant(len(taken))
        stop = time.perf_counter_ns()
        taken.append(answer if isinstance(answer, OwnTime) else stop - start)
        if _has_settled(taken):
            return WarmUp(len(taken), True)
        if time.monotonic() > end:
            break
    return WarmUp(len(taken), False)


def interleave(contestants: Mapping[str, Contestant], rounds: int, seconds: float, seed: int = 0) -> Rounds:
    """Time each contestant once a round, as if it ran alone: when all threads sleep, and after a call of its own.

    Without the wait, what the one before left spinning takes its cores; without the call, its caches are the other's.
    The order changes from round to round, so that no drift always meets the same one.

    Ends after `rounds`, or with the round in which `seconds` are over: a busy machine gives fewer samples. A contestant
    that fails drops out. Ctrl-C ends the rounds and keeps the whole ones.
    """
    result = Rounds()
    taken: dict[str, list[int]] = {name: [] for name in contestants}
    order, shuffle = list(contestants), random.Random(seed)
    end = time.monotonic() + seconds
    try:
        for number in range(rounds):
            if number > 0 and time.monotonic() > end:
                break
            shuffle.shuffle(order)
            _one_round(contestants, [name for name in order if name not in result.failed], number, taken, result.failed)
    except KeyboardInterrupt:
        result.interrupted = True
    whole = min((len(values) for name, values in taken.items() if name not in result.failed), default=0)
    result.samples = {
        name: np.array(values if name in result.failed else values[:whole], np.int64) for name, values in taken.items()
    }
    return result


def latency(nanoseconds: Nanoseconds) -> Latency:
    """Summarise one contestant."""
    milliseconds = nanoseconds / 1e6
    low, high = _interval(len(milliseconds), lambda: _resampled_medians(milliseconds))
    return Latency(
        samples=len(milliseconds),
        p50_ms=_rounded(np.percentile(milliseconds, 50)),
        p50_low_ms=low,
        p50_high_ms=high,
        p25_ms=_rounded(np.percentile(milliseconds, 25)),
        p75_ms=_rounded(np.percentile(milliseconds, 75)),
        p90_ms=_tail(milliseconds, 90),
        p99_ms=_tail(milliseconds, 99),
        p99_9_ms=_tail(milliseconds, 99.9),
        max_ms=_rounded(milliseconds.max()),
    )


def ratio_of_medians(slow: Nanoseconds, fast: Nanoseconds) -> Estimate:
    """median(slow) / median(fast), with a 95 % bootstrap interval over the rounds that both have."""
    common = min(len(slow), len(fast))
    slow, fast = slow[:common], fast[:common]
    interval = _interval(common, lambda: _resampled_medians(slow) / _resampled_medians(fast))
    return _rounded(np.median(slow) / np.median(fast)), *interval


def median_of_ratios(slow: Nanoseconds, fast: Nanoseconds, level: float = 0.95) -> Estimate:
    """The median over the rounds of slow / fast, with its interval: what both met in a round cancels."""
    ratios = slow / fast
    return _rounded(np.median(ratios)), *_interval(len(ratios), lambda: _resampled_medians(ratios), level)


def in_words(low: float | None, high: float | None, form: str = ".2f") -> str:
    """An interval for a person."""
    return "too few samples" if low is None or high is None else f"{low:{form}} to {high:{form}}"


def first_line(error: BaseException, most: int = 200) -> str:
    """An error as a reason that fits a table."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= most else text[: most - 3] + "..."


def _one_round(
    contestants: Mapping[str, Contestant],
    order: list[str],
    number: int,
    taken: dict[str, list[int]],
    failed: dict[str, str],
) -> None:
    for name in order:
        wait_for_silence()
        try:
            contestants[name](-1 - number)
            start = time.perf_counter_ns()
            answer = contestants[name](number)
            stop = time.perf_counter_ns()
        except FAILURES as error:
            failed[name] = f"failed in round {number + 1}: {first_line(error)}"
        else:
            taken[name].append(answer if isinstance(answer, OwnTime) else stop - start)


def _has_settled(taken: list[float]) -> bool:
    if len(taken) < 2 * _WINDOW:
        return False
    before, now = np.median(taken[-2 * _WINDOW : -_WINDOW]), np.median(taken[-_WINDOW:])
    return bool(abs(now / before - 1) < _SETTLED)


def _resampled_medians(values: NDArray[Any]) -> NDArray[np.float64]:
    """A median for each resample; of as many rounds, the same rounds are drawn."""
    return np.concatenate([np.median(values[drawn], 1) for drawn in _resampled(len(values))])


def _resampled(rounds: int) -> Iterator[NDArray[np.int32]]:
    """Rounds drawn with replacement in blocks of neighbours: resamples x rounds, some resamples at a time."""
    rng = np.random.default_rng(0)
    block = max(1, rounds // _BLOCKS)
    most = max(1, _DRAWN_AT_ONCE // rounds)
    for done in range(0, _RESAMPLES, most):
        count = min(most, _RESAMPLES - done)
        starts = rng.integers(0, rounds, (count, -(-rounds // block)), np.int32)
        drawn: NDArray[np.int32] = (starts[:, :, None] + np.arange(block, dtype=np.int32)) % np.int32(rounds)
        yield drawn.reshape(count, -1)[:, :rounds]


def _interval(
    samples: int, resampled: Callable[[], NDArray[np.float64]], level: float = 0.95
) -> tuple[float, float] | tuple[None, None]:
    if samples < ENOUGH:
        return None, None
    low, high = np.percentile(resampled(), [50 * (1 - level), 50 * (1 + level)])
    return _rounded(low), _rounded(high)


def _tail(milliseconds: NDArray[np.float64], percentile: float) -> float | None:
    if round(len(milliseconds) * (100 - percentile)) < 100 * _BEYOND:
        return None
    return _rounded(np.percentile(milliseconds, percentile))


def _rounded(value: Any) -> float:
    return round(float(value), 4)
