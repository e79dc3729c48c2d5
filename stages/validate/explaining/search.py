"""The fewest FP32 islands that pass: grows a set until every limit holds, then takes away what it can do without."""

import math
from collections.abc import Callable
from dataclasses import dataclass

MAX_ISLANDS = 12  # more, and FP32 is the honest answer

Islands = tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """One set of islands: the limits that failed and by what factor, and what to add, the likeliest first."""

    islands: Islands
    failed: tuple[str, ...]
    proposals: Islands = ()
    why: str = ""
    excess: float = math.inf
    """The largest of the failed figures as a multiple of its limit."""

    @property
    def badness(self) -> tuple[int, float]:
        """Less is better."""
        return len(self.failed), self.excess if self.failed else 0.0

    def line(self) -> str:
        """What came of it."""
        return f"with {list(self.islands)}: {'; '.join(self.failed) or 'passes'}"


Judge = Callable[[Islands], Trial]
"""Holds the FP16 hop with these islands to the gate's limits."""


def search(judge: Judge, first: Islands = (), told: Callable[[Trial], None] = lambda trial: None) -> list[Trial]:
    """Add what the first divergence names until the gate passes, then take away what it can do without.

    The last of the trials is the one to keep. Where nothing is left to try it is the best, which failed.
    """
    trials = [_told(judge(first), told)]
    while trials[-1].failed:
        grown = _grown(trials)
        if grown is None:
            best = min(trials, key=lambda trial: trial.badness)
            return trials if best is trials[-1] else [*trials, best]
        trials.append(_told(judge(grown), told))
    kept = trials[-1]
    for island in kept.islands if len(kept.islands) > 1 else ():
        without = tuple(name for name in kept.islands if name != island)
        trials.append(_told(judge(without), told))
        if not trials[-1].failed:
            kept = trials[-1]
    if trials[-1] is not kept:
        trials.append(kept)
    return trials


def _told(trial: Trial, told: Callable[[Trial], None]) -> Trial:
    told(trial)
    return trial


def _grown(trials: list[Trial]) -> Islands | None:
    """The last islands and the first proposal that makes a set which nobody has tried; an island inside it goes."""
    last, tried = trials[-1], {frozenset(trial.islands) for trial in trials}
    for proposal in last.proposals:
        grown = (*(name for name in last.islands if not name.startswith(f"{proposal}.")), proposal)
        if proposal and proposal not in last.islands and frozenset(grown) not in tried and len(grown) <= MAX_ISLANDS:
            return grown
    return None
